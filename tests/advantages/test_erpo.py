"""The `erpo` estimator: a hand-computed batch, a slow reference, GRPO as a limit, and what must not matter."""

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.losses.batches import random_batch
from verl_ext.advantages import blocks
from verl_ext.advantages.erpo import ProcessSignal, erpo_advantage, process_signal

DEFAULTS = {"beta_progress": 1.0, "gamma": 1.0, "num_buckets": 10, "sigma_target": 1.0, "delta": 1e-6}


@dataclass(frozen=True)
class Case:
    """One batch; `data` is old_entropy, old_log_prob and ref_log_prob, every tensor [B, T]."""

    rewards: Tensor
    mask: Tensor
    index: list[int]
    data: dict[str, Tensor]

    def run(self, **hyper: Any) -> Tensor:
        advantages, returns = erpo_advantage(self.rewards, self.mask, self.index, **self.data, **hyper)
        assert returns is advantages
        assert advantages.dtype == self.rewards.dtype
        assert not advantages[~self.mask].any()
        return advantages

    def signal(self, **hyper: Any) -> ProcessSignal:
        return process_signal(self.rewards, self.mask, self.index, data=self.data, **{**DEFAULTS, **hyper})

    def rows(self, order: list[int]) -> "Case":
        data = {name: values[order] for name, values in self.data.items()}
        return Case(self.rewards[order], self.mask[order], [self.index[i] for i in order], data)

    def with_data(self, **data: Tensor) -> "Case":
        return replace(self, data={**self.data, **data})

    def double(self) -> "Case":
        return replace(self, rewards=self.rewards.double(), data={k: v.double() for k, v in self.data.items()})


def random_case(seed: int, rows: int = 7, tokens: int = 12, drift: float = 0.3, fill: float = 0.7) -> Case:
    """Interleaved prompts of any size; masks with holes, some rows empty; rewards among 0, 1 and 3."""
    batch = random_batch(seed, rows, tokens, drift, fill)
    gen = torch.Generator().manual_seed(seed)
    rewards = torch.zeros(rows, tokens)
    rewards[:, -1] = torch.tensor([0.0, 1.0, 3.0])[torch.randint(0, 3, (rows,), generator=gen)]
    mask = batch.response_mask & (torch.rand(rows, 1, generator=gen) < 0.9)
    index = torch.randint(0, 1 + rows // 3, (rows,), generator=gen).tolist()
    names = ("old_entropy", "old_log_prob", "ref_log_prob")
    return Case(
        rewards, mask, index, dict(zip(names, (batch.old_entropy, batch.old_log_prob, batch.log_prob), strict=True))
    )


cases = st.builds(
    random_case,
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 14),
    tokens=st.integers(1, 16),
    drift=st.sampled_from([0.0, 0.05, 1.0]),
    fill=st.sampled_from([0.3, 0.8, 1.0]),
)
hypers = st.fixed_dictionaries(
    {
        "beta_progress": st.sampled_from([0.5, 1.0, 3.0]),
        "gamma": st.sampled_from([0.0, 1.0, 4.0]),
        "num_buckets": st.sampled_from([1, 2, 3, 10, 64]),
        "sigma_target": st.sampled_from([0.5, 1.0]),
        "delta": st.sampled_from([1e-6, 1e-2]),
    }
)


def moments(values: list[float]) -> tuple[float, float]:
    """Mean and population standard deviation."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((x - mean) ** 2 for x in values) / len(values))


def z_scores(values: list[float], delta: float) -> list[float]:
    mean, std = moments(values)
    return [(x - mean) / (std + delta) for x in values]


def reference(case: Case, eta: float, **hyper: float) -> tuple[Tensor, ProcessSignal]:
    """The definition token by token in Python's floats."""
    outcome = torch.zeros(len(case.index), dtype=torch.float64)
    advantages, gate, progress, signal = torch.zeros(4, *case.mask.shape, dtype=torch.float64)
    for prompt in set(case.index):
        rows = [i for i, p in enumerate(case.index) if p == prompt and case.mask[i].any()]
        returns = [sum(case.rewards[i].tolist()) for i in rows]
        if len(rows) < 2 or max(returns) - min(returns) <= 1e-6:
            continue
        mean = sum(returns) / len(returns)
        std = math.sqrt(sum((r - mean) ** 2 for r in returns) / (len(returns) - 1))
        a = {i: (r - mean) / (std + 1e-6) for i, r in zip(rows, returns, strict=True)}
        columns = {i: case.mask[i].nonzero().flatten().tolist() for i in rows}
        tokens = [(i, t, c) for i in rows for t, c in enumerate(columns[i])]
        old, ref, entropy = (case.data[key].tolist() for key in ("old_log_prob", "ref_log_prob", "old_entropy"))
        s = [hyper["beta_progress"] * (old[i][c] - ref[i][c]) for i, _, c in tokens]
        z = z_scores([entropy[i][c] for i, _, c in tokens], hyper["delta"])
        w = [1 / (1 + math.exp(-hyper["gamma"] * x)) for x in z]
        buckets = defaultdict(list)
        for place, (i, t, _) in enumerate(tokens):
            k = min(int(hyper["num_buckets"]) * t // len(columns[i]), int(hyper["num_buckets"]) - 1)
            buckets[k].append(place)
        tilde = [0.0] * len(tokens)
        for places in buckets.values():
            for place, value in zip(places, z_scores([s[p] for p in places], hyper["delta"]), strict=True):
                tilde[place] = value
        sign = [(a[i] > 0) - (a[i] < 0) for i, _, _ in tokens]
        psi = [x * y * z for x, y, z in zip(w, sign, tilde, strict=True)]
        _, spread = moments([x for x, y in zip(psi, sign, strict=True) if y])
        psi = [hyper["sigma_target"] * x / (spread + hyper["delta"]) for x in psi]
        final = z_scores([a[i] + eta * x for (i, _, _), x in zip(tokens, psi, strict=True)], hyper["delta"])
        for i in rows:
            outcome[i] = a[i]
        for place, (i, _, c) in enumerate(tokens):
            gate[i, c], progress[i, c], signal[i, c], advantages[i, c] = (
                w[place],
                tilde[place],
                psi[place],
                final[place],
            )
    return advantages, ProcessSignal(outcome, gate, progress, signal)


def golden() -> Case:
    """One prompt. Row 0 has valid tokens in columns 0, 2 and 3, row 1 in columns 0 and 1."""
    nan = math.nan
    s = torch.tensor([[2.0, nan, -1.0, 0.5], [-1.0, -0.5, nan, nan]])
    entropy = torch.tensor([[1.5, nan, 0.5, 1.0], [1.5, 0.5, nan, nan]])
    old = torch.full((2, 4), -3.0)
    rewards = torch.tensor([[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    return Case(rewards, mask, [0, 0], {"old_entropy": entropy, "old_log_prob": old, "ref_log_prob": old - s})


# With K = 2 the three tokens of row 0 are in buckets floor(2 t/3) = 0, 0, 1, the two of row 1 in 0, 1.
# A = +-0.5 / sqrt(0.5) = +-0.7071058.
# Entropies 1.5, 0.5, 1.0 | 1.5, 0.5: mean 1, var 4 * 0.25/5 = 0.2, z = +-0.5/sqrt(0.2) = +-sqrt(1.25) or 0.
#   With gamma = log(3)/sqrt(1.25) = 0.9826287, W = sigmoid(+-log 3) = 3/4, 1/4, or 1/2.
# Bucket 0, s = 2, -1 | -1: mean 0, var (4 + 1 + 1)/3 = 2: s~ = sqrt(2), -1/sqrt(2) | -1/sqrt(2).
# Bucket 1, s = 0.5 | -0.5: mean 0, std 0.5: s~ = 1 | -1.
# psi = W sign(A) s~ = 0.75 * 1.4142136, 0.25 * -0.7071068, 0.5 * 1 | -0.75 * -0.7071068, -0.25 * -1
#     = 1.0606602, -0.1767767, 0.5 | 0.5303301, 0.25; mean 2.1642136/5 = 0.4328427
#   deviations 0.6278175, -0.6096194, 0.0671573 | 0.0974874, -0.1828427
#   squares 0.3941548, 0.3716358, 0.0045101 | 0.0095038, 0.0334315, mean 0.8132359/5 = 0.1626472, std 0.4032954
# With sigma_target = 2, Psi = psi * 2/0.4032954 = psi * 4.9591440
GOLDEN_HYPER = {"num_buckets": 2, "gamma": 0.9826287, "sigma_target": 2.0}
GOLDEN_PSI = [[5.2599665, 0.0, -0.8766611, 2.4795720], [2.6299833, 1.2397860, 0.0, 0.0]]


def test_golden_signal() -> None:
    signal = golden().signal(**GOLDEN_HYPER)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(signal.outcome, torch.tensor([0.7071058, -0.7071058]), **close)
    torch.testing.assert_close(signal.gate, torch.tensor([[0.75, 0, 0.25, 0.5], [0.75, 0.25, 0, 0]]), **close)
    half = math.sqrt(0.5)
    torch.testing.assert_close(signal.progress, torch.tensor([[2 * half, 0, -half, 1], [-half, -1, 0, 0]]), **close)
    torch.testing.assert_close(signal.psi, torch.tensor(GOLDEN_PSI), **close)


def test_golden_advantages() -> None:
    # A + 0.1 Psi = 1.2331024, 0.6194397, 0.9550630 | -0.4441075, -0.5831272; mean 1.7803704/5 = 0.3560741
    #   deviations 0.8770283, 0.2633656, 0.5989889 | -0.8001816, -0.9392013
    #   squares 0.7691787, 0.0693614, 0.3587877 | 0.6402906, 0.8820990, mean 2.7197174/5 = 0.5439435, std 0.7375252
    want = [[1.1891503, 0.0, 0.3570937, 0.8121605], [-1.0849548, -1.2734497, 0.0, 0.0]]
    torch.testing.assert_close(golden().run(**GOLDEN_HYPER), torch.tensor(want), rtol=1e-5, atol=1e-5)


def test_the_last_z_score_can_turn_a_tokens_sign_and_psi_cannot() -> None:
    case = golden()
    # With eta = 1: A + Psi = 5.967072, -0.169555, 3.186678 | 1.922878, 0.532680, mean 2.287951: a token of the
    # successful row ends below 0. Psi keeps the sign of A times that of s~.
    got = case.run(eta=1.0, **GOLDEN_HYPER)
    assert case.signal(**GOLDEN_HYPER).outcome[0] > 0
    assert got[0, 2] < 0


@settings(max_examples=200, deadline=None)
@given(cases, hypers, st.sampled_from([0.0, 0.1, 2.0]))
def test_reference(case: Case, hyper: dict[str, Any], eta: float) -> None:
    want, parts = reference(case, eta, **hyper)
    exact = case.double()
    torch.testing.assert_close(exact.run(eta=eta, **hyper), want, rtol=1e-6, atol=1e-8)
    got = exact.signal(**hyper)
    active = (parts.outcome != 0).unsqueeze(-1)
    torch.testing.assert_close(got.outcome, parts.outcome, rtol=1e-12, atol=1e-12)
    for name in ("gate", "progress", "psi"):
        # A group without spread has a gate and a progress too, but they lead nowhere.
        there = getattr(got, name) if name == "psi" else getattr(got, name) * active
        torch.testing.assert_close(there, getattr(parts, name) * active, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(case.run(eta=eta, **hyper).double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_buckets", [1, 3, 7, 10, 13])
def test_buckets_of_long_rows_are_exact(num_buckets: int) -> None:
    case = random_case(5, rows=4, tokens=997, fill=1.0)
    case = replace(case, index=[0] * 4, mask=torch.ones(4, 997, dtype=torch.bool), rewards=case.rewards.clone())
    case.rewards[:, -1] = torch.tensor([0.0, 1.0, 1.0, 0.0])
    case.mask[1, 910:] = False
    case.mask[2, ::3] = False
    want, _ = reference(case, eta=1.0, **{**DEFAULTS, "num_buckets": num_buckets})
    got = case.double().run(eta=1.0, num_buckets=num_buckets)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8)


@settings(max_examples=50, deadline=None)
@given(cases, hypers)
def test_sign_rule(case: Case, hyper: dict[str, Any]) -> None:
    signal = case.signal(**hyper)
    assert torch.equal(signal.psi.sign(), signal.outcome.sign().unsqueeze(-1) * signal.progress.sign())
    assert ((signal.gate > 0) & (signal.gate < 1))[case.mask].all()


@settings(max_examples=50, deadline=None)
@given(cases)
def test_psi_has_the_target_spread_over_active_tokens(case: Case) -> None:
    signal = case.double().signal(sigma_target=0.7, delta=1e-9)
    for prompt in set(case.index):
        rows = torch.tensor([p == prompt for p in case.index]) & (signal.outcome != 0)
        psi = signal.psi[case.mask & rows.unsqueeze(-1)]
        # Two rows of one token a bucket each may have the same psi everywhere; then nothing can be rescaled.
        if len(psi) and psi.std(correction=0) > 1e-3:
            assert psi.std(correction=0).item() == pytest.approx(0.7, rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(cases)
def test_without_the_signal_it_is_grpo_over_tokens(case: Case) -> None:
    want = torch.zeros_like(case.rewards)
    outcome = case.signal().outcome
    for prompt in set(case.index):
        chosen = case.mask & torch.tensor([p == prompt for p in case.index]).unsqueeze(-1)
        if chosen.any():
            values = outcome.unsqueeze(-1).expand_as(want)[chosen]
            want[chosen] = (values - values.mean()) / (values.std(correction=0) + 1e-6)
    for hyper in ({"eta": 0.0}, {"sigma_target": 0.0}):
        torch.testing.assert_close(case.run(**hyper), want, rtol=1e-4, atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(cases, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(case: Case, random: Any) -> None:
    order = list(range(len(case.index)))
    random.shuffle(order)
    torch.testing.assert_close(case.rows(order).run(), case.run()[order], rtol=1e-6, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(cases)
def test_blocks_do_not_matter(case: Case) -> None:
    whole = case.run()
    with pytest.MonkeyPatch.context() as patch:
        for size in (1, 20, 60):
            patch.setattr(blocks, "BLOCK_TOKENS", size)
            assert torch.equal(case.run(), whole)


@settings(max_examples=50, deadline=None)
@given(cases)
def test_what_cancels(case: Case) -> None:
    """Scales and offsets of the inputs that a z-score removes, up to delta."""
    case, hyper = case.double(), {"delta": 1e-12}
    data, want = case.data, case.run(**hyper)
    entropy = case.with_data(old_entropy=4 * data["old_entropy"] + 1)
    policy = case.with_data(old_log_prob=data["old_log_prob"] - 2)
    reward = replace(case, rewards=8 * case.rewards)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(case.run(beta_progress=16.0, **hyper), want, **close)
    torch.testing.assert_close(case.run(eta=0.2, sigma_target=0.5, **hyper), want, **close)
    torch.testing.assert_close(entropy.run(**hyper), want, **close)
    torch.testing.assert_close(reward.run(**hyper), want, **close)
    if data["old_log_prob"].numel() and not torch.equal(data["old_log_prob"], data["ref_log_prob"]):
        torch.testing.assert_close(policy.run(delta=1e-6), case.run(delta=1e-6), **close)


@settings(max_examples=50, deadline=None)
@given(cases)
def test_what_lies_behind_the_mask_has_no_influence(case: Case) -> None:
    for garbage in (math.nan, math.inf, -1e30):
        dirty = {name: values.masked_fill(~case.mask, garbage) for name, values in case.data.items()}
        assert torch.equal(case.with_data(**dirty).run(), case.run())


def test_rewards_behind_the_mask_count() -> None:
    case = golden()
    hidden = replace(case, rewards=torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    assert torch.equal(hidden.run(), case.run())


def test_padding_rows_belong_to_no_statistic() -> None:
    case = golden()
    padded = Case(
        torch.cat([case.rewards, torch.full((2, 4), 9.0)]),
        torch.cat([case.mask, torch.zeros(2, 4, dtype=torch.bool)]),
        [0, 0, 0, 7],
        {name: torch.cat([values, torch.full((2, 4), math.nan)]) for name, values in case.data.items()},
    )
    got = padded.run()
    assert torch.equal(got[:2], case.run())
    assert not got[2:].any()


@pytest.mark.parametrize(
    ("rewards", "index"), [([1.0, 1.0], [0, 0]), ([1.0, 0.0], [0, 1]), ([0.5, 0.5 + 9e-7], [0, 0])]
)
def test_nothing_to_compare_is_exactly_zero(rewards: list[float], index: list[int]) -> None:
    case = golden()
    matrix = torch.zeros(2, 4)
    matrix[:, 0] = torch.tensor(rewards)
    got = replace(case, rewards=matrix, index=index)
    assert torch.equal(got.run(), torch.zeros(2, 4))
    assert torch.equal(got.signal().psi, torch.zeros(2, 4))


def test_a_row_at_the_mean_is_not_active() -> None:
    """Rewards 2, 1, 0: the middle row has A = 0, hence Psi = 0; its tokens stay out of Psi's spread."""
    case = random_case(3, rows=3, tokens=8, drift=1.0, fill=1.0)
    case = replace(case, index=[0] * 3, mask=torch.ones(3, 8, dtype=torch.bool), rewards=torch.zeros(3, 8))
    case.rewards[:, 0] = torch.tensor([2.0, 1.0, 0.0])
    psi = case.signal().psi
    assert not psi[1].any()
    assert psi[[0, 2]].std(correction=0).item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_equal_signal_is_exactly_none(dtype: torch.dtype) -> None:
    """0.1 is no binary fraction: a mean with a rounding error would come out of two divisions as a signal."""
    gap = torch.full((4, 7), 0.1)
    case = random_case(11, rows=4, tokens=7, fill=1.0)
    case = replace(case, index=[0] * 4, mask=torch.ones(4, 7, dtype=torch.bool), rewards=torch.zeros(4, 7))
    case.rewards[:, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    case = case.with_data(old_log_prob=gap, ref_log_prob=torch.zeros(4, 7))
    case = case.double() if dtype == torch.float64 else case
    assert not case.signal(num_buckets=3).psi.any()
    assert torch.equal(case.run(num_buckets=3), case.run(num_buckets=3, eta=0.0))


def test_rounding_noise_between_equal_policies_is_amplified_as_printed() -> None:
    """Log-probs that differ in their last bit alone give a Psi of full size: std 1, as the formula says."""
    case = random_case(2, rows=4, tokens=50, drift=0.0, fill=1.0)
    gen = torch.Generator().manual_seed(0)
    noise = 1e-6 * torch.randint(-1, 2, (4, 50), generator=gen)
    case = replace(case, index=[0] * 4, mask=torch.ones(4, 50, dtype=torch.bool), rewards=torch.zeros(4, 50))
    case.rewards[:, 0] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    case = case.with_data(ref_log_prob=case.data["old_log_prob"] + noise)
    assert case.signal().psi.std(correction=0).item() == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("field", ["old_entropy", "old_log_prob", "ref_log_prob", "rewards"])
def test_nan_at_a_valid_token_shows_in_its_prompt_and_nowhere_else(field: str) -> None:
    left, right = golden(), golden().rows([1, 0])
    case = Case(
        torch.cat([left.rewards, right.rewards]),
        torch.cat([left.mask, right.mask]),
        [0, 0, 1, 1],
        {name: torch.cat([left.data[name], right.data[name]]) for name in left.data},
    )
    (case.rewards if field == "rewards" else case.data[field])[0, 0] = math.nan
    got = case.run()
    assert got[:2][case.mask[:2]].isnan().any()
    assert torch.equal(got[2:], right.run())
    assert not got[~case.mask].any()


def test_nan_shows_in_a_group_without_spread_too() -> None:
    case = replace(golden(), rewards=torch.zeros(2, 4))
    case.data["old_entropy"][0, 0] = math.nan
    assert case.run().isnan().any()


def test_extreme_log_ratios_stay_finite() -> None:
    case = random_case(4, rows=6, tokens=10, fill=1.0)
    case = case.with_data(old_log_prob=torch.where(torch.rand(6, 10) < 0.2, -1e4, case.data["old_log_prob"]))
    assert case.run(gamma=50.0).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_full(dtype: torch.dtype) -> None:
    case = random_case(9, rows=8, tokens=20)
    half = {name: values.to(dtype) for name, values in case.data.items()}
    full = {name: values.float() for name, values in half.items()}
    assert torch.equal(case.with_data(**half).run(), case.with_data(**full).run())


def test_float64_stays_float64() -> None:
    """A log-ratio of 1e-10 beside log-probs of order 1 is nothing in float32."""
    case = random_case(9, rows=8, tokens=20).double()
    case = case.with_data(ref_log_prob=case.data["old_log_prob"] + 1e-10 * case.data["ref_log_prob"])
    hyper = {**DEFAULTS, "delta": 1e-14, "num_buckets": 3}
    want, _ = reference(case, eta=1.0, **hyper)
    torch.testing.assert_close(case.run(eta=1.0, **hyper), want, rtol=1e-3, atol=1e-3)


def test_no_gradient_and_inputs_are_left_alone() -> None:
    case = golden()
    case = case.with_data(**{name: values.clone().requires_grad_() for name, values in case.data.items()})
    before = {name: values.detach().clone() for name, values in case.data.items()}
    assert not case.run().requires_grad
    for name, values in case.data.items():
        torch.testing.assert_close(values.detach(), before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_no_rows_or_no_tokens(shape: tuple[int, int]) -> None:
    data = {name: torch.zeros(shape) for name in ("old_entropy", "old_log_prob", "ref_log_prob")}
    assert Case(torch.zeros(shape), torch.zeros(shape).bool(), [0] * shape[0], data).run().shape == shape


def test_faults() -> None:
    case = golden()
    with pytest.raises(ValueError, match=r"num_buckets=0 must be a whole .* 1; delta=0.0 must be a finite number > 0"):
        case.run(num_buckets=0, delta=0.0)
    with pytest.raises(ValueError, match="2 rows of rewards, but 1 prompt ids"):
        replace(case, index=[0]).run()
    with pytest.raises(ValueError, match=r"'ref_log_prob': \(2, 3\)"):
        case.with_data(ref_log_prob=torch.zeros(2, 3)).run()
