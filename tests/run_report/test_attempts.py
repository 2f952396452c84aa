"""Several attempts at a run: which steps count, in one file and in several, numbered or not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_ext.run_report import attempts, wandb_file
from verl_ext.run_report.attempts import Attempt, Counter, Row, current, row_of, split
from verl_ext.run_report.history import History, MetricsTail
from verl_ext.run_report.sources import SourceError, read

ACC = "val-core/x/acc/mean@1"


def rows(*steps: int, attempt: int | None = None, **data: Any) -> list[Row]:
    return [Row(step, {"a": float(step), **data}, attempt) for step in steps]


def write(path: Path, found: list[Row], end: str = "") -> Path:
    lines = []
    for row in found:
        numbered = {} if row.attempt is None else {"attempt": row.attempt}
        lines.append(json.dumps({"step": row.step, **numbered, "data": dict(row.data)}))
    path.write_text("\n".join([*lines, end]))
    return path


def test_a_lost_attempts_validation_is_not_the_live_runs() -> None:
    """Ten steps with a validation of 99% at the end, then 6 to 12 without one."""
    lost = [*rows(*range(1, 10)), Row(10, {"a": 10.0, ACC: 0.99})]
    history = History.of([*lost, *rows(*range(6, 13))])
    assert history.accuracy() == ([], [])
    assert [record.step for record in history.records] == [*range(1, 13)]
    assert history.notes == ("attempt 2 began at step 6: 5 steps, 6 to 10, of the attempts before it are void",)


def test_steps_that_the_later_attempt_has_not_reached_are_void() -> None:
    steps, _ = current(split([*rows(1, 2, 3, 4, 5), *rows(3)]))
    assert list(steps) == [1, 2, 3]


@pytest.mark.parametrize("numbered", [True, False])
def test_the_validation_of_the_checkpoint_that_is_resumed_voids_no_training(numbered: bool) -> None:
    """verl validates at the step of the checkpoint: that step's training stays, its older validation goes."""
    first = [*rows(1, 2, attempt=1 if numbered else None), Row(2, {ACC: 0.5, "val-core/y/acc/mean@1": 0.9})]
    first += rows(3, attempt=1 if numbered else None)
    again = [Row(2, {ACC: 0.75}, 2 if numbered else None)]
    steps, notes = current(split([*first, *again]))
    assert steps == {1: {"a": 1.0}, 2: {"a": 2.0, ACC: 0.75}}
    assert notes == ["attempt 2 began at step 3: step 3 of the attempt before it is void"]


def test_a_numbered_attempt_that_goes_on_voids_nothing() -> None:
    steps, notes = current(split([*rows(1, 2, attempt=1), *rows(3, 4, attempt=2)]))
    assert (list(steps), notes) == ([1, 2, 3, 4], [])


def test_a_run_that_starts_anew_keeps_nothing_of_the_one_before() -> None:
    steps, notes = current(split([*rows(1, 2, 3, attempt=1), Row(0, {ACC: 0.25}, 2)]))
    assert steps == {0: {ACC: 0.25}}
    assert notes == ["attempt 2 began at step 1: 3 steps, 1 to 3, of the attempts before it are void"]


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5, unique=True).map(sorted), min_size=1, max_size=4))
def test_whatever_counts_is_the_last_attempt_that_can_have_made_it(made: list[list[int]]) -> None:
    """Of every step that counts no later attempt has begun at or before it; the last attempt counts as a whole."""
    found, _ = current([Attempt(str(i), {step: {"by": i} for step in steps}) for i, steps in enumerate(made)])
    for step, data in found.items():
        assert all(steps[0] > step for steps in made[data["by"] + 1 :])
    assert [step for step, data in found.items() if data["by"] == len(made) - 1] == made[-1]
    assert list(found) == sorted(found)


def test_numbers_of_lines_with_and_without_one() -> None:
    """Older lines, then such of the second and third attempt; a step within an attempt may come twice."""
    counter = Counter()
    given_rows = [*rows(1, 2, 2), *rows(2, 3, attempt=2), *rows(4, attempt=3), *rows(1)]
    assert [counter.of(row) for row in given_rows] == [1, 1, 1, 2, 2, 3, 4]


def test_a_numbered_line_is_its_attempts_wherever_it_stands() -> None:
    """A process that was thought dead writes on beside the next one; validations may be logged late."""
    live = [*rows(3, 4, attempt=2), Row(3, {ACC: 0.5}, 2)]
    steps, _ = current(split([*rows(1, 2, 3, attempt=1), *live[:1], Row(4, {"a": 9.0}, 1), *live[1:]]))
    assert steps == {1: {"a": 1.0}, 2: {"a": 2.0}, 3: {"a": 3.0, ACC: 0.5}, 4: {"a": 4.0}}


@pytest.mark.parametrize("text", ['"step": 5', '"step": 5.0', '"attempt": 1.0, "step": 5e0'])
def test_a_step_is_a_whole_number_however_it_is_written(text: str) -> None:
    row = row_of(f'{{{text}, "data": {{"a": 1}}}}'.encode())
    assert row is not None
    assert (row.step, type(row.step)) == (5, int)


@pytest.mark.parametrize("step", ["5.5", "true", '"5"', "null", "NaN", "[5]"])
def test_what_is_no_step(step: str) -> None:
    assert row_of(f'{{"step": {step}, "data": {{"a": 1}}}}'.encode()) is None


def test_the_last_attempt_of_a_file(tmp_path: Path) -> None:
    assert attempts.last(tmp_path / "none.jsonl") == 0
    assert attempts.last(write(tmp_path / "old.jsonl", rows(1, 2, 3))) == 1
    assert attempts.last(write(tmp_path / "older.jsonl", rows(1, 2, 1, 2))) == 2
    torn = write(tmp_path / "torn.jsonl", rows(1, attempt=4), end='{"step": 2, "attempt": 5, "da')
    assert attempts.last(torn) == 4


def test_every_reader_of_a_file_says_the_same(tmp_path: Path) -> None:
    """The report's, the reader of whole files and the one that reads along, with each way to number attempts."""
    both = itertools.product((None, 1), (None, 2))
    for first, second in both:
        file = write(tmp_path / "metrics.jsonl", [*rows(1, 2, 3, attempt=first), *rows(2, attempt=second)])
        (logged,) = read(file)
        tail = MetricsTail(file)
        tail.poll()
        assert [record.step for record in logged.history.records] == [1, 2]
        assert logged.history.records == History.read(file).records == History.of(tail.rows).records
        void = "began at step 2: 2 steps, 2 to 3, of the attempts before it are void"
        assert logged.notes == (f"attempt 2 of metrics.jsonl {void}",)


def test_a_file_that_begins_with_a_torn_line_is_a_log(tmp_path: Path) -> None:
    (tmp_path / "espo.jsonl").write_text('{"step": 1, "da\n{"step": 1, "attempt": 2, "data": {"a": 1}}\n')
    (logged,) = read(tmp_path)
    assert logged.notes == ("1 of 2 lines of espo.jsonl are no records",)


def test_event_files_of_attempts(tmp_path: Path) -> None:
    """A second process writes a file of its own beside the first one's; of the first the steps from 2 on are lost."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for number, steps in enumerate(((1, 2, 3), (2,))):
        writer = SummaryWriter(str(tmp_path), filename_suffix=f".{number}")
        for step in steps:
            writer.add_scalar("a" if number else ACC, 0.5, step)
        writer.close()
    (logged,) = read(tmp_path)
    assert {record.step: list(record.values) for record in logged.history.records} == {1: [ACC], 2: ["a"]}
    assert len(logged.notes) == 1
    assert logged.notes[0].endswith("began at step 2: 2 steps, 2 to 3, of the attempts before it are void")


def wandb_log(file: Path, found: list[Row]) -> None:
    """A log as wandb's client writes it, of rows that each fit into one chunk."""
    from wandb.proto import wandb_internal_pb2

    message: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made when the module is imported
    data = wandb_file.HEADER
    for row in found:
        record = message()
        record.history.step.num = row.step
        for name, value in row.data.items():
            record.history.item.add(key=name, value_json=json.dumps(value))
        text = record.SerializeToString()
        data += wandb_file.CHUNK.pack(0, len(text), wandb_file.WHOLE) + text
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def test_files_of_wandb_with_one_id_are_attempts(tmp_path: Path) -> None:
    """With WANDB_RUN_ID set, each process leaves a folder of its own; other ids are other runs."""
    pytest.importorskip("wandb")
    for when, steps in (("run-20260102_0304", (1, 2, 3)), ("offline-run-20260102_0305", (2,))):
        wandb_log(tmp_path / "wandb" / f"{when}-abc" / "run-abc.wandb", rows(*steps))
    (logged,) = read(tmp_path)
    assert [record.step for record in logged.history.records] == [1, 2]
    assert logged.notes[-1] == "run-abc.wandb began at step 2: 2 steps, 2 to 3, of the attempts before it are void"
    wandb_log(tmp_path / "wandb" / "offline-run-20260102_0306-xyz" / "run-xyz.wandb", rows(1))
    with pytest.raises(SourceError, match="2 runs lie here"):
        read(tmp_path)
