"""Steps from a log, and the line that shows them."""

from __future__ import annotations

import io

from rich.console import Console

from verl_ext.cluster.submission.progress import JobState, ProgressLine

PREFIX = "\x1b[36m(TaskRunnerV1 pid=812, ip=10.0.0.4)\x1b[0m "


def step(number: int, reward: float, seconds: float) -> str:
    return f"{PREFIX}step:{number} - critic/rewards/mean:{reward} - timing_s/step:np.float64({seconds}) - val/a:b:nan"


def test_the_line_through_a_run() -> None:
    state = JobState(total=10)
    assert state.line() == "waiting for the job"
    state.feed("(TaskRunnerV1 pid=812) hello")
    assert state.line() == "starting the trainer"
    state.feed(f"{PREFIX}INFO:x:Resuming from /c/global_step_4, setting global step to 4")
    assert (state.step, state.line()) == (4, "starting the trainer, resumed at step 4")
    state.feed(step(5, 0.5, 20.0))
    state.feed(step(6, 0.75, 30.0))
    # 4 steps at (20 + 30) / 2 s
    assert state.seconds_left() == 100.0
    assert state.line() == "step 6/10  reward 0.750  30.0 s a step  1m40s left"


def test_without_a_number_of_steps_or_a_reward() -> None:
    state = JobState()
    state.feed("step:3 - actor/entropy:1.0")
    assert state.line() == "step 3  reward ?  ? s a step"


def test_elsewhere_than_on_a_terminal_there_is_a_line_a_step() -> None:
    text = io.StringIO()
    state = JobState(total=2)
    with ProgressLine(Console(file=text), state, log_on_terminal=False) as shown:
        for line in ("start", step(1, 0.5, 2.0), "between", step(2, 0.5, 2.0)):
            shown.show(state.feed(line))
    assert [line.split("  ")[0] for line in text.getvalue().splitlines()] == ["step 1/2", "step 2/2"]


def test_on_a_terminal_the_line_moves() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    state = JobState(total=2)
    with ProgressLine(console, state, log_on_terminal=False) as shown:
        shown.show(state.feed(step(1, 0.5, 2.0)))
        assert shown._progress is not None
        assert shown._progress.tasks[0].description == "step 1/2  reward 0.500  2.0 s a step  2s left"
        assert shown._progress.tasks[0].completed == 1
