"""Our losses through verl's own Megatron engine and Megatron's own schedule, on the CPU.

Real are: verl's `forward_backward_batch` (micro-batching, what it puts into each micro-batch) and
`postprocess_micro_batch_func` (the scaling), Megatron's schedule without pipelining, our registered losses. The model
is a table of log-probs, since Megatron's layers need CUDA; the last stage is all there is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from torch.overrides import TorchFunctionMode
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
from verl.utils import tensordict_utils as tu
from verl.workers import engine_workers
from verl.workers.config import McoreActorConfig, McoreEngineConfig, PolicyLossConfig

from tests.bridge.micro_batches import PROMPT, jagged, micro_batch
from tests.scale.megatron_core import HOME, find_megatron
from verl_ext import current_context
from verl_ext.context import TokenContext
from verl_ext.plugin import POLICY_LOSSES

if not find_megatron():
    pytest.skip(f"megatron-core is neither installed nor in {HOME}; see megatron_core.py", allow_module_level=True)

# Seven rows of different lengths, and last a padding row, made from the second one.
LENGTHS = [3, 11, 7, 1, 9, 4, 6, 1]
SOURCE = 1
LAST = len(LENGTHS) - 1
BUDGET = 20  # tokens of a micro-batch. 7 prompts of 2 + 41 + 3 = 58 tokens: three of them or more


class OnCpu(TorchFunctionMode):
    """Megatron's schedule counts tokens in a tensor that it asks CUDA for by name."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


@pytest.fixture(scope="module")
def megatron() -> Iterator[Any]:
    """verl's module of the Megatron engine, in a process group of one."""
    from megatron.core import parallel_state
    from verl.workers.engine.megatron import transformer_impl

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer_impl, "get_device_id", lambda: "cpu")
        patch.setattr("verl.utils.seqlen_balancing.get_device_name", lambda: "cpu")
        yield transformer_impl
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


class Table(torch.nn.Module):
    """A model whose log-probs of every token are its parameter, and whose entropies are fixed."""

    def __init__(self, output: dict[str, torch.Tensor], config: Any) -> None:
        from megatron.core.enums import ModelType

        super().__init__()
        self.config, self.model_type = config, ModelType.encoder_or_decoder
        self.log_probs = torch.nn.Parameter(output["log_probs"].detach().to_padded_tensor(0.0))
        self.entropy = output["entropy"]

    def set_input_tensor(self, _: Any) -> None:
        """Nothing comes from an earlier stage."""

    def forward(self, batch: TensorDict) -> dict[str, torch.Tensor]:
        rows, lengths = batch["row"].tolist(), batch["input_ids"].offsets().diff()
        values = torch.cat([self.log_probs[row, :length] for row, length in zip(rows, lengths, strict=True)])
        log_probs = torch.nested.nested_tensor_from_jagged(values, batch["input_ids"].offsets())
        return {"log_probs": log_probs, "entropy": jagged([self.entropy[row] for row in rows])}


def drive(megatron: Any, model: Table, data: TensorDict, loss: Callable[..., Any], **settings: Any) -> dict[str, Any]:
    """verl's `forward_backward_batch` over `data`; the gradient is left in the model."""

    class Engine(megatron.MegatronEngineWithLMHead):
        def forward_step(self, batch_iter: Any, model: Table, postprocess_micro_batch_func: Any, **_: Any) -> Any:
            batch = next(batch_iter)
            return model(batch), partial(postprocess_micro_batch_func, data=batch, local_cp_size=None)

    engine = object.__new__(Engine)
    engine.engine_config = McoreEngineConfig(**settings)
    engine.model_config = SimpleNamespace(mtp=SimpleNamespace(enable=False))
    engine.module, engine.tf_config = [model], model.config
    with OnCpu():
        return engine.forward_backward_batch(data, loss)


def transformer_config(per_token: bool = False) -> Any:
    from megatron.core.transformer import TransformerConfig

    config = TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1)
    config.calculate_per_token_loss = per_token
    return config


def recorded() -> tuple[TensorDict, dict[str, torch.Tensor]]:
    """A mini-batch with every field that the trainer may send, and the model's output for it."""
    generator = torch.Generator().manual_seed(1)

    def padded_like_verl(row: int, values: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, dtype=values.dtype) if row == LAST else values

    def drawn(low: float = 0.0) -> list[torch.Tensor]:
        rows = [low + torch.rand(n, generator=generator) for n in LENGTHS]
        return [padded_like_verl(row, values) for row, values in enumerate(rows)]

    mask = [torch.full((n,), int(row != LAST)) for row, n in enumerate(LENGTHS)]
    everything = [PROMPT + n for n in LENGTHS]
    ids = [torch.arange(n) // 3 for n in LENGTHS]
    ids[LAST] = ids[SOURCE]  # fields that verl does not know keep their source row's length
    data, output = micro_batch(
        LENGTHS,
        response_mask=mask,
        input_ids=[torch.full((n,), 40) for n in everything],
        position_ids=[torch.arange(n) for n in everything],
        loss_mask=mask,
        rollout_log_probs=drawn(-3.0),
        ref_log_prob=drawn(-3.0),
        rollout_is_weights=drawn(0.5),
        rollout_entropies=drawn(),
        segment_ids=ids,
        group_ids=[row % 2 for row in ids],
    )
    data["row"] = torch.arange(len(LENGTHS))
    tu.assign_non_tensor(data, use_dynamic_bsz=True, max_token_len_per_gpu=BUDGET, batch_num_tokens=sum(LENGTHS) - 1)
    output["entropy"] = jagged([5 * torch.rand(n, generator=generator) for n in everything])
    return data, output


def actor(name: str, mode: str = "seq-mean-token-mean") -> McoreActorConfig:
    ours = POLICY_LOSSES.get(name)
    config = McoreActorConfig(
        rollout_n=1,
        use_dynamic_bsz=True,
        loss_agg_mode=mode,
        loss_scale_factor=16,
        policy_loss=ours.config_type()() if ours else PolicyLossConfig(loss_mode=name),
    )
    config.model_config = SimpleNamespace(hf_config=SimpleNamespace(vocab_size=301))
    return config


CASES = [(loss.name, mode) for loss in POLICY_LOSSES.values() for mode in loss.aggregations]


@pytest.mark.parametrize("per_token", [False, True], ids=["by micro-batches", "by tokens"])
@pytest.mark.parametrize(("name", "mode"), [("vanilla", "token-mean"), *CASES])
def test_micro_batches_add_up_to_the_whole(megatron: Any, name: str, mode: str, per_token: bool) -> None:
    """Value and gradient of a mini-batch, whichever of its two ways of scaling Megatron uses.

    With context parallelism Megatron divides the summed gradient by the number of tokens, after the last micro-batch.
    """
    data, output = recorded()
    whole, _ = engine_workers.ppo_loss(actor(name, mode), output, data)
    (expected,) = torch.autograd.grad(whole, output["log_probs"])

    tokens: list[int] = []
    model = Table(output, transformer_config(per_token))
    model.config.finalize_model_grads_func = lambda _, count, **__: tokens.append(count)
    found = drive(megatron, model, data, partial(engine_workers.ppo_loss, config=actor(name, mode)))

    assert len(found["loss"]) >= 3
    torch.testing.assert_close(torch.tensor(sum(found["loss"])), whole.detach(), rtol=1e-5, atol=1e-6)
    (count,) = tokens
    assert (count is not None) is per_token
    gradient = model.log_probs.grad / (count if per_token else 1)
    torch.testing.assert_close(gradient, expected.to_padded_tensor(0.0, gradient.shape), rtol=1e-5, atol=1e-7)
    assert expected.values().abs().sum() > 1e-3


def test_every_field_arrives_and_is_aligned(megatron: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loss finds in its context, and what verl hands to it, row by row."""
    data, output = recorded()
    seen: list[tuple[TokenContext, dict[str, Any]]] = []

    def probe(log_prob: torch.Tensor, **others: Any) -> tuple[torch.Tensor, dict]:
        seen.append((current_context(), {"log_prob": log_prob, **others}))
        return log_prob.sum(), {}

    monkeypatch.setitem(POLICY_LOSS_REGISTRY, "probe", probe)
    model = Table(output, transformer_config())
    chosen: list[list[int]] = []

    def loss(data: TensorDict, **others: Any) -> Any:
        chosen.append(data["row"].tolist())
        return engine_workers.ppo_loss(actor("probe"), data=data, **others)

    drive(megatron, model, data, loss)

    assert sorted(row for rows in chosen for row in rows) == list(range(len(LENGTHS)))
    assert len({len(rows) for rows in chosen}) > 1  # micro-batches of different sizes
    assert LAST in chosen[0] + chosen[1] + chosen[2]
    for rows, (context, arguments) in zip(chosen, seen, strict=True):
        found = {
            "old_log_probs": context.old_log_prob, "entropy": context.old_entropy, "ref_log_prob": context.ref_log_prob,
            "segment_ids": context.segment_ids, "group_ids": context.group_ids,
        }  # fmt: skip
        for place, row in enumerate(rows):
            length = LENGTHS[row]
            for name, values in found.items():
                assert values.shape == arguments["response_mask"].shape, name
                assert torch.equal(values[place, :length], data[name][row][:length]), (name, row)
                assert (values[place, length:] == (-1 if name.endswith("_ids") else 0)).all(), (name, row)
            # The output at position p is about token p + 1.
            own = slice(PROMPT - 1, PROMPT - 1 + length)
            assert torch.equal(context.entropy[place, :length], output["entropy"][row][own]), row
            assert torch.equal(arguments["log_prob"][place, :length], output["log_probs"][row][own]), row
            weights = arguments["rollout_is_weights"]
            assert torch.equal(weights[place, :length], data["rollout_is_weights"][row][:length]), row
        assert context.vocab_size == 301


def test_what_the_engine_counts_is_of_the_whole_mini_batch(megatron: Any) -> None:
    """Normalisers are the mini-batch's in every micro-batch: 42 - 1 tokens that count, 8 rows, one rank."""
    data, output = recorded()
    counts = []

    def loss(data: TensorDict, model_output: Any, dp_group: Any) -> Any:
        names = ("batch_num_tokens", "global_batch_size", "dp_size", "num_micro_batch")
        counts.append(tuple(data[name] for name in names))
        return model_output["log_probs"].values().sum(), {}

    drive(megatron, Table(output, transformer_config()), data, loss)
    assert set(counts) == {(41, 8, 1, len(counts))}


def test_a_field_that_no_loss_reads_arrives_as_well(megatron: Any) -> None:
    data, output = recorded()
    seen: set[str] = set()

    def loss(data: TensorDict, model_output: Any, **_: Any) -> Any:
        seen.update(data.keys())
        return model_output["log_probs"].values().sum(), {}

    drive(megatron, Table(output, transformer_config()), data, loss)
    assert seen >= {"rollout_log_probs", "rollout_entropies", "responses", "advantages", "response_mask"}


# --- contracts


def test_contract_the_stages_that_are_left_out(megatron: Any) -> None:
    """`forward_step` binds the whole micro-batch to `postprocess_micro_batch_func`, as the engine above does."""
    source = inspect.getsource(megatron.MegatronEngineWithLMHead.forward_step)
    assert "return output, partial(postprocess_micro_batch_func, data=batch, local_cp_size=local_cp_size)" in source


def test_contract_megatron_leaves_the_cpus_engine_alone(megatron: Any) -> None:
    from verl.workers.engine import EngineRegistry

    engines = EngineRegistry._engines["language_model"]
    assert set(engines["megatron"]) <= {"cuda", "npu"}
    assert engines["fsdp2"]["cuda"].__module__ == "verl.workers.engine.fsdp.transformer_impl"
