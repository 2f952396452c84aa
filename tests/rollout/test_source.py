"""Whose entropies a run uses, decided from its configuration."""

from __future__ import annotations

import importlib.metadata

import pytest

from tests.bridge.configurations import compose
from verl_ext.rollout import source, tap

BYPASS = "algorithm.rollout_correction.bypass_mode=true"
NODE = "+algorithm.verl_ext"


def resolve(*overrides: str) -> source.EntropySource:
    return source.resolve(compose("+backend=cpu", *overrides))


@pytest.mark.parametrize(
    ("overrides", "provider"),
    [
        ([], "actor"),
        ([BYPASS], "rollout"),
        ([f"{NODE}.entropy_source=actor"], "actor"),
        ([f"{NODE}.entropy_source=rollout"], "rollout"),
        ([f"{NODE}.entropy_source=rollout", BYPASS], "rollout"),
        ([f"{NODE}.entropy_source=auto"], "actor"),
    ],
)
def test_the_provider(overrides: list[str], provider: str) -> None:
    assert resolve("+algo=espo", *overrides).provider == provider


def test_the_engine_computes_entropies_to_be_read_or_to_be_watched() -> None:
    assert resolve("+algo=espo", BYPASS).tap
    assert resolve("+algo=espo").tap  # watched
    assert not resolve("+algo=espo", f"{NODE}.watch_entropies=false").tap
    assert resolve("+algo=espo", f"{NODE}.watch_entropies=false", BYPASS).tap


def test_a_run_that_names_nothing_of_ours_is_left_alone() -> None:
    assert not resolve().tap
    assert not resolve(BYPASS).tap
    assert resolve(f"{NODE}.entropy_source=auto").tap  # asked for


@pytest.mark.parametrize("setting", ["top_p=0.9", "top_k=1"])  # top_k=1 is greedy sampling, and its entropy 0
def test_entropies_of_another_distribution_are_not_watched(setting: str) -> None:
    found = resolve("+algo=espo", f"actor_rollout_ref.rollout.{setting}")
    assert not found.tap
    assert setting in found.obstacles[0]


def test_all_obstacles_are_named_together() -> None:
    found = resolve(
        "+algo=espo",
        "actor_rollout_ref.rollout.top_p=0.9",
        "actor_rollout_ref.rollout.top_k=20",
        "actor_rollout_ref.rollout.logprobs_mode=raw_logprobs",
        "actor_rollout_ref.rollout.calculate_log_probs=false",
    )
    assert len(found.obstacles) == 4


def test_a_vllm_that_the_tap_does_not_know_is_an_obstacle_with_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.27.1+cu13" if name == "vllm" else version(name))
    (fault,) = resolve("+algo=espo", BYPASS).obstacles
    for number in (*tap.SUPPORTED, "0.27.1"):
        assert number in fault
