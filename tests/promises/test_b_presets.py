"""B: a preset that does not run is an error of verl's own entry point, before Ray starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from verl.trainer import main_ppo

from tests.bridge.configurations import entry_point, refused
from tests.presets.other_values import ESTIMATOR, LOSS, OTHER_VALUES
from verl_ext.composing.errors import ConfigError
from verl_ext.config_groups import config_dir
from verl_ext.recipe_files.schema import literal


@pytest.fixture(autouse=True)
def _ray_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main_ppo, "run_ppo", lambda *_, **__: pytest.fail("the run would start"))


def lines(*overrides: str) -> list[str]:
    """The faults that verl's `main` ends with."""
    with entry_point(*overrides) as config, pytest.raises(ConfigError) as caught:
        main_ppo.main(config)
    return str(caught.value).splitlines()[1:]


def test_no_preset_is_left_out() -> None:
    assert {file.stem for file in (config_dir() / "algo").glob("*.yaml")} == {*OTHER_VALUES}


@pytest.mark.parametrize("preset", OTHER_VALUES)
def test_every_preset_with_every_key_of_its_identity_changed(preset: str) -> None:
    changes = [f"{key}={literal(value)}" for key, value in OTHER_VALUES[preset].items()]
    found = lines("+backend=cpu", f"+algo={preset}", *changes)
    (fault,) = [line for line in found if line.startswith(f"  - algo={preset} would not run: ")]
    for change in changes:
        assert f"{change} where the preset has " in fault
        assert f"drop {change} from the command line" in fault
        assert sum(f"{change.split('=')[0]}=" in line for line in found) == 1, "one fault, one line"


def test_another_preset_is_named_where_it_is_what_would_run() -> None:
    found = lines("+backend=cpu", "+algo=espo", f"{ESTIMATOR}=grpo")
    (fault,) = [line for line in found if "would not run" in line]
    assert fault.endswith("; or choose algo=espo_loss")


def test_the_preset_of_a_row() -> None:
    found = lines("+experiment=demo/table1/espo", f"{LOSS}=vanilla", "actor_rollout_ref.rollout.n=8")
    assert any(line.startswith("  - algo=espo of experiment=demo/table1/espo would not run: ") for line in found)


def test_a_preset_beside_a_command_that_spells_its_estimator_out(tmp_path: Path) -> None:
    """In a process of its own, as a user types it."""
    said = refused(tmp_path, "+backend=cpu", "+algo=erpo", f"{ESTIMATOR}=grpo")
    assert f"algo=erpo would not run: {ESTIMATOR}=grpo where the preset has erpo" in said
    assert f"drop {ESTIMATOR}=grpo from the command line; or choose algo=grpo" in said
