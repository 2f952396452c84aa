"""Settings of `algorithm.verl_ext`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from verl_ext.hyper import Checked, flag, hyper, number, one_of, optional

SOURCES = ("auto", "actor", "rollout")
NODE = "algorithm.verl_ext"


@dataclass
class VerlExtConfig(Checked):
    """What concerns the run and no single method, `algorithm.verl_ext`; see docs/rollout-entropies.md.

    Attributes:
        entropy_source: whose forward pass the old entropies come from, `actor`, `rollout` or `auto`.
        watch_entropies: have the rollout engine return entropies to be compared with the actor's, where it can.
        max_log_prob_difference: the run stops when |log-prob of the rollout - actor's| exceeds this, nats.
        mean_log_prob_difference: the same for the mean over a step's tokens.
        max_entropy_difference: the same for entropies.
        mean_entropy_difference: the same for the mean of entropies.
    """

    method: ClassVar[str] = "verl_ext"
    where: ClassVar[str] = NODE

    entropy_source: str = hyper("auto", one_of(*SOURCES))
    watch_entropies: bool = hyper(True, flag())
    max_log_prob_difference: float | None = hyper(None, optional(number(above=0)))
    mean_log_prob_difference: float | None = hyper(None, optional(number(above=0)))
    max_entropy_difference: float | None = hyper(None, optional(number(above=0)))
    mean_entropy_difference: float | None = hyper(None, optional(number(above=0)))

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        limits = [name for name in values if name.endswith("_entropy_difference") and values[name] is not None]
        if limits and values.get("watch_entropies") is False:
            return [f"{', '.join(limits)} cannot be watched with watch_entropies=false"]
        return []
