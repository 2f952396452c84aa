"""End-to-end runs, each started once a session and looked at by several tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import trainer


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems of the demo task, as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from verl_ext.toy import task

    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 64), ("validation", 16)):
        rows = [task.row(problem, index) for index, problem in enumerate(task.problems(split, count, seed=0))]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


BYPASS = "algorithm.rollout_correction.bypass_mode=true"


def model(folder: Path, kind: str) -> Path:
    """A random model whose token entropies differ widely: one token's embedding is planted to be decisive."""
    from planted import plant

    return plant(kind, folder)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    folder = tmp_path_factory.mktemp("dense")
    return trainer.run(folder / "run", trainer.overrides(model(folder / "model", "tiny_dense"), data, steps=3))


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    folder = tmp_path_factory.mktemp("moe")
    return trainer.run(folder / "run", trainer.overrides(model(folder / "model", "tiny_moe"), data, steps=2))


@pytest.fixture(scope="session")
def colocate_async(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    folder = tmp_path_factory.mktemp("colocate_async")
    arguments = trainer.overrides(model(folder / "model", "tiny_dense"), data, steps=2)
    return trainer.run(folder / "run", [*arguments, "trainer.v1.trainer_mode=colocate_async"])


@pytest.fixture(scope="session")
def sspo(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    """A mixture of experts that is a bigram model, in bypass mode: entropies of segments come from the rollout.

    The delimiter is the fork and one of its branches, so that it spans tokens and occurs often. At the other runs'
    learning rate one step is enough to unlearn the pair.
    """
    from planted import DELIMITER, plant_bigram

    folder = tmp_path_factory.mktemp("sspo")
    arguments = trainer.overrides(plant_bigram("tiny_moe", folder / "model"), data, steps=2, algo="sspo")
    own = [f"+actor_rollout_ref.actor.policy_loss.delimiter={DELIMITER}", "actor_rollout_ref.actor.optim.lr=1e-5"]
    return trainer.run(folder / "run", [*arguments, *own, BYPASS])


@pytest.fixture(scope="session")
def bypass(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    """ESPO without the actor's pass before the update, on a bigram model with a known entropy after one token."""
    from planted import plant_bigram

    folder = tmp_path_factory.mktemp("bypass")
    arguments = trainer.overrides(plant_bigram("tiny_dense", folder / "model"), data, steps=2)
    return trainer.run(folder / "run", [*arguments, BYPASS])


@pytest.fixture(scope="session")
def erpo_with_tepo(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    """An estimator and a loss in one run, since each run costs more than a minute; no preset has the two.

    At the other runs' learning rate the responses become alike within two steps: whole groups fail together, as the
    reward crashes by the response's text, and TEPO's penalty needs positive advantages.
    """
    folder = tmp_path_factory.mktemp("erpo_with_tepo")
    arguments = trainer.overrides(model(folder / "model", "tiny_dense"), data, steps=3, algo=None)
    both = [
        "algorithm.adv_estimator=erpo",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.kl_loss_coef=0",
        "actor_rollout_ref.actor.policy_loss._target_=verl_ext.config.TEPOLossConfig",
        "actor_rollout_ref.actor.policy_loss.loss_mode=tepo",
        "+actor_rollout_ref.actor.policy_loss.kl_coef=1",
        "actor_rollout_ref.actor.calculate_entropy=true",
        "actor_rollout_ref.actor.optim.lr=1e-5",
    ]
    return trainer.run(folder / "run", [*arguments, *both])


@pytest.fixture(scope="session")
def steer(tmp_path_factory: pytest.TempPathFactory, data: Path) -> trainer.Run:
    folder = tmp_path_factory.mktemp("steer")
    return trainer.run(
        folder / "run", trainer.overrides(model(folder / "model", "tiny_dense"), data, steps=2, algo="steer")
    )
