"""What a person types becomes verl's configuration; every fault of it is told, with the nearest name."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from verl_ext.composing.compose import choices_of, options
from verl_ext.composing.errors import ConfigError
from verl_ext.config_groups import GROUPS
from verl_ext.train import compose

# Experiments set again what a choice of data has set; they have a test of their own.
PLAIN = [group for group in GROUPS if group != "experiment"]
MOST = max(len(options(group)) for group in PLAIN)


@pytest.mark.parametrize("turn", range(MOST))
def test_every_option_of_every_group_composes_on_its_trainer(turn: int) -> None:
    """The options of the groups go round together, so that each stands in one configuration at least."""
    chosen = {group: options(group)[turn % len(options(group))] for group in PLAIN}
    composed = compose([f"{group}={option}" for group, option in chosen.items()])
    megatron = chosen["backend"] == "megatron"
    assert composed.primary == ("ppo_megatron_trainer" if megatron else "ppo_trainer")
    config = composed.config
    assert (config.actor_rollout_ref.actor.strategy == "megatron") == megatron
    assert config.actor_rollout_ref.rollout.name == "vllm"
    assert config.trainer.nnodes == int(chosen["cluster"].removesuffix("x8"))
    assert chosen["data"] in str(config.data.train_files)
    assert config.reward.custom_reward_function.path == "pkg://verl_ext.rewards.math"
    OmegaConf.to_container(config.actor_rollout_ref, resolve=True)


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_hand_written_experiment_composes(experiment: str) -> None:
    assert compose([f"experiment={experiment}", "backend=fsdp"]).choices == {
        "experiment": experiment,
        **choices_of(experiment),
        "backend": "fsdp",
    }


def test_groups_are_merged_in_one_order_however_they_are_typed() -> None:
    typed = compose(["algo=gspo", "+model=qwen2_5_7b", "trainer.save_freq=3", "backend=fsdp"])
    assert typed.arguments == ["+backend=fsdp", "+model=qwen2_5_7b", "+algo=gspo", "trainer.save_freq=3"]
    assert typed.command()[:4] == ["-m", "verl.trainer.main_ppo", "--config-name", "ppo_trainer"]


def test_our_data_stands_beside_verls() -> None:
    composed = compose(["data=math_l3to5"])
    # What the command composes is a run of ours, whether a group says so or not.
    assert composed.arguments == ["+data@_global_=math_l3to5", "+verl_ext={}"]
    assert composed.config.data.prompt_key == "prompt"  # of verl's own data/legacy_data
    assert compose(["+data@_global_=math_l3to5"]).config == composed.config


def test_an_experiments_choices_are_overridden_and_not_added(sample_paper: Path) -> None:
    composed = compose(["algo=gspo", "experiment=sample/table1/sspo_1_5b", "data=dapo_math_17k"])
    assert composed.arguments == [
        "data@_global_=dapo_math_17k",
        "algo=gspo",
        "+experiment=sample/table1/sspo_1_5b",
    ]
    assert composed.config.actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"
    assert composed.choices["backend"] == "fsdp"


def test_a_megatron_row_chooses_the_trainer(sample_paper: Path) -> None:
    assert compose(["experiment=sample/table1/megatron"]).primary == "ppo_megatron_trainer"
    changed = compose(["experiment=sample/table1/megatron", "backend=fsdp"])
    assert changed.primary == "ppo_trainer"
    assert changed.config.actor_rollout_ref.actor.strategy == "fsdp2"


def test_a_row_that_is_not_trained_says_what_to_use(sample_paper: Path) -> None:
    with pytest.raises(ConfigError, match="use experiment=sample/table1/sspo_1_5b"):
        compose(["experiment=sample/table1/again"])


def test_choices_of_a_hand_written_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "defaults: [{/algo: sspo}, {/data@_global_: math_l3to5}, other, _self_]"
    )
    monkeypatch.setattr("verl_ext.composing.compose.config_dir", lambda: tmp_path)
    assert choices_of("mine") == {"algo": "sspo", "data": "math_l3to5"}


def test_all_faults_at_once(sample_paper: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(
            [
                "algo=espoo",
                "model=qwen2_5_7",
                "experiment=sample/table1/sspo_15b",
                "bakend=fsdp",
                "+clustr=1x8",
                "++data=math_l3to5",
                "data.train_bach_size=8",
                "+data.seed=1",
                "trainer.logger.x=1",
            ]
        )
    lines = str(caught.value).splitlines()[1:]
    expected = [
        "algo=espoo: no such algo; did you mean 'espo'?",
        "model=qwen2_5_7: no such model; did you mean 'qwen2_5_7b'?",
        "did you mean 'sample/table1/sspo_1_5b'?",
        "did you mean 'cluster'?",
        "written data=math_l3to5",
        "bakend=fsdp: there is no bakend; did you mean 'backend'?",
        "did you mean 'data.train_batch_size'?",
        "data.seed exists; write it without the +",
    ]
    for line in expected:
        assert sum(line in fault for fault in lines) == 1, (line, lines)
    assert len(lines) == len(expected)


# argument -> what it is told to be
MISTAKEN = {
    "experiment=sample/table1": "; it is a table: choose a row, experiment=sample/table1/ROW, of megatron, sspo_1_5b",
    "experiment=sample/table1/": "; it is a table: choose a row, experiment=sample/table1/ROW, of megatron, sspo_1_5b",
    "experiment=sample": "; it is a paper: choose a row, experiment=sample/TABLE/ROW, of table1",
    "algo=sample/table1": "; it is a table: choose a row, experiment=sample/table1/ROW, of megatron, sspo_1_5b",
    "algo=sample/table1/sspo_1_5b": "; it is a row: experiment=sample/table1/sspo_1_5b",
    "experiment=gspo": "; gspo is another choice: algo=gspo",
    "model=math_l3to5": "; math_l3to5 is another choice: data=math_l3to5",
    "experiment=nothing_like_it": "and the rows of sample/table1",
}


@pytest.mark.parametrize("argument", MISTAKEN)
def test_what_is_something_else_is_said_to_be_it(argument: str, sample_paper: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([argument])
    (line,) = str(caught.value).splitlines()[1:]
    group = argument.partition("=")[0]
    assert line.startswith(f"  - {argument}: no such {group}")
    assert line.endswith(MISTAKEN[argument])


def test_keys_are_looked_up_in_what_was_probably_meant(sample_paper: Path) -> None:
    """`beta` exists in the row alone: it is no second fault."""
    known = "actor_rollout_ref.actor.policy_loss.beta=0.5"
    with pytest.raises(ConfigError) as caught:
        compose(["experiment=sample/table1/sspo_15b", known])
    (line,) = str(caught.value).splitlines()[1:]
    assert "did you mean 'sample/table1/sspo_1_5b'?" in line


def test_sections_are_added_beside_the_node_that_a_group_brings_and_the_node_may_go() -> None:
    given = ["+verl_ext.export.every=1", "+verl_ext={guards: {max_rows: 2}}"]
    composed = compose(["algo=grpo", *given])
    assert composed.config.verl_ext == {"export": {"every": 1}, "guards": {"max_rows": 2}}
    assert composed.arguments == ["+algo=grpo", *given]
    assert "verl_ext" not in compose(["algo=grpo", "~verl_ext"]).config
    with pytest.raises(ConfigError) as caught:
        compose(["algo=grpo", *given, "data.train_bach_size=8"])
    assert len(str(caught.value).splitlines()) == 2  # what is merged into the node is no second fault


def test_keys_that_are_added_may_be_set() -> None:
    config = compose(["+trainer.mine={a: 1}", "trainer.mine.a=2", "++data.seed=3", "~trainer.val_only"]).config
    assert (config.trainer.mine.a, config.data.seed) == (2, 3)
    assert "val_only" not in config.trainer


@pytest.mark.parametrize("argument", ["--config-name", "algo", "-m"])
def test_what_is_no_override_is_refused(argument: str) -> None:
    with pytest.raises(ConfigError, match="is no override"):
        compose([argument])


def test_hydras_own_error_is_told_where_we_find_none() -> None:
    with pytest.raises(ConfigError, match="no viable alternative"):
        compose(["trainer.nnodes=[1"])
