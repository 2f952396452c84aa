"""What the page says about the columns of an export, and the ways it can colour tokens by them."""

from __future__ import annotations

from dataclasses import dataclass

NOT_TRACED = "the batch was written before its loss ran, as those that guards keep"


@dataclass(frozen=True)
class Column:
    """A column of numbers of tokens, for people.

    Attributes:
        label: short name.
        unit: `nats`, or empty.
        about: one sentence.
        missing: why an export may lack it.
    """

    label: str
    unit: str = ""
    about: str = ""
    missing: str = "the run did not keep it"


# In the order in which the values of a token are listed.
COLUMNS = {
    "responses": Column("token id", about="The token's number in the vocabulary."),
    "response_mask": Column("trained on", about="1 where the loss reads the token; 0 for text of tools, for instance."),
    "advantages": Column("advantage", about="How much better than expected: above 0 makes the token likelier."),
    "entropy": Column(
        "entropy, old policy",
        "nats",
        "How undecided the policy that generated the token was: 0 means certain.",
        "no method of this run asked for the entropies of the old policy",
    ),
    "current_entropy": Column("entropy, current policy", "nats", "The same of the policy in training."),
    "rollout_entropies": Column("entropy, rollout", "nats", "The same as the rollout engine saw it."),
    "old_log_probs": Column("log-prob, old policy", "nats", "Of the token under the policy before the update."),
    "log_probs": Column("log-prob, current policy", "nats", "Of the token under the policy in training."),
    "rollout_log_probs": Column("log-prob, rollout", "nats", "Of the token as the rollout engine saw it."),
    "ref_log_prob": Column("log-prob, reference", "nats", "Of the token under the reference policy."),
    "ratio": Column(
        "importance ratio",
        about="How much likelier the token became, as the loss sees it; tokens of a group or segment may share it.",
        missing=NOT_TRACED,
    ),
    "lower": Column("lower bound", about="Below it a ratio is clipped where the advantage is negative."),
    "upper": Column("upper bound", about="Above it a ratio is clipped where the advantage is positive."),
    "clipped_low": Column(
        "clipped below", about="1 where the lower bound cut the token's gradient.", missing=NOT_TRACED
    ),
    "clipped_high": Column("clipped above", about="1 where the upper bound cut it.", missing=NOT_TRACED),
    "loss_weight": Column(
        "loss weight",
        about="Minus the gradient of the loss with respect to the token's log-prob: the push that the token gets.",
        missing=NOT_TRACED,
    ),
    "group_ids": Column(
        "entropy group",
        about="0 holds the lowest entropies.",
        missing="only methods with entropy groups (espo) have it",
    ),
    "segment_ids": Column(
        "segment",
        about="Number of the sub-sentence, from 0.",
        missing="only methods with segments (sspo) have it",
    ),
    "rollout_is_weights": Column("rollout weight", about="Correction for the rollout engine's different policy."),
    "returns": Column("return"),
    "values": Column("value", about="The critic's estimate."),
    "rm_scores": Column("reward model's score"),
    "token_level_rewards": Column("reward at the token"),
}


@dataclass(frozen=True)
class Colouring:
    """A way to colour tokens.

    Attributes:
        column: that is read; `clipped` reads `clipped_low` and `clipped_high`.
        label: on its button.
        kind: `sequential` (from `start` upwards), `diverging` (both ways from `start`), `classes` (a number is a class)
            or `clipping`.
        start: see `kind`; None for the lowest value.
        main: whether it has a button of its own.
    """

    column: str
    label: str
    kind: str
    start: float | None = None
    main: bool = False


CLIPPING = "clipped"
COLOURINGS = (
    Colouring("entropy", "entropy", "sequential", 0.0, main=True),
    Colouring("advantages", "advantage", "diverging", 0.0, main=True),
    Colouring("ratio", "ratio", "diverging", 1.0, main=True),
    Colouring(CLIPPING, "clipping", "clipping", main=True),
    Colouring("loss_weight", "loss weight", "diverging", 0.0, main=True),
    Colouring("group_ids", "group", "classes", main=True),
    Colouring("segment_ids", "segment", "classes", main=True),
    Colouring("current_entropy", "entropy, current policy", "sequential", 0.0),
    Colouring("rollout_entropies", "entropy, rollout", "sequential", 0.0),
    Colouring("old_log_probs", "log-prob, old policy", "sequential"),
    Colouring("log_probs", "log-prob, current policy", "sequential"),
    Colouring("rollout_log_probs", "log-prob, rollout", "sequential"),
    Colouring("ref_log_prob", "log-prob, reference", "sequential"),
    Colouring("lower", "lower bound", "diverging", 1.0),
    Colouring("upper", "upper bound", "diverging", 1.0),
    Colouring("rollout_is_weights", "rollout weight", "diverging", 1.0),
    Colouring("returns", "return", "diverging", 0.0),
    Colouring("values", "value", "diverging", 0.0),
    Colouring("rm_scores", "reward model's score", "diverging", 0.0),
    Colouring("token_level_rewards", "reward at the token", "diverging", 0.0),
)


CLIPPING_ABOUT = (
    "The ratio left its bounds in the direction that the advantage pushes: the token gets no further push. "
    "▲ by the upper bound, ▼ by the lower one."
)


def missing(column: str) -> str:
    """Why a colouring cannot be chosen, one sentence."""
    if column == CLIPPING:
        return f"not in this export: {NOT_TRACED}"
    return f"not in this export: {COLUMNS[column].missing}"
