"""What verl leaves out: it comes back as it was, through JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from verl.trainer.ppo import core_algos

from verl_ext.run import state as run_state
from verl_ext.run.checkpoint import driver_state, layout


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    run_state.clear()
    yield
    run_state.clear()


def draws() -> list[float]:
    """From each generator; the normal ones have a half-used pair to remember."""
    numbers = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.normal()]  # noqa: NPY002
    return [*map(float, numbers), float(torch.rand(())), float(torch.randn(()))]


def test_every_generator_goes_on_where_it_was(tmp_path: Path) -> None:
    draws()
    driver_state.write(tmp_path, driver_state.collect())
    expected = [draws() for _ in range(3)]
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    found = driver_state.read(tmp_path)
    assert found is not None
    driver_state.restore_random(found)
    assert [draws() for _ in range(3)] == expected


def controller(kind: str, value: float) -> Any:
    return core_algos.get_kl_controller(SimpleNamespace(type=kind, kl_coef=value, target_kl=0.1, horizon=100))


def test_an_adaptive_coefficient_is_restored_to_the_last_bit(tmp_path: Path) -> None:
    before = controller("adaptive", 0.1)
    before.update(current_kl=0.12, n_steps=3)
    # 0.12/0.1 - 1 = 0.2, which is the clip as well: 0.1 * (1 + 0.2 * 3 / 100) = 0.1006
    assert before.value == pytest.approx(0.1006)
    driver_state.write(tmp_path, driver_state.collect(before))
    after = controller("adaptive", 0.1)
    driver_state.restore(json.loads((tmp_path / layout.STATE).read_text()), after)
    assert after.value == before.value


def test_a_fixed_coefficient_is_what_the_configuration_says() -> None:
    saved = driver_state.collect(controller("fixed", 0.1))
    after = controller("fixed", 0.3)
    driver_state.restore(saved, after)
    assert after.value == 0.3


def test_a_coefficient_moves_only_between_adaptive_controllers() -> None:
    assert driver_state.collect(controller("fixed", 0.1))["kl_coefficient"] is None
    after = controller("fixed", 0.3)
    driver_state.restore(driver_state.collect(controller("adaptive", 0.1)), after)
    assert after.value == 0.3


def test_a_controller_turned_adaptive_later_begins_with_its_own_coefficient() -> None:
    after = controller("adaptive", 0.3)
    driver_state.restore(driver_state.collect(None), after)
    assert after.value == 0.3


class Streak:
    def __init__(self, number: int = 0) -> None:
        self.number = number

    def state_dict(self) -> dict[str, Any]:
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


def test_plugin_state_is_restored() -> None:
    run_state.register("streak", Streak(3))
    saved = json.loads(json.dumps(driver_state.collect()))
    run_state.clear()
    holder = Streak()
    run_state.register("streak", holder)
    driver_state.restore(saved)
    assert holder.number == 3


def test_a_checkpoint_without_it_has_none(tmp_path: Path) -> None:
    assert driver_state.read(tmp_path) is None


def test_one_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / layout.STATE).write_text('{"version": 2}')
    with pytest.raises(ValueError, match="has version 2, this verl_ext reads version 1"):
        driver_state.read(tmp_path)
