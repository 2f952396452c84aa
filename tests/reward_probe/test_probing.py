"""The probe's verdict on every kind of reward function, from a child process that leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import DictConfig, OmegaConf

from verl_ext.checks.collecting import Findings
from verl_ext.reward_probe import probing

REWARDS = Path(__file__).with_name("rewards.py")
BOXED = {
    "data_source": "mine",
    "prompt": [{"role": "user", "content": "2+2? Put your answer within \\boxed{}."}],
    "reward_model": {"ground_truth": "4"},
    "extra_info": {"index": 7},
}


def config(folder: Path, name: str, row: dict[str, Any] | None = None, **changes: Any) -> DictConfig:
    """What the probe reads of a trainer's configuration, with these dotted keys changed."""
    data = folder / "data.jsonl"
    data.write_text(json.dumps(BOXED if row is None else row) + "\n")
    function = {"path": str(REWARDS), "name": name, "reward_kwargs": {}}
    base = OmegaConf.create(
        {
            "data": {"train_files": str(data), "prompt_key": "prompt", "custom_cls": {"path": None}},
            "algorithm": {"adv_estimator": "grpo"},
            "trainer": {"experiment_name": "e"},
            "actor_rollout_ref": {"rollout": {}},
            "reward": {
                "custom_reward_function": function,
                "reward_model": {"enable": False},
                "reward_manager": {"source": "register", "name": "naive"},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(base, key, value, force_add=True)
    return base


def probe(folder: Path, name: str, row: dict[str, Any] | None = None, **changes: Any) -> Findings:
    return probing.findings(config(folder, name, row, **changes))


@pytest.mark.parametrize("name", ["judging", "number", "awaited"])
def test_a_reward_that_rewards_is_no_news(name: str, tmp_path: Path) -> None:
    assert probe(tmp_path, name) == Findings([], [])


# function -> part of the one fault
FAULTS = {
    "nothing": "it returns NoneType None, not a number",
    "text": "it returns str '1.0'",
    "pair": "it returns tuple (1.0, {})",
    "no_score": "a dict without the key score (acc)",
    "text_score": "a dict whose score is str '1.0'",
    "not_a_number": "it returns nan",
    "forgotten_await": "it returns coroutine",
    "raises": "ZeroDivisionError: division by zero (rewards.py, line",
    "leaves": "SystemExit: 3",
    "dies": "the worker died with exit status 3",
    "narrow": "got an unexpected keyword argument 'data_source'",
    "alarmed": "signal only works in main thread",
    "absent": "cannot be loaded: AttributeError",
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_could_never_work_is_a_fault(name: str, tmp_path: Path) -> None:
    found = probe(tmp_path, name)
    assert [FAULTS[name] in fault for fault in found.faults] == [True], found
    assert found.notes == []


# function -> part of the one note
NOTES = {
    "zero": "gives 0 for '\\\\boxed{4}', the ground truth in the format of the first row of",
    "penalised": "gives -1 for '\\\\boxed{4}'",
    "raises_on_empty": "for '' as a response to the first row",
    "router": "not probed: it takes the address of a reward model's router",
}


@pytest.mark.parametrize("name", NOTES)
def test_what_may_work_is_a_note(name: str, tmp_path: Path) -> None:
    found = probe(tmp_path, name)
    assert [NOTES[name] in note for note in found.notes] == [True], found
    assert found.faults == []


def test_where_verl_grades_in_a_main_thread_signals_work(tmp_path: Path) -> None:
    manager = {"reward.reward_manager.name": "remote"}
    assert probe(tmp_path, "alarmed", **manager).faults == []


def test_an_estimator_that_reads_verified_needs_it(tmp_path: Path) -> None:
    espo = {"algorithm.adv_estimator": "espo"}
    assert probe(tmp_path, "judging", **espo) == Findings([], [])
    (fault,) = probe(tmp_path, "number", **espo).faults
    assert "no `verified`, which espo (estimator) needs" in fault


def test_the_function_gets_what_verl_hands_it(tmp_path: Path) -> None:
    out = tmp_path / "seen"
    fixed = {"reward.custom_reward_function.reward_kwargs": {"out": str(out)}}
    assert probe(tmp_path, "sees", **fixed) == Findings([], [])
    keys = ["experiment_name", "index", "num_turns", "rollout_reward_scores"]
    assert out.read_text().splitlines() == [f"mine|\\boxed{{4}}|4|{keys}", f"mine||4|{keys}"]


@pytest.mark.parametrize(
    ("asked", "said", "fault"),
    [
        ("boxes", None, "'boxes' is not known: choose boxed, "),
        (None, "line", "'line' is not known: choose boxed, "),
        ("boxed", "answer_line", "is 'boxed' where it is asked for, and 'answer_line' in the data"),
    ],
)
def test_an_answer_format_at_fault_is_found_before_the_start(
    tmp_path: Path, asked: str | None, said: str | None, fault: str
) -> None:
    ours = {
        "reward.custom_reward_function.path": "pkg://verl_ext.rewards.math",
        "reward.custom_reward_function.reward_kwargs": {} if asked is None else {"answer_format": asked},
    }
    row = {**BOXED, "extra_info": {"index": 7, "answer_format": said}}
    (found,) = probe(tmp_path, "compute_score", row, **ours).faults
    assert fault in found


# settings -> part of the note that says why nothing was called
BEYOND = {
    "reward model": ({"reward.reward_model.enable": True}, "a reward model"),
    "manager": ({"reward.reward_manager.source": "importlib"}, "source=importlib"),
    "sandbox": ({"reward.sandbox_fusion.url": "http://there"}, "a sandbox"),
    "rows": ({"data.custom_cls.path": "mine.py"}, "custom_cls"),
    "agent": ({"actor_rollout_ref.rollout.agent.default_agent_loop": "mine"}, "agent loop mine"),
    "data elsewhere": ({"data.train_files": "hdfs://there/train.parquet"}, "no training data on this machine"),
}


@pytest.mark.parametrize("case", BEYOND)
def test_what_is_beyond_the_probe_is_left_alone(case: str, tmp_path: Path) -> None:
    settings, part = BEYOND[case]
    found = probe(tmp_path, "raises", **settings)
    assert [part in note for note in found.notes] == [True], found
    assert found.faults == []


def test_off_is_off(tmp_path: Path) -> None:
    assert probe(tmp_path, "raises", **{"verl_ext.reward_probe": "off"}) == Findings([], [])


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"prompt": [], "reward_model": {"ground_truth": "4"}}, "no column data_source"),
        ({"prompt": [], "data_source": "mine"}, "no reward_model.ground_truth"),
    ],
)
def test_rows_that_verl_cannot_grade_are_a_fault(row: dict[str, Any], part: str, tmp_path: Path) -> None:
    (fault,) = probe(tmp_path, "number", row).faults
    assert part in fault


def test_a_truth_that_is_no_answer_leaves_the_right_answer_out(tmp_path: Path) -> None:
    tests = {**BOXED, "reward_model": {"ground_truth": '{"inputs": ["1"], "outputs": ["2"]}'}}
    found = probe(tmp_path, "zero", tests)
    assert found.faults == []
    assert ["no right answer was tried" in note and "no plain answer" in note for note in found.notes] == [True]
    assert probe(tmp_path, "raises", tests).faults != []  # it is called all the same


def living(mark: str) -> list[int]:
    return [process.pid for process in psutil.process_iter(["cmdline"]) if mark in (process.info["cmdline"] or [])]


def children() -> set[psutil.Process]:
    return {child for child in psutil.Process().children(recursive=True) if "_child.py" in str(child.cmdline())}


@pytest.mark.parametrize("name", ["hangs", "begets"])
def test_nothing_is_left_behind(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a function that comes to no end, and of one that starts what outlives it, in a session of its own."""
    if name == "hangs":
        monkeypatch.setattr(probing, "LIMIT_S", 1.5)
    mark = f"97{os.getpid()}"
    others = children()  # of other tests in this process
    found = probe(tmp_path, name, **{"reward.custom_reward_function.reward_kwargs": {"mark": mark}})
    assert found.faults == []
    assert ["not probed: " in note and "verl_ext.reward_probe=off" in note for note in found.notes] == (
        [True] if name == "hangs" else []
    )
    assert living(mark) == []
    assert children() <= others
