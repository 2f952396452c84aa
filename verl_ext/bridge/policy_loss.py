"""Bind the token context around verl's policy loss, in every training worker.

verl hands a registered loss the log-probs, advantages and mask only. Its ``ppo_loss`` holds the whole micro-batch, so
the name ``ppo_loss`` that the engine workers resolve is rebound to a wrapper that aligns the other per-token tensors,
binds them as the :class:`verl_ext.TokenContext` of the call, and calls the original unchanged.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any

from verl_ext.bridge.execution import ExecutionReport
from verl_ext.bridge.fields import FIELDS, OLD_ENTROPY, PADDING, entropy_source
from verl_ext.context import TokenContext, token_context

if TYPE_CHECKING:
    import torch


def bind(module: ModuleType) -> None:
    """Rebind ``module.ppo_loss``; the module is one that hands it to an engine."""
    original = module.ppo_loss
    report = ExecutionReport()

    @functools.wraps(original)
    def ppo_loss(config: Any, model_output: Any, data: Any, dp_group: Any = None, **kwargs: Any) -> Any:
        context = build_context(config, model_output, data)
        with token_context(context):
            loss, metrics = original(config, model_output, data, dp_group, **kwargs)
        metrics.update(report.after_call(config, model_output, data, metrics))
        return loss, metrics

    module.ppo_loss = ppo_loss  # type: ignore[attr-defined]


def build_context(config: Any, model_output: Any, data: Any) -> TokenContext:
    """The token data of one micro-batch, response-aligned, ``[B, T]``, without gradient."""
    from verl.workers.utils.padding import no_padding_2_padding

    fields = {OLD_ENTROPY[entropy_source(data)]: "old_entropy", **FIELDS}
    found: dict[str, Any] = {
        field: align(name, data[name], data["response_mask"]) for name, field in fields.items() if name in data
    }
    entropy = model_output.get("entropy", None)
    if entropy is not None:
        found["entropy"] = no_padding_2_padding(entropy, data).detach()
    return TokenContext(vocab_size=vocab_size(config), **found)


def align(name: str, values: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """Pad a jagged per-token field to the width of the padded response mask.

    A padding row that verl adds to fill a batch keeps its source row's length in fields that verl does not know; it
    is cut to the response's length. A row that counts and has another length than its response is an error.

    Args:
        name: the field, for the error.
        values: jagged ``[B, t_i]``, or dense ``[B, T]``.
        response_mask: jagged or dense, of the same rows.

    Returns:
        Dense ``[B, T]``, zero (-1 for ids) after each response.
    """
    import torch

    if not response_mask.is_nested:
        return values.to_padded_tensor(PADDING.get(name, 0)) if values.is_nested else values
    rows, faults = [], []
    for row, (mask, own) in enumerate(zip(response_mask.unbind(), values.unbind(), strict=True)):
        length, have = len(mask), len(own)
        if have != length and bool(mask.any()):
            faults.append(f"row {row}: {have} values for {length} response tokens")
        rows.append(torch.nn.functional.pad(own[:length], (0, max(0, length - have)), value=PADDING.get(name, 0)))
    if faults:
        raise ValueError(f"field {name!r} is not aligned with the responses: " + "; ".join(faults))
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PADDING.get(name, 0))


def vocab_size(config: Any) -> int | None:
    """Size of the model's output distribution, also for models that keep it in ``text_config``."""
    hf_config = getattr(config.get("model_config", None), "hf_config", None)
    if hf_config is None:
        return None
    text_config = getattr(hf_config, "text_config", None)
    return getattr(hf_config, "vocab_size", None) or getattr(text_config, "vocab_size", None)
