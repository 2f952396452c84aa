"""The section `verl_ext.watchdog` of a configuration."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from verl_ext.run import settings as run_settings
from verl_ext.run.watchdog.settings import WatchdogSettings


def test_a_stock_command_line_is_watched() -> None:
    found = run_settings.section(OmegaConf.create({}), "watchdog")
    assert found == WatchdogSettings()
    assert (found.enabled, found.limit_s, found.dead_process_s) == (True, 900, 20)


def test_keys_are_read() -> None:
    given = {"limit_s": 30, "ignore_actors": ["Tool"], "failed_batches": None, "dump_dir": "/x"}
    found = run_settings.section(OmegaConf.create({"verl_ext": {"watchdog": given}}), "watchdog")
    assert (found.limit_s, found.ignore_actors, found.failed_batches, found.dump_dir) == (30, ["Tool"], None, "/x")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"limit_s": 0}, "limit_s=0 must be a finite number > 0"),
        ({"limit_s": 10}, "dead_process_s=20 must be <= limit_s=10"),
        ({"dead_process_s": -1}, "dead_process_s=-1 must be"),
        ({"failed_batches": 0}, "failed_batches=0 must be null or a whole number >= 1"),
        ({"enabled": "yes"}, "must be true or false"),
        ({"ignore_actors": "Tool"}, "ignore_actors='Tool' must be a list of names"),
        ({"ignore_actors": [1]}, "must be a list of names"),
        ({"limit": 3}, "did you mean 'limit_s'?"),
        ({"dump_dir": ""}, "dump_dir='' must be null or a string that is not empty"),
    ],
)
def test_faults_are_sentences(given: dict, words: str) -> None:
    (fault,) = run_settings.faults(OmegaConf.create({"verl_ext": {"watchdog": given}}))
    assert fault.startswith("verl_ext.watchdog: ")
    assert words in fault


def test_all_faults_at_once() -> None:
    given = {"limit_s": "soon", "start_up_limit_s": 0, "enable": True}
    assert len(run_settings.faults(OmegaConf.create({"verl_ext": {"watchdog": given}}))) == 3
