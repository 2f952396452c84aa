"""Which lines of a failed trainer's log are shown, and which are steps."""

from __future__ import annotations

import pytest

from verl_ext.live.logs import error_excerpt
from verl_ext.run_report.console_log import plain, read_step

PREFIX = "\x1b[36m(TaskRunnerV1 pid=812, ip=10.0.0.4)\x1b[0m "

RAY = """\
(TaskRunnerV1 pid=11) INFO something
(WorkerDict pid=12) WARNING chatter
Error executing job with overrides: ['+algo=espo']
Traceback (most recent call last):
  File "main_ppo.py", line 50, in main
    run_ppo(config)
    ^^^^^^^^^^^^^^^
ray.exceptions.RayTaskError(ValueError): \x1b[36mray::TaskRunnerV1.run()\x1b[39m (pid=11, ip=127.0.0.1)
  File "losses.py", line 9, in loss
    raise ValueError("two lines")
ValueError: espo: old_entropy is missing
Set actor.calculate_entropy=True.

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
(raylet) The node died, which is chatter
""".splitlines()


def test_the_message_of_a_remote_error_is_found_with_all_its_lines() -> None:
    assert error_excerpt(RAY) == [
        "ValueError: espo: old_entropy is missing",
        "Set actor.calculate_entropy=True.",
    ]


def test_lines_of_other_processes_do_not_mix_into_a_message() -> None:
    log = [
        "(WorkerDict pid=12) Traceback (most recent call last):",
        '(WorkerDict pid=12)   File "a.py", line 1, in f',
        "(vLLMHttpServer pid=13) loading",
        "(WorkerDict pid=12) verl_ext.context.MissingTokenData: no entropy",
        "(vLLMHttpServer pid=13) loaded",
        "(WorkerDict pid=12) see the manual",
    ]
    assert error_excerpt(log) == ["verl_ext.context.MissingTokenData: no entropy", "see the manual"]


def test_a_chain_shows_cause_and_effect_and_a_repetition_once() -> None:
    chain = [
        "Traceback (most recent call last):",
        "  frame",
        "KeyError: 'alhpa'",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "Traceback (most recent call last):",
        "  frame",
        "hydra.errors.InstantiationException: in call to target",
        "",
    ]
    assert error_excerpt(chain * 2) == [
        "KeyError: 'alhpa'",
        "hydra.errors.InstantiationException: in call to target",
    ]


def test_rays_wrappers_are_shown_only_if_there_is_nothing_else() -> None:
    died = [
        "Traceback (most recent call last):",
        "  frame",
        "ray.exceptions.ActorDiedError: the actor died",
        "",
    ]
    cause = ["Traceback (most recent call last):", "  frame", "OSError: no space left", ""]
    assert error_excerpt(cause + died) == ["OSError: no space left"]
    assert error_excerpt(died) == ["ray.exceptions.ActorDiedError: the actor died"]


def test_a_log_without_a_traceback_gives_its_last_lines_without_chatter() -> None:
    log = ["Could not override 'x'.", "", "INFO 11-21 chatter", "Key 'x' is not in struct", "    full_key: x"]
    assert error_excerpt(log) == ["Could not override 'x'.", "Key 'x' is not in struct", "    full_key: x"]
    assert error_excerpt(log, tail=1) == ["    full_key: x"]
    assert error_excerpt([]) == []


def test_plain_lines() -> None:
    assert plain("\x1b[36m(WorkerDict pid=1, ip=10.0.0.1)\x1b[0m hello [repeated 3x across cluster] (..)\n") == "hello"
    assert plain("(a, b) stays") == "(a, b) stays"


def test_a_line_of_verls_logger() -> None:
    from verl.utils.logger.aggregate_logger import concat_dict_to_str

    written = concat_dict_to_str({"critic/rewards/mean": 0.25, "val-core/a:b/acc/mean@1": 1e-05, "text": "x"}, step=4)
    found = read_step(PREFIX + written)
    assert found is not None
    assert (found.step, found.values) == (4, {"critic/rewards/mean": 0.25, "val-core/a:b/acc/mean@1": 1e-05})


@pytest.mark.parametrize("line", ["", "epoch step:3 - a:1", "step:x - a:1", "stepping: 3"])
def test_other_lines(line: str) -> None:
    assert read_step(line) is None


def test_numbers_that_are_none_are_left_out() -> None:
    found = read_step("step:1 - a:nan - b:inf - c:abc - d:-2.5 - e")
    assert found is not None
    assert found.values == {"d": -2.5}
