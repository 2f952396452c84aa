"""A plugin that cannot be loaded is loud, although verl hides its plugins' exceptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bridge.configurations import RUNNABLE, compose
from tests.platform import programs
from verl_ext.bridge.failure import asks_for_us

LOSS = "actor_rollout_ref.actor.policy_loss"
BREAK = """
import importlib.abc, sys

class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "verl_ext.bridge.install":
            raise ImportError("planted: libmissing.so.3 cannot be opened")

sys.meta_path.insert(0, Broken())
"""


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """Environment in which the plugin's own module fails to import, as with a missing dependency."""
    (tmp_path / "sitecustomize.py").write_text(BREAK)
    return {"PYTHONPATH": str(tmp_path), "RAY_TMPDIR": str(tmp_path)}


def test_only_a_configuration_with_something_of_ours_asks_for_us() -> None:
    assert not asks_for_us(compose())
    assert not asks_for_us(compose(f"{LOSS}.loss_mode=gspo"))
    assert asks_for_us(compose(f"{LOSS}.loss_mode=not-in-verl"))
    assert asks_for_us(compose("algorithm.adv_estimator=not-in-verl"))
    assert asks_for_us(compose(f"{LOSS}._target_=verl_ext.config.ESPOLossConfig"))


PROGRAM = """
import json, sys
import verl
from hydra import compose, initialize_config_dir
from pathlib import Path
from verl.trainer.main_ppo import validate_config

def outcome(*overrides):
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        config = compose("ppo_trainer", overrides=[*overrides, *sys.argv[1:]])
    try:
        validate_config(config=config, use_reference_policy=False, use_critic=False)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "valid"

loss = "actor_rollout_ref.actor.policy_loss"
print("RESULT " + json.dumps({
    "stock": outcome(),
    "loss": outcome(loss + ".loss_mode=espo"),
    "estimator": outcome("algorithm.adv_estimator=espo"),
    "target": outcome(loss + ".loss_mode=espo", loss + "._target_=verl_ext.config.ESPOLossConfig"),
    "target_only": outcome(loss + "._target_=verl_ext.config.ESPOLossConfig"),
}))
"""


def test_a_broken_plugin_warns_at_import_and_refuses_what_needs_it(broken: dict[str, str]) -> None:
    finished = programs.run("-c", PROGRAM, *RUNNABLE, **broken)
    cause = "ImportError: planted: libmissing.so.3 cannot be opened"
    assert f"verl_ext: the plugin failed to load and none of its methods is available: {cause}" in finished.output
    result = finished.result()
    assert result.pop("stock") == "valid"  # verl itself stays usable
    assert set(result) == {"loss", "estimator", "target", "target_only"}
    for name, outcome in result.items():
        assert outcome.startswith("RuntimeError: verl_ext: the configuration needs this plugin"), (
            name,
            outcome,
        )
        assert cause in outcome, name


@pytest.mark.ray
def test_the_stock_entry_point_ends_with_the_cause(broken: dict[str, str], tmp_path: Path) -> None:
    arguments = ["-m", "verl.trainer.main_ppo", f"{LOSS}.loss_mode=espo", *RUNNABLE]
    finished = programs.run(*arguments, f"hydra.run.dir={tmp_path}/hydra", cwd=tmp_path, **broken)
    assert finished.returncode != 0
    assert "the configuration needs this plugin, which failed to load" in finished.output
    assert "planted: libmissing.so.3" in finished.output
    assert "Started a local Ray instance" not in finished.output
