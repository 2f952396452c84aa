"""`verl-ext conformance`: exit status, tables, machine-readable results, replay, and losses of one's own."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY

from tests.conformance.specimens import CorrectEstimator, CorrectLoss, IgnoresTheMode
from verl_ext.cli import app
from verl_ext.conformance import command, declared, registry
from verl_ext.conformance.battery import Cell, Row
from verl_ext.conformance.command import status

OWN = """
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss
from verl_ext.conformance import declare

@register_policy_loss("mine")
def mine(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    loss = -(log_prob - old_log_prob).exp() * advantages * config.policy_loss.ppo_kl_coef
    return agg_loss(loss, response_mask, loss_agg_mode, **config.global_batch_info), {}

declare("loss", "mine", options={"ppo_kl_coef": (1.0, 2.0)}, exempt={"on_policy[ppo_kl_coef=2.0]": "twice as much"})
"""


@pytest.fixture(autouse=True)
def specimens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(POLICY_LOSS_REGISTRY, "correct", CorrectLoss())
    monkeypatch.setitem(POLICY_LOSS_REGISTRY, "ignores_the_mode", IgnoresTheMode())
    monkeypatch.setitem(ADV_ESTIMATOR_REGISTRY, "correct", CorrectEstimator())


def invoke(*arguments: str) -> Any:
    # Wide enough for any message: a narrow terminal breaks paths in the middle of a word.
    return CliRunner(env={"COLUMNS": "1000"}).invoke(app, ["conformance", "--examples", "5", *arguments])


def test_a_sound_loss_and_estimator() -> None:
    result = invoke("correct")
    assert result.exit_code == 0, result.output
    assert "Policy losses" in result.output
    assert "Advantage estimators" in result.output
    assert "FAIL" not in result.output
    assert not Path("outputs/conformance").exists()


def test_a_failing_cell_is_shown_saved_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("ignores_the_mode", "--property", "aggregation", "--property", "sign")
    assert result.exit_code == 1
    assert "FAIL ignores_the_mode, aggregation: wrong under an option" in result.output
    assert "option: wrong under an option: another aggregation" in result.output  # the table's legend
    assert "loss_agg_mode=" in result.output
    assert "log_prob " in result.output
    line = next(line for line in result.output.splitlines() if "replay: verl-ext conformance" in line)
    arguments = line.partition("conformance ")[2].split()
    assert arguments[:3] == ["ignores_the_mode", "--property", "aggregation"]

    again = invoke(*arguments)
    assert again.exit_code == 1
    assert "ignores_the_mode, aggregation: FAIL" in again.output
    message = json.loads(Path(arguments[-1]).read_text())["message"]
    assert message in again.output

    monkeypatch.setitem(POLICY_LOSS_REGISTRY, "ignores_the_mode", CorrectLoss())
    mended = invoke(*arguments)
    assert mended.exit_code == 0
    assert "does not fail any more" in mended.output


def test_a_replay_asks_for_what_the_file_holds(tmp_path: Path) -> None:
    invoke("ignores_the_mode", "--property", "aggregation")
    path = "outputs/conformance/loss.ignores_the_mode.aggregation.json"
    wrong = invoke("correct", "--property", "sign", "--replay", path)
    assert wrong.exit_code == 2
    assert "holds a case of ignores_the_mode" in " ".join(wrong.output.replace("│", "").split())
    assert json.loads(invoke("--json", "--replay", path).output)["status"] == "fail"
    (tmp_path / "other.json").write_text("{}")
    assert invoke("--replay", "other.json").exit_code == 2
    assert invoke("--replay", "absent.json").exit_code == 2


def test_json() -> None:
    result = invoke("ignores_the_mode", "grpo", "--property", "aggregation", "--property", "finite", "--json")
    assert result.exit_code == 1
    data = json.loads(result.output)
    assert data["versions"].keys() == {"verl", "torch", "verl-ext"}
    assert (data["seed"], data["examples"]) == (0, 5)
    assert data["losses"]["properties"].keys() == set(registry.KINDS["loss"].columns)
    (method,) = data["losses"]["methods"]
    assert (method["name"], method["origin"], method["skipped"]) == (
        "ignores_the_mode",
        "tests.conformance.specimens",
        None,
    )
    cell = method["cells"]["aggregation"]
    assert cell.keys() == {"status", "left_out", "grade", "message", "case", "given", "file", "replay"}
    assert (cell["status"], cell["grade"]) == ("fail", "wrong under an option")
    assert Path(cell["file"]).is_file()
    assert cell["case"]["batch"].keys() >= {"old_log_prob", "log_prob", "advantages", "response_mask"}
    assert data["estimators"]["methods"][0]["cells"] == {"finite": {"status": "ok", "left_out": {}}}


def test_markdown() -> None:
    output = invoke(
        "ignores_the_mode", "geo_mean", "--property", "aggregation", "--property", "sign", "--markdown"
    ).output
    assert "| | `sign` | `aggregation` |" in output
    assert r"| `geo_mean` (verl) | ok\* | option |" in output
    assert "- geo_mean, sign (advantages=token): written for one advantage a row" in output
    # Of geo_mean: the case is the one that the text is about.
    assert "- `aggregation` (wrong under an option): loss_agg_mode=token-mean, dp_size doubled: " in output
    assert ". Case: `loss_agg_mode=token-mean, dp_size=2, batch_num_tokens=7, " in output


@pytest.mark.parametrize("imported", ["own_file.py", "own_module"])
def test_a_loss_of_ones_own(imported: str, tmp_path: Path) -> None:
    stem = imported.removesuffix(".py")
    (tmp_path / f"{stem}.py").write_text(OWN)
    result = invoke("mine", "--import", imported, "--property", "on_policy", "--property", "rollout_weights", "--json")
    assert result.exit_code == 1, result.output
    (method,) = json.loads(result.output)["losses"]["methods"]
    assert method["origin"] == stem
    on_policy, weights = method["cells"]["on_policy"], method["cells"]["rollout_weights"]
    assert on_policy == {"status": "ok", "left_out": {"ppo_kl_coef=2.0": "twice as much"}}
    assert weights["message"].startswith("rollout_is_weights of 2: the loss is ")
    assert json.loads(Path(weights["file"]).read_text())["import"] == [imported]
    assert invoke("--replay", weights["file"]).exit_code == 1


@pytest.mark.parametrize("imported", ["own_file.py", "own_module"])
def test_an_import_ends_with_the_command(imported: str, tmp_path: Path) -> None:
    def state() -> tuple[list[str], set[str], list[str], object]:
        # What the command itself loads late, by chance of the order of tests, is not meant.
        here = {name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))}
        return list(sys.path), here, list(POLICY_LOSS_REGISTRY), declared.declaration_of("loss", "mine")

    stem = imported.removesuffix(".py")
    (tmp_path / f"{stem}.py").write_text("import beside_it\n" + OWN)
    (tmp_path / "beside_it.py").write_text("")
    invoke("correct", "--property", "sign")  # loads what every call loads
    before = state()
    result = invoke("mine", "--import", imported, "--property", "sign")
    assert result.exit_code == 0, result.output
    assert state() == before
    broken = tmp_path / f"{stem}.py"
    broken.write_text(OWN + "raise ValueError('half')\n")
    assert invoke("mine", "--import", imported).exit_code == 2
    assert state() == before


def test_a_replay_has_the_options_of_the_case(tmp_path: Path) -> None:
    (tmp_path / "own_options.py").write_text(OWN.partition(", exempt=")[0] + ")")
    first = invoke("mine", "--import", "own_options.py", "--property", "on_policy", "--examples", "40")
    assert "FAIL mine, on_policy: wrong under an option" in first.output
    path = "outputs/conformance/loss.mine.on_policy.json"
    assert json.loads(Path(path).read_text())["case"]["variant"] == {"ppo_kl_coef": 2.0}
    result = invoke("--replay", path)
    assert result.exit_code == 1
    assert "ppo_kl_coef=2.0" in result.output


MAXIMUM = """
import torch
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss
from verl_ext.conformance import bounded, declare

@register_policy_loss("mine")
def mine(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None):
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1 - config.clip_ratio_low, 1 + config.clip_ratio_high)
    loss = -torch.maximum(ratio * advantages, clipped * advantages)
    return agg_loss(loss, response_mask, loss_agg_mode, **config.global_batch_info), {}
"""
FORM = 'declare("loss", "mine", clip=lambda batch, actor, options: bounded(batch, 0.8, 1.28))'


@pytest.mark.parametrize(("declared", "options"), [("", ["--clip", "ppo"]), (FORM, [])])
def test_the_maximum_in_place_of_the_minimum_is_found(declared: str, options: list[str], tmp_path: Path) -> None:
    (tmp_path / "maximum.py").write_text(MAXIMUM + declared)
    columns = ["--property", "off_policy", "--property", "clipping"]
    result = invoke("mine", "--import", "maximum.py", *columns, *options, "--json")
    assert result.exit_code == 1
    cells = json.loads(result.output)["losses"]["methods"][0]["cells"]
    assert cells["off_policy"]["status"] == "ok"
    assert (cells["clipping"]["status"], cells["clipping"]["grade"]) == ("fail", "breaks training")
    again = invoke("--replay", cells["clipping"]["file"])
    assert again.exit_code == 1
    assert "beyond a bound: the loss is " in again.output


def test_without_a_clip_form_the_columns_do_not_apply(tmp_path: Path) -> None:
    (tmp_path / "maximum.py").write_text(MAXIMUM)
    result = invoke("mine", "--import", "maximum.py", "--property", "off_policy", "--property", "clipping")
    assert result.exit_code == 0
    assert "mine, off_policy, clipping: no clip form is declared" in result.output


def test_a_file_does_not_take_the_place_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(OWN)
    result = invoke("mine", "--import", "json.py")
    assert result.exit_code == 2
    assert "module named json is already loaded" in " ".join(result.output.replace("│", "").split())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["corect"], "'corect' is not in verl's registry; did you mean 'correct'?"),
        (["correct", "--kind", "lossy"], "--kind lossy is not one of losses, estimators, all"),
        (["correct", "--property", "sing"], "no property 'sing'; there are micro_batches"),
        (["correct", "--import", "absent.py"], "absent.py: no such file"),
        (["correct", "--clip", "pop"], "no clip form 'pop'; there are ppo, dual_ppo, "),
        (["--clip", "ppo"], "--clip is for the losses that you name"),
        (["vanilla", "--clip", "ppo"], "'vanilla' declares its own clip form; leave --clip out"),
    ],
)
def test_what_is_not_there_is_named(arguments: list[str], text: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert text in " ".join(result.output.replace("│", "").split())


class Subject:
    def __init__(self, origin: str, kind: str = "loss") -> None:
        self.origin, self.kind = origin, kind


FAIL, OK = {"sign": Cell("fail")}, {"sign": Cell("ok"), "padding": Cell("n/a")}


@pytest.mark.parametrize(
    ("origin", "cells", "named", "wanted"),
    [
        ("verl_ext", OK, [], 0),
        ("verl_ext", FAIL, [], 1),
        ("verl_ext", {}, [], 1),  # cannot be tested
        ("verl", FAIL, [], 0),
        ("verl", FAIL, ["it"], 1),
        ("verl", OK, ["it"], 0),
    ],
)
def test_exit_status(origin: str, cells: dict[str, Cell], named: list[str], wanted: int) -> None:
    assert status({"loss": [Row(Subject(origin), cells)]}, named) == wanted


def test_a_narrow_terminal_gets_the_table_in_blocks() -> None:
    from rich.console import Console

    console = Console(width=60, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    command.run(command.Request(names=["correct"], kind="losses", examples=1), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 60
    assert sum(line.strip() == "verl_ext" or "correct" in line for line in lines) >= 2


def test_the_page_states_what_the_columns_state(pytestconfig: pytest.Config) -> None:
    page = (pytestconfig.rootpath / "docs/conformance.md").read_text()
    for kind in registry.KINDS.values():
        missing = [key for key, prop in kind.columns.items() if f"| `{key}` | {prop.statement} |" not in page]
        assert not missing
