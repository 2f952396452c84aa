"""From arguments to a job: what is fixed, what is refused, what is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from verl_ext.cluster.submission import job as module
from verl_ext.cluster.submission.job import Prepared, Request, fixed, prepare, quoted
from verl_ext.composing.errors import ConfigError


def composed_name(arguments: list[str]) -> str:
    from verl_ext.train import compose

    return str(compose(arguments).config.trainer.experiment_name)


def told(prepared: Prepared) -> str:
    return "\n".join(prepared.faults)


def test_a_sound_request(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("x = 1\n")
    asked = Request(arguments, ["WANDB_API_KEY"], tmp_path, max_restarts=2)
    found = prepare(asked, {"WANDB_API_KEY": "0123456789", "NCCL_DEBUG": "INFO"})
    assert found.faults == []
    job = found.job
    assert job is not None
    assert job.name == composed_name(arguments)
    assert job.command[:5] == ("python", "-m", "verl.trainer.main_ppo", "--config-name", "ppo_trainer")
    # Given already, so not given twice.
    assert [word for word in job.command if "default_local_dir" in word] == ["trainer.default_local_dir=/shared/runs/a"]
    assert (job.checkpoints, job.nodes, job.gpus, job.max_restarts) == ("/shared/runs/a", 4, 8, 2)
    runtime = job.runtime_env()
    assert runtime["working_dir"] == str(tmp_path)
    assert "*.parquet" in runtime["excludes"]
    assert runtime["env_vars"]["WANDB_API_KEY"] == "0123456789"
    assert "0123456789" not in repr(job)
    assert any("1 files" in note for note in found.notes)
    assert any("save_freq=-1" in note for note in found.notes)


def test_a_folder_that_follows_from_the_name_is_left_to_the_driver(arguments: list[str], tmp_path: Path) -> None:
    """Which then sees that an earlier attempt was kept under verl's own name, as it is seen here on a shared disk."""
    typed = f"trainer.default_local_dir={tmp_path}/${{trainer.experiment_name}}"
    found = prepare(Request([*arguments, typed]), {})
    assert found.faults == []
    assert found.job is not None
    assert [word for word in found.job.command if "default_local_dir" in word] == [arguments[-1], typed]
    assert "trainer.experiment_name=espo-Qwen2.5-7B-shared-train-seed42" in found.job.command
    assert found.job.checkpoints == f"{tmp_path}/espo-Qwen2.5-7B-shared-train-seed42"
    (tmp_path / "gsm8k" / "global_step_5").mkdir(parents=True)
    (fault,) = prepare(Request([*arguments, typed]), {}).faults
    assert f"trainer.default_local_dir={tmp_path}/gsm8k to go on from there" in fault


def test_a_job_is_called_what_the_run_is_called(arguments: list[str]) -> None:
    for given, name in (([], composed_name(arguments)), (["trainer.experiment_name=mine"], "mine")):
        job = prepare(Request([*arguments, *given]), {}).job
        assert job is not None
        assert job.name == name
    assert composed_name(arguments).startswith("espo-")


def test_all_faults_at_once(arguments: list[str], tmp_path: Path) -> None:
    wrong = [
        *arguments, "trainer.default_local_dir=runs", "data.train_files=[a.parquet,/b.parquet]",
        "trainer.resume_mode=disable", "actor_rollout_ref.model.path=./model",
    ]  # fmt: skip
    found = prepare(Request(wrong, ["2X=1"], tmp_path / "none", max_restarts=1, detach=True), {})
    said = told(found)
    for part in (
        "--env 2X", "no such folder", "trainer.default_local_dir=runs", "data.train_files=a.parquet:",
        "trainer.resume_mode=disable", "--detach with --max-restarts", "path=./model",
    ):  # fmt: skip
        assert part in said
    assert len(found.faults) == 7


@pytest.mark.parametrize(
    ("target", "reason"), [("ray", "which Ray removes"), ("slurm", "that the script starts"), ("kuberay", "in a pod")]
)
def test_the_reason_is_that_of_the_target(arguments: list[str], target: str, reason: str) -> None:
    found = prepare(Request([*arguments, "trainer.default_local_dir=runs"], target=target), {})
    assert reason in told(found)


def test_a_faulty_configuration_is_told_with_the_rest(arguments: list[str]) -> None:
    found = prepare(Request([*arguments, "data.train_batch_size=100"], ["2X=1"]), {})
    assert found.job is None
    assert "data.train_batch_size=100" in told(found)
    assert "--env 2X" in told(found)
    with pytest.raises(ConfigError, match="algo=espoo"):
        prepare(Request(["algo=espoo"]), {})


def test_variables_that_the_configuration_reads_are_the_jobs(arguments: list[str]) -> None:
    plain = [argument for argument in arguments if not argument.startswith("data.")]
    before = dict(os.environ)
    assert "data.train_files" in told(prepare(Request([*plain, "data=dapo_math_17k"]), {}))
    found = prepare(Request([*plain, "data=dapo_math_17k"], ["VERL_EXT_DATA=/shared/data"]), {})
    assert found.faults == []
    assert dict(os.environ) == before


def test_the_trainer_joins_a_cluster_that_runs(arguments: list[str]) -> None:
    cpu = [argument for argument in arguments if not argument.startswith(("backend", "cluster", "model"))]
    found = prepare(
        Request([*cpu, "backend=cpu", "model=tiny_dense", "actor_rollout_ref.model.path=/m", "experiment=demo"]), {}
    )
    assert found.faults == []
    assert found.job is not None
    resets = [word for word in found.job.command if word.startswith("ray_kwargs")]
    assert resets == ["ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"]
    assert found.job.environment.open["VERL_PLATFORM"] == "cpu"
    assert any("no console" in note for note in found.notes)


def test_loopback_is_for_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_ext.train import compose

    one = compose(["algo=grpo", "backend=cpu"])
    assert module._platform(one)["GLOO_SOCKET_IFNAME"] == "lo"
    one.config.trainer.nnodes = 2
    assert "GLOO_SOCKET_IFNAME" not in module._platform(one)


def test_ray_refuses_what_is_reset() -> None:
    """Contract with Ray: these arguments of ``ray.init`` are for a cluster that it starts."""
    import inspect

    from ray._private import worker

    text = inspect.getsource(worker.init)
    after = text[text.index("we are connecting to an existing cluster") :]
    assert all(f"{key} is not None" in after for key in module.STARTS_A_CLUSTER)


@pytest.mark.parametrize("folder", ["/shared/runs/a", "/shared/a b", "/a=b,c", "/{x}[1]", "/true"])
def test_the_folder_survives_hydra(folder: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    config = OmegaConf.create({"trainer": {"default_local_dir": folder}, "ray_kwargs": {}})
    parsed = OverridesParser.create().parse_overrides(fixed(config))
    assert parsed[0].value() == folder
    assert quoted("plain") == "plain"


@pytest.mark.parametrize("letter", ["'", '"', "\\", "$"])
def test_letters_that_hydra_reads_in_its_own_way(letter: str) -> None:
    wrong = {
        "trainer": {"default_local_dir": f"/a{letter}b"},
        "data": {},
        "actor_rollout_ref": {"model": {"path": "a/b"}},
    }
    [fault] = module.path_faults(OmegaConf.create(wrong))
    assert fault.endswith(f"choose a path without {letter}")
