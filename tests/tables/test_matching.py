"""A run that stands in two tables: the second one's columns come from the run's scores, and from nowhere else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tables
from tables import scores

from verl_ext.recipe_files.recipe import find_table
from verl_ext.recipe_files.schema import Column, Decoding, Table
from verl_ext.tables.job import Job, Places
from verl_ext.tables.report import Line, collect, lines

K = (2, 4, 8, 16)


def solved(*counts: int) -> list[list[int]]:
    """16 samples a problem, so many of them correct."""
    return [[1] * count + [0] * (16 - count) for count in counts]


# With c of 16 samples correct pass@k = 1 - C(16 - c, k) / C(16, k): for c = 1 it is k/16, for c = 2
# 1 - (16 - k)(15 - k) / 240.
ERPO = {
    "amc23": (solved(1, 0), [6.25, 12.5, 25.0, 50.0]),  # (k/16 + 0) / 2
    "minerva": (solved(16, 0, 0, 0), [25.0] * 4),
    "aime24": (solved(2), [24.166667, 45.0, 76.666667, 100.0]),  # 58/240, 108/240, 184/240, 1
    "aime25": (solved(0, 0, 1, 1), [6.25, 12.5, 25.0, 50.0]),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A finished run of erpo/table1/erpo_7b."""
    first = find_table("erpo/table1")
    job = Job(first, first.by_name["erpo_7b"], first.by_name["erpo_7b"].seeds[0], Places(tmp_path))
    for benchmark, (samples, _) in ERPO.items():
        scores(job.work.evaluation / "step_7" / f"{benchmark}.sampled", samples)
    tables.finish(job, [7], monkeypatch)
    return job


def line(job: Job, table: Table) -> Line:
    found = lines(table, collect(table, job.places.out))
    return next(one for one in found if one.row.name == "erpo_7b")


def shown(job: Job, table: Table) -> dict[str, float]:
    return {cell.column: cell.obtained.value for cell in line(job, table).cells if cell.obtained}


def test_pass_at_k_of_erpos_second_table_comes_from_the_runs_of_the_first(run: Job) -> None:
    second = find_table("erpo/table2")
    names = {"amc23": "AMC23", "minerva": "Minerva", "aime24": "AIME24", "aime25": "AIME25"}
    expected = {
        f"{names[benchmark]} @{k}": value
        for benchmark, (_, values) in ERPO.items()
        for k, value in zip(K, values, strict=True)
    }
    assert len(second.columns) == 16
    assert shown(run, second) == pytest.approx(expected, abs=1e-5)
    found = line(run, second)
    assert found.runs[0]["row"] == "erpo/table1/erpo_7b"
    assert not any("no scores" in note for note in found.notes)
    for cell in found.cells:
        assert cell.obtained is not None
        assert cell.obtained.low <= cell.obtained.value <= cell.obtained.high


def test_without_the_scores_the_cells_stay_blank(run: Job) -> None:
    second = find_table("erpo/table2")
    shutil.rmtree(run.work.evaluation / "step_7" / "aime24.sampled")
    absent = {cell.column for cell in line(run, second).cells if cell.obtained is None}
    assert absent == {f"AIME24 @{k}" for k in K}
    note = "erpo/table1/erpo_7b has no scores for AIME24 @2, AIME24 @4, AIME24 @8, AIME24 @16"
    assert note in line(run, second).notes


def test_other_decodings_are_not_taken(run: Job) -> None:
    second = find_table("erpo/table2")
    cooler = replace(second, decodings={"sampled": replace(second.decodings["sampled"], temperature=0.6)})
    assert shown(run, cooler) == {}


def test_a_decoding_counts_by_its_numbers_and_not_by_its_name(run: Job) -> None:
    second = find_table("erpo/table2")
    own = {key: getattr(second.decodings["sampled"], key) for key in ("temperature", "top_p", "samples", "max_tokens")}
    renamed = replace(
        second,
        decodings={"warm": Decoding("warm", **own)},
        columns=tuple(replace(column, decoding="warm") for column in second.columns),
    )
    assert shown(run, renamed) == pytest.approx(shown(run, second))


def test_means_are_computed_too_and_by_their_weights(run: Job) -> None:
    second = find_table("erpo/table2")
    mean = Column("Mean", mean_of=("AMC23 @16", "Minerva @16"), weights=(3, 1))
    published = {row.name: {**row.published, "Mean": None} for row in second.rows}
    rows = tuple(replace(row, published=published[row.name]) for row in second.rows)
    found = shown(run, replace(second, columns=(*second.columns, mean), rows=rows))
    assert found["Mean"] == pytest.approx(43.75)  # (3 * 50 + 25) / 4
    plain = replace(second, columns=(*second.columns, replace(mean, weights=())), rows=rows)
    assert shown(run, plain)["Mean"] == pytest.approx(37.5)


def test_what_a_run_reported_is_shown_as_it_reported_it(run: Job) -> None:
    first = find_table("erpo/table1")
    shutil.rmtree(run.work.evaluation)
    own = shown(run, first)
    # Of 2 problems 1 of 32 samples, of 4 problems 16 of 64, of 1 problem 2 of 16, of 4 problems 2 of 64.
    expected = {"AMC23 Acc": 3.125, "Minerva Acc": 25.0, "AIME24 Acc": 12.5, "AIME25 Acc": 3.125}
    assert {name: own[name] for name in expected} == expected
    assert own["Average Acc"] == 10.9375  # (3.125 + 25 + 12.5 + 3.125) / 4
