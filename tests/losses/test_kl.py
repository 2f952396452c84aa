"""Per-token KL estimates are verl's, clamps and straight-through gradients included."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import kl_penalty

from verl_ext.losses.kl import KL_TYPES, token_kl

# Steps of 0.025, 0 among them; and exp(500), which float32 does not hold.
GRID = torch.cat([torch.linspace(-50, 50, 4001), torch.tensor([-500.0, 500.0])])


def estimate(fn: object, d: torch.Tensor, kl_type: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Value at log_prob = -1 and other = -1 - d, and the gradients with respect to both."""
    log_prob = torch.full_like(d, -1.0).requires_grad_()
    other = (-1.0 - d).requires_grad_()
    value = fn(log_prob, other, kl_type)  # type: ignore[operator]
    value.sum().backward()
    assert log_prob.grad is not None
    grad = torch.zeros_like(d) if other.grad is None else other.grad
    return value.detach(), log_prob.grad, grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kl_type", KL_TYPES)
def test_every_type_is_verls_up_to_log_ratios_of_fifty(kl_type: str, dtype: torch.dtype) -> None:
    ours, theirs = (estimate(fn, GRID.to(dtype), kl_type) for fn in (token_kl, kl_penalty))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)


@settings(max_examples=200, deadline=None)
@given(d=st.floats(-50, 50, width=32), kl_type=st.sampled_from(KL_TYPES))
def test_any_log_ratio(d: float, kl_type: str) -> None:
    ours, theirs = (estimate(fn, torch.tensor([d]), kl_type) for fn in (token_kl, kl_penalty))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=0)


# d = 0.5 and d = -2:
#   k1: d; abs: |d|; k2: d^2/2 = 0.125 and 2
#   k3: e^-0.5 + 0.5 - 1 = 0.60653066 - 0.5 = 0.10653066, and e^2 - 2 - 1 = 4.38905610
# gradients: 1; sign d; d; 1 - e^-d = 0.39346934 and -6.38905610
GOLDEN = {
    "k1": ([0.5, -2.0], [1.0, 1.0]),
    "abs": ([0.5, 2.0], [1.0, -1.0]),
    "k2": ([0.125, 2.0], [0.5, -2.0]),
    "k3": ([0.10653066, 4.38905610], [0.39346934, -6.38905610]),
}
ALIASES = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}


@pytest.mark.parametrize("kl_type", KL_TYPES)
def test_golden(kl_type: str) -> None:
    name = kl_type.removesuffix("+")
    value, grad = GOLDEN[ALIASES.get(name, name)]
    if kl_type.endswith("+"):
        grad = [0.5, -2.0]  # that of k2, whatever the value is
    got = estimate(token_kl, torch.tensor([0.5, -2.0], dtype=torch.float64), kl_type)
    assert got[0].tolist() == pytest.approx(value, abs=1e-8)
    assert got[1].tolist() == pytest.approx(grad, abs=1e-8)
    assert got[2].tolist() == pytest.approx([-g for g in grad], abs=1e-8)


def test_low_variance_estimate_stops_at_ten() -> None:
    # e^-d + d - 1 passes 10 at d = -2.6: e^2.6 - 3.6 = 9.86, e^2.7 - 3.7 = 11.18; on the other side at d = 11
    value, grad, _ = estimate(token_kl, torch.tensor([-2.6, -2.7, -50.0, 10.9, 11.1, 50.0]), "low_var_kl")
    assert value.tolist() == pytest.approx([math.exp(2.6) - 3.6, 10, 10, 9.9, 10, 10], rel=1e-4)
    assert (grad != 0).tolist() == [True, False, False, True, False, False]


def test_an_unknown_type_names_the_known_ones() -> None:
    for kl_type in ("full", "k4", "k3++", ""):
        with pytest.raises(ValueError, match=r"is not one of kl, k1, abs, mse, k2, low_var_kl, k3, kl\+"):
            token_kl(torch.zeros(1), torch.zeros(1), kl_type)
