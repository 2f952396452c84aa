"""Every row of every table: counted in the papers, transcribed whole, marked, composed and checked."""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import omegaconf.base
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from verl_ext.composing import compose as composing
from verl_ext.config_groups import config_dir
from verl_ext.recipe_files.recipe import Row, Table, all_tables, recipes_dir
from verl_ext.recipe_files.schema import literal
from verl_ext.train import Composed, check, compose

# Counted in the papers' tables: rows with numbers, sub-headings left out.
PRINTED_ROWS = {
    "espo/table1": 3,  # DAPO, GSPO, ESPO
    "espo/table1_v2": 4 * 5,  # version 2: four models, five methods
    "espo/table2_v2": 1 + 3,  # ESPO and three ablations
    "espo/table3_v2": 4,  # alpha
    "tepo/table1": 8 + 1 + 8 + 1,  # two models with base, six baselines and TEPO, each with a row of differences
    "tepo/table2": 3 * 3,  # three models: base, GRPO/DAPO, TEPO
    "tepo/table3": 1 + 5 + 6 + 4 + 2 + 4,  # TEPO without KL, panels A to E
    "tepo/table4": 6 + 3,  # two seeds of three settings, three means
    "erpo/table1": 2 + 3 * 4,  # two models behind an API; three sizes: base, SFT, GRPO, ERPO
    "erpo/table2": 2 + 3 * 4,
    "sspo/table1": 2 * 6,  # two models, six methods
    "sspo/table2": 2 * 3,
    "sspo/table3": 3,
    "sspo/table4": 5 + 5 + 3,  # gamma, alpha, beta
    "sspo/table5": 3 + 4 + 3,
    "demo/table1": 1 + 6,  # the base model and six methods; no paper's
}
OF_A_PAPER = sum(count for table, count in PRINTED_ROWS.items() if not table.startswith("demo/"))

TABLES = all_tables()
ROWS = [row for table in TABLES for row in table.rows]
TRAINED = [row for row in ROWS if row.kind == "train"]
LAST_OF_A_TABLE = list({row.table: row for row in TRAINED}.values())
EXPERIMENTS = sorted((config_dir() / "experiment").glob("*.yaml"))
MARK = re.compile(r"#.*\b(paper|ours):\s*\S")

by_row = pytest.mark.parametrize("row", TRAINED, ids=[row.reference for row in TRAINED])
by_table = pytest.mark.parametrize("table", TABLES, ids=[table.reference for table in TABLES])


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """Each config file is parsed once, and each composition made once: a second each otherwise."""
    # Not the class of that module: Hydra loads its plug-ins' modules anew.
    Plugins.instance()
    file_source = SourcesRegistry.instance().resolve("file")
    read, put_together = file_source.load_config, composing._hydra
    files: dict[Any, Any] = {}

    def load_config(source: Any, config_path: str) -> Any:
        key = (source.path, config_path)
        if key not in files:
            files[key] = read(source, config_path)
        return copy.deepcopy(files[key])

    @functools.cache
    def once(primary: str, overrides: tuple[str, ...]) -> DictConfig:
        return put_together(primary, overrides)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_source, "load_config", load_config)
        # Interpolations are the same texts in every row, and nothing changes their parse trees.
        patch.setattr(omegaconf.base, "parse", functools.cache(omegaconf.base.parse))
        patch.setattr(composing, "_hydra", lambda primary, overrides: once(primary, tuple(overrides)))
        yield


@functools.cache
def composed(*arguments: str) -> Composed:
    return compose(arguments)


def test_no_row_is_missing() -> None:
    assert {table.reference: len(table.rows) for table in TABLES} == PRINTED_ROWS
    assert OF_A_PAPER == 161
    assert len({row.reference for row in ROWS}) == len(ROWS) == 168


# --- rows that are trained ---------------------------------------------------------------------------------------


@by_row
def test_a_row_composes_without_faults(row: Row) -> None:
    """Nor does it change, beside its hyper-parameters, what makes its preset the method that it is."""
    found = composed(*row.hydra_overrides())
    assert check(found.config, found.preset) == []


@by_row
def test_a_row_differs_from_its_base_by_its_overrides_alone(row: Row) -> None:
    base = leaves(composed(*(f"{group}={choice}" for group, choice in row.choices.items())).config)
    config = leaves(composed(*row.hydra_overrides()).config)
    wanted = {key.lstrip("+"): value for key, value in flat(row.overrides).items()}
    assert {key: config[key] for key in wanted} == wanted
    changed = {key for key in base.keys() | config.keys() if base.get(key, ...) != config.get(key, ...)}
    assert changed == set(wanted), "an override that changes nothing, or a change that is no override"


@pytest.mark.parametrize("row", LAST_OF_A_TABLE, ids=[row.reference for row in LAST_OF_A_TABLE])
def test_a_row_as_an_experiment_is_the_same_config(row: Row) -> None:
    named = composed(f"experiment={row.reference}")
    spelt_out = composed(*row.hydra_overrides())
    values = [leaves(one.config) for one in (named, spelt_out)]
    for found in values:  # each is called after what chose it
        del found["trainer.project_name"], found["trainer.experiment_name"]
    assert values[0] == values[1]
    assert named.primary == spelt_out.primary
    assert named.preset.chosen_by == f"experiment={row.reference}"
    assert named.preset.broken(named.config) == {}


# --- rows that are not -------------------------------------------------------------------------------------------


def test_rows_of_supervised_fine_tuning_compose_with_verls_trainer_for_it() -> None:
    rows = [row for row in ROWS if row.kind == "sft"]
    assert [row.reference for row in rows] == [f"erpo/table1/sft_{size}" for size in ("1_5b", "3b", "7b")]
    with initialize_config_dir(str(composing.verl_config_dir()), version_base=None):
        base = leaves(hydra_compose("sft_trainer_engine"))
        for row in rows:
            given = [f"{key}={literal(value)}" for key, value in row.overrides.items()]
            config = leaves(hydra_compose("sft_trainer_engine", overrides=given))
            changed = {key for key in base.keys() | config.keys() if base.get(key, ...) != config.get(key, ...)}
            assert changed == {key.lstrip("+") for key in flat(row.overrides)}, row.reference
    known = {file.stem for file in (config_dir() / "model").glob("*.yaml")}
    assert {row.choices["model"] for row in rows} <= known


def test_rows_that_are_only_evaluated_name_a_model() -> None:
    known = {file.stem for file in (config_dir() / "model").glob("*.yaml")}
    rows = [row for row in ROWS if row.kind == "evaluate"]
    assert len(rows) == 1 + 2 + 3 + (2 + 3)  # demo; tepo tables 1 and 2; erpo table 1: two APIs, three base models
    for row in rows:
        assert (row.endpoint is None) == ("model" in row.choices), row.reference
        assert row.overrides == {}, f"{row.reference}: nothing reads them"
        assert row.choices.get("model", next(iter(known))) in known, row.reference


def test_a_row_printed_twice_has_the_same_numbers_or_says_that_not() -> None:
    known = {row.reference: row for row in ROWS}
    for row in ROWS:
        if row.same_as is None:
            continue
        other = known[row.same_as].published
        differing = [name for name, value in row.published.items() if name in other and other[name] != value]
        assert all(noted(name, row.notes) for name in differing), (row.reference, differing)


def test_printed_differences_and_means_of_rows_agree_or_it_is_noted() -> None:
    for table in TABLES:
        for row in table.rows:
            if row.derived is None:
                continue
            for name, printed in row.published.items():
                values = [table.by_name[other].published[name] for other in row.derived.rows]
                # Both sides are rounded to two digits.
                agrees = abs(row.derived(values) - printed) < 0.0101
                assert agrees or noted(name, row.notes), f"{row.reference} {name}: {row.derived(values):.3f}"


# --- numbers and marks -------------------------------------------------------------------------------------------


@by_table
def test_every_column_has_a_published_number_or_null(table: Table) -> None:
    names = [column.name for column in table.columns]
    for row in table.rows:
        assert list(row.published) == names, row.reference
        for name, value in row.published.items():
            assert value is None or 0 <= value <= 100, (row.reference, name)
    numbers = [value for row in table.rows for value in row.published.values() if value is not None]
    said = any("could not be seen" in note for note in table.notes)
    assert bool(numbers) != (table.paper == "demo" or said), "a paper's table has numbers, or says why not"


@by_table
def test_printed_averages_agree_with_their_columns_or_it_is_noted(table: Table) -> None:
    means = [column for column in table.columns if column.mean_of]
    for row, column in itertools.product(table.rows, means):
        values = [row.published[name] for name in column.mean_of]
        printed = row.published[column.name]
        if row.kind == "derived" or printed is None or None in values:
            continue
        agrees = abs(column.mean(values) - printed) < 0.0101
        assert agrees or noted(column.name, (*row.notes, *table.notes)), f"{row.reference}: {column.name}"


def test_tepos_printed_averages_fit_the_weights_as_often_as_its_notes_say() -> None:
    distances = []
    for table in TABLES:
        for row in table.rows if table.paper == "tepo" else ():
            average = table.column("Avg")
            values = [row.published[name] for name in average.mean_of]
            # Differences of rows are no averages, and of zeros every mean is zero.
            if any(values) and None not in values and not (row.derived and row.derived.operation == "difference"):
                distances.append(abs(average.mean(values) - row.published["Avg"]))
    # Counted by hand in the tables' notes.
    assert (len(distances), sum(d < 0.0701 for d in distances), sum(d < 0.0201 for d in distances)) == (52, 40, 28)


@by_table
def test_every_value_of_a_table_says_whose_it_is(table: Table) -> None:
    file = recipes_dir() / table.paper / "tables" / f"{table.name}.yaml"
    root = yaml.compose(file.read_text(encoding="utf-8"))
    parts = dict(children(root))
    holders = [parts["decodings"], *(row for row in parts["rows"].value), parts.get("defaults")]
    nodes = [holders[0], *(dict(children(node)).get("overrides") for node in holders[1:] if node is not None)]
    assert unmarked(file, nodes) == []


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_every_value_of_a_papers_settings_says_whose_it_is(file: Path) -> None:
    root = yaml.compose(file.read_text(encoding="utf-8"))
    assert unmarked(file, [value for key, value in children(root) if key != "defaults"]) == []


def test_an_unmarked_value_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("a: 1  # paper: here\n# ours: so\nb: 2\nc: 3\nd: 4  # ours:\n# ours: [f]\n\ne: {f: 5}\n")
    assert unmarked(file, [yaml.compose(file.read_text())]) == ["a.yaml:4", "a.yaml:5", "a.yaml:8"]


# --- helpers -----------------------------------------------------------------------------------------------------


def leaves(config: DictConfig) -> dict[str, Any]:
    """Every value by its dotted key, interpolations as they are written."""
    return flat(OmegaConf.to_container(config, resolve=False))


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping) or (prefix and not node):
        return {prefix.removesuffix("."): node}
    return {path: leaf for key, value in node.items() for path, leaf in flat(value, f"{prefix}{key}.").items()}


def noted(column: str, notes: tuple[str, ...]) -> bool:
    """Whether a note speaks of the column; "Avg" is found in "average" too."""
    words = {column.lower(), "average" if column.lower().startswith("av") else column.lower()}
    return any(word in note.lower() for word in words for note in notes)


def children(node: yaml.MappingNode) -> list[tuple[str, yaml.Node]]:
    return [(key.value, value) for key, value in node.value]


def unmarked(file: Path, nodes: list[yaml.Node | None]) -> list[str]:
    """Lines of values that have no mark, neither there nor in the comment right above."""
    lines = file.read_text(encoding="utf-8").splitlines()
    found = {line for node in nodes if node is not None for line in lines_of_leaves(node) if not marked(lines, line)}
    return [f"{file.name}:{line + 1}" for line in sorted(found)]


def lines_of_leaves(node: yaml.Node) -> Iterator[int]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from lines_of_leaves(value) if isinstance(value, yaml.MappingNode) else [key.start_mark.line]
    else:
        yield node.start_mark.line


def marked(lines: list[str], line: int) -> bool:
    above = line - 1
    while above >= 0 and lines[above].lstrip().startswith("#"):
        if MARK.search(lines[above]):
            return True
        above -= 1
    return MARK.search(lines[line]) is not None
