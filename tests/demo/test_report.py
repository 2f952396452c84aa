"""Summary, tables, picture and page from synthetic metrics."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from verl_ext.demo import report
from verl_ext.demo.figure import group_name, smooth
from verl_ext.run_report.history import History, Record

ACC = "val-core/verl_ext/demo/acc/mean@1"


def run(**changes: Any) -> report.Run:
    base: dict[str, Any] = {
        "algo": "espo",
        "model": "tiny_dense",
        "seed": 1,
        "steps": 2,
        "problems": 500,
        "command": ("python", "-m", "verl.trainer.main_ppo", "x=[1, 2]"),
        "startup_seconds": 120.0,
        "total_seconds": 300.0,
        "assets_seconds": 60.0,
    }
    return report.Run(**{**base, **changes})


def history(groups: bool = True) -> History:
    records = [Record(0, {ACC: 0.3})]
    for step, low in ((1, 0.1), (2, 0.3)):
        values = {
            "critic/rewards/mean": 0.2 * step,
            "actor/entropy": 1.0,
            "actor/pg_clipfrac": 0.25,
            "response_length/mean": 40.0,
            "timing_s/step": 4.0,
            "timing_s/gen": 3.0,
        }
        if groups:
            values |= {"actor/espo/group0/clip_low": low, "actor/espo/group1/clip_low": 0.5}
        if step == 2:
            values[ACC] = 0.5
        records.append(Record(step, values))
    return History(records)


def test_summary_numbers() -> None:
    summary = report.summarise(history(), run())
    assert summary["before"]["accuracy"] == 0.3
    assert summary["after"]["accuracy"] == 0.5
    assert summary["gain"] == pytest.approx(0.2)
    assert summary["groups"][0]["clip_low"] == pytest.approx((0.1 + 0.3) / 2)
    assert summary["groups"][0]["eps"] is None
    assert summary["means"]["reward"] == pytest.approx((0.2 + 0.4) / 2)
    assert summary["phase_seconds"] == {"rollout": 3.0, "the rest": 1.0}
    assert summary["missing"] == []
    assert summary["command"] == "python -m verl.trainer.main_ppo 'x=[1, 2]'"
    assert {"python", "verl-ext"} <= set(summary["versions"])
    json.dumps(summary, allow_nan=False)


def test_a_run_with_one_validation_claims_no_gain() -> None:
    summary = report.summarise(History(history().records[:2]), run())
    assert summary["before"]["accuracy"] == 0.3
    assert summary["after"] is None
    assert summary["gain"] is None


def cells(summary: dict[str, Any]) -> dict[str, list[list[str]]]:
    return {table.heading: [list(row) for row in table.rows] for table in report.tables(summary)}


def test_tables_of_espo_have_a_row_for_each_entropy_group() -> None:
    found = cells(report.summarise(history(), run()))
    clipped = found["Clip fractions, mean over steps"]
    assert [row[0] for row in clipped] == ["group 0: low entropy", "group 1: high entropy"]
    assert clipped[0][1:] == ["?", "?", "20.0%", "?", "?"]
    validation = found["Validation accuracy, 500 problems"]
    assert validation[-1][1] == "+20.0 points"
    assert found["Seconds a step by phase, mean"][0] == ["rollout", "3.00", "75.0%"]


def test_tables_of_another_loss_have_one_row() -> None:
    found = cells(report.summarise(history(groups=False), run(algo="gspo")))
    assert found["Clip fractions, mean over steps"] == [["all tokens", "100.0%", "25.0%"]]


@pytest.mark.parametrize("groups", [True, False])
def test_every_row_is_as_wide_as_its_header(groups: bool) -> None:
    for table in report.tables(report.summarise(history(groups), run())):
        assert {len(row) for row in table.rows} == {len(table.columns)}


class Outside(HTMLParser):
    """Collects what a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href") and value is not None]


def test_files_and_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    report.write(history(), run(command=("python", "a=<b>")), tmp_path)
    assert (tmp_path / report.PICTURE).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / report.PAGE).read_text()
    parser = Outside()
    parser.feed(page)
    assert len(parser.links) == 1
    assert parser.links[0].startswith("data:image/png;base64,")
    assert "a=&lt;b&gt;" in page
    assert "<b>30.0%</b>" in page
    assert "<b>50.0%</b>" in page
    assert json.loads((tmp_path / report.SUMMARY).read_text())["trained_steps"] == 2


@pytest.mark.parametrize("records", [[], [Record(1, {})], [Record(0, {ACC: 0.3})]])
def test_a_run_without_numbers_still_gives_a_report_that_says_so(records: list[Record], tmp_path: Path) -> None:
    summary = report.write(History(records), run(startup_seconds=None), tmp_path)
    assert len(summary["missing"]) >= 5
    assert "Not reported by this run" in (tmp_path / report.PAGE).read_text()
    assert (tmp_path / report.PICTURE).stat().st_size > 10_000


def test_smooth_starts_at_the_first_value_and_keeps_constants() -> None:
    # Weight 0.5: 1, then (0.5*1 + 3) / (0.5 + 1) = 3.5 / 1.5.
    assert smooth([1.0, 3.0], 0.5) == pytest.approx([1.0, 3.5 / 1.5])
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)


def test_group_names() -> None:
    assert [group_name(k, 2) for k in range(2)] == ["low entropy", "high entropy"]
    assert [group_name(k, 3) for k in range(3)] == ["lowest entropy", "entropy group 1", "highest entropy"]
    assert group_name(0, 1) == "all tokens"
