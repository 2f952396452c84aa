"""Methods of other packages: named in the configuration, loaded in every process, checked like ours."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bridge.configurations import compose
from verl_ext import modules, plugin
from verl_ext.checks.collecting import own_findings

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "my_loss" / "my_loss.py"
PAGE = EXAMPLE.parents[2] / "docs" / "write-a-loss.md"
LOSS = (
    "+backend=cpu",
    "actor_rollout_ref.actor.policy_loss.loss_mode=outside",
    "actor_rollout_ref.actor.policy_loss._target_=outside.MyLossConfig",
    "+verl_ext.modules=[outside]",
)
BYPASS = "algorithm.rollout_correction.bypass_mode=true"
NO_ENTROPIES = "actor_rollout_ref.rollout.top_p=0.9"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The example under another name, in a folder of its own; nothing of it is left behind."""
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    text = EXAMPLE.read_text(encoding="utf-8")
    file = tmp_path / "outside.py"
    file.write_text(text.replace('"my_loss"', '"outside"'), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(modules.VARIABLE, "")
    yield file
    plugin.POLICY_LOSSES.pop("outside", None)
    POLICY_LOSS_REGISTRY.pop("outside", None)
    sys.modules.pop("outside", None)


def found(*overrides: str) -> list[str]:
    return own_findings(compose(*LOSS, *overrides), start=False).faults


def test_a_method_from_outside_is_checked_like_ours(module: Path) -> None:
    assert found() == []
    assert plugin.POLICY_LOSSES["outside"].name == "outside"
    (fault,) = found("+actor_rollout_ref.actor.policy_loss.kappa=-1")
    assert "kappa" in fault
    assert "-1" in fault


def test_the_driver_names_token_data_that_nothing_provides(module: Path) -> None:
    faults = found(BYPASS, NO_ENTROPIES)
    assert any("outside (loss) needs" in fault and "top_p=0.9" in fault for fault in faults), faults


def test_bypass_mode_has_the_rollout_make_its_entropies(module: Path) -> None:
    from verl_ext.rollout import source

    config = compose(*LOSS, BYPASS)
    assert not source.resolve(config).tap, "nothing of ours is named before the module is loaded"
    assert modules.faults(config) == []
    assert source.resolve(config) == source.EntropySource("rollout", True, ())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            'reads=("old_entropy",)',
            'reads=("old_entropies",)',
            "TokenContext has no field 'old_entropies'; did you mean 'old_entropy'?",
        ),
        ("    old_entropy=None,", "    old_entropies=None,", "my_loss() has no parameter 'old_entropy'"),
        ("    kappa: Annotated", "    k: Annotated", "KeyError: 'kappa'"),
        ("    batch, rollout", "    everything, rollout", "my_loss() has no parameter 'batch'"),
        ("aggregations=common.AGGREGATIONS,", "", "`aggregations` is empty"),
        ('reads=("old_entropy",)', 'reads=("old_entropy", "segment_ids")', "segment_ids is computed on the controller"),
        ('reads=("old_entropy",)', 'reads=("old_entropy",), prepares="group_ids"', "`prepare` to a function"),
        ("config=MyLossConfig", "config=dict", "builtins.dict is no verl_ext.hyper.Checked"),
    ],
)
def test_an_entry_that_does_not_fit_its_function_is_refused(module: Path, old: str, new: str, says: str) -> None:
    text = module.read_text()
    assert text.count(old) == 1
    module.write_text(text.replace(old, new))
    (fault,) = [fault for fault in found() if fault.startswith("verl_ext.modules")]
    assert says in fault


def test_a_module_that_is_not_there_is_a_fault_with_the_remedy() -> None:
    config = compose("+backend=cpu", "+verl_ext.modules=[no_such_module,neither.this]")
    (fault,) = modules.faults(config)
    assert "no_such_module cannot be imported (ModuleNotFoundError" in fault
    assert "neither.this cannot be imported" in fault
    assert "PYTHONPATH" in fault


def test_a_folder_without_a_file_adds_nothing_and_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    (fault,) = modules.faults(compose("+backend=cpu", "+verl_ext.modules=[bare_folder]"))
    assert "bare_folder is a folder without a file of its own" in fault


def test_the_working_directory_is_searched_as_rays_workers_search_it(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = [path for path in sys.path if path not in ("", str(module.parent))]
    monkeypatch.setattr(sys, "path", elsewhere)
    with pytest.raises(modules.ModuleError, match="outside cannot be imported"):
        modules.load(["outside"])
    monkeypatch.chdir(module.parent)
    modules.load(["outside"])
    assert plugin.POLICY_LOSSES["outside"].name == "outside"


def test_a_process_without_such_modules_searches_where_it_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(modules.VARIABLE, "")
    monkeypatch.setattr(modules, "installed", list)
    before = list(sys.path)
    modules.load_named()
    assert sys.path == before


def test_a_node_that_is_no_mapping_is_left_to_the_check_of_the_node() -> None:
    assert modules.faults({"verl_ext": 3}) == []


@pytest.mark.parametrize("given", ["my_loss", "[1]", "3"])
def test_modules_are_a_list_of_names(given: str) -> None:
    (fault,) = modules.faults(compose("+backend=cpu", f"+verl_ext.modules={given}"))
    assert "a list of module names is wanted" in fault


def test_the_driver_hands_the_names_on_beside_the_jobs_own_variables(module: Path) -> None:
    config = compose(*LOSS, f"+{modules.ENVIRONMENT}.MINE=one")
    assert modules.faults(config) == []
    modules.hand_on(config)
    (digest,) = modules.digests(["outside"]).values()
    variables = modules.environment_of(config)
    assert variables["MINE"] == "one"
    assert variables[modules.VARIABLE] == f"outside@{digest}"
    assert os.environ[modules.VARIABLE] == variables[modules.VARIABLE]
    assert modules.faults(config) == [], "checked again, it is no clash with itself"


def test_preflight_asks_the_nodes_with_the_modules(module: Path) -> None:
    from verl_ext.cluster.preflight.configured import _wanted
    from verl_ext.train import compose as compose_ours

    arguments = [argument.removeprefix("+") if "backend" in argument else argument for argument in LOSS]
    need = _wanted(compose_ours(arguments))
    assert "outside" in need.losses
    assert need.runtime_env["env_vars"][modules.VARIABLE].startswith("outside@")


def test_a_job_that_hands_on_other_modules_is_a_clash(module: Path) -> None:
    config = compose(*LOSS, f"+{modules.ENVIRONMENT}.{modules.VARIABLE}=other")
    (fault,) = modules.faults(config)
    assert f"{modules.VARIABLE}=other names other modules" in fault
    assert modules.faults(compose(*LOSS, f"+{modules.ENVIRONMENT}.{modules.VARIABLE}=outside")) == []


def test_a_process_with_another_file_than_the_drivers_stops_and_says_both(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules.load(["outside"])
    (own,) = modules.digests(["outside"]).values()
    monkeypatch.setenv(modules.VARIABLE, f"outside@{own}")
    modules.load_named()
    monkeypatch.setenv(modules.VARIABLE, "outside@0000000000000000")
    with pytest.raises(modules.ModuleError, match=rf"outside is {own} here \(.*\) and 0000000000000000 in the driver"):
        modules.load_named()


def test_what_the_workers_ran_holds_the_digest(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils.config import omega_conf_to_dataclass

    from verl_ext.bridge import execution

    config = compose(*LOSS)
    assert modules.faults(config) == []
    modules.hand_on(config)
    monkeypatch.setenv(modules.VARIABLE, os.environ[modules.VARIABLE])
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    before = execution.identity(actor)
    assert before["modules"] == modules.digests(["outside"])
    assert before["hyper_parameters"]["kappa"] == 0.5
    module.write_text(module.read_text() + "# changed\n")
    assert execution.checksum(execution.identity(actor)) != execution.checksum(before)


def test_what_the_workers_ran_holds_the_digest_of_an_installed_packages_loss(module: Path) -> None:
    from verl.utils.config import omega_conf_to_dataclass

    from verl_ext.bridge import execution

    modules.load(["outside"])  # as an entry point does, in no variable
    actor = omega_conf_to_dataclass(compose(*LOSS).actor_rollout_ref.actor)
    assert execution.identity(actor)["modules"] == modules.digests(["outside"])


def test_losses_shows_those_of_installed_packages_and_refuses_what_cannot_be_imported(
    module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_ext import catalogue

    monkeypatch.setattr(modules, "installed", lambda: ["outside"])
    modules.load_named()
    (row,) = catalogue.choose(["outside"])["losses"]
    assert row["needs"] == ["old_entropy"]
    with pytest.raises(ValueError, match="no_such_module cannot be imported"):
        catalogue.choose(["outside"], ["no_such_module"])


def test_it_is_replayed_with_hyper_parameters_of_its_own(module: Path) -> None:
    from verl_ext.replay.subjects import build

    modules.load(["outside"])
    plain, wide = build(["outside", "wide=outside"], ["wide:kappa=2"])
    assert (plain.hyper["kappa"], wide.hyper["kappa"]) == (0.5, 2)


def test_a_name_that_is_taken_is_refused_and_the_same_entry_is_not(module: Path) -> None:
    modules.load(["outside"])
    entry = plugin.POLICY_LOSSES["outside"]
    plugin.add(entry)
    with pytest.raises(ValueError, match="choose another name"):
        plugin.add(replace(entry, name="espo"))
    with pytest.raises(ValueError, match="another plugin"):
        plugin.add(replace(entry, name="vanilla"))
    assert "vanilla" not in plugin.POLICY_LOSSES


def test_conformance_passes_the_loss_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_ext.conformance.command import Request, console, run

    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "of_the_page.py").write_text("\n".join(blocks).replace('"my_loss"', '"of_the_page"'), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    request = Request(["of_the_page"], imports=["of_the_page"], folder=tmp_path / "failures", examples=5)
    assert run(request, console()) == 0


def test_conformance_passes_the_example_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl_ext.conformance.command import Request, console, run

    shutil.copytree(EXAMPLE.parent, tmp_path / "package")
    monkeypatch.chdir(tmp_path / "package")
    assert run(Request(["my_loss"], imports=["my_loss"], folder=tmp_path / "failures", examples=5), console()) == 0
    assert "my_loss" not in plugin.POLICY_LOSSES


def test_losses_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from typer.testing import CliRunner

    from verl_ext.cli import app

    monkeypatch.chdir(EXAMPLE.parent)
    done = CliRunner().invoke(app, ["losses", "my_loss", "--import", "my_loss", "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.output)["losses"]
    assert (row["reads"], row["config"]) == (["old_entropy"], "my_loss.MyLossConfig")
    assert row["hyper_parameters"]["kappa"]["default"] == 0.5
