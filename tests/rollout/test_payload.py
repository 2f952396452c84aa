"""The payload: every bit pattern through everything that vLLM does to a rank between sampler and client."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verl_ext.rollout.payload import BITS, TAG, UntaggedRankError, decode, encode

PATTERNS = st.integers(0, BITS)
NAMED = {
    "0": 0x00000000,
    "-0": 0x80000000,
    "1": 0x3F800000,
    "ln 2": 0x3F317218,
    "smallest denormal": 0x00000001,
    "largest denormal": 0x007FFFFF,
    "largest": 0x7F7FFFFF,
    "inf": 0x7F800000,
    "-inf": 0xFF800000,
    "quiet NaN": 0x7FC00000,
    "quiet NaN with a payload": 0xFFD5A5A5,
    "signalling NaN": 0x7F800001,
}
QUIET = 0x00400000


def of_bits(patterns: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.array(patterns, dtype=np.uint32).view(np.float32))


def to_bits(values: list[float]) -> list[int]:
    return np.array(values, dtype=np.float64).astype(np.float32).view(np.uint32).tolist()


def survives(pattern: int) -> int:
    """The bits after a Python float, which is a double: the processor makes a signalling NaN a quiet one."""
    is_nan = pattern & 0x7F800000 == 0x7F800000 and pattern & 0x007FFFFF
    return pattern | QUIET if is_nan else pattern


def through_vllm(ranks: torch.Tensor, flat: bool) -> list[int | None]:
    """Ranks [B] of one request's tokens -> what the client finds in `Logprob.rank`; vLLM's own code all the way.

    On the way: device tensors -> numpy -> the request's rows -> msgpack to the front end -> the logprobs processor.
    """
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
    from vllm.v1.engine.logprobs import LogprobsProcessor
    from vllm.v1.outputs import LogprobsTensors
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    rows = len(ranks)
    tokens = torch.arange(rows, dtype=torch.int32).unsqueeze(1)
    tensors = LogprobsTensors(tokens, torch.full((rows, 1), -0.5), ranks)
    lists = tensors.to_cpu_nonblocking().tolists().slice_request(0, rows)
    output = EngineCoreOutput(request_id="r", new_token_ids=list(range(rows)), new_logprobs=lists)
    wire = MsgpackEncoder().encode(EngineCoreOutputs(outputs=[output]))
    (received,) = MsgpackDecoder(EngineCoreOutputs).decode(wire).outputs
    request = EngineCoreRequest(
        request_id="r",
        prompt_token_ids=[0],
        mm_features=None,
        sampling_params=SamplingParams(logprobs=0, flat_logprobs=flat),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    processor = LogprobsProcessor.from_new_request(None, request)
    processor.update_from_output(received)
    assert processor.logprobs is not None
    return [position[token].rank for token, position in enumerate(processor.logprobs)]


@pytest.mark.parametrize("flat", [False, True], ids=["dictionaries", "flat"])
@settings(deadline=None)
@given(st.lists(PATTERNS, min_size=1, max_size=40))
@example(list(NAMED.values()))
def test_every_bit_reaches_the_client(flat: bool, patterns: list[int]) -> None:
    arrived = through_vllm(encode(of_bits(patterns)), flat)
    assert arrived == [TAG | pattern for pattern in patterns]
    assert to_bits(decode(arrived)) == [survives(pattern) for pattern in patterns]


@pytest.mark.parametrize("flat", [False, True], ids=["dictionaries", "flat"])
def test_a_rank_that_was_not_replaced_is_refused_at_the_client(flat: bool) -> None:
    """An engine without the tap: vLLM counts tokens at least as likely, from 1 to V."""
    arrived = through_vllm(torch.tensor([TAG, 1, 151936]), flat)
    with pytest.raises(UntaggedRankError, match=r"^token 1 came back with rank 1 instead of an entropy"):
        decode(arrived)


def test_encoding_by_hand() -> None:
    """1.0 is 0 01111111 000...: 127 << 23 = 0x3F800000. -0.0 is the sign bit alone, and stays below the tag."""
    found = encode(torch.tensor([0.0, 1.0, -0.0, math.inf, -1.0]))
    assert found.dtype == torch.int64
    assert found.tolist() == [TAG + bits for bits in (0, 0x3F800000, 0x80000000, 0x7F800000, 0xBF800000)]
    assert TAG == 1 << 40
    assert TAG > 2**32 > 151936  # no vocabulary is so large that a rank could look like a payload


def test_encoding_takes_any_layout_and_float_type() -> None:
    both = torch.tensor([[1.0, 5.0], [2.0, 6.0]])
    assert encode(both[:, 0]).tolist() == [TAG + 0x3F800000, TAG + 0x40000000]
    assert encode(both[0, :1].double()).tolist() == [TAG + 0x3F800000]
    assert encode(both[0, :1].bfloat16()).tolist() == [TAG + 0x3F800000]
    assert encode(torch.empty(0)).tolist() == []
    assert decode([]) == []


@pytest.mark.parametrize(
    "rank",
    [None, 0, 1, 151936, -1, -TAG, TAG - 1, 1 << 41, TAG | 1 << 32, TAG | 1 << 41, TAG | 1 << 62, TAG - (1 << 63)],
)
@pytest.mark.parametrize("position", [0, 3])
def test_anything_without_the_tag_is_refused_by_name(rank: int | None, position: int) -> None:
    ranks: list[int | None] = [TAG] * 4
    ranks[position] = rank
    with pytest.raises(UntaggedRankError) as raised:
        decode(ranks)
    message = str(raised.value)
    assert message.startswith(f"token {position} came back with rank {rank} instead of an entropy")
    for hint in ("logprobs >= 1", "processed_logprobs", "VLLM_PLUGINS"):
        assert hint in message


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_exactly_the_tagged_are_accepted(rank: int) -> None:
    if TAG <= rank < TAG + (1 << 32):
        assert to_bits(decode([rank])) == [survives(rank - TAG)]
    else:
        with pytest.raises(UntaggedRankError):
            decode([rank])
