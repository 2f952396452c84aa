"""What `verl-ext conformance` does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from verl_ext.conformance import registry
from verl_ext.conformance.battery import EXAMPLES, Row, examine_all
from verl_ext.conformance.record import Saved, as_data, load, replay, save
from verl_ext.conformance.report import markdown, print_report


@dataclass(frozen=True)
class Request:
    """The command's arguments.

    Attributes:
        names: methods; all of them if empty.
        kind: `losses`, `estimators` or `all`.
        properties: columns; all of them if empty.
        imports: modules or .py files that register methods.
        output: `table`, `json` or `markdown`.
        clip: clip form of the named losses.
        seed, examples: of the battery.
        folder: where failing cases are written.
    """

    names: Sequence[str] = ()
    kind: str = "all"
    properties: Sequence[str] = ()
    imports: Sequence[str] = ()
    output: str = "table"
    clip: str = ""
    seed: int = 0
    examples: int = EXAMPLES
    folder: Path = field(default=Path("outputs/conformance"))


CHOICES = {"losses": ("loss",), "estimators": ("estimator",), "all": ("loss", "estimator")}


def run(request: Request, console: Console) -> int:
    """Test, print, and return the exit status.

    Returns:
        1 if a cell fails, or a method cannot be tested; of the named methods, or of verl_ext's own if none is named.

    Raises:
        ValueError: a name, a property or a kind that does not exist.
    """
    with registry.imported(request.imports):
        return _run(request, console)


def _run(request: Request, console: Console) -> int:
    kinds = _check(request)
    tables = {}
    # The tensors are tiny: threads would cost more than they give.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for kind in kinds:
            columns = {
                key: prop
                for key, prop in registry.KINDS[kind].columns.items()
                if not request.properties or key in request.properties
            }
            found = registry.subjects(kind, request.names, request.clip)
            if columns and found:
                tables[kind] = _examine(console, found, columns, request)
    finally:
        torch.set_num_threads(threads)
    paths = {
        (kind, row.subject.name, key): save(row, key, request.folder, request.imports, request.clip)
        for kind, rows in tables.items()
        for row in rows
        for key in row.failures
    }
    if request.output == "json":
        print(json.dumps(as_data(tables, paths, seed=request.seed, examples=request.examples), indent=1))
    elif request.output == "markdown":
        print(markdown(tables, request.properties))
    else:
        print_report(console, tables, request.properties, paths)
    return status(tables, request.names)


def _check(request: Request) -> tuple[str, ...]:
    if request.kind not in CHOICES:
        raise ValueError(f"--kind {request.kind} is not one of {', '.join(CHOICES)}")
    kinds = CHOICES[request.kind]
    if request.clip and not request.names:
        raise ValueError("--clip is for the losses that you name; name them")
    registry.check_names(request.names, kinds)
    registry.check_properties(request.properties, kinds)
    return kinds


def _examine(console: Console, found: Sequence[Any], columns: Any, request: Request) -> list[Row]:
    # On standard error, so that --json and --markdown can be redirected.
    progress = Console(stderr=True)
    with progress.status("") as spinner:
        waiting = iter([*[subject.name for subject in found[1:]], ""])
        spinner.update(found[0].name)
        return examine_all(found, columns, request.examples, request.seed, done=lambda _: spinner.update(next(waiting)))


def console() -> Console:
    """Standard output; wide enough for one table where it is a file or a pipe."""
    usual = Console()
    return usual if usual.is_terminal else Console(width=140)


def status(tables: dict[str, list[Row]], names: Sequence[str]) -> int:
    """Exit status of a run: see `run`."""
    rows = [row for rows in tables.values() for row in rows]
    ours = [row for row in rows if names or row.subject.origin == "verl_ext"]
    # A named estimator that needs a critic, say, is not a fault: there is nothing that it violates.
    return int(any(row.failures or (not row.cells and row.subject.kind == "loss") for row in ours))


def run_again(path: Path, request: Request, console: Console) -> int:
    """Replay a saved case; 1 if it still fails.

    Raises:
        ValueError: the file does not hold a case, or one of another method or property than named.
    """
    saved = load(path)
    _check_same(saved, request, path)
    with registry.imported(dict.fromkeys([*saved.imports, *request.imports])):
        return _replayed(saved, request, console)


def _replayed(saved: Saved, request: Request, console: Console) -> int:
    wrong = replay(saved)
    subject = registry.KINDS[saved.kind].subject(saved.name, registry.registered(saved.kind)[saved.name])
    if request.output == "json":
        result = {"name": saved.name, "kind": saved.kind, "property": saved.key}
        message = None if wrong is None else str(wrong)
        print(json.dumps({**result, "status": "ok" if wrong is None else "fail", "message": message}))
        return int(wrong is not None)
    console.print(f"{saved.name}, {saved.key}: {'ok' if wrong is None else 'FAIL'}", style="bold", highlight=False)
    shown = saved.case if wrong is None else wrong.given
    for line in [str(wrong or "The case does not fail any more."), *shown.lines(subject.reads)]:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    statement = registry.KINDS[saved.kind].columns[saved.key].statement
    console.print(f"  property: {statement}", markup=False, highlight=False, soft_wrap=True)
    return int(wrong is not None)


def _check_same(saved: Saved, request: Request, path: Path) -> None:
    named = ((request.names, saved.name), (request.properties, saved.key))
    wrong = [f"{', '.join(given)}, not {there}" for given, there in named if given and list(given) != [there]]
    if wrong:
        raise ValueError(f"{path} holds a case of {saved.name}, {saved.key}; asked for {'; '.join(wrong)}")
