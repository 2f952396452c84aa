"""Before Ray starts: is the configured reward a reward? It is asked about one row of the training data."""

from verl_ext.reward_probe.probing import findings

__all__ = ["findings"]
