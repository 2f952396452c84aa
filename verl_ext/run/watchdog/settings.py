"""What a user can set about the watchdog: `+verl_ext.watchdog.<key>=<value>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from verl_ext.hyper import Check, Checked, Unfit, flag, hyper, integer, number, optional, text


def _names() -> Check:
    def parse(value: Any) -> list[str]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise Unfit
        if not all(isinstance(name, str) and name for name in value):
            raise Unfit
        return list(value)

    return Check("a list of names", parse)


@dataclass
class WatchdogSettings(Checked):
    """Limits of the watchdog, `verl_ext.watchdog`; see docs/watchdog.md.

    Attributes:
        enabled: watch the run.
        limit_s: a phase of training without any progress for so long ends the run, seconds. A phase that has been
            without for longer, and went on, is given three times that.
        start_up_limit_s: the same until training begins.
        shut_down_limit_s: the same after training has ended, normally or not.
        dead_process_s: after the death of a process of the run, verl has so long to end it by itself, seconds.
        failed_batches: the run ends when so many batches' worth of groups have failed one after another and none
            was kept; null leaves it to limit_s.
        dump_dir: where stacks and the report are written; null: the folder `watchdog` in trainer.default_local_dir.
        ignore_actors: class names of Ray actors whose death is nobody's business.
    """

    method: ClassVar[str] = "watchdog"
    where: ClassVar[str] = "verl_ext.watchdog"

    enabled: bool = hyper(True, flag())
    limit_s: float = hyper(900.0, number(above=0))
    start_up_limit_s: float = hyper(1800.0, number(above=0))
    shut_down_limit_s: float = hyper(300.0, number(above=0))
    dead_process_s: float = hyper(20.0, number(least=0))
    failed_batches: int | None = hyper(4, optional(integer(least=1)))
    dump_dir: str | None = hyper(None, optional(text()))
    ignore_actors: list[str] = hyper([], _names())  # noqa: RUF009

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        limit, dead = values.get("limit_s"), values.get("dead_process_s")
        if limit is not None and dead is not None and dead > limit:
            return [f"dead_process_s={dead:g} must be <= limit_s={limit:g}, or it would never be reached"]
        return []
