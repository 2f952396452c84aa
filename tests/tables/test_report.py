"""The report: obtained numbers beside published ones, and nothing where nothing was obtained."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import tables

from verl_ext.tables.page import page, write
from verl_ext.tables.report import ABOVE, BELOW, WITHIN, Cell, Line, Obtained, collect, lines

BASE = tables.result("base", 1, {"A": (12.0, 8.0, 16.0), "B": (20.0, 19.0, 20.4), "Mean": (16.0, 14.0, 18.0)})
ONE_1 = tables.result("one", 1, {"A": (40.0, 36.0, 44.0), "B": (60.0, 55.0, 65.0), "Mean": (50.0, 47.0, 53.0)})
ONE_2 = tables.result("one", 2, {"A": (44.0, 40.0, 48.0), "B": (70.0, 65.0, 75.0), "Mean": (57.0, 54.0, 60.0)})


def report(*results: dict) -> dict[str, Line]:
    grouped: dict[str, list[dict]] = {}
    for one in results:
        grouped.setdefault(one["row"], []).append(one)
    return {line.row.name: line for line in lines(tables.table(), grouped)}


def test_without_any_result_every_obtained_cell_is_blank() -> None:
    found = report()
    assert not any(cell.obtained or cell.verdict or cell.difference for line in found.values() for cell in line.cells)
    text = page(tables.table(), list(found.values()), "md")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and " | A | " in line]
    assert len(rows) == 5
    assert {cell.strip(" |") for row in rows for cell in row[3:]} == {""}
    assert "0 of 5 rows have a result" in text


def test_values_are_means_over_seeds_and_each_seed_is_kept() -> None:
    cell = report(ONE_1, ONE_2)["one"].cells[0]
    # (40 + 44) / 2 = 42; (36 + 40) / 2 = 38; (44 + 48) / 2 = 46
    assert cell.obtained is not None
    assert (cell.obtained.value, cell.obtained.low, cell.obtained.high) == (42.0, 38.0, 46.0)
    assert cell.obtained.seeds == {1: 40.0, 2: 44.0}
    assert (cell.difference, cell.verdict) == (-8.0, BELOW)  # 42 - 50, and 50 > 46


def test_a_difference_is_marked_by_words() -> None:
    found = report(BASE, ONE_1)
    assert [cell.verdict for cell in found["base"].cells] == [WITHIN, BELOW, ""]  # 8 < 10 < 16; 20.5 > 20.4; null
    assert [cell.verdict for cell in found["one"].cells] == [BELOW, "", ABOVE]  # 50 > 44; null; 40 < 47
    for form in ("md", "html"):
        text = page(tables.table(), list(found.values()), form)
        assert all(word in text for word in ("above", "below", "within"))


@pytest.mark.parametrize(("published", "verdict"), [(8.0, WITHIN), (16.0, WITHIN), (7.9, ABOVE), (16.1, BELOW)])
def test_the_ends_belong_to_the_interval(published: float, verdict: str) -> None:
    assert Cell("A", published, Obtained(12.0, 8.0, 16.0, {1: 12.0})).verdict == verdict


def test_a_row_that_is_the_same_takes_the_other_rows_run() -> None:
    line = report(ONE_1)["again"]
    assert [cell.obtained and cell.obtained.value for cell in line.cells] == [40.0, 60.0, 50.0]
    assert "the run of p/t/one" in line.notes


def test_a_same_row_takes_only_columns_that_were_measured_in_the_same_way() -> None:
    changed = json.loads(json.dumps(ONE_1))
    changed["decodings"]["drawn"]["temperature"] = 0.6
    line = report(changed)["again"]
    # B was drawn at another temperature, and the mean holds B.
    assert [cell.obtained is not None for cell in line.cells] == [True, False, False]
    assert "p/t/one has no scores for B, Mean" in line.notes


def test_a_derived_row_needs_all_its_rows() -> None:
    assert not report(ONE_1)["gain"].obtained
    cell = report(ONE_1, BASE)["gain"].cells[0]
    # 40 - 12 = 28; half-widths 4 and 4: sqrt(16 + 16) = 5.656854
    assert cell.obtained is not None
    assert cell.obtained.value == 28.0
    assert cell.obtained.high - 28.0 == pytest.approx(5.656854, abs=1e-6)
    assert cell.verdict == BELOW  # published 40 > 33.66


def test_a_derived_row_never_uses_published_numbers() -> None:
    published_only = report(BASE)["gain"]
    assert published_only.row.published["A"] == 40
    assert all(cell.obtained is None for cell in published_only.cells)


def test_what_differs_from_the_recipe_is_noted() -> None:
    overridden = {**ONE_1, "overrides": ["trainer.total_training_steps=2"], "arguments": ["algo=old"]}
    notes = report(overridden)["one"].notes
    assert "seed 1 was run with trainer.total_training_steps=2" in notes
    assert "seed 1 was run with settings that the recipe no longer has" in notes
    assert "seeds without a result: 2" in notes


GOLDEN = """\
| row | column | published | obtained | 95% interval | difference | the obtained number is | seeds |
|---|---|---:|---:|---:|---:|---|---|
| Base | A | 10.00 | 12.00 | 8.00 to 16.00 | +2.00 | within | 1: 12.00 |
|  | B | 20.50 | 20.00 | 19.00 to 20.40 | −0.50 | below | 1: 20.00 |
|  | Mean |  | 16.00 | 14.00 to 18.00 |  |  | 1: 16.00 |
| One \\| two | A | 50.00 | 42.00 | 38.00 to 46.00 | −8.00 | below | 1: 40.00, 2: 44.00 |
|  | B |  | 65.00 | 60.00 to 70.00 |  |  | 1: 60.00, 2: 70.00 |
|  | Mean | 40.00 | 53.50 | 50.50 to 56.50 | +13.50 | above | 1: 50.00, 2: 57.00 |
| **Second** | | | | | | | |
| Other | A | 1.00 |  |  |  |  |  |
|  | B | 2.00 |  |  |  |  |  |
|  | Mean | 1.50 |  |  |  |  |  |
| Gain | A | 40.00 | 30.00 | 24.34 to 35.66 | −10.00 | below |  |
|  | B |  | 45.00 | 39.95 to 50.05 |  |  |  |
|  | Mean |  | 37.50 | 33.89 to 41.11 |  |  |  |
| Again | A | 50.00 | 42.00 | 38.00 to 46.00 | −8.00 | below | 1: 40.00, 2: 44.00 |
"""
# Gain B: 65 - 20 = 45, half-widths 5 and 0.7: sqrt(25 + 0.49) = 5.05. Mean: 53.5 - 16, sqrt(3^2 + 2^2) = 3.61.


def test_markdown_golden() -> None:
    text = page(tables.table(), list(report(BASE, ONE_1, ONE_2).values()), "md")
    assert GOLDEN in text
    assert (
        "- **Base**, `p/t/base` seed 1: commit abc123, config `0123456789abcdef`, checkpoint of step 8 (last step), "
        "math-verify 0.9; verl 0.9.1, torch 2.0; seconds data 1, evaluate 9" in text
    )
    assert "4 of 5 rows have a result" in text


def test_html_is_self_contained_and_escapes() -> None:
    hostile = {**ONE_1, "notes": ["<script>alert(1)</script>"]}
    text = page(tables.table(), list(report(hostile).values()), "html")
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert not re.search(r'(?:src|href)="', text)
    assert text.count('<span class="own">') == 6  # one and again, three columns each


@pytest.mark.parametrize("form", ["md", "html"])
def test_a_weighted_mean_is_named(form: str) -> None:
    plain = tables.table()
    heavy = tables.table(tables.TEXT.replace("mean_of: [A, B]", "mean_of: [A, B], weights: [960, 2656.5]"))
    assert "weighted" not in page(plain, lines(plain, {}), form)
    assert "Mean is a weighted mean, of A (960), B (2656.5)" in page(heavy, lines(heavy, {}), form)


def test_a_mean_with_other_weights_is_another_column() -> None:
    heavy = tables.table(tables.TEXT.replace("mean_of: [A, B]", "mean_of: [A, B], weights: [3, 1]"))
    same = tables.table(tables.TEXT.replace("mean_of: [A, B]", "mean_of: [A, B], weights: [7, 7]"))
    for table, shown in ((heavy, False), (same, True)):
        found = {line.row.name: line for line in lines(table, {"p/t/one": [ONE_1]})}
        assert [cell.obtained is not None for cell in found["again"].cells] == [True, True, shown]


def test_results_are_collected_from_the_folders(tmp_path: Path) -> None:
    made = tables.job(tmp_path, "one", 2)
    made.work.begin("result", {})
    (made.work.folder / "result.json").write_text(json.dumps(ONE_2))
    assert collect(made.table, tmp_path / "out") == {}  # begun is not done
    made.work.spend("result", 0.1, {})
    assert list(collect(made.table, tmp_path / "out")) == ["p/t/one"]
    paths = write(made.table, tmp_path / "out", ("md", "html"))
    assert [path.name for path in paths] == ["report.md", "report.html"]
    assert "2: 44.00" in paths[0].read_text()
