"""What the watchdog says: one sentence for the error, and a report for the log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from verl_ext.run.watchdog import causes
from verl_ext.run.watchdog.ledger import SHUT_DOWN, START_UP, Death, Verdict

HEAD = "verl_ext watchdog:"
SHOWN = 8


class WatchdogError(RuntimeError):
    """The run made no progress, or lost a process, and was ended for it."""


def sentence(verdict: Verdict) -> str:
    """What happened, in which phase, in one sentence."""
    where = f"phase '{verdict.phase}'" + (f" of step {verdict.step}" if verdict.step else "")
    if verdict.kind == "died":
        first, others = verdict.deaths[0], len(verdict.deaths) - 1
        more = f" (and {others} more)" if others else ""
        return f"{first.who} died in {where}{more}, and verl did not end the run within {verdict.limit_s:.0f} s"
    if verdict.kind == "failing":
        return f"{where}: {verdict.failed} groups of responses have failed and been replaced, and none was kept"
    return f"{where} has made no progress for {verdict.idle_s:.0f} s (the limit is {verdict.limit_s:g} s)"


def setting(verdict: Verdict) -> str:
    """The key that holds the limit which was passed."""
    if verdict.kind != "stalled":
        return {"died": "dead_process_s", "failing": "failed_batches"}[verdict.kind]
    outermost = (*verdict.outer, verdict.phase)[0]
    return {START_UP: "start_up_limit_s", SHUT_DOWN: "shut_down_limit_s"}.get(outermost, "limit_s")


def report(verdict: Verdict, stacks: Sequence[Path], silent: Sequence[str]) -> str:
    """The report for the log, several lines.

    Args:
        verdict: why the run is ended.
        stacks: the files in which stacks are.
        silent: sentences about what could not be looked at.
    """
    cause = causes.of(verdict.phase)
    outer = [name for name in verdict.outer if name != verdict.phase]
    inside = f", within {' > '.join(outer)}" if outer else ""
    lines = [
        f"the run is ended: {sentence(verdict)}",
        f"  phase    {verdict.phase} for {verdict.phase_s:.0f} s{inside}" + (f": {cause.what}" if cause.what else ""),
        f"  progress the last was {verdict.idle_s:.0f} s ago: {verdict.last}",
    ]
    lines += [f"  rollouts {verdict.counts}"] if verdict.counts else []
    lines += [f"  rollouts {verdict.failed} groups failed since one was last kept"] if verdict.failed else []
    lines += [f"  dead     {death.who}: {death.why}" for death in verdict.deaths[:SHOWN]]
    left = len(verdict.deaths) - SHOWN
    lines += [f"  dead     {left} more"] if left > 0 else []
    lines += [f"  usually  {cause.usually}"] if verdict.kind != "died" else []
    lines += [f"  to do    {advice(verdict)}"]
    lines += [f"  stacks   {len(stacks)} processes, in {stacks[0].parent}"] if stacks else ["  stacks   none"]
    lines += [f"  stacks   {line}" for line in silent]
    lines += [f"  setting  verl_ext.watchdog.{setting(verdict)}"]
    return "\n".join(f"{HEAD} {line}" for line in lines)


def advice(verdict: Verdict) -> str:
    """What to do."""
    if verdict.kind == "died":
        return (
            "search the log above for the process id; a process that was killed without a word often ran out of "
            "memory (on its machine: dmesg). Start again from the last checkpoint with trainer.resume_mode=auto"
        )
    return causes.of(verdict.phase).todo


def notice(death: Death, phase: str, grace_s: float) -> str:
    """What is said as soon as a death is seen, before anything is done about it."""
    return (
        f"{HEAD} {death.who} died in phase '{phase}': {death.why} "
        f"If verl does not end the run by itself within {grace_s:.0f} s, the watchdog will."
    )
