"""The table of `verl-ext doctor entropies`, for terminals and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_ext.entropy_check.compare import Difference, Row
from verl_ext.entropy_check.engine import Answer, Job

TEXT_WIDTH = 14


@dataclass(frozen=True)
class Report:
    """A finished check.

    Attributes:
        job: what the engine was asked for.
        answer: its version and dtype.
        precision: of the reference pass, in words.
        parameters: of the model.
        tokenizer: turns ids into text.
        vocabulary: V of the model, which may be above the tokenizer's.
        rows: one for each temperature.
    """

    job: Job
    answer: Answer
    precision: str
    parameters: int
    tokenizer: Any
    vocabulary: int
    rows: Sequence[Row]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)


def show(report: Report, console: Console) -> None:
    """Print what was compared, the table, the worst tokens, and what fails."""
    for line in header(report):
        console.print(line, markup=False, highlight=False)
    for table in (_differences(report.rows), _worst_tokens(report)):
        console.print()
        console.print(table)
    console.print()
    for row in report.rows:
        for fault in row.faults():
            console.print(f"FAIL  T = {row.temperature:g}: {fault}", style="bold red", markup=False, highlight=False)
    for note in notes(report):
        console.print(f"note  {note}", style="yellow", markup=False, highlight=False)
    if report.ok:
        console.print("ok    all differences are within the limits", style="green", highlight=False)


def header(report: Report) -> list[str]:
    job, row = report.job, report.rows[0]
    return [
        f"{job.model}, {_millions(report.parameters)} parameters, vocabulary {report.vocabulary}",
        f"engine     vLLM {report.answer.vllm}, {report.answer.dtype}",
        f"reference  transformers, {report.precision}",
        f"tokens     {len(job.prompts)} prompts x {job.samples} samples x {job.tokens} tokens, seed {job.seed}",
        f"limits     max |Δ log p| {row.log_prob.limit:g}, max |Δ H| {row.entropy.limit:g} (nats)",
    ]


def notes(report: Report) -> list[str]:
    """What limits the meaning of the table, without being a fault."""
    found = []
    blind = [f"{row.temperature:g}" for row in report.rows if not row.misalignment_shows]
    if blind:
        found.append(
            f"T = {', '.join(blind)}: a shift by one token would stay within the limit of H, as neighbouring tokens "
            "have nearly the same entropy. Use a trained model, or more tokens, to test the alignment."
        )
    known = len(report.tokenizer)
    if known < report.vocabulary:
        found.append(
            f"the tokenizer has {known} tokens, the model {report.vocabulary}. Both sides here give the others their "
            "probability; a rollout of verl excludes them."
        )
    return found


def _differences(rows: Sequence[Row]) -> Table:
    table = _table("T", "tokens", "mean\n|Δlogp|", "max\n|Δlogp|", "mean\n|ΔH|", "max\n|ΔH|")
    for heading in ("H\nfrom..to", "|ΔH| if\nshifted", "not\nfinite"):
        table.add_column(heading, justify="right")
    table.add_column("", justify="left")
    for row in rows:
        differences = [number(part) for of in (row.log_prob, row.entropy) for part in (of.mean, of.largest)]
        seen = "-" if row.lowest is None else f"{row.lowest:.2f}..{row.highest:.2f}"
        bad = str(row.engine_non_finite + row.reference_non_finite)
        verdict = "[green]ok[/green]" if row.ok else "[bold red]FAIL[/bold red]"
        table.add_row(f"{row.temperature:g}", str(row.tokens), *differences, seen, number(row.shifted), bad, verdict)
    return table


def _worst_tokens(report: Report) -> Table:
    table = _table("T", "worst", "prompt", "sample", "position", "id")
    table.add_column("token", overflow="fold")
    for heading in ("engine", "reference"):
        table.add_column(heading, justify="right")
    for row in report.rows:
        for name, difference in (("log p", row.log_prob), ("H", row.entropy)):
            worst = difference.worst
            places = map(str, (worst.prompt, worst.sample, worst.position, worst.token))
            text = Text(token_text(report.tokenizer, worst.token))
            table.add_row(f"{row.temperature:g}", name, *places, text, f"{worst.engine:.7f}", f"{worst.reference:.7f}")
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}" if 0 < value < 0.01 else f"{value:.3f}"


def token_text(tokenizer: Any, token: int) -> str:
    """As a Python string, so that blanks and line breaks are seen."""
    if token >= len(tokenizer):
        return "(no such token)"
    text = repr(tokenizer.decode([token]))
    return text if len(text) <= TEXT_WIDTH else f"{text[: TEXT_WIDTH - 1]}…"


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters < 1e9 else f"{parameters / 1e9:.1f} G"


def as_json(report: Report) -> str:
    """Everything in the tables; a value that is not finite as a string."""
    job = report.job
    limits = report.rows[0]
    found = {
        "ok": report.ok,
        "model": job.model,
        "parameters": report.parameters,
        "vocabulary": report.vocabulary,
        "engine": {"vllm": report.answer.vllm, "dtype": report.answer.dtype},
        "reference": report.precision,
        "prompts": len(job.prompts),
        "samples": job.samples,
        "tokens": job.tokens,
        "seed": job.seed,
        "limits": {"log_prob": limits.log_prob.limit, "entropy": limits.entropy.limit},
        "rows": [_row_data(row, report.tokenizer) for row in report.rows],
        "notes": notes(report),
    }
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)


def _row_data(row: Row, tokenizer: Any) -> dict[str, Any]:
    return {
        **asdict(row),
        "ok": row.ok,
        "faults": row.faults(),
        "log_prob": _difference_data(row.log_prob, tokenizer),
        "entropy": _difference_data(row.entropy, tokenizer),
    }


def _difference_data(difference: Difference, tokenizer: Any) -> dict[str, Any]:
    worst = asdict(difference.worst)
    for side in ("engine", "reference"):
        worst[side] = worst[side] if math.isfinite(worst[side]) else str(worst[side])
    worst["text"] = token_text(tokenizer, difference.worst.token)
    return {"mean": difference.mean, "largest": difference.largest, "worst": worst}
