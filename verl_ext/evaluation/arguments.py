"""The benchmarks and decodings that the options of ``verl-ext eval run`` mean."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verl_ext.evaluation.request import BenchmarkFile, Decoding, RequestError

if TYPE_CHECKING:
    from verl_ext.tables.recipe import Table

TEMPLATE = "qwen_math"


def chosen(
    benchmarks: Sequence[str], like: str | None, template: str | None, asked: Mapping[str, Any]
) -> tuple[list[BenchmarkFile], dict[str, Decoding]]:
    """Files and decodings.

    Args:
        benchmarks: names, parquet files or ``NAME=FILE``; with `like` all of that table's by default.
        like: ``<paper>/<table>`` whose decodings and template are used.
        template: of benchmarks given by name; the table's, or qwen_math, by default.
        asked: decoding options given by the user; they go before the table's.

    Raises:
        RequestError: with every fault.
    """
    table = _table(like) if like else None
    decodings = table_decodings(table) if table else {}
    template = template or (table.template if table else TEMPLATE)
    files = [benchmark_file(text, template) for text in (benchmarks or decodings)]
    absent = [file for file in files if not Path(file.parquet).is_file()]
    faults = [
        f"benchmark {file.name}: {file.parquet} does not exist; name a parquet file, or write it with "
        f"`verl-ext data prepare {file.name} --template {template}`"
        for file in absent
    ]
    if table:
        faults += [
            f"{like} has no benchmark {file.name}, only {', '.join(decodings)}"
            for file in files
            if file.name not in decodings
        ]
    if not files:
        faults.append("no benchmark: give --benchmark or --like")
    if faults:
        raise RequestError(faults)
    return files, {file.name: replace(decodings.get(file.name, Decoding()), **asked) for file in files}


def benchmark_file(text: str, template: str) -> BenchmarkFile:
    """``NAME=FILE``, a parquet file (called by its stem), or the name of a prepared benchmark."""
    name, equals, path = text.partition("=")
    if equals:
        return BenchmarkFile(name, Path(path))
    if text.endswith(".parquet"):
        return BenchmarkFile(Path(text).stem, Path(text))
    return BenchmarkFile(text, Path(os.environ.get("VERL_EXT_DATA", "outputs/data"), text, f"{template}.parquet"))


def _table(reference: str) -> Table:
    from verl_ext.tables.recipe import RecipeError, load_table

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
