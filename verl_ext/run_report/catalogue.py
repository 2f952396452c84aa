"""Every metric that verl_ext emits: its name, unit, meaning and panel; docs/metrics.md is rendered from this table.

A name never changes once it is released: dashboards and scripts refer to it. ``<k>``, ``<n>`` and ``<data source>``
stand for a number of a group, a number of samples and the ``data_source`` of a validation set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

PANELS = {
    "reward": "Reward",
    "outcomes": "Verifier outcomes",
    "validation": "Validation accuracy",
    "entropy": "Entropy",
    "clipped": "Clipped tokens",
    "bounds": "Clipped tokens by bound",
    "groups": "Clipped tokens by group",
    "group entropy": "Entropy by group",
    "widths": "Clip widths",
    "mismatch": "Log-probs, rollout against actor",
    "entropy mismatch": "Entropies, rollout against actor",
    "guards": "Guards and values that are not finite",
    "signal": "Prompts whose responses all earn the same",
    "unjudged": "Responses that the verifier could not judge",
    "gradient": "Gradient norm",
    "length": "Response length",
    "cut off": "Responses cut off",
    "policy": "Change of the policy",
    "step": "Time a step",
    "phases": "Time by phase",
    "method": "The method's own numbers",
    "none": "",
}
"""Key of a panel of the report -> its title; a metric of the panel `none` is not drawn."""

_PLACES = {"<k>": r"\d+", "<n>": r"\d+", "<data source>": r".+"}


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of them.

    Attributes:
        name: as the loggers show it; see the module for what stands in angle brackets.
        unit: of its values; a share lies between 0 and 1.
        meaning: what it says, one or two sentences.
        panel: key of `PANELS`.
        about: which part emits it; the headings of docs/metrics.md.
    """

    name: str
    unit: str
    meaning: str
    panel: str
    about: str

    @property
    def section(self) -> str:
        """The section that wandb puts it in."""
        return self.name.partition("/")[0]

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the names of the family."""
        text = re.escape(self.name)
        for place, expression in _PLACES.items():
            text = text.replace(re.escape(place), expression)
        return re.compile(text)


LOSSES, ESPO, SSPO, OTHERS = "Every loss of verl_ext", "ESPO", "SSPO", "TEPO, STEER, DCPO, GRPO-S, high-entropy tokens"
ROLLOUT, VERIFIER, GUARDS = "Rollout against actor", "Verifier outcomes", "Guards"
WORKERS, VALIDATION = "Bridge, weight sync, timers", "Validation with verl_ext.rewards.math"
_LOST = "Tokens at which {} is not finite."


def _losses() -> Iterator[Metric]:
    yield Metric(
        "actor/pg_clipfrac", "share", "Valid tokens whose term is clipped, at either bound.", "clipped", LOSSES
    )
    yield Metric("actor/pg_clipfrac_low", "share", "Valid tokens clipped at the lower bound.", "bounds", LOSSES)
    yield Metric("actor/pg_clipfrac_high", "share", "Valid tokens clipped at the upper bound.", "bounds", LOSSES)
    text = "Valid tokens held by the dual clip; 0 for methods without one. verl's name: it is not the lower bound."
    yield Metric("actor/pg_clipfrac_lower", "share", text, "none", LOSSES)
    text = "Mean over the valid tokens of old minus current log-prob, an estimate of KL(old || current)."
    yield Metric("actor/ppo_kl", "nats", text, "policy", LOSSES)


def _espo() -> Iterator[Metric]:
    group = "actor/espo/group<k>"
    yield Metric(f"{group}/clip_low", "share", "Tokens of the group clipped at its lower bound.", "groups", ESPO)
    yield Metric(f"{group}/clip_high", "share", "Tokens of the group clipped at its upper bound.", "groups", ESPO)
    text = "Mean old entropy of the group's tokens. Group 0 has the lowest; all tokens where there is one group."
    yield Metric(f"{group}/entropy", "nats", text, "group entropy", ESPO)
    yield Metric(f"{group}/eps", "ratio", "Half the clip width, (upper - lower) / 2, mean by tokens.", "widths", ESPO)
    yield Metric(f"{group}/ratio", "ratio", "Mean importance ratio of the group's tokens.", "method", ESPO)
    yield Metric(f"{group}/tokens", "share", "Valid tokens that are in the group.", "method", ESPO)


def _sspo() -> Iterator[Metric]:
    yield Metric(
        "actor/sspo/ratio", "ratio", "Mean importance ratio, a segment weighted by its tokens.", "method", SSPO
    )
    yield Metric("actor/sspo/eps_low", "ratio", "1 minus the lower bound, weighted by tokens.", "widths", SSPO)
    yield Metric("actor/sspo/eps_high", "ratio", "Upper bound minus 1, weighted by tokens.", "widths", SSPO)
    yield Metric("actor/sspo/segments", "segments", "Mean number of segments of a response.", "method", SSPO)
    yield Metric("actor/sspo/segment_length", "tokens", "Mean number of tokens of a segment.", "method", SSPO)


def _other_losses() -> Iterator[Metric]:
    text = "TEPO: valid tokens that the KL penalty is applied to; 0 where it is off."
    yield Metric("actor/tepo/kl_mask", "share", text, "method", OTHERS)
    text = "TEPO: the masked KL estimate, mean over the valid tokens, before kl_coef."
    yield Metric("actor/tepo/kl", "nats", text, "method", OTHERS)
    text = "TEPO: mean of what multiplies the advantage: a ratio, or with ratio=none the log-prob, in nats."
    yield Metric("actor/tepo/weight", "ratio", text, "method", OTHERS)
    text = "STEER: mean factor on the advantages of the valid tokens."
    yield Metric("actor/steer/weight", "factor", text, "method", OTHERS)
    text = "STEER: mean size of a token's estimated contribution to the change of entropy."
    yield Metric("actor/steer/entropy_change", "nats", text, "method", OTHERS)
    yield Metric("actor/dcpo/lower", "ratio", "DCPO: mean lower bound of the valid tokens.", "widths", OTHERS)
    yield Metric("actor/dcpo/upper", "ratio", "DCPO: mean upper bound of the valid tokens.", "widths", OTHERS)
    yield Metric("actor/dcpo/capped", "share", "DCPO: valid tokens whose upper bound is r_max.", "method", OTHERS)
    yield Metric("actor/grpo_s/ratio", "ratio", "GRPO-S: mean over rows of the arithmetic row ratio.", "method", OTHERS)
    text = "Valid tokens that are trained on."
    yield Metric("actor/high_entropy/kept", "share", text, "method", OTHERS)


def _rollout() -> Iterator[Metric]:
    for what, words, panel in (("log_probs", "log-prob", "mismatch"), ("entropy", "entropy", "entropy mismatch")):
        text = f"Difference between a token's {words} in the rollout engine and in the actor: "
        yield Metric(f"training/rollout_{what}_diff_max", "nats", f"{text}largest of the batch.", panel, ROLLOUT)
        yield Metric(f"training/rollout_{what}_diff_mean", "nats", f"{text}mean of the batch.", panel, ROLLOUT)
    fields = {
        "rollout_log_probs": "the rollout's log-prob",
        "old_log_probs": "the actor's old log-prob",
        "rollout_entropies": "the rollout's entropy",
        "entropy": "the actor's old entropy",
    }
    for name, words in fields.items():
        yield Metric(f"training/{name}_nonfinite", "tokens", _LOST.format(words), "guards", ROLLOUT)


def _verifier() -> Iterator[Metric]:
    outcomes = {
        "correct": "judged correct",
        "wrong": "judged wrong",
        "unparsable": "without an answer that can be read",
        "timeout": "whose grading took too long",
        "error": "whose grading failed",
    }
    for name, words in outcomes.items():
        text = f"Responses of the step {words}; padding rows are not counted."
        yield Metric(f"reward/outcome/{name}", "share", text, "outcomes", VERIFIER)
    folder, of = "val-core/<data source>", "Validation, mean over n samples a problem: "
    yield Metric(f"{folder}/acc/mean@<n>", "share", f"{of}correct responses.", "validation", VALIDATION)
    folder = "val-aux/<data source>"
    for name, words in outcomes.items():
        yield Metric(f"{folder}/outcome_{name}/mean@<n>", "share", f"{of}responses {words}.", "none", VALIDATION)
    yield Metric(f"{folder}/score/mean@<n>", "reward", f"{of}reward.", "none", VALIDATION)
    text = f"{of}responses that could be judged, correct or wrong."
    yield Metric(f"{folder}/verified/mean@<n>", "share", text, "none", VALIDATION)
    text = f"{of}responses with an answer in a box."
    yield Metric(f"{folder}/boxed/mean@<n>", "share", text, "none", VALIDATION)


def _guards() -> Iterator[Metric]:
    text = "Responses whose verifier gave no verdict."
    yield Metric("guards/verifier/unjudged_share", "share", text, "unjudged", GUARDS)
    text = "Values of the batch that are not finite, at tokens that count."
    yield Metric("guards/nonfinite/values", "values", text, "guards", GUARDS)
    text = "Batches left out since the start of the run because of values that are not finite."
    yield Metric("guards/nonfinite/skipped", "batches", text, "guards", GUARDS)
    text = "Mean old entropy over the tokens of the batch, the one compared with entropy_floor."
    yield Metric("guards/entropy/mean", "nats", text, "none", GUARDS)
    yield Metric("guards/entropy/streak", "steps", "Steps in a row below entropy_floor.", "guards", GUARDS)
    text = "Returns to an earlier checkpoint since the start of the run."
    yield Metric("guards/entropy/rollbacks", "returns", text, "guards", GUARDS)


def _signal() -> Iterator[Metric]:
    of = "Prompts of the step, those that filter_groups took away included, whose responses all earned the same"
    yield Metric("train/groups_without_spread", "share", f"{of}: nothing to learn by comparing.", "signal", GUARDS)
    yield Metric("train/groups_all_right", "share", f"{of} and were all right.", "signal", GUARDS)
    yield Metric("train/groups_all_wrong", "share", f"{of} and were all wrong.", "signal", GUARDS)


def _workers() -> Iterator[Metric]:
    text = "Checksum of loss, hyper-parameters and plugin version, the same at every step; the controller compares it."
    yield Metric("actor/verl_ext/execution", "checksum", text, "none", WORKERS)
    text = "CPU platform: tensors sent to the rollout engine at the latest weight sync."
    yield Metric("actor/weight_sync/tensors", "tensors", text, "none", WORKERS)
    text = "CPU platform: tensors that differed on arrival; anything but 0 ends the run."
    yield Metric("actor/weight_sync/mismatches", "tensors", text, "guards", WORKERS)
    text = "CPU platform: duration of the latest weight sync."
    yield Metric("actor/weight_sync/seconds", "seconds", text, "none", WORKERS)
    text = "Bypass mode: copying the rollout's log-probs, which verl times as old_log_prob."
    yield Metric("timing_s/copy_rollout_log_probs", "seconds", text, "none", WORKERS)


def _of_entries() -> Iterator[Metric]:
    # Late: it imports torch, and methods of other packages are added to it while a program runs.
    from verl_ext.plugin import POLICY_LOSSES

    for loss in POLICY_LOSSES.values():
        for name, (unit, meaning) in loss.metrics.items():
            yield Metric(name, unit, meaning, "method", OTHERS)


METRICS: tuple[Metric, ...] = (
    *_losses(),
    *_espo(),
    *_sspo(),
    *_other_losses(),
    *_rollout(),
    *_verifier(),
    *_guards(),
    *_signal(),
    *_workers(),
)


def everything() -> Iterator[Metric]:
    """The table, then the metrics that stand in the entries of methods."""
    yield from METRICS
    yield from _of_entries()


def find(name: str) -> Metric | None:
    """The entry of a metric's name.

    Example:
        >>> find("actor/espo/group1/eps").unit, find("actor/no_such_metric")
        ('ratio', None)
    """
    return next((metric for metric in everything() if metric.pattern.fullmatch(name)), None)


def of_panel(key: str) -> list[Metric]:
    """The metrics of a panel, in the order of the table."""
    return [metric for metric in everything() if metric.panel == key]
