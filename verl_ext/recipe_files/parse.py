"""From the text of a table's file to a `Table`, or to the list of everything that is wrong with it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from verl_ext.recipe_files.parse_row import ROW_OPTIONS, RowReader
from verl_ext.recipe_files.reader import RecipeError, has_type, listed
from verl_ext.recipe_files.schema import Column, Decoding, Row, Table
from verl_ext.rewards.answer_text import ANSWER_FORMATS, DEFAULT_FORMAT

_AUTO = re.compile(r"answer_format\W+auto\b")
METRIC = re.compile(r"avg@([1-9]\d*)|pass@([1-9]\d*)|fmt")


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-6 is a number, `no` and `on` are text, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {listed(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"true|false"), list("tf"))
_EXPONENT = re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def parse(text: str, paper: str, name: str) -> Table:
    """The table in `text`.

    Args:
        text: of ``recipes/<paper>/tables/<name>.yaml``.
        paper: the folder's name.
        name: the file's name without its ending.

    Raises:
        RecipeError: with all faults.
    """
    where = f"{paper}/{name}"
    try:
        data = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError([f"{where}: not YAML: {error}"]) from error
    if not isinstance(data, dict):
        raise RecipeError([f"{where}: the file holds no table; see docs/tables.md"])
    reader = _TableReader(where)
    table = reader.table(data, paper, name)
    if reader.faults or table is None:
        raise RecipeError(reader.faults)
    return table


class _TableReader(RowReader):
    """Reads a file."""

    def table(self, data: dict[str, Any], paper: str, name: str) -> Table | None:
        required = {"title": str, "source": str, "template": str, "decodings": dict, "columns": list, "rows": list}
        self.keys(data, self.where, required, {"notes": list, "defaults": dict, "answer_format": str})
        if self.faults:
            return None  # nothing below can be read without these
        decodings = {key: self.decoding(key, value) for key, value in data["decodings"].items()}
        columns = [column for item in data["columns"] if (column := self.column(item, decodings))]
        self.means(columns)
        defaults = data.get("defaults", {})
        self.keys(defaults, f"{self.where} defaults", {}, ROW_OPTIONS)
        rows = [row for item in data["rows"] if (row := self.row(item, defaults, columns, data["template"]))]
        self.twice((column.name for column in columns), "columns")
        self.twice((row.name for row in rows), "rows")
        self.derivations(rows)
        self.answer_formats(answer_format := data.get("answer_format", DEFAULT_FORMAT), rows)
        return Table(
            paper, name, data["title"], data["source"], self.notes(data, self.where), decodings, data["template"],
            tuple(columns), tuple(rows), answer_format,
        )  # fmt: skip

    def decoding(self, name: str, data: Any) -> Decoding:
        where = f"{self.where} decoding {name}"
        required = {"temperature": float, "top_p": float, "samples": int, "max_tokens": int}
        if not self.keys(data, where, required, {"top_k": int}):
            return Decoding(str(name), 0.0, 1.0, 1, 1)
        found = Decoding(name=str(name), **data)
        checks = {
            "temperature must be at least 0": found.temperature >= 0,
            "top_p must be above 0 and at most 1": 0 < found.top_p <= 1,
            "samples must be at least 1": found.samples >= 1,
            "max_tokens must be at least 1": found.max_tokens >= 1,
            "top_k must be -1 or at least 1": found.top_k == -1 or found.top_k >= 1,
            "greedy decoding draws the same response every time: samples must be 1": found.temperature > 0
            or found.samples == 1,
        }
        self.faults += [f"{where}: {fault}" for fault, holds in checks.items() if not holds]
        return found

    def column(self, data: Any, decodings: Mapping[str, Decoding]) -> Column | None:
        name = data.get("name", data) if isinstance(data, dict) else data
        where = f"{self.where} column {name}"
        if isinstance(data, dict) and "mean_of" in data:
            return self.mean(data, where)
        if not self.keys(data, where, dict.fromkeys(("name", "benchmark", "metric", "decoding"), str), {}):
            return None
        column = Column(data["name"], data["benchmark"], data["metric"], data["decoding"])
        metric, decoding = METRIC.fullmatch(data["metric"]), decodings.get(data["decoding"])
        if metric is None:
            self.faults.append(f"{where}: metric '{column.metric}' is not avg@N, pass@K or fmt")
        if decoding is None:
            self.faults.append(f"{where}: no decoding '{column.decoding}'; there are {listed(decodings)}")
        elif metric and (wanted := int(metric[1] or metric[2] or 1)) > decoding.samples:
            self.faults.append(
                f"{where}: {column.metric} needs {wanted} samples, '{decoding.name}' draws {decoding.samples}"
            )
        return column

    def mean(self, data: dict[str, Any], where: str) -> Column | None:
        if not self.keys(data, where, {"name": str, "mean_of": list}, {"weights": list}):
            return None
        names, weights = data["mean_of"], data.get("weights")
        if not names:
            self.faults.append(f"{where}: mean_of names no column")
        if weights is None:
            return Column(data["name"], mean_of=tuple(map(str, names)))
        if not all(has_type(weight, float) and 0 < weight < math.inf for weight in weights):
            self.faults.append(f"{where}: weights must be numbers above 0, got {weights!r}")
        if len(weights) != len(names):
            self.faults.append(f"{where}: mean_of has {len(names)} columns, weights has {len(weights)} numbers")
        return Column(data["name"], mean_of=tuple(map(str, names)), weights=tuple(weights))

    def means(self, columns: list[Column]) -> None:
        plain = {column.name for column in columns if not column.mean_of}
        for column in columns:
            if unknown := [name for name in column.mean_of if name not in plain]:
                self.faults.append(
                    f"{self.where} column {column.name}: mean_of {listed(unknown)}, not a measured column"
                )

    def answer_formats(self, evaluated: str, rows: list[Row]) -> None:
        if evaluated not in ANSWER_FORMATS:
            self.faults.append(f"{self.where}: answer_format '{evaluated}' is not one of {listed(ANSWER_FORMATS)}")
        guessing = {self.where} if evaluated == "auto" else set()
        guessing |= {row.reference for row in rows for item in row.overrides.items() if _AUTO.search(str(item))}
        self.faults += [
            f"{place}: answer_format auto takes whatever looks like an answer, and a paper's numbers are of one "
            "format: name the one that its prompts ask for"
            for place in sorted(guessing)
        ]

    def derivations(self, rows: list[Row]) -> None:
        kinds = {row.name: row.kind for row in rows}
        for row in rows:
            for name in row.derived.rows if row.derived else ():
                if name not in kinds:
                    self.faults.append(f"{row.reference}: derived from '{name}', which this table does not have")
                elif kinds[name] == "derived":
                    self.faults.append(f"{row.reference}: derived from '{name}', which is derived itself")
