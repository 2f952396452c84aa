"""The benchmarks and decodings that the options of ``verl-ext eval run`` mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.data.registry import dataset, datasets
from verl_ext.data.templates import TEMPLATES
from verl_ext.evaluation.request import BenchmarkFile, Decoding, RequestError
from verl_ext.hyper import nearest

if TYPE_CHECKING:
    from verl_ext.recipe_files.recipe import Table


def chosen(
    benchmarks: Sequence[str], like: str | None, template: str | None, asked: Mapping[str, Any]
) -> tuple[list[BenchmarkFile], dict[str, Decoding]]:
    """Files and decodings.

    Args:
        benchmarks: names, parquet files or ``NAME=FILE``; with `like` all of that table's by default.
        like: ``<paper>/<table>`` whose decodings and template are used.
        template: of benchmarks given by name; the table's, or the data set's own, by default.
        asked: decoding options given by the user; they go before the table's.

    Raises:
        RequestError: with every fault.
    """
    table = _table(like) if like else None
    decodings = table_decodings(table) if table else {}
    template = template or (table.template if table else None)
    files, faults = [], []
    for text in benchmarks or decodings:
        try:
            files.append(benchmark_file(text, template))
        except ValueError as error:
            faults.append(f"benchmark {text}: {error}, or give NAME=FILE")
    faults += [f"benchmark {file.name}: {absence(file)}" for file in files if not Path(file.parquet).is_file()]
    if table:
        faults += [
            f"{like} has no benchmark {file.name}, only {', '.join(decodings)}"
            for file in files
            if file.name not in decodings
        ]
    if not files and not faults:
        faults.append("no benchmark: give --benchmark or --like")
    if faults:
        raise RequestError(faults)
    return files, {file.name: replace(decodings.get(file.name, Decoding()), **asked) for file in files}


def benchmark_file(text: str, template: str | None = None) -> BenchmarkFile:
    """``NAME=FILE``, a parquet file (called by its stem), or the name of a prepared benchmark.

    Raises:
        ValueError: there is no data set of that name.
    """
    name, equals, path = text.partition("=")
    if equals:
        return BenchmarkFile(name, Path(path))
    if text.endswith(".parquet"):
        return BenchmarkFile(Path(text).stem, Path(text))
    template = template or dataset(text).template
    return BenchmarkFile(text, Path(os.environ.get("VERL_EXT_DATA", "outputs/data"), text, f"{template}.parquet"))


def absence(file: BenchmarkFile) -> str:
    """What to do about a file that is not there; what is prepared of the same data set with another template."""
    path = Path(file.parquet)
    if path != benchmark_file(file.name, path.stem).parquet:
        return f"{path} does not exist"
    if file.name not in datasets():
        return f"{path} does not exist, and there is no data set {file.name!r}{nearest(file.name, datasets())}"
    others = [name for name in TEMPLATES if path.with_name(f"{name}.parquet").is_file()]
    there = f"; it is prepared as {' and '.join(others)}: give --template {others[0]}, or" if others else ";"
    return f"{path} does not exist{there} write it with `verl-ext data prepare {file.name} --template {path.stem}`"


def _table(reference: str) -> Table:
    from verl_ext.recipe_files.recipe import RecipeError, load_table

    paper, slash, name = reference.partition("/")
    if not slash or "/" in name:
        raise RequestError([f"--like {reference}: give <paper>/<table>, for instance sspo/table1"])
    try:
        return load_table(paper, name)
    except RecipeError as error:
        raise RequestError([f"--like {reference}: {error}"]) from error


def table_decodings(table: Table) -> dict[str, Decoding]:
    """How a table decodes each of its benchmarks.

    Raises:
        RequestError: if it decodes one in two ways; each then needs a run of its own.
    """
    found: dict[str, set[str]] = {}
    for column in table.columns:
        if column.benchmark is not None and column.decoding is not None:
            found.setdefault(column.benchmark, set()).add(column.decoding)
    faults = [
        f"{table.paper}/{table.name} decodes {name} as {' and as '.join(sorted(many))}; name the options yourself"
        for name, many in found.items()
        if len(many) > 1
    ]
    if faults:
        raise RequestError(faults)
    return {name: _decoding(table, many.pop()) for name, many in found.items()}


def _decoding(table: Table, name: str) -> Decoding:
    one: Any = table.decodings[name]
    return Decoding(one.temperature, one.top_p, one.samples, one.max_tokens, one.top_k)
