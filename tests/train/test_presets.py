"""Which preset a command chose, by verl's entry point and by `verl-ext train`, and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

from tests.bridge.configurations import entry_point
from tests.presets.other_values import ACTOR, AGGREGATION, ESTIMATOR, LOSS
from verl_ext.checks import methods
from verl_ext.composing.preset import Preset, of_this_process
from verl_ext.train import Composed, check, compose
from verl_ext.train.summary import summary

ROW = "sample/table1/sspo_1_5b"
KL = f"{ACTOR}.use_kl_loss"


def chosen(composed: Composed) -> Preset:
    assert composed.preset is not None
    return composed.preset


def broken(*arguments: str) -> list[str]:
    composed = compose(arguments)
    return [*chosen(composed).broken(composed.config)]


def test_by_train_and_by_verls_entry_point_it_is_the_same(sample_paper: Path) -> None:
    found = chosen(compose([f"experiment={ROW}", "trainer.save_freq=7"]))
    assert (found.name, found.chosen_by) == ("sspo", f"experiment={ROW}")
    with entry_point(f"+experiment={ROW}", "trainer.save_freq=7"):
        stock = of_this_process()
    assert stock is not None
    assert (stock.name, stock.chosen_by) == (found.name, found.chosen_by)
    for reference in (stock.reference, found.reference):
        assert reference.actor_rollout_ref.actor.policy_loss.beta == 0.7
        assert reference.trainer.save_freq == 10  # the experiment says so


def test_without_a_preset_there_is_nothing_to_compare() -> None:
    spelt_out = compose(["experiment=sspo", f"{ESTIMATOR}=grpo", f"{LOSS}=gspo"])
    assert spelt_out.preset is None
    assert methods.faults(spelt_out.config, None) == methods.faults(spelt_out.config)
    assert not HydraConfig.initialized()
    assert of_this_process() is None


def test_a_group_of_that_name_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "mine.yaml").write_text("# @package _global_\nalgorithm: {adv_estimator: rloo}\n")
    with entry_point(f"hydra.searchpath=[{tmp_path}]", "+algo=mine", f"{ESTIMATOR}=grpo"):
        assert of_this_process() is None


def row(paper: Path, overrides: str) -> None:
    """Give the row a further override of its own."""
    file = paper / "sample" / "tables" / "table1.yaml"
    file.write_text(file.read_text().replace("    overrides:\n", f"    overrides:\n      {overrides}\n", 1))


def test_what_a_row_says_is_part_of_it_and_what_comes_after_is_not(sample_paper: Path) -> None:
    row(sample_paper, f"{ESTIMATOR}: rloo")
    assert broken(f"experiment={ROW}") == []
    assert broken(f"experiment={ROW}", "algo=sspo") == []
    assert broken(f"experiment={ROW}", f"{ESTIMATOR}=grpo") == [ESTIMATOR]


def test_a_row_that_overrides_what_another_preset_is_cannot_be_combined_with_it(sample_paper: Path) -> None:
    row(sample_paper, f"{ESTIMATOR}: rloo")
    composed = compose([f"experiment={ROW}", "algo=gspo"])
    (fault,) = [fault for fault in check(composed.config, composed.preset) if "would not run" in fault]
    assert fault.startswith(f"algo=gspo would not run: {ESTIMATOR}=rloo where the preset has grpo: ")
    remedy = f"add {ESTIMATOR}=grpo to the command line"
    assert remedy in fault
    assert broken(f"experiment={ROW}", "algo=gspo", f"{ESTIMATOR}=grpo") == []


def test_another_preset_in_the_place_of_a_rows(sample_paper: Path) -> None:
    composed = compose([f"experiment={ROW}", "algo=gspo"])
    assert chosen(composed).chosen_by == "algo=gspo"
    assert broken(f"experiment={ROW}", "algo=gspo") == []


def test_the_settings_of_a_paper_that_take_a_presets_switch_away() -> None:
    composed = compose(["experiment=sspo", "algo=erpo", "backend=fsdp"])
    said = [fault for fault in check(composed.config, composed.preset) if KL in fault]
    assert len(said) == 1, "told once, by the preset"
    assert said[0].startswith(f"algo=erpo would not run: {KL}=false where the preset has true: ")
    assert f"add {KL}=true to the command line" in said[0]
    assert broken("experiment=sspo", "algo=erpo", f"{KL}=true") == []


def test_a_file_of_a_project_that_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "project").mkdir(parents=True)
    file = tmp_path / "configs" / "project" / "mine.yaml"
    file.write_text("# @package _global_\nalgorithm: {adv_estimator: grpo}\ntrainer: {experiment_name: mine}\n")
    project = ["hydra.searchpath=[configs]", "+project=mine"]
    assert broken(*project, "algo=grpo") == []
    assert broken(*project, "algo=gtpo") == [ESTIMATOR]
    with entry_point(*project[:1], "+algo=gtpo", *project[1:]) as config:
        (fault,) = [fault for fault in methods.faults(config, of_this_process()) if "would not run" in fault]
    assert f"add {ESTIMATOR}=gtpo to the command line" in fault


def test_a_whole_node_on_the_command_line_is_what_has_to_be_dropped() -> None:
    node = "algorithm={adv_estimator:grpo}"
    composed = compose(["algo=erpo", node])
    preset = chosen(composed)
    assert f"drop {node} from the command line" in preset.fault(composed.config, preset.broken(composed.config))


def test_what_was_changed_is_in_the_summary_and_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import verl.utils.config

    from verl_ext.bridge import probe

    monkeypatch.setattr(probe, "arrange", lambda config: None)
    changes = [f"{AGGREGATION}=token-mean", "+actor_rollout_ref.actor.policy_loss.gamma=2.2"]
    told = f"{AGGREGATION}=token-mean (seq-mean-token-mean), actor_rollout_ref.actor.policy_loss.gamma=2.2 (1.75)"
    lines = summary(compose(["backend=cpu", "algo=sspo", *changes]))
    assert f"changed   {told}; in brackets what the preset has" in lines
    assert not any(line.startswith("changed") for line in summary(compose(["backend=cpu", "algo=sspo"])))
    (tmp_path / "rows.jsonl").touch()
    here = [f"data.{key}={tmp_path}/rows.jsonl" for key in ("train_files", "val_files")]
    here += [f"actor_rollout_ref.model.path={tmp_path}", "+verl_ext.reward_probe=off"]
    with entry_point("+backend=cpu", "+algo=sspo", *changes, *here) as config:
        verl.utils.config.validate_config(config=config, use_reference_policy=False, use_critic=False)
    assert f"verl_ext.preset sspo; changed: {told}\n" in capsys.readouterr().out
