"""Clip forms: what a loss says its per-token objective is, for the properties `off_policy` and `clipping`.

A form is a function of a batch whose rows each repeat one token, so that ratios of tokens, segments and sequences are
the same number, of verl's actor configuration, and of the loss's hyper-parameters. It returns the objective J, [B, T],
on the graph of `log_prob`, and where the ratio lies beyond a bound, [B, T] bool. The forms here are written from the
papers' equations and share nothing with the losses.

Shapes: B rows, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from verl_ext.conformance.batches import VOCAB, Batch

Clipped = tuple[Tensor, Tensor]
Options = Mapping[str, Any]
Form = Callable[[Batch, Any, Options], Clipped]


def log_ratio(batch: Batch) -> Tensor:
    """log_prob - old_log_prob, [B, T]."""
    return batch["log_prob"] - batch["old_log_prob"]


def bounded(batch: Batch, lower: Any, upper: Any, dual: float = math.inf) -> Clipped:
    """min(r A, clip(r, lower, upper) A), and at least dual * A where A < 0, with r = exp(log_ratio).

    Args:
        batch: see the module.
        lower, upper: bounds of r: numbers, or [B, T].
        dual: greatest ratio that counts where A < 0.
    """
    return _bounded(log_ratio(batch).exp(), batch["advantages"], lower, upper, dual)


def _bounded(ratio: Tensor, advantages: Tensor, lower: Any, upper: Any, dual: float = math.inf) -> Clipped:
    inside = torch.minimum(torch.maximum(ratio, torch.as_tensor(lower)), torch.as_tensor(upper))
    # Case by case, and not as the minimum of two products: the gradient within the bounds is then not shared by two.
    positive = torch.where(ratio > upper, inside, ratio)
    negative = torch.where(ratio < lower, inside, ratio).clamp(max=dual)
    return torch.where(advantages > 0, positive, negative) * advantages, (ratio < lower) | (ratio > upper)


def _usual_bounds(actor: Any) -> tuple[float, float]:
    from verl_ext.plugin import clip_range

    low, high = clip_range(actor)
    return 1 - low, 1 + high


def _nowhere(batch: Batch) -> Tensor:
    return torch.zeros_like(batch.mask)


def _ppo(batch: Batch, actor: Any, options: Options) -> Clipped:
    return bounded(batch, *_usual_bounds(actor))


def _dual_ppo(batch: Batch, actor: Any, options: Options) -> Clipped:
    return bounded(batch, *_usual_bounds(actor), dual=actor.clip_ratio_c)


def _cispo(batch: Batch, actor: Any, options: Options) -> Clipped:
    lower, upper = _usual_bounds(actor)
    ratio = log_ratio(batch).exp().detach()
    return ratio.clamp(lower, upper) * batch["advantages"] * batch["log_prob"], (ratio < lower) | (ratio > upper)


def _gmpo(batch: Batch, actor: Any, options: Options) -> Clipped:
    lower, upper = _usual_bounds(actor)
    return bounded(batch, math.exp(lower - 1), math.exp(upper - 1))


def _importance(batch: Batch, actor: Any, options: Options) -> Clipped:
    return log_ratio(batch).exp() * batch["advantages"], _nowhere(batch)


def _log_prob(batch: Batch, actor: Any, options: Options) -> Clipped:
    return batch["log_prob"] * batch["advantages"], _nowhere(batch)


# What `declare(..., clip="name")` and `--clip name` may say.
FORMS: dict[str, Form] = {
    "ppo": _ppo,
    "dual_ppo": _dual_ppo,
    "cispo": _cispo,
    "gmpo": _gmpo,
    "importance": _importance,
    "log_prob": _log_prob,
}


def form_of(clip: str | Form | None) -> Form | None:
    """A form, by its name, by "module:function" or as it is.

    Raises:
        ValueError: there is no form of that name.
    """
    if not isinstance(clip, str):
        return clip
    if ":" in clip:
        module, _, name = clip.partition(":")
        form: Form = getattr(import_module(module), name)
        return form
    if clip not in FORMS:
        raise ValueError(f"no clip form {clip!r}; there are {', '.join(FORMS)}, or a function of your own in `declare`")
    return FORMS[clip]


def sapo(batch: Batch, actor: Any, options: Options) -> Clipped:
    """A sigmoid gate in place of a clip, arXiv 2511.20347."""
    tau = torch.where(batch["advantages"] > 0, actor.tau_pos, actor.tau_neg)
    gate = (tau * (log_ratio(batch).exp() - 1)).sigmoid() * 4 / tau
    return gate * batch["advantages"], _nowhere(batch)


def dro(batch: Batch, actor: Any, options: Options) -> Clipped:
    """A penalty on the squared log-ratio in place of a clip."""
    penalty = 0.5 * options["dro_beta"] * log_ratio(batch).square()
    return batch["log_prob"] * batch["advantages"] - penalty, _nowhere(batch)


def dppo_tv(batch: Batch, actor: Any, options: Options) -> Clipped:
    """No gradient where the probability has moved too far, arXiv 2602.04879."""
    low, high = _usual_bounds(actor)
    moved = batch["log_prob"].exp() - batch["old_log_prob"].exp()
    return _dropped(batch, actor, moved > high - 1, moved < low - 1)


def dppo_kl(batch: Batch, actor: Any, options: Options) -> Clipped:
    """The same by the KL divergence of two outcomes: the token or any other."""
    low, high = _usual_bounds(actor)
    p, q = batch["log_prob"].detach().exp().double(), batch["old_log_prob"].exp().double()
    divergence = q * (q / p).log() + (1 - q) * ((1 - q + 1e-8) / (1 - p + 1e-8)).log()
    return _dropped(batch, actor, (divergence > high - 1) & (p > q), (divergence > 1 - low) & (p < q))


def _dropped(batch: Batch, actor: Any, above: Tensor, below: Tensor) -> Clipped:
    dropped = torch.where(batch["advantages"] > 0, above, below)
    weight = log_ratio(batch).detach().exp().clamp(max=actor.clip_ratio_c) * ~dropped
    return weight * batch["advantages"] * batch["log_prob"], above | below


def espo(batch: Batch, actor: Any, options: Options) -> Clipped:
    """arXiv 2512.00499, sections 3.2 to 3.4."""
    d = log_ratio(batch)
    # s_g exp(l - sg(l)), or s_g exp(d), with s_g = exp(d) held constant.
    ratio = d.exp() if options["token_ratio"] == "detached" else d.detach().exp() * d.exp()
    lower, upper = _usual_bounds(actor)
    if options["clip"] == "adaptive":
        width = options["alpha"] * batch["old_entropy"] / math.log(VOCAB)
        return _bounded(ratio, batch["advantages"], 1 - width, 1 + width)
    return _bounded(ratio, batch["advantages"], lower, upper)


def sspo(batch: Batch, actor: Any, options: Options) -> Clipped:
    """arXiv 2511.04256, equations 14 to 16."""
    if not options["entropy_clip"]:
        return _ppo(batch, actor, options)
    entropy = batch["old_entropy"]
    upper = torch.minimum(1 + options["alpha"] + entropy, torch.tensor(options["gamma"]))
    lower = torch.minimum(1 - entropy, torch.tensor(options["beta"])).clamp(min=0)
    return bounded(batch, lower, upper)


def tepo(batch: Batch, actor: Any, options: Options) -> Clipped:
    """arXiv 2604.12736, equation 4 and algorithm 1, with the penalty."""
    if options["ratio"] == "none":
        objective, beyond = _log_prob(batch, actor, options)
    elif options["clip"] == "none":
        objective, beyond = _importance(batch, actor, options)
    elif options["clip"] == "ppo":
        objective, beyond = _ppo(batch, actor, options)
    else:  # min(w, clip(w)) has an upper bound only, for either sign of A
        ratio = log_ratio(batch).exp()
        _, upper = _usual_bounds(actor)
        objective, beyond = ratio.clamp(max=upper) * batch["advantages"], ratio > upper
    return objective - options["kl_coef"] * _tepo_penalty(batch, options), beyond


def _tepo_penalty(batch: Batch, options: Options) -> Tensor:
    d, mask = log_ratio(batch), options["kl_mask"]
    if mask == "none" or options["kl_coef"] == 0:
        return torch.zeros_like(d)
    divergence = _divergence(d, options["kl_type"])
    if mask == "all":
        return divergence
    change, tolerance = batch["entropy"] - batch["old_entropy"], options["entropy_tol"]
    down = (batch["advantages"] > 0) & (change < -tolerance)
    up = (batch["advantages"] < 0) & (change > tolerance)
    return divergence * {"pos_adv_entropy_down": down, "neg_adv_entropy_up": up, "either": down | up}[mask]


def _divergence(d: Tensor, kind: str) -> Tensor:
    half_square, name = 0.5 * d.square(), kind.removesuffix("+")
    value = {
        **dict.fromkeys(("kl", "k1"), d),
        "abs": d.abs(),
        **dict.fromkeys(("mse", "k2"), half_square),
        **dict.fromkeys(("low_var_kl", "k3"), (-d).exp() + d - 1),
    }[name]
    # "+": the value of one estimate and the gradient of k2.
    return value.detach() + half_square - half_square.detach() if kind.endswith("+") else value


def steer(batch: Batch, actor: Any, options: Options) -> Clipped:
    """arXiv 2510.10150: the dual clip, weighted by the change of entropy."""
    log_prob = batch["log_prob"].detach()
    change = batch["advantages"] * log_ratio(batch).detach().exp() * (1 - log_prob.exp())
    change = (change * (log_prob + batch["entropy"])).abs()
    valid = change[batch.mask] if options["scope"] == "micro_batch" else change
    # Every token of a row is the same, so a row's least and greatest change are its own.
    least, greatest = (valid.min(), valid.max()) if options["scope"] == "micro_batch" else (change, change)
    if options["mapping"] == "exponential":
        weight = options["w_min"] ** (change / greatest.clamp(min=0.02))
    else:
        position = ((change - least) / (greatest - least)).nan_to_num(0.0)
        weight = options["w_max"] - (options["w_max"] - options["w_min"]) * position
    objective, beyond = _dual_ppo(batch, actor, options)
    return weight * objective, beyond


def dcpo(batch: Batch, actor: Any, options: Options) -> Clipped:
    """arXiv 2509.02333, equation 4: bounds that solve |(r - 1) r| q <= eps."""
    lower, upper = _usual_bounds(actor)
    low, high, q = 1 - lower, upper - 1, batch["old_log_prob"].exp()
    least = 0.5 + 0.5 * (1 - 4 * low / q).clamp(min=0).sqrt()
    greatest = (0.5 + 0.5 * (1 + 4 * high / q).sqrt()).clamp(max=options["r_max"])
    return bounded(batch, least, greatest, dual=options["r_max"])


def high_entropy(batch: Batch, actor: Any, options: Options) -> Clipped:
    """arXiv 2506.01939, equation 6: the dual clip on some tokens, weighted up so that a row keeps its sum."""
    objective, beyond = _dual_ppo(batch, actor, options)
    if options["scope"] == "batch":
        objective = objective * (batch["group_ids"] == 1) / options["rho"]
    return objective, beyond
