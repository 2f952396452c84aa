"""No advice that the checks of a configuration would refuse."""

from __future__ import annotations

from tests.sizing.runs import fsdp, megatron
from verl_ext.sizing.knobs import _candidates


def settings(run: object) -> str:
    return "\n".join(setting for setting, _, _ in _candidates(run))  # type: ignore[arg-type]


def test_ulysses_is_advised_with_flash_attention_on_packed_sequences_alone() -> None:
    assert "ulysses_sequence_parallel_size=2" in settings(fsdp())
    assert "ulysses" not in settings(fsdp(flash=False))
    assert "ulysses" not in settings(fsdp(remove_padding=False))


def test_chunks_are_not_advised_for_current_entropies_on_megatron() -> None:
    assert "with_chunking=true" in settings(fsdp(chunking=False, entropy=True))
    assert "with_chunking=true" in settings(megatron(chunking=False))
    assert "with_chunking" not in settings(megatron(chunking=False, entropy=True))
