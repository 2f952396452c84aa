"""The node `verl_ext`: defaults where nothing is given, and every fault of it at once."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest
from omegaconf import OmegaConf

from verl_ext.config_groups import config_dir
from verl_ext.hyper import Checked, hyper, number
from verl_ext.run import settings as run_settings


@dataclass
class Kettle(Checked):
    method: ClassVar[str] = "kettle"
    where: ClassVar[str] = "verl_ext.kettle"

    limit_s: float = hyper(900.0, number(above=0))
    floor: float = hyper(0.0, number())


@pytest.fixture(autouse=True)
def only_a_kettle(monkeypatch):
    module = ModuleType("kettle_of_a_test")
    module.Kettle = Kettle
    monkeypatch.setitem(sys.modules, "kettle_of_a_test", module)
    monkeypatch.setattr(run_settings, "SECTIONS", {"kettle": "kettle_of_a_test:Kettle"})
    monkeypatch.setattr(run_settings, "SWITCHES", {"lamp": True})


def config(**node):
    return OmegaConf.create({"verl_ext": node} if node else {})


def test_a_section_that_is_not_given_has_its_defaults() -> None:
    assert run_settings.section(config(), "kettle").resolved() == {"limit_s": 900.0, "floor": 0.0}
    assert run_settings.faults(config()) == []


def test_given_keys_replace_defaults_one_by_one() -> None:
    found = run_settings.section(config(kettle={"limit_s": 5}), "kettle")
    assert found.resolved() == {"limit_s": 5.0, "floor": 0.0}


def test_every_fault_is_reported_with_its_place() -> None:
    bad = config(kettle={"limit_s": 0, "flor": 1, "floor": "deep"}, ketle={})
    found = run_settings.faults(bad)
    assert found[-1] == "verl_ext.ketle: no such section; did you mean 'kettle'?"
    assert all(fault.startswith("verl_ext.kettle: ") for fault in found[:-1])
    assert [word for word in ("'floor'?", "limit_s=0 must", "floor='deep' must") if any(word in f for f in found)] == [
        "'floor'?",
        "limit_s=0 must",
        "floor='deep' must",
    ]


@pytest.mark.parametrize(("given", "says"), [(7, "verl_ext must hold sections"), ({"kettle": 7}, "must hold keys")])
def test_what_is_no_mapping_is_refused(given, says) -> None:
    (fault,) = run_settings.faults(OmegaConf.create({"verl_ext": given}))
    assert says in fault
    assert "7" in fault


def test_an_unknown_section_far_from_any_name_lists_what_there_is() -> None:
    assert run_settings.faults(config(zzz={})) == ["verl_ext.zzz: no such section; there is: kettle, lamp, modules"]


@pytest.mark.parametrize(("given", "on"), [("on", True), ("off", False), (False, False), (True, True), (None, True)])
def test_a_switch_is_on_or_off(given, on) -> None:
    """YAML reads the words as true and false, a command line does not."""
    assert run_settings.faults(config(lamp=given)) == []
    assert run_settings.switched(config(lamp=given), "lamp") is on


def test_a_switch_that_is_neither_is_refused() -> None:
    assert run_settings.faults(config(lamp="of", lamb="on")) == [
        "verl_ext.lamp=of must be on or off",
        "verl_ext.lamb: no such section; did you mean 'lamp'?",
    ]
    assert run_settings.faults(config(lamp={"on": 1})) == ["verl_ext.lamp={'on': 1} must be on or off"]


def test_every_section_that_exists_can_be_imported_and_names_its_node(monkeypatch) -> None:
    monkeypatch.undo()
    for name in run_settings.SECTIONS:
        assert run_settings.section_class(name).where == f"verl_ext.{name}"


# --- which runs are ours


FILES = [file for group in ("algo", "backend") for file in sorted((config_dir() / group).iterdir())]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_of_our_algo_and_backend_groups_brings_the_node(file: Path) -> None:
    assert file.suffix == ".yaml"
    assert OmegaConf.load(file)["verl_ext"] == {}


OURS = {"a loss": {"loss_mode": "espo"}, "an estimator": {"adv_estimator": "erpo"}, "a key": {"verl_ext": {}}}


@pytest.mark.parametrize("chosen", [*OURS, "the node", "nothing"])
def test_what_makes_a_run_ours(chosen: str) -> None:
    given = {"loss_mode": "vanilla", "adv_estimator": "grpo", **OURS.get(chosen, {})}
    loss = {"loss_mode": given.pop("loss_mode")}
    run = {"algorithm": given, "actor_rollout_ref": {"actor": {"policy_loss": loss}}}
    node = {"verl_ext": {}} if chosen == "the node" else {}
    assert run_settings.ours(OmegaConf.create({**run, **node})) is (chosen != "nothing")
