"""What is published is whole: wheel and sdist of a clean copy, the wheel installed outside of the repository."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.docker.dockerfiles import project
from tests.release import archives
from tests.release.archives import ROOT, Built, Environment

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
LISTED = """
import json
from importlib.metadata import entry_points
found = {group: [f"{point.name} = {point.value} of {point.dist.locate_file('')}" for point in entry_points(group=group)
                 if point.name == "verl_ext"] for group in ("verl.plugins", "vllm.general_plugins")}
for points in (entry_points(group=group) for group in found):
    for point in points:
        if point.name == "verl_ext":
            point.load()
import verl_ext
print("RESULT " + json.dumps({**found, "version": verl_ext.__version__, "file": verl_ext.__file__}))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return archives.build(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def environment(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return archives.install(built.wheel, tmp_path_factory.mktemp("installed"))


def result(output: str) -> dict[str, object]:
    (line,) = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


def sources(tree: Path) -> Iterator[tuple[str, Path]]:
    """Name in the wheel and file, for everything that belongs in it."""
    for folder, package in (("verl_ext", "verl_ext"), ("configs", "verl_ext/configs"), ("recipes", "verl_ext/recipes")):
        for path in sorted((tree / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(tree / folder).as_posix()}", path


def test_the_wheel_holds_every_file_of_the_package_and_no_other(built: Built) -> None:
    """Modules, configurations, recipes, templates of reports and projects, sizes of models: byte for byte."""
    expected = {name: path.read_bytes() for name, path in sources(built.tree)}
    held = {name: data for name, data in built.files.items() if ".dist-info/" not in name}
    assert sorted(expected.keys() - held.keys()) == [], "package_data of setup.py does not name them"
    assert sorted(held.keys() - expected.keys()) == []
    assert [name for name in expected if expected[name] != held[name]] == []


def test_the_sdist_makes_the_same_wheel(built: Built) -> None:
    again = archives.contents(built.wheel_of_sdist)
    assert {name: data for name, data in again.items() if not name.endswith("/RECORD")} == {
        name: data for name, data in built.files.items() if not name.endswith("/RECORD")
    }


def test_every_place_tells_the_same_version(built: Built) -> None:
    version = project("version")
    assert re.search(r"(?m)^Version: (.*)$", built.metadata)[1] == version  # type: ignore[index]
    assert built.wheel.name.startswith(f"verl_ext-{version}-")
    assert built.sdist.name == f"verl_ext-{version}.tar.gz"
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == version
    headings = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text())
    assert headings[1:2] in ([], [version])  # before the first release there is only what comes


def test_the_licence_and_the_dependencies_are_told(built: Built) -> None:
    assert any(name.endswith("/licenses/LICENSE") for name in built.files)
    assert "License-Expression: Apache-2.0" in built.metadata
    required = set(re.findall(r"(?m)^Requires-Dist: ([\w-]+)[^;\n]*$", built.metadata))
    assert {"hydra-core", "omegaconf", "wrapt", "typer"} <= required
    assert not {"torch", "verl", "vllm"} & required  # two stacks, with different builds of each


def test_the_entry_points_are_those_of_the_wheel(environment: Environment) -> None:
    """One of each, loadable, and our own installation, which is editable, plays no part."""
    found = result(environment.run(environment.python, "-c", LISTED))
    home = str(environment.folder)
    for group, value in (
        ("verl.plugins", "verl_ext.bridge.entry"),
        ("vllm.general_plugins", "verl_ext.vllm_plugin:install"),
    ):
        (point,) = found[group]  # type: ignore[misc]
        assert point.startswith(f"verl_ext = {value} of {home}")  # type: ignore[has-type]
    assert str(found["file"]).startswith(home)
    assert found["version"] == project("version")


def test_doctor_finds_the_plugin_registered(environment: Environment) -> None:
    said = environment.run(environment.command, "doctor")
    assert re.search(r"ok +policy losses +.*espo, sspo", said), said
    assert re.search(r"ok +advantage estimators +.*espo, erpo", said), said


def test_every_choice_of_every_config_group_composes(environment: Environment) -> None:
    found = result(environment.run(environment.python, HERE / "composes.py"))
    assert str(found["file"]).startswith(str(environment.folder))
    assert found["faults"] == []
    assert found["tried"] >= 21  # the methods alone


def test_a_dry_run_and_the_tables_work_from_any_folder(environment: Environment) -> None:
    said = environment.run(environment.command, "train", "experiment=sspo/table1/sspo_1_5b", "--dry-run")
    assert "sspo" in said
    listed = environment.run(environment.command, "tables", "list")
    for paper in ("espo", "sspo", "tepo", "erpo", "demo"):
        assert paper in listed


def test_verls_own_program_finds_our_groups(environment: Environment) -> None:
    """Hydra's search path, by verl's entry point for plugins alone."""
    said = environment.run(environment.python, "-m", "verl.trainer.main_ppo", "--cfg", "job", "+algo=espo")
    assert yaml.safe_load(said)["actor_rollout_ref"]["actor"]["policy_loss"]["loss_mode"] == "espo"
