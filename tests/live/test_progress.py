"""The live line: phases of the start-up, time left, what is shown with and without a terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from verl_ext.live.progress import LiveLine, RunState, clock, describe
from verl_ext.run_report.history import Record

ACC = "val-core/x/acc/mean@1"


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    return RunState(tmp_path / "train.log", tmp_path / "metrics.jsonl", total=10, started=100.0)


def append(path: Path, step: int, **data: float) -> None:
    with path.open("a") as file:
        file.write(json.dumps({"step": step, "data": data}) + "\n")


def test_phases_follow_the_log_and_never_go_back(state: RunState) -> None:
    state.update(101.0)
    assert state.phase == "importing verl"
    state.log.write_text("x INFO worker.py:2012 -- Started a local Ray instance.\n")
    state.update(102.0)
    assert state.phase == "starting Ray's actors"
    with state.log.open("a") as log:
        log.write("\x1b[36m(vLLMHttpServer pid=7)\x1b[0m hello\n")
    state.update(103.0)
    assert state.phase == "starting vLLM"
    with state.log.open("a") as log:
        log.write("(WorkerDict pid=8) late line\n")
    state.update(104.0)
    assert state.phase == "starting vLLM"


def test_a_log_line_cut_in_two_is_still_recognised(state: RunState) -> None:
    state.log.write_text("(Worker")
    state.update(101.0)
    state.log.write_text("(WorkerDict pid=8) x\n")
    state.update(102.0)
    assert state.phase == "building the FSDP worker"


def test_the_start_up_ends_when_the_metrics_file_appears(state: RunState) -> None:
    state.update(150.0)
    assert state.startup_seconds is None
    state.metrics.touch()
    state.update(170.0)
    state.update(180.0)
    assert state.startup_seconds == 70.0
    assert state.phase == "first validation"


def test_seconds_left_from_the_last_steps(state: RunState) -> None:
    append(state.metrics, 0, **{ACC: 0.3})
    state.update(200.0)
    assert state.seconds_left(200.0) is None
    append(state.metrics, 1)
    state.update(206.0)
    append(state.metrics, 2)
    state.update(210.0)
    # Two steps in 210 - 200 = 10 s; 8 steps are left: 8 * 5 = 40 s, of which 3 have passed.
    assert state.seconds_left(213.0) == pytest.approx(37.0)
    assert state.seconds_left(300.0) == 0.0


def test_a_step_in_words_with_and_without_its_keys() -> None:
    full = {"critic/rewards/mean": 0.5, "actor/entropy": 0.25, "actor/pg_clipfrac": 0.125}
    assert describe(Record(3, full)) == "reward 0.500  entropy 0.250 nats  clip 12.5%"
    assert describe(Record(3, {"critic/rewards/mean": 0.5})) == "reward 0.500  entropy ?  clip ?"
    assert describe(Record(0, {ACC: 0.5})) == "validation accuracy 50.0%"


def test_plain_output_is_one_line_a_phase_and_a_step(state: RunState) -> None:
    sink = io.StringIO()
    with LiveLine(Console(file=sink, width=200), state) as live:
        live.show(state.update(101.0), 101.0)
        live.show(state.update(102.0), 102.0)
        append(state.metrics, 0, **{ACC: 0.5})
        live.show(state.update(160.0), 160.0)
        append(state.metrics, 1, **{"critic/rewards/mean": 0.25})
        live.show(state.update(165.0), 165.0)
    assert sink.getvalue().splitlines() == [
        "[1s] importing verl",
        "[1m00s] training",
        "step 0/10  validation accuracy 50.0%",
        "step 1/10  reward 0.250  entropy ?  clip ?  45s left",
    ]


def test_a_terminal_gets_one_line_with_step_and_numbers(state: RunState) -> None:
    sink = io.StringIO()
    with LiveLine(Console(file=sink, force_terminal=True, width=160), state) as live:
        append(state.metrics, 0, **{ACC: 0.5})
        live.show(state.update(160.0), 160.0)
        append(state.metrics, 4, **{"critic/rewards/mean": 0.25})
        live.show(state.update(164.0), 164.0)
        assert live.line(164.0) == "step 4/10  reward 0.250  entropy ?  clip ?  6s left"
    assert "validation accuracy 50.0%" in sink.getvalue()


def test_without_a_metrics_file_the_log_has_the_steps_and_their_number(tmp_path: Path) -> None:
    state = RunState(tmp_path / "train.log", None, total=None, started=0.0)
    state.log.write_text("(TaskRunnerV1 pid=1) INFO:x:Total training steps: 4\n(TaskRunnerV1 pid=1) step:1 - criti")
    assert state.update(1.0) == []
    assert (state.total, state.startup_seconds) == (4, None)
    with state.log.open("a") as log:
        log.write("c/rewards/mean:0.5\n(TaskRunnerV1 pid=1) step:2 - actor/entropy:1.0\n")
    assert [(one.step, one.values) for one in state.update(5.0)] == [
        (1, {"critic/rewards/mean": 0.5}), (2, {"actor/entropy": 1.0}),
    ]  # fmt: skip
    assert state.update(6.0) == []
    assert state.progress(2) == "step 2/4"


def test_a_metrics_file_that_never_comes_leaves_the_log(state: RunState) -> None:
    """`trainer.logger` was overridden."""
    state.log.write_text("step:1 - actor/entropy:1.0\n")
    assert len(state.update(101.0)) == 1


def test_where_nobody_says_how_many_steps_there_are_nothing_is_guessed(tmp_path: Path) -> None:
    state = RunState(tmp_path / "train.log", None, total=None, started=0.0)
    for now in (1.0, 2.0):
        with (tmp_path / "train.log").open("a") as log:
            log.write(f"step:{now:.0f} - actor/entropy:1.0\n")
        state.update(now)
    assert (state.progress(2), state.seconds_left(2.0)) == ("step 2", None)


@pytest.mark.parametrize(("seconds", "text"), [(9.4, "9s"), (60, "1m00s"), (125.2, "2m05s")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
