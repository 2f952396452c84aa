"""What the user reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from verl_ext.run.watchdog import causes, report
from verl_ext.run.watchdog.ledger import Death, Verdict

STALLED = Verdict(
    kind="stalled",
    phase="gen",
    outer=("training", "step", "gen"),
    step=3,
    phase_s=42.0,
    idle_s=31.2,
    limit_s=30.0,
    last="3 groups were kept",
    deaths=(),
    failed=0,
    counts="3 groups kept, 5 in flight, 12 responses",
)
DEATH = Death("the Ray actor AgentLoopWorkerTQ (pid 7, node 10.0.0.1)", "it was killed.", 0.0)
DIED = replace(STALLED, kind="died", deaths=(DEATH,), limit_s=20.0)
FAILING = replace(STALLED, kind="failing", failed=32)


def test_the_sentence_says_what_happened_and_where() -> None:
    assert report.sentence(STALLED) == ("phase 'gen' of step 3 has made no progress for 31 s (the limit is 30 s)")
    assert report.sentence(DIED) == (
        "the Ray actor AgentLoopWorkerTQ (pid 7, node 10.0.0.1) died in phase 'gen' of step 3, "
        "and verl did not end the run within 20 s"
    )
    assert report.sentence(FAILING) == (
        "phase 'gen' of step 3: 32 groups of responses have failed and been replaced, and none was kept"
    )
    assert "rollouts 32 groups failed since one was last kept" in report.report(FAILING, [], [])
    assert report.sentence(replace(STALLED, step=0, phase="start-up")).startswith("phase 'start-up' has made")


def test_the_report_of_a_stall() -> None:
    lines = report.report(STALLED, [Path("/x/a.txt"), Path("/x/b.txt")], ["node 1 gave no stacks"]).splitlines()
    assert all(line.startswith("verl_ext watchdog: ") for line in lines)
    text = "\n".join(lines)
    assert "phase    gen for 42 s, within training > step: responses are generated and graded" in text
    assert "the last was 31 s ago: 3 groups were kept" in text
    assert "rollouts 3 groups kept, 5 in flight, 12 responses" in text
    assert "usually  reward code or a tool that never returns" in text
    assert "stacks   2 processes, in /x" in text
    assert "stacks   node 1 gave no stacks" in text
    assert "setting  verl_ext.watchdog.limit_s" in text


def test_the_report_of_a_death_names_the_dead_and_says_how_to_go_on() -> None:
    text = report.report(DIED, [], [])
    assert "dead     the Ray actor AgentLoopWorkerTQ (pid 7, node 10.0.0.1): it was killed." in text
    assert "trainer.resume_mode=auto" in text
    assert "setting  verl_ext.watchdog.dead_process_s" in text
    assert "usually" not in text
    assert "stacks   none" in text


def test_a_lost_node_does_not_fill_the_log() -> None:
    text = report.report(replace(DIED, deaths=(DEATH,) * 30), [], [])
    assert text.count("the Ray actor") == 1 + report.SHOWN
    assert "dead     22 more" in text
    assert "(and 29 more)" in text


def test_the_setting_is_the_one_that_was_passed() -> None:
    assert report.setting(replace(STALLED, outer=("start-up",), phase="update_weights")) == "start_up_limit_s"
    assert report.setting(replace(STALLED, outer=(), phase="shut-down")) == "shut_down_limit_s"
    assert report.setting(FAILING) == "failed_batches"


def test_every_phase_has_a_cause_and_something_to_do() -> None:
    for cause in [*causes.CAUSES.values(), causes.of("a phase of next year")]:
        assert cause.usually
        assert cause.todo
