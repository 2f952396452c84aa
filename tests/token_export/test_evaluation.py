"""What a second evaluation of a loss says about each token."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from tests.losses.batches import Batch, batches
from verl_ext.losses import trace
from verl_ext.losses.espo import espo_loss
from verl_ext.losses.tepo import tepo_loss
from verl_ext.run.token_export.evaluation import RandomState, drawing_again, evaluate


def given_to(log_ratio: list[float], advantages: list[float], mask: list[int] | None = None) -> dict:
    """Arguments of a loss whose old log-probs are -2."""
    width = len(log_ratio)
    old = torch.full((1, width), -2.0)
    return {
        "old_log_prob": old,
        "log_prob": old + torch.tensor([log_ratio]),
        "advantages": torch.tensor([advantages]),
        "response_mask": torch.tensor([mask or [1] * width]).bool(),
    }


def ppo(old_log_prob, log_prob, advantages, response_mask, rollout_is_weights=None):
    """A loss that hands nothing out: PPO with a range of 0.2, summed over the valid tokens."""
    ratio = (log_prob - old_log_prob).exp()
    term = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    if rollout_is_weights is not None:
        term = term * rollout_is_weights
    return -term[response_mask].sum(), {}


def test_a_loss_of_verls_has_the_ratio_of_the_token_and_no_bounds() -> None:
    """Ratios 1.5, 1.1, 0.5, 0.9, 3 with A = 1, 1, -1, -1, 0: the first is clipped high, the third low.

    The weight is r A inside the range: 1.1 and -0.9. An advantage of 0 has no gradient, and is not clipped for it.
    """
    d = [math.log(r) for r in (1.5, 1.1, 0.5, 0.9, 3)]
    found = evaluate(ppo, given_to(d, [1, 1, -1, -1, 0]))
    assert found.keys() == {"loss_weight", "ratio", "clipped_low", "clipped_high"}
    torch.testing.assert_close(found["loss_weight"], torch.tensor([[0, 1.1, 0, -0.9, 0]]))
    torch.testing.assert_close(found["ratio"], torch.tensor([[1.5, 1.1, 0.5, 0.9, 3]]))
    assert found["clipped_high"].tolist() == [[True, False, False, False, False]]
    assert found["clipped_low"].tolist() == [[False, False, True, False, False]]


def test_a_token_without_weight_in_the_correction_or_behind_the_mask_is_not_clipped() -> None:
    arguments = given_to([0.0, 0.0, 5.0], [1, 1, 1], [1, 1, 0])
    found = evaluate(ppo, {**arguments, "rollout_is_weights": torch.tensor([[2.0, 0.0, 1.0]])})
    assert found["loss_weight"].tolist() == [[2, 0, 0]]
    assert not found["clipped_high"].any()
    assert found["ratio"].tolist() == [[1, 1, 1]]


def test_what_a_loss_hands_out_is_taken_and_the_bound_gives_the_side() -> None:
    """ESPO with one group and a fixed range is GSPO: ratio exp(mean d) of the row, its weight r A / (n G).

    Row 0: d = ln 1.2, ln 0.9, r = sqrt(1.08) = 1.039230, inside 1 +- 0.2, weight 1.039230 / (2 * 2) = 0.259808.
    Row 1: one token, d = ln 2, A = 1: r = 2 is clipped high. Row 2 has no valid token.
    """
    log_ratio = torch.tensor([[math.log(1.2), math.log(0.9)], [math.log(2.0), 0.0], [0.0, 0.0]])
    old = torch.full((3, 2), -2.0)
    arguments = {
        "old_log_prob": old,
        "log_prob": old + log_ratio,
        "advantages": torch.ones(3, 2),
        "response_mask": torch.tensor([[1, 1], [1, 0], [0, 0]]).bool(),
    }

    def gspo(**given):
        return espo_loss(grouping="sequence", clip="fixed", clip_ratio_low=0.2, clip_ratio_high=0.2, **given)

    found = evaluate(gspo, arguments)
    torch.testing.assert_close(found["loss_weight"], torch.tensor([[0.259808, 0.259808], [0, 0], [0, 0]]))
    torch.testing.assert_close(found["ratio"][0], torch.tensor([1.039230, 1.039230]))
    torch.testing.assert_close(found["upper"][0], torch.tensor([1.2, 1.2]))
    assert found["clipped_high"].tolist() == [[False, False], [True, False], [False, False]]
    assert not found["clipped_low"].any()


def test_a_negative_advantage_beyond_the_upper_bound_is_clipped_high() -> None:
    """TEPO as printed bounds its ratio from above whatever the advantage: exp(0.5) is above 1.28."""

    def loss(**given):
        return tepo_loss(kl_coef=0.0, clip_ratio_high=0.28, **given)

    found = evaluate(loss, given_to([0.5, 0.5], [-1, -1]))
    assert found["clipped_high"].tolist() == [[True, True]]
    assert not found["clipped_low"].any()
    assert found["lower"].tolist() == [[-math.inf, -math.inf]]


def stopping(*tokens: int):
    """A loss that hands nothing out, and leaves these tokens of its one row out."""

    def loss(log_prob, **_):
        kept = torch.ones_like(log_prob)
        kept[0, list(tokens)] = 0
        return -(log_prob * kept).sum(), {}

    return loss


# Ratios 4, 0.9, 1.1, 0.5, 1, 1 and then one token that keeps its gradient.
RATIOS, ADVANTAGES = (4.0, 0.9, 1.1, 0.5, 1.0, 1.0, 2.0), [-1, 1, 1, -1, 1, -1, 1]


@pytest.mark.parametrize(
    ("name", "low"),
    [
        # The dual clip, A < 0 at a ratio of 4, is high; one that Clip-Cov picks is where its ratio is, and at 1 the
        # advantage decides: r < 1 at tokens 1 and 3, A < 0 at token 5.
        ("vanilla", [1, 3, 5]),
        ("clip_cov", [1, 3, 5]),
        # Of the row: (4 * 0.9 * 1.1 * 0.5 * 2)^(1/7) = 3.96^(1/7) = 1.217.
        ("gspo", []),
        # Not known, or without a ratio: the advantage alone.
        ("somebodys", [0, 3, 5]),
        ("gpg", [0, 3, 5]),
    ],
)
def test_the_side_is_that_of_the_ratio_which_the_loss_bounds(name: str, low: list[int]) -> None:
    config = SimpleNamespace(policy_loss={"loss_mode": name})
    arguments = {**given_to([math.log(r) for r in RATIOS], ADVANTAGES), "config": config}
    found = evaluate(stopping(*range(6)), arguments)
    assert found["clipped_low"][0].nonzero().flatten().tolist() == low
    assert found["clipped_high"][0].nonzero().flatten().tolist() == [i for i in range(6) if i not in low]
    ratios = [3.96 ** (1 / 7)] * 7 if name == "gspo" else list(RATIOS)
    assert found["ratio"][0].tolist() == pytest.approx(ratios, rel=1e-6)


def test_the_ratio_of_a_sequence_is_that_of_its_valid_tokens() -> None:
    """Row 0: (2 * 0.5 * 4)^(1/3) = 4^(1/3), what is behind the mask does not count. Row 1 has no valid token."""
    ratios = torch.tensor([[2.0, 0.5, 4.0, 9.0], [7.0] * 4])
    arguments = {
        "old_log_prob": torch.zeros(2, 4),
        "log_prob": ratios.double().log(),
        "advantages": torch.ones(2, 4),
        "response_mask": torch.tensor([[1, 1, 1, 0], [0] * 4]),
        "config": SimpleNamespace(policy_loss={"loss_mode": "gspo"}),
    }
    arguments["log_prob"][0, 3] = math.nan
    found = evaluate(stopping(0, 1, 2, 3), arguments)
    assert found["ratio"][0, :3].tolist() == pytest.approx([4 ** (1 / 3)] * 3, rel=1e-12)  # in double precision
    assert found["clipped_high"].tolist() == [[True, True, True, False], [False] * 4]


@pytest.mark.parametrize(
    ("handed_out", "columns"),
    [
        ({"ratio": torch.ones(1, 3)}, set()),  # of another width
        ({"ratio": torch.ones(1, 1, 2)}, set()),
        ({"ratio": torch.ones(1, 1), "upper": torch.ones(())}, {"ratio", "upper"}),
        ({"clipped": torch.ones(1, 2).bool()}, {"clipped_low", "clipped_high"}),
    ],
)
def test_what_does_not_fit_or_is_not_handed_out_is_left_out(handed_out: dict, columns: set[str]) -> None:
    def loss(log_prob, **_):
        trace.note(**handed_out)
        return log_prob.sum(), {}

    found = evaluate(loss, given_to([0, 0], [1, -1]))
    assert found.keys() == columns | {"loss_weight"}
    assert all(value.shape == (1, 2) for value in found.values())
    if "clipped_low" in found:  # without bounds the advantage gives the side
        assert found["clipped_low"].tolist() == [[False, True]]


@pytest.mark.parametrize(
    "loss", [lambda **_: (torch.tensor(1.0), {}), lambda **_: (torch.ones(()).requires_grad_(), {})]
)
def test_a_loss_that_does_not_depend_on_the_policy_has_no_weights(loss) -> None:
    assert evaluate(loss, given_to([0, 0], [1, 1]))["loss_weight"].tolist() == [[0, 0]]


@settings(deadline=None)
@given(batch=batches)
def test_the_weights_are_the_direction_in_which_the_loss_falls(batch: Batch) -> None:
    """L(log_prob + delta) = L - sum of weight * delta, for a small delta; in double precision."""
    arguments = {
        "old_log_prob": batch.old_log_prob.double(),
        "log_prob": batch.log_prob.detach().double(),
        "advantages": batch.advantages.double(),
        "response_mask": batch.response_mask,
    }

    def loss(**given):
        return tepo_loss(kl_coef=0.0, clip="ppo", ratio="prefix", clip_ratio_low=0.1, **given)

    found = evaluate(loss, arguments)
    delta = 1e-6 * torch.sin(torch.arange(float(found["loss_weight"].numel()))).double()
    delta = delta.view_as(found["loss_weight"])
    before, after = (loss(**{**arguments, "log_prob": arguments["log_prob"] + s * delta})[0] for s in (-1, 1))
    expected = -(found["loss_weight"] * delta).sum()
    assert float(after - before) / 2 == pytest.approx(float(expected), rel=1e-3, abs=1e-11)


def test_the_same_numbers_are_drawn_again_and_the_state_stays() -> None:
    cpu = torch.device("cpu")

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002

    before = RandomState(cpu)
    first = draw()
    after = RandomState(cpu)
    expected = draw()
    after.restore()
    with drawing_again(before, cpu):
        assert draw() == first
        draw()
    assert draw() == expected
