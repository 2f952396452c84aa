"""Names that token data have on their way to the losses, shared by all who send or read them."""

from __future__ import annotations

from typing import Any

# Field of verl's batch -> field of the token context.
FIELDS = {
    "old_log_probs": "old_log_prob",
    "ref_log_prob": "ref_log_prob",
    "segment_ids": "segment_ids",
    "group_ids": "group_ids",
}
# Whose forward pass the old entropies come from -> the field that holds them.
OLD_ENTROPY = {"actor": "entropy", "rollout": "rollout_entropies"}
# What the controller says about the batch, beside the fields; absent from batches that verl alone prepared.
SOURCE = "verl_ext_entropy_source"
# What stands behind a response; 0 in every other field.
PADDING = {"segment_ids": -1, "group_ids": -1}


def entropy_source(data: Any) -> str:
    """``actor`` or ``rollout``, as the controller decided."""
    from verl.utils import tensordict_utils as tu

    return str(tu.get(data, SOURCE, "actor"))
