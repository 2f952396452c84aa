"""Settings of the guards, the section `verl_ext.guards` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from verl_ext.hyper import Checked, flag, hyper, integer, number, one_of, optional, text

NODE = "verl_ext.guards"

# Key -> (the key that it belongs to, the values of that key under which it is read).
READ_WITH: dict[str, tuple[str, Any]] = {
    "nonfinite_max_skipped": ("nonfinite_action", ("skip",)),
    "entropy_max_rollbacks": ("entropy_action", ("rollback",)),
    "no_signal_steps": ("no_signal_action", ("warn", "stop")),
}


@dataclass
class GuardSettings(Checked):
    """When a guard fires and what happens then; see docs/guards.md.

    Attributes:
        folder: where batches are kept; null is `guards` in `trainer.default_local_dir`.
        write_batch: keep the batch at fault, beside the reason.
        max_rows: rows of a kept batch, the offending groups first, >= 1.
        max_written: folders that one run writes, so that a warning at every step does not fill the disk, >= 1.
        nonfinite_action: `off`, `stop`, or `skip` the update and count.
        nonfinite_max_skipped: skipped updates of a run after which it stops all the same, >= 1.
        entropy_floor: mean entropy of the sampled tokens below which a step counts as low, nats; null is no floor.
        entropy_steps: low steps in a row at which the guard fires, >= 1.
        entropy_action: `warn`, `stop`, or `rollback` to the last good checkpoint.
        entropy_max_rollbacks: rollbacks of a run after which it stops instead, >= 1.
        verifier_error_share: largest share of a step's sessions that may lack a judgement; null is no limit.
        verifier_action: `warn` or `stop`; a step without a single judgement stops the run with either.
        failed_groups: groups in a row of which no session came back, at which the run stops; null is a step's worth.
        no_signal_steps: steps in a row whose rewards tell no response from another, at which the guard fires, >= 1.
        no_signal_action: `off`, `warn` once a streak, or `stop`.
    """

    method: ClassVar[str] = "guards"
    where: ClassVar[str] = NODE

    folder: str | None = hyper(None, optional(text()))
    write_batch: bool = hyper(True, flag())
    max_rows: int = hyper(4096, integer(least=1))
    max_written: int = hyper(20, integer(least=1))
    nonfinite_action: str = hyper("stop", one_of("off", "stop", "skip"))
    nonfinite_max_skipped: int = hyper(3, integer(least=1))
    entropy_floor: float | None = hyper(None, optional(number(above=0)))
    entropy_steps: int = hyper(5, integer(least=1))
    entropy_action: str = hyper("warn", one_of("warn", "stop", "rollback"))
    entropy_max_rollbacks: int = hyper(2, integer(least=1))
    verifier_error_share: float | None = hyper(0.5, optional(number(above=0, most=1)))
    verifier_action: str = hyper("warn", one_of("warn", "stop"))
    failed_groups: int | None = hyper(None, optional(integer(least=1)))
    no_signal_steps: int = hyper(3, integer(least=1))
    no_signal_action: str = hyper("warn", one_of("off", "warn", "stop"))

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        default = cls.defaults()
        changed = {name for name in default if values.get(name, default[name]) != default[name]}
        faults = []
        for name, (other, read) in READ_WITH.items():
            if name in changed and values.get(other, read[0]) not in read:
                faults.append(f"{name}={values[name]} is read with {other}={' or '.join(read)} only")
        if values.get("entropy_floor", 0) is None:
            idle = sorted(changed & {"entropy_steps", "entropy_action"})
            faults += [f"{name}={values[name]} does nothing without an entropy_floor" for name in idle]
        if values.get("verifier_error_share", 0) is None and "verifier_action" in changed:
            faults.append(f"verifier_action={values['verifier_action']} does nothing with verifier_error_share=null")
        if values.get("write_batch", True) is False and "max_rows" in changed:
            faults.append(f"max_rows={values['max_rows']} does nothing with write_batch=false")
        return faults
