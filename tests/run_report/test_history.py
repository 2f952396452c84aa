"""Reading verl's metrics file: whole and torn lines, names, means, intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from verl_ext.run_report.attempts import row_of
from verl_ext.run_report.history import REST, History, MetricsTail, Record, wilson


def line(step: int, **data: object) -> bytes:
    return json.dumps({"step": step, "data": data}).encode() + b"\n"


def test_a_torn_last_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    second = line(2, a=2.0)
    path.write_bytes(line(1, a=1.0) + second[:9])
    tail = MetricsTail(path)
    assert [record.step for record in tail.poll()] == [1]
    assert tail.poll() == []
    with path.open("ab") as file:
        file.write(second[9:])
    assert tail.poll() == [Record(2, {"a": 2.0})]
    assert tail.broken == 0


def test_a_broken_whole_line_is_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "da\n[1]\n' + line(2, a=1.0))
    tail = MetricsTail(path)
    assert [record.step for record in tail.poll()] == [2]
    assert tail.broken == 2


def test_a_file_that_is_not_there_yet_has_no_records(tmp_path: Path) -> None:
    assert MetricsTail(tmp_path / "none").poll() == []


def test_values_that_are_no_finite_numbers_are_left_out() -> None:
    # orjson writes NaN as null; other writers write the bare word.
    row = row_of(b'{"step": 1, "data": {"a": null, "b": NaN, "c": "x", "d": 3}}')
    assert row is not None
    assert Record.of(row.step, row.data) == Record(1, {"d": 3.0})


def test_quantities_are_found_under_their_second_name() -> None:
    assert Record(1, {"critic/score/mean": 0.25}).get("reward") == 0.25
    assert Record(1, {"critic/score/mean": 0.25, "critic/rewards/mean": 0.5}).get("reward") == 0.5
    assert Record(1, {}).get("reward") is None


@pytest.mark.parametrize("kind", ["acc", "reward"])
def test_accuracy_is_found_whatever_the_data_source_is_called(kind: str) -> None:
    values = {
        f"val-core/a/b/{kind}/mean@1": 0.25,
        f"val-core/c/{kind}/mean@1": 0.75,
        "val-aux/a/acc/mean@1": 1.0,
    }
    assert Record(0, values).accuracy() == pytest.approx((0.25 + 0.75) / 2)
    assert Record(0, {"val-core/a/acc/best@4/mean": 1.0}).accuracy() is None


def test_phases_add_up_to_the_step() -> None:
    record = Record(1, {"timing_s/step": 5.0, "timing_s/gen": 2.0, "timing_s/update_actor": 1.5, "timing_s/other": 9.0})
    phases = History([record]).phases()
    # 5 - 2 - 1.5 = 1.5; the unknown timer may lie inside another one and is not counted.
    assert phases == {"rollout": ([1], [2.0]), "actor update": ([1], [1.5]), REST: ([1], [1.5])}


def test_the_validation_before_training_is_no_training_step() -> None:
    history = History(
        [
            Record(0, {"val-core/x/acc/mean@1": 0.5, "critic/rewards/mean": 9.0}),
            Record(1, {"critic/rewards/mean": 0.5}),
        ]
    )
    assert history.series("reward") == ([1], [0.5])
    assert history.accuracy() == ([0], [0.5])


def test_missing_quantities_are_named_with_where_they_were_looked_for() -> None:
    faults = "\n".join(History([Record(1, {"critic/rewards/mean": 0.5, "actor/entropy": 1.0})]).missing())
    assert "clip fraction (looked for actor/pg_clipfrac)" in faults
    assert "validation accuracy" in faults
    assert "reward (looked" not in faults


def test_wilson_interval_golden() -> None:
    # p = 0.5, n = 4, z^2 = 4: centre = (0.5 + 4/8) / (1 + 1) = 0.5; half = 2 * sqrt(0.25/4 + 4/64) / 2
    #                        = sqrt(0.0625 + 0.0625) = sqrt(0.125) = 0.3535534
    assert wilson(0.5, 4, z=2.0) == pytest.approx((0.1464466, 0.8535534))
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0.5, 0)
