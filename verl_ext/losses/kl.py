"""Per-token estimates of KL(pi_theta || pi_other) from the sampled token: verl's `kl_penalty`, its clamps included.

Schulman, "Approximating KL divergence" (2020), has k1, k2 and k3 (`low_var_kl`).
"""

from __future__ import annotations

from torch import Tensor

ESTIMATORS = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
KL_TYPES = (*ESTIMATORS, *(f"{name}+" for name in ESTIMATORS))


def token_kl(log_prob: Tensor, other: Tensor, kl_type: str) -> Tensor:
    """One estimate a token, with d = log_prob - other.

        kl, k1            d
        abs               |d|
        mse, k2           d^2 / 2
        low_var_kl, k3    min(exp(-d) + d - 1, 10), with d clamped to [-20, 20]

    A `+` at the end keeps the value and takes the gradient of k2, which is that of the KL in expectation.

    Args:
        log_prob, other: [B, T], finite; gradient flows into both.
        kl_type: one of `KL_TYPES`.

    Returns:
        [B, T].

    Example:
        >>> import torch
        >>> token_kl(torch.tensor([[0.0]]), torch.tensor([[0.5]]), "k2").item()
        0.125
    """
    return kl_of(log_prob - other, kl_type)


def kl_of(d: Tensor, kl_type: str) -> Tensor:
    """`token_kl` of d = log_prob - other."""
    if kl_type not in KL_TYPES:
        raise ValueError(f"kl_type={kl_type!r} is not one of {', '.join(KL_TYPES)}")
    name = kl_type.removesuffix("+")
    if name in ("mse", "k2"):
        return 0.5 * d.square()
    if kl_type.endswith("+"):
        half_square = 0.5 * d.square()
        return half_square - half_square.detach() + kl_of(d.detach(), name)
    if name in ("kl", "k1"):
        return d
    if name == "abs":
        return d.abs()
    bounded = d.clamp(-20, 20)
    return ((-bounded).exp() + bounded).sub_(1).clamp(-10, 10)
