"""`python -m benchmarks`: the table of ratios and the table of memory; fails if a limit is missed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import cases
from benchmarks.cases import Case
from benchmarks.memory import peak_bytes
from benchmarks.paired import Comparison, judge, paired_ratios
from benchmarks.workload import Workload, make_workload

console = Console()
BUSY = 0.7


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    rounds: Annotated[int, typer.Option(help="paired rounds of each loss, at least 8")] = 60,
    threads: Annotated[int, typer.Option(help="CPU threads of torch")] = 2,
    rows: Annotated[int, typer.Option(help="B of the losses")] = 64,
    tokens: Annotated[int, typer.Option(help="T of the losses")] = 2048,
    erpo_rows: Annotated[int, typer.Option(help="B of erpo")] = 1024,
    erpo_tokens: Annotated[int, typer.Option(help="T of erpo")] = 8192,
) -> None:
    """Measure every loss against verl's gspo, and what the controller and the estimators do."""
    torch.set_num_threads(threads)
    warn_if_busy()
    batch = make_workload(rows, tokens, device)
    measured = [
        *compare(cases.loss_cases(batch), device, rounds),
        *compare(cases.controller_cases(batch), device, rounds),
    ]
    long_batch = make_workload(erpo_rows, erpo_tokens, device)
    measured += compare(cases.estimator_cases(long_batch), device, max(8, rounds // 5))
    peaks = memory(batch, device)

    console.print(times_table(measured, f"Time on {device}, {threads} threads; losses on [{rows}, {tokens}]"))
    console.print(memory_table(peaks, f"Peak memory in tensors of [{rows}, {tokens}] float32"))
    missed = [row.what for row in measured if row.verdict == "missed"]
    missed += [f"memory of {name}" for name, peak, limit in peaks if judge(peak, peak, limit) == "missed"]
    if missed:
        console.print(f"[bold red]Beyond their limits: {', '.join(missed)}[/]")
        raise typer.Exit(1)


def warn_if_busy() -> None:
    """Say so where other programs are running."""
    load = os.getloadavg()[0]
    if load > BUSY:
        console.print(
            f"[yellow]The machine is busy (load average {load:.1f}): threads that wait for a core make the ratios "
            "those of waiting times.[/]"
        )


def compare(chosen: Iterable[Case], device: str, rounds: int) -> list[Comparison]:
    """Measure each case."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else (lambda: None)
    found = []
    for case in chosen:
        with console.status(f"{case.what} against {case.against}"):
            ratios = paired_ratios(case.step, case.baseline, rounds, wait)
        found.append(Comparison(case.what, case.against, ratios, case.limit))
    return found


def memory(batch: Workload, device: str) -> list[tuple[str, float, float | None]]:
    """(loss, peak in tensors of [B, T] float32, limit)."""
    unit = 4 * batch.response_mask.numel()
    steps = cases.loss_steps(batch)
    return [(name, peak_bytes(step, device) / unit, limit) for name, (step, limit) in steps.items()]


def times_table(measured: Iterable[Comparison], title: str) -> Table:
    table = Table("what", "against", "ratio", "95% interval", "limit", "verdict", title=title)
    for row in measured:
        low, high = row.interval
        limit = "-" if row.limit is None else f"{row.limit:g}"
        table.add_row(row.what, row.against, f"{row.ratio:.2f}", f"{low:.2f} to {high:.2f}", limit, row.verdict)
    return table


def memory_table(peaks: Iterable[tuple[str, float, float | None]], title: str) -> Table:
    table = Table("what", "peak", "limit", "verdict", title=title)
    for name, peak, limit in peaks:
        table.add_row(name, f"{peak:.2f}", "-" if limit is None else f"{limit:g}", judge(peak, peak, limit))
    return table


if __name__ == "__main__":
    typer.run(main)
