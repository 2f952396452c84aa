"""Each claim against runs that hold it, that do not, and that cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.study import made
from verl_ext.study.claims import CLAIMS, Claim
from verl_ext.study.judging import FAILS, HOLDS, OPEN, SEEDS, UNTESTABLE, Part, Verdict, number
from verl_ext.study.measures import Runs

BY_KEY = {claim.key: claim for claim in CLAIMS}
UP, FLAT = (0.4, 0.5, 0.6), (0.4, 0.4, 0.4)


def found(**methods: Mapping[str, Any]) -> dict[str, Runs]:
    """Runs of methods; each entry is one value for all three seeds, or a list of three."""
    spread = {
        method: {name: value if isinstance(value, list) else [value] * 3 for name, value in entries.items()}
        for method, entries in methods.items()
    }
    return {method: made.runs(method, **entries) for method, entries in spread.items()}


def judged(key: str, **methods: Mapping[str, Any]) -> Verdict:
    return BY_KEY[key].verdict(found(**methods))


# --- regions


@pytest.mark.parametrize(
    ("values", "least", "most", "strict", "expected"),
    [
        ((1.0, 1.0, 1.0), 0.0, 2.0, True, HOLDS),
        ((3.0, 3.0, 3.0), 0.0, 2.0, True, FAILS),
        ((0.0, 0.0, 0.0), 0.0, 2.0, True, FAILS),  # equality is not "more than"
        ((0.0, 0.0, 0.0), 0.0, 2.0, False, HOLDS),
        ((2.0, 2.0, 2.0), 0.0, 2.0, False, HOLDS),
        ((0.5, 1.0, 1.5), 0.0, 2.0, True, OPEN),  # 1 ± 4.303 * 0.5 / sqrt(3) = 1 ± 1.24
        ((0.9, 1.0, 1.1), 0.0, 2.0, True, HOLDS),  # 1 ± 0.248
        ((2.3, 2.4, 2.5), 0.0, 2.0, True, FAILS),  # 2.4 ± 0.248
        ((2.2, 2.3, 2.1), 0.0, 2.0, True, OPEN),  # 2.2 ± 0.248 reaches below 2
        ((1.0,), 0.0, 2.0, True, OPEN),
        ((), 0.0, 2.0, True, OPEN),
    ],
)
def test_the_interval_decides(
    values: tuple[float, ...], least: float, most: float, strict: bool, expected: str
) -> None:
    part = Part("x", dict(enumerate(values)), least, most, number, strict=strict)
    assert part.word() == expected
    assert "x" in part.text()


# --- the claims: what holds, fails, is open, cannot be tested

CLIPPED = {"clip_low": 0.06, "clip_high": 0.03}
"""A sixth of what `gspo` clips below."""
CASES: list[tuple[str, str, dict[str, Any]]] = [
    # GSPO ends at 0.6; ESPO is there at step 3, half of the six steps.
    ("espo-compute-gspo", HOLDS, {"espo": {"accuracy": (0.4, 0.6, 0.7)}, "gspo": {"accuracy": UP}}),
    # It ends at 0.6 too, at step 6: 100% of the steps.
    ("espo-compute-gspo", FAILS, {"espo": {"accuracy": UP}, "gspo": {"accuracy": UP}}),
    ("espo-compute-gspo", FAILS, {"espo": {"accuracy": FLAT}, "gspo": {"accuracy": UP}}),
    (
        "espo-compute-gspo",
        OPEN,
        {"espo": {"accuracy": [(0.4, 0.6, 0.7), (0.4, 0.6, 0.7), (0.4, 0.5, 0.5)]}, "gspo": {"accuracy": UP}},
    ),
    # Shares of 0.5, 0.5 and 1: 0.67 ± 0.72.
    (
        "espo-compute-gspo",
        OPEN,
        {"espo": {"accuracy": [(0.4, 0.6, 0.7), (0.4, 0.6, 0.7), UP]}, "gspo": {"accuracy": UP}},
    ),
    ("espo-compute-gspo", UNTESTABLE, {"espo": {"accuracy": UP}, "gspo": {"accuracy": FLAT}}),
    (
        "espo-compute-gspo",
        OPEN,
        # GSPO gains 20, 0 and -10 points: perhaps nothing. ESPO is at these scores at once.
        {
            "espo": {"accuracy": (0.4, 0.7, 0.8)},
            "gspo": {"accuracy": [(0.4, 0.4, 0.6), (0.4, 0.4, 0.4), (0.4, 0.4, 0.3)]},
        },
    ),
    ("espo-compute-gspo_tuned", HOLDS, {"espo": {"accuracy": (0.4, 0.6, 0.7)}, "gspo_tuned": {"accuracy": UP}}),
    # Ratios 1/6 and 1/4, both between 1/12 and 1/3.
    ("espo-clips-gspo", HOLDS, {"espo": CLIPPED, "gspo": {"clip_low": 0.36, "clip_high": 0.12}}),
    # Above, 0.03 / 0.06 is a half.
    ("espo-clips-gspo", FAILS, {"espo": CLIPPED, "gspo": {"clip_low": 0.36, "clip_high": 0.06}}),
    # Far less than a sixth is another number too.
    ("espo-clips-gspo", FAILS, {"espo": {}, "gspo": {"clip_low": 0.36, "clip_high": 0.12}}),
    # 0.03 over 0.06, 0.12, 0.24: ratios 0.5, 0.25, 0.125.
    ("espo-clips-gspo", OPEN, {"espo": CLIPPED, "gspo": {"clip_low": 0.36, "clip_high": [0.06, 0.12, 0.24]}}),
    ("espo-clips-gspo", UNTESTABLE, {"espo": CLIPPED, "gspo": {"clip_low": 0.36, "clip_high": 0.00005}}),
    ("espo-clips-gspo_tuned", FAILS, {"espo": CLIPPED, "gspo_tuned": {"clip_low": 0.02, "clip_high": 0.02}}),
    (
        "espo-clip-entropy",
        HOLDS,
        {
            "espo": {name: [[1, 2, 3, 4, 5, 6]] * 3 for name in ("clip_low", "clip_high")}
            | {"entropy": [[6, 5, 4, 3, 2, 1]] * 3}
        },
    ),
    (
        "espo-clip-entropy",
        FAILS,
        {"espo": {name: [[6, 5, 4, 3, 2, 1]] * 3 for name in ("clip_low", "clip_high", "entropy")}},
    ),
    # Correlations of -1, -1 and 1.
    (
        "espo-clip-entropy",
        OPEN,
        {
            "espo": {name: [[1, 2, 3, 4, 5, 6]] * 2 + [[6, 5, 4, 3, 2, 1]] for name in ("clip_low", "clip_high")}
            | {"entropy": [[6, 5, 4, 3, 2, 1]] * 3}
        },
    ),
    ("espo-clip-entropy", UNTESTABLE, {"espo": {"entropy": [[6, 5, 4, 3, 2, 1]] * 3}}),
    ("sspo-clips-grpo", HOLDS, {"sspo": {"clip_low": 0.01}, "grpo": {"clip_high": 0.02}}),
    ("sspo-clips-grpo", FAILS, {"sspo": {"clip_low": 0.02, "clip_high": 0.02}, "grpo": {"clip_high": 0.02}}),
    ("sspo-clips-grpo", FAILS, {"sspo": {"clip_low": 0.02}, "grpo": {"clip_high": 0.02}}),  # as much is not less
    ("sspo-clips-grpo", OPEN, {"sspo": {"clip_low": [0.01, 0.03, 0.01]}, "grpo": {"clip_high": 0.02}}),
    ("sspo-clips-grpo", UNTESTABLE, {"sspo": {"clip_low": 0.00009}, "grpo": {}}),
    ("sspo-clips-gspo", HOLDS, {"sspo": {"clip_low": 0.01}, "gspo": {}}),
    ("sspo-clips-gspo", FAILS, {"sspo": {"clip_low": 0.01}, "gspo": {"clip_low": 0.4}}),
    ("sspo-clips-gspo_tuned", HOLDS, {"sspo": {"clip_low": 0.01}, "gspo_tuned": {"clip_low": 0.005}}),
    ("sspo-entropy", HOLDS, {"sspo": {"entropy": 0.05}, "grpo": {}, "gspo": {}}),
    ("sspo-entropy", FAILS, {"sspo": {"entropy": 0.05}, "grpo": {}, "gspo": {"entropy": 0.05}}),
    ("sspo-entropy", OPEN, {"sspo": {"entropy": [0.05, 0.05, 0.03]}, "grpo": {}, "gspo": {}}),
    ("tepo-half-grpo", HOLDS, {"tepo": {"accuracy": (0.4, 0.6, 0.6)}, "grpo": {"accuracy": UP}}),  # 50%
    # 0.6 is reached half way from 0.5 to 0.7: step 4.5, 75%
    ("tepo-half-grpo", FAILS, {"tepo": {"accuracy": (0.4, 0.5, 0.7)}, "grpo": {"accuracy": UP}}),
    ("tepo-half-clip_higher", OPEN, {"tepo": {"accuracy": [(0.4, 0.6, 0.6), UP, UP]}, "clip_higher": {"accuracy": UP}}),
    ("tepo-half-clip_higher", FAILS, {"tepo": {"accuracy": FLAT}, "clip_higher": {"accuracy": UP}}),
    ("tepo-clips-grpo", HOLDS, {"tepo": {}, "grpo": {"clip_low": 0.001}}),
    ("tepo-clips-clip_higher", FAILS, {"tepo": {"clip_high": 0.01}, "clip_higher": {"clip_low": 0.001}}),
    ("tepo-collapse", HOLDS, {"tepo_full_kl": {"accuracy": (0.4, 0.1, 0.0)}, "tepo": {}}),
    ("tepo-collapse", FAILS, {"tepo_full_kl": {"accuracy": (0.4, 0.4, 0.3)}, "tepo": {}}),
    ("tepo-collapse", OPEN, {"tepo_full_kl": {"accuracy": [(0.4, 0.4, 0.0), FLAT, FLAT]}, "tepo": {}}),
    # No start, no share of it.
    ("tepo-collapse", OPEN, {"tepo_full_kl": {"accuracy": (0.0, 0.0, 0.0)}, "tepo": {}}),
    # GRPO keeps 0.01 of 0.04, ERPO 0.03.
    (
        "erpo-entropy",
        HOLDS,
        {"erpo": {"entropy": [[0.04] + [0.03] * 5] * 3}, "grpo": {"entropy": [[0.04] + [0.01] * 5] * 3}},
    ),
    (
        "erpo-entropy",
        FAILS,
        {"erpo": {"entropy": [[0.04] + [0.01] * 5] * 3}, "grpo": {"entropy": [[0.04] + [0.01] * 5] * 3}},
    ),
    ("erpo-entropy", UNTESTABLE, {"erpo": {"entropy": 0.05}, "grpo": {}}),
    (
        "erpo-entropy",
        OPEN,
        {"erpo": {"entropy": 0.05}, "grpo": {"entropy": [[0.04] + [end] * 5 for end in (0.01, 0.02, 0.03)]}},
    ),
    ("erpo-length", UNTESTABLE, {"erpo": {"response_length": 10.0}, "grpo": {}}),
    ("erpo-cost", HOLDS, {"erpo": {"seconds": 2.1}, "grpo": {"seconds": 2.0}}),
    ("erpo-cost", FAILS, {"erpo": {"seconds": 2.4}, "grpo": {"seconds": 2.0}}),
    # 0.4 of the 2.4 are the pass through the reference, which is taken out.
    (
        "erpo-cost",
        HOLDS,
        {
            "erpo": {"seconds": 2.4, "phases": [{"rollout": 2.0, "reference log-probs": 0.4}] * 3},
            "grpo": {"seconds": 2.0},
        },
    ),
    ("erpo-cost", OPEN, {"erpo": {"seconds": [2.0, 2.2, 2.4]}, "grpo": {"seconds": 2.0}}),
]


@pytest.mark.parametrize(("key", "expected", "methods"), CASES)
def test_a_claim_is_judged(key: str, expected: str, methods: dict[str, Any]) -> None:
    verdict = judged(key, **methods)
    assert verdict.word == expected, verdict.measured
    assert verdict.measured


def test_every_claim_has_a_case_that_holds_or_can_only_be_shown() -> None:
    shown = {key for key, word, _ in CASES if word in (HOLDS, FAILS)}
    assert {claim.key for claim in CLAIMS} - shown == {"erpo-length"}


def test_the_numbers_stand_beside_the_verdict() -> None:
    # Both ratios are the same for all seeds, so that the interval has no width.
    verdict = judged("espo-clips-gspo", espo=CLIPPED, gspo={"clip_low": 0.36, "clip_high": 0.12})
    assert verdict.measured == (
        "below: 6% over 36%, ratio 0.17 [0.17, 0.17]; above: 3% over 12%, ratio 0.25 [0.25, 0.25]"
    )


# --- missing runs


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_without_runs_nothing_is_decided(claim: Claim) -> None:
    verdict = claim.verdict({})
    assert verdict.word == (UNTESTABLE if claim.key == "erpo-length" else OPEN)
    for name in claim.needs:
        assert f"0 of `{name}`" in verdict.measured


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.key)
def test_two_seeds_are_shown_and_decide_nothing(claim: Claim) -> None:
    """Though they have an interval, and it may be as clear as can be."""
    some = {name: made.runs(name, (1, 2)) for name in claim.needs}
    verdict = claim.verdict(some)
    assert verdict.word == (UNTESTABLE if claim.key == "erpo-length" else OPEN)
    assert f"2 of `{claim.needs[0]}`. So far: " in verdict.measured or "So far: " in verdict.measured


def test_seeds_that_only_one_method_has_do_not_count() -> None:
    runs = {"sspo": made.runs("sspo", (1, 2, 3)), "grpo": made.runs("grpo", (2, 3, 4))}
    assert "runs are missing" in BY_KEY["sspo-clips-grpo"].verdict(runs).measured
    assert SEEDS == 3


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_any_runs_give_a_verdict(data: st.DataObject) -> None:
    claim = data.draw(st.sampled_from(CLAIMS))
    share = st.sampled_from([0.0, 1e-5, 0.01, 0.3, 1.0])
    methods = {}
    for name in claim.needs:
        seeds = data.draw(st.lists(st.integers(1, 4), unique=True, max_size=4).map(sorted))
        if seeds:
            curves = {
                curve: [data.draw(st.lists(share, min_size=6, max_size=6)) for _ in seeds]
                for curve in ("clip_low", "clip_high", "entropy")
            }
            methods[name] = made.runs(
                name, seeds, accuracy=[data.draw(st.tuples(share, share, share)) for _ in seeds], **curves
            )
    verdict = claim.verdict(methods)
    assert verdict.word in (HOLDS, FAILS, UNTESTABLE, OPEN)
    shared = set.intersection(*(set(methods[name].seeds) if name in methods else set() for name in claim.needs))
    assert verdict.word not in (HOLDS, FAILS) or len(shared) >= SEEDS


# --- the texts


def test_claims_are_told_apart_and_say_where_they_are_from() -> None:
    assert len(BY_KEY) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.paper.split(", ")[0] in ("2512.00499", "2511.04256", "2604.12736", "2603.28204")
        assert "section" in claim.paper
        assert claim.says.endswith(".")
        assert claim.how.endswith(".")
        assert "|" not in claim.says + claim.how
