"""result.json: the value of every column with its interval, and everything that says where it comes from."""

from __future__ import annotations

import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from verl_ext.tables.columns import average, obtained
from verl_ext.tables.evaluating import measured, steps
from verl_ext.tables.work import write_json

if TYPE_CHECKING:
    from verl_ext.tables.job import Job

UNIT = "per cent"


def write(job: Job) -> Path:
    """Sum up the evaluation, choose the checkpoint by the rule, and write result.json."""
    from verl_ext.demo.report import versions

    columns = job.table.columns
    by_step = {step: obtained(columns, job.work.evaluation / f"step_{step}") for step in steps(job)}
    averages = {step: average(columns, values) for step, values in by_step.items()}
    # Of equal averages the earliest step counts.
    chosen = max(averages, key=lambda step: (averages[step], -int(step)))
    stages = job.work.stages()
    result = {
        "row": job.row.reference,
        "label": job.row.label,
        "kind": job.row.kind,
        "seed": job.seed,
        "unit": UNIT,
        "columns": by_step[chosen],
        "checkpoint": {
            "rule": str(job.row.checkpoint) if job.row.kind != "evaluate" else "no training",
            "step": int(chosen),
            "averages": averages,
        },
        "definitions": {column.name: asdict(column) for column in columns},
        "decodings": {name: asdict(decoding) for name, decoding in job.table.decodings.items()},
        "template": job.row.template,
        "arguments": job.row.hydra_overrides(),
        "overrides": [] if job.row.kind == "evaluate" else list(job.overrides),
        "config_hash": job.config_hash,
        "commit": commit(),
        "versions": versions(),
        "verifier": stages["evaluate"]["inputs"]["verifier"],
        "data": job.work.outputs("data")["files"],
        "seconds": {stage: entry["seconds"] for stage, entry in stages.items() if stage != "result"},
        "finished": stages["evaluate"]["finished"],
        "notes": notes(job, chosen),
    }
    write_json(result, job.work.result_file)
    return job.work.result_file


def notes(job: Job, step: str) -> list[str]:
    """What the evaluation said limits the numbers of the chosen step."""
    from verl_ext.evaluation.summary import Summary

    folder = job.work.evaluation / f"step_{step}"
    return [f"{name}: {note}" for name in measured(job) for note in Summary.read(folder / name / "summary.json").notes]


def commit(*paths: str) -> str | None:
    """The commit of the checkout that verl_ext runs from, ``+changes`` if files differ; None outside one.

    Args:
        paths: count only these, relative to the checkout: the last commit that changed one, and changes of these.
    """
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    git = ["git", "-C", str(folder)]
    last = subprocess.run(
        [*git, "log", "-1", "--format=%h", "--abbrev=12", "--", *paths], capture_output=True, text=True
    )
    if last.returncode != 0:
        return None
    status = subprocess.run([*git, "status", "--porcelain", "--", *paths], capture_output=True, text=True)
    return last.stdout.strip() + ("+changes" if status.stdout.strip() else "")
