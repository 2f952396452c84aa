"""What a policy loss makes of each token: a second evaluation on log-probs of their own, outside the model's graph.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verl_ext import grouping as grp
from verl_ext.losses.common import bounded_exp
from verl_ext.losses.trace import traced

BOUNDS = ("lower", "upper")
# Losses of verl's own that bound a ratio, and whose; ours hand their ratios out. GMPO (geo_mean) bounds the token's
# before it takes the mean.
TOKEN_RATIO = ("vanilla", "cispo", "clip_cov", "kl_cov", "dppo_tv", "dppo_kl", "sapo", "geo_mean", "bypass_mode")
SEQUENCE_RATIO = ("gspo",)


def evaluate(loss: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Per-token columns of one call of a policy loss.

        loss_weight_it = - dL / d log_prob_it

    so that a small change delta of the log-probs changes the loss by -sum_it loss_weight_it delta_it. Ratio and bounds
    are those that the loss hands out (`verl_ext.losses.trace`), and a clipped token is low where its ratio is below the
    lower bound, high otherwise. A loss that hands out nothing is one of verl's or of somebody else's, and has no bounds
    here: a token is clipped if it is valid, its advantage and its weight by the rollout correction are not 0, and its
    gradient is. The ratio is the one that the loss of this name is known to bound, of the token or of the sequence, and
    a clipped token is low where it is below 1, high where it is above; at 1, or with a loss that is not known, low
    where the advantage is negative. The ratio of a loss that is not known is the token's.

    Args:
        loss: a function of verl's policy loss registry.
        arguments: what verl calls it with; `log_prob`, `old_log_prob`, `advantages`, `response_mask` are [B, T], and
            `config.policy_loss.loss_mode` is the loss's name.

    Returns:
        `loss_weight`, `ratio`, `clipped_low`, `clipped_high` and, where known, `lower` and `upper`: [B, T].

    Example:
        >>> from verl_ext.losses.dcpo import dcpo_loss
        >>> half, one = torch.log(torch.tensor([[0.5, 0.5]])), torch.ones(1, 2)
        >>> new = torch.log(torch.tensor([[0.6, 0.5]]))
        >>> given = {"old_log_prob": half, "log_prob": new, "advantages": one, "response_mask": one}
        >>> evaluate(dcpo_loss, given)["loss_weight"].tolist()  # r A / 2 tokens
        [[0.6000000238418579, 0.5]]
    """
    return valued(loss, arguments)[1]


def valued(loss: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """As `evaluate`, with the loss's value before the columns."""
    leaf = arguments["log_prob"].detach().clone().requires_grad_()
    with torch.enable_grad(), traced() as seen:
        value, _ = loss(**{**arguments, "log_prob": leaf})
    weight = -_gradient(value, leaf)
    mask, advantages = arguments["response_mask"].bool(), arguments["advantages"]
    if seen:
        return value.detach(), {"loss_weight": weight, **_from_trace(seen, mask, advantages)}
    clipped = learning(arguments) & (weight == 0)
    bounded, ratio = _ratio(arguments)
    low = torch.where(ratio == 1, advantages < 0, ratio < 1) if bounded else advantages < 0
    return value.detach(), {"loss_weight": weight, "ratio": ratio, **_sides(clipped, low)}


def learning(arguments: Mapping[str, Any]) -> Tensor:
    """Tokens that have a gradient unless the loss stops it, [B, T] bool."""
    found = arguments["response_mask"].bool() & (arguments["advantages"] != 0)
    corrected = arguments.get("rollout_is_weights")
    return found if corrected is None else found & (corrected != 0)


def _ratio(arguments: Mapping[str, Any]) -> tuple[bool, Tensor]:
    """Whether it is known what the loss bounds, and the ratio."""
    config, mask = arguments.get("config"), arguments["response_mask"].bool()
    name = None if config is None else config.policy_loss.get("loss_mode", "vanilla")
    log_ratio = torch.where(mask, arguments["log_prob"].detach() - arguments["old_log_prob"], 0.0)
    log_ratio = log_ratio.to(torch.promote_types(log_ratio.dtype, torch.float32))
    if name in SEQUENCE_RATIO:
        ids = grp.sequence_groups(mask)
        log_ratio = grp.per_token(grp.group_mean(log_ratio, ids, 1), ids)
    return name in (*TOKEN_RATIO, *SEQUENCE_RATIO), bounded_exp(log_ratio)


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    """dL / d leaf; 0 where the loss does not depend on it."""
    found = torch.autograd.grad(value, leaf, allow_unused=True)[0] if value.requires_grad else None
    return torch.zeros_like(leaf) if found is None else found


def _from_trace(seen: Mapping[str, Tensor], mask: Tensor, advantages: Tensor) -> dict[str, Tensor]:
    """The columns that a loss handed out; one of another shape is left out."""
    known = {name: value.expand(mask.shape) for name, value in seen.items() if _fits(value, mask)}
    found = {name: known[name] for name in ("ratio", *BOUNDS) if name in known}
    if "clipped" in known:
        low = known["ratio"] < known["lower"] if {"ratio", "lower"} <= known.keys() else advantages < 0
        found |= _sides(known["clipped"].bool() & mask, low)
    return found


def _fits(value: Tensor, mask: Tensor) -> bool:
    """Whether a value can be broadcast to the shape of the mask."""
    missing = mask.dim() - value.dim()
    pairs = zip(value.shape, mask.shape[missing:], strict=True) if missing >= 0 else ()
    return missing >= 0 and all(own in (1, wanted) for own, wanted in pairs)


def _sides(clipped: Tensor, low: Tensor) -> dict[str, Tensor]:
    return {"clipped_low": clipped & low, "clipped_high": clipped & ~low}


class RandomState:
    """The random number generators that a loss on a device may draw from, as they were when this was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = None if device.type == "cpu" else torch.get_device_module(device)
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._cpu = torch.get_rng_state()
        self._accelerator = None if self._device is None else self._device.get_rng_state()

    def restore(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._cpu)
        if self._device is not None:
            self._device.set_rng_state(self._accelerator)


@contextmanager
def drawing_again(before: RandomState, device: torch.device) -> Iterator[None]:
    """In the body the same random numbers are drawn as after `before`; afterwards the state is as it was."""
    after = RandomState(device)
    before.restore()
    try:
        yield
    finally:
        after.restore()
