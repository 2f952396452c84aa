"""How claims are judged: a number, the region in which it must lie, and the interval over the seeds that decides.

Inside the region a claim holds, outside of it it does not, and where the interval crosses an end of the region it is
open. So a claim never holds because too little was measured.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from verl_ext.study.intervals import BySeed, estimate, paired, rank_correlation, shares
from verl_ext.study.measures import Runs
from verl_ext.study.wording import Form, form, over_seeds, worded

Word = Literal["holds", "does not hold", "cannot be tested at this scale", "open"]
HOLDS: Word = "holds"
FAILS: Word = "does not hold"
UNTESTABLE: Word = "cannot be tested at this scale"
OPEN: Word = "open"
WORDS: tuple[Word, ...] = (HOLDS, FAILS, UNTESTABLE, OPEN)
POINTS, NATS, TOKENS = " points", " nats", " tokens"
percent, points = form("{:.3g}%", 100), form("{:+.3g}", 100)
nats, number, signed = form("{:+.4f}"), form("{:.2f}"), form("{:+.2f}")

SEEDS = 3
"""Runs that a verdict needs of each method: a verdict that comes early would be one chosen among several looks."""
CLIPS_NOTHING = 1e-4
"""Share of clipped tokens below which a method has no clipping to compare."""

Found = Mapping[str, Runs]
"""Method -> its runs on one model."""


class Verdict(NamedTuple):
    """A verdict and the numbers that it rests on, or what is missing for one."""

    word: Word
    measured: str


class Part(NamedTuple):
    """A number of a claim, and the region in which it must lie.

    Attributes:
        values: one a seed; none where no run has the number.
        least, most: ends of the region.
        strict: the ends are not in the region.
        form, unit: how it is written.
    """

    name: str
    values: BySeed
    least: float
    most: float
    form: Form
    unit: str = ""
    strict: bool = True

    def word(self) -> Word:
        """By the interval over the seeds."""
        found = estimate(self.values.values()) if self.values else None
        if found is None or found.low is None or found.high is None:
            return OPEN
        under, over = (operator.lt, operator.le) if self.strict else (operator.le, operator.lt)
        if under(self.least, found.low) and under(found.high, self.most):
            return HOLDS
        return FAILS if over(found.high, self.least) or over(self.most, found.low) else OPEN

    def text(self) -> str:
        return f"{self.name} {over_seeds(self.values, self.form, self.unit)}"


def together(parts: Sequence[Part]) -> Verdict:
    """All parts must hold; one that does not is enough for the claim not to."""
    words = [part.word() for part in parts]
    word = FAILS if FAILS in words else OPEN if OPEN in words else HOLDS
    return Verdict(word, "; ".join(part.text() for part in parts))


# --- reaching a score


def reaches(method: str, other: str, at_most: float) -> Callable[[Found], Verdict]:
    """The share of the other's steps in which a method reaches the other's last accuracy."""

    def judge(found: Found) -> Verdict:
        runs, mark = found[method], found[other]
        levels, steps = mark.final(), {run.seed: run.steps for run in mark.runs}
        gain = Part(f"`{other}` gains", paired(levels, mark.start()), 0.0, math.inf, points, POINTS)
        crossings = runs.reaches_by_seed(levels)
        reached = {seed: step / steps[seed] for seed, step in crossings.items() if step is not None}
        part = Part("share of the steps", reached, -math.inf, at_most, percent, strict=False)
        each = ", ".join("not reached" if step is None else f"step {step:.1f}" for step in crossings.values())
        whole = runs.reaches(estimate(levels.values()).mean)
        on_average = "does not reach its last score" if whole is None else f"reaches its last score at step {whole:.1f}"
        said = f"{gain.text()}; the mean curve of `{method}` {on_average}; by seed: {each}"
        if gain.word() == FAILS:
            return Verdict(UNTESTABLE, f"{said}; a score that is not gained is no mark to reach")
        if gain.word() == OPEN:
            return Verdict(OPEN, f"{said}; the gain may be nothing, and then there is no mark to reach")
        if not reached:
            return Verdict(FAILS, said)
        if len(reached) < len(crossings):
            return Verdict(OPEN, f"{said}; there is no interval where a seed does not reach it")
        return Verdict(part.word(), f"{said}; {part.text()}")

    return judge


def reaches_how(method: str, other: str, at_most: float) -> str:
    return (
        f"The first step at which the validation curve of `{method}`, linear between validations, is at the last "
        f"accuracy of `{other}` with the same seed, as a share of all steps. Holds at {at_most:.0%} and below, "
        "also where it is less than the paper's number; does not hold where no seed gets there, and is open where "
        f"only some do. Can be tested where `{other}` improves."
    )


# --- clipping


def clips_share(method: str, other: str, least: float, most: float) -> Callable[[Found], Verdict]:
    """The ratio of two methods' clip fractions, below and above."""

    def judge(found: Found) -> Verdict:
        parts = []
        for side, words in (("clip_low", "below"), ("clip_high", "above")):
            mine, others = found[method].average(side), found[other].average(side)
            if estimate(others.values()).mean < CLIPS_NOTHING:
                return Verdict(UNTESTABLE, f"`{other}` clips {worded(estimate(others.values()), percent)} {words}")
            both = f"{percent(estimate(mine.values()).mean)} over {percent(estimate(others.values()).mean)}"
            parts.append(Part(f"{words}: {both}, ratio", shares(mine, others), least, most, number, strict=False))
        return together(parts)

    return judge


def clips_less(method: str, other: str) -> Callable[[Found], Verdict]:
    """The difference of two methods' clip fractions, both sides together."""

    def judge(found: Found) -> Verdict:
        mine, others = (found[name].average("clip_low", "clip_high") for name in (method, other))
        means = estimate(mine.values()).mean, estimate(others.values()).mean
        both = f"`{method}` {percent(means[0])}, `{other}` {percent(means[1])}"
        if max(means) < CLIPS_NOTHING:
            return Verdict(UNTESTABLE, f"neither clips: {both}")
        part = Part("difference", paired(mine, others), -math.inf, 0.0, points, POINTS)
        return Verdict(part.word(), f"{both}; {part.text()}")

    return judge


def clips_follow_entropy(found: Found) -> Verdict:
    """ESPO's clip fractions against the entropy, over the steps of a run."""
    runs = found["espo"]
    parts = []
    for side, words in (("clip_low", "below"), ("clip_high", "above")):
        values = runs.by_seed(lambda run, side=side: rank_correlation(run.curves["entropy"], run.curves[side]))  # type: ignore[misc]
        if len(values) < len(runs.runs):
            return Verdict(UNTESTABLE, f"a run whose clip fraction {words} never varies has no correlation")
        change = estimate(paired(runs.late(side), runs.early(side)).values())
        parts.append(
            Part(f"{words}: change {worded(change, points, POINTS)}, correlation", values, -math.inf, 0.0, number)
        )
    entropy = estimate(paired(runs.late("entropy"), runs.early("entropy")).values())
    word, measured = together(parts)
    return Verdict(word, f"entropy changes by {worded(entropy, nats, NATS)}; {measured}")


# --- entropy, accuracy, length, time


def entropy_higher(method: str, others: Sequence[str]) -> Callable[[Found], Verdict]:
    """The difference of the entropies in the last third of the steps."""

    def judge(found: Found) -> Verdict:
        late = found[method].late("entropy")
        over = {other: paired(late, found[other].late("entropy")) for other in others}
        return together([Part(f"over `{o}`", values, 0.0, math.inf, nats, NATS) for o, values in over.items()])

    return judge


def prevents_collapse(found: Found) -> Verdict:
    """ERPO's entropy, where GRPO's collapses."""
    kept = {name: shares(runs.late("entropy"), runs.first("entropy")) for name, runs in found.items()}
    grpo = Part("`grpo` keeps", kept["grpo"], -math.inf, 0.5, percent)
    difference = paired(found["erpo"].late("entropy"), found["grpo"].late("entropy"))
    parts = [
        Part("`erpo` keeps", kept["erpo"], 0.5, math.inf, percent),
        Part("over `grpo`", difference, 0.0, math.inf, nats, NATS),
    ]
    word, measured = together(parts)
    collapse = grpo.word()
    if collapse == FAILS:
        return Verdict(UNTESTABLE, f"{grpo.text()} of its first step's entropy: no collapse to prevent; {measured}")
    return Verdict(OPEN if collapse == OPEN else word, f"{grpo.text()} of its first step's entropy; {measured}")


def collapses(found: Found) -> Verdict:
    """Last accuracy of TEPO with the undifferentiated KL, as a share of the first."""
    runs = found["tepo_full_kl"]
    final, others = estimate(runs.final().values()), estimate(found["tepo"].final().values())
    part = Part("of its first accuracy", shares(runs.final(), runs.start()), -math.inf, 0.5, percent)
    return Verdict(part.word(), f"last accuracy {percent(final.mean)} (`tepo`: {percent(others.mean)}), {part.text()}")


def shorter(found: Found) -> Verdict:
    """Never more than numbers: see the claim's `how`."""
    late = {name: found[name].late("response_length") for name in ("erpo", "grpo")}
    difference = estimate(paired(late["erpo"], late["grpo"]).values())
    return Verdict(UNTESTABLE, f"`erpo` minus `grpo`, last third: {worded(difference, signed, TOKENS)}")


def costs_alike(found: Found) -> Verdict:
    """Seconds a step, without and with the pass through the reference."""
    reference = ("reference log-probs",)
    erpo, grpo = found["erpo"], found["grpo"]
    part = Part("ratio", shares(erpo.seconds(reference), grpo.seconds(reference)), 0.0, 1.1, number, strict=False)
    whole = estimate(shares(erpo.seconds(), grpo.seconds()).values())
    return Verdict(part.word(), f"{part.text()}; with the reference's pass {worded(whole, number)}")
