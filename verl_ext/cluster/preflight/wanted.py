"""What a composed configuration needs of a cluster."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf

from verl_ext.checks import files
from verl_ext.cluster.preflight.versions import versions_for

COLOCATED = 3
"""CPUs that verl asks for with each GPU of the training pool (``ResourcePoolManager.max_colocate_count``)."""
COLOCATED_ROLLOUT = 2
"""The same for a rollout replica with GPUs of its own (``RolloutReplica.init_standalone``)."""

_COUNTED = {"CPU": "num_cpus", "GPU": "num_gpus"}
# ray.init refuses these when it connects to a cluster that runs already.
_STARTING_ONLY = ("num_cpus", "num_gpus", "resources", "labels", "object_store_memory")


@dataclass(frozen=True)
class Group:
    """Placement groups of one shape; each must lie on one node (``STRICT_PACK``).

    Attributes:
        purpose: in words.
        number: how many of them.
        gpus: bundles of each, with one GPU.
        cpus_a_gpu: CPUs of each bundle.
    """

    purpose: str
    number: int
    gpus: int
    cpus_a_gpu: int

    @property
    def cpus(self) -> int:
        return self.gpus * self.cpus_a_gpu


@dataclass(frozen=True)
class Wanted:
    """What is needed.

    Attributes:
        device: ``cuda`` or ``cpu``; on the CPU Ray's GPUs are logical ones.
        nodes: how many machines.
        groups: placement groups, those of the training pool first.
        cpus: CPUs beside those of the groups: task runner, transfer queue, and one to start an actor.
        tested: distribution -> versions it was tested with.
        losses, estimators: names that verl's registries have to hold.
        plugin: version of verl_ext here.
        models, data, files: setting -> path or name; files are those of code, as of reward functions.
        columns: that each data file has to have.
        checkpoints: folder, or None where nothing is saved.
        offloaded: bytes of host memory a parameter takes, all nodes together.
        shared_memory: bytes of /dev/shm on a node.
        starting_only: settings of ``ray_kwargs.ray_init`` that a running cluster refuses.
        runtime_env: for Ray's workers.
        address: of Ray, as the configuration has it.
        resources: CPUs and GPUs that a Ray started by the run would be told, where the configuration says so.
    """

    device: str
    nodes: int = 1
    groups: tuple[Group, ...] = ()
    cpus: int = 0
    tested: dict[str, tuple[str, ...]] = field(default_factory=dict)
    losses: tuple[str, ...] = ()
    estimators: tuple[str, ...] = ()
    plugin: str = ""
    models: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    checkpoints: str | None = None
    offloaded: float = 0.0
    shared_memory: int = 0
    starting_only: tuple[str, ...] = ()
    runtime_env: dict[str, Any] = field(default_factory=dict)
    address: str | None = None
    resources: dict[str, float] = field(default_factory=dict)

    @property
    def gpus(self) -> int:
        return sum(group.number * group.gpus for group in self.groups)

    @property
    def all_cpus(self) -> int:
        return self.cpus + sum(group.number * group.cpus for group in self.groups)

    def cpus_a_node(self, gpus: int) -> int:
        """CPUs of a node with so many GPUs that leave no group without a place, whichever node takes the rest."""
        return self.cpus + gpus * max((group.cpus_a_gpu for group in self.groups), default=0)


def bare() -> Wanted:
    """What any run needs: a machine with the tested versions and the plugin."""
    device = "cuda" if shutil.which("nvidia-smi") else "cpu"
    return Wanted(device, **_software(device, flash=False))


def wanted(config: Any) -> Wanted:
    """What this configuration needs.

    Args:
        config: composed; every value can be resolved and none is missing.
    """
    trainer, model = config.trainer, config.actor_rollout_ref.model
    device = str(trainer.device)
    groups = placement_groups(config)
    ray_init = OmegaConf.to_container(config.ray_kwargs.get("ray_init", {}), resolve=True)
    assert isinstance(ray_init, dict)
    runtime_env = {str(key): value for key, value in (ray_init.get("runtime_env") or {}).items() if value is not None}
    return Wanted(
        device=device,
        nodes=max(trainer.nnodes, 1),
        groups=groups,
        cpus=_cpus_beside(config),
        **_software(device, flash=bool(model.use_remove_padding) and device == "cuda"),
        models=files.models(config),
        data=files.data(config),
        files={key: path for key, path in files.code(config).items() if "://" not in path},
        columns=() if config.data.custom_cls.path else (config.data.prompt_key, "data_source", "reward_model"),
        checkpoints=str(trainer.default_local_dir) if trainer.save_freq > 0 else None,
        offloaded=_offloaded(config),
        shared_memory=_shared_memory(config, device, groups),
        starting_only=tuple(key for key in _STARTING_ONLY if ray_init.get(key) is not None),
        runtime_env=runtime_env,
        address=ray_init.get("address"),
        resources={kind: float(ray_init[key]) for kind, key in _COUNTED.items() if ray_init.get(key) is not None},
    )


def placement_groups(config: Any) -> tuple[Group, ...]:
    """The groups that verl asks Ray for: the training pool's, and those of models with GPUs of their own."""
    trainer, rollout, reward = config.trainer, config.actor_rollout_ref.rollout, config.reward.reward_model
    found = [Group("training", trainer.nnodes, trainer.n_gpus_per_node, COLOCATED)]
    if reward.enable_resource_pool:
        found.append(Group("reward model", reward.nnodes, reward.n_gpus_per_node, COLOCATED))
    teacher = config.get("distillation", None)
    if teacher is not None and teacher.get("enabled", False):
        found.append(Group("teacher", teacher.nnodes, teacher.n_gpus_per_node, COLOCATED))
    # Without the hybrid engine, and in separate_async, rollouts have nodes of their own.
    if rollout.get("nnodes", 0) > 0:
        replica = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
        on_one_node = min(replica, rollout.n_gpus_per_node)
        number = rollout.nnodes * rollout.n_gpus_per_node // on_one_node
        found.append(Group("rollout", number, on_one_node, COLOCATED_ROLLOUT))
    return tuple(group for group in found if group.number > 0 and group.gpus > 0)


def _software(device: str, flash: bool) -> dict[str, Any]:
    from verl_ext import __version__, plugin

    return {
        "tested": versions_for(device, flash),
        "losses": tuple(plugin.POLICY_LOSSES),
        "estimators": tuple(plugin.ESTIMATORS),
        "plugin": __version__,
    }


def _cpus_beside(config: Any) -> int:
    """Task runner, the queue's controller and storage units; and one more, as every actor wants one while it starts."""
    # verl's task runner switches the queue on, whatever the configuration says.
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    return int(1 + (1 + units) + 1)


def _offloaded(config: Any) -> float:
    """Host memory by parameter that is certain to be taken; a lower bound, without activations and vLLM's own.

    A float32 copy of the weights while they are loaded (4 bytes) or offloaded (4), and Adam's two moments (8). On the
    CPU weights, gradients and moments (16) are in host memory, and vLLM's weights in float32 (4).
    """
    if config.trainer.device == "cpu":
        return 20.0
    actor = config.actor_rollout_ref.actor
    engine = actor.get("megatron" if actor.strategy == "megatron" else "fsdp_config", None) or {}
    weights = 4.0
    return weights + (8.0 if engine.get("optimizer_offload", False) else 0.0)


def _shared_memory(config: Any, device: str, groups: tuple[Group, ...]) -> int:
    """NCCL's and the data loader's on GPUs; on the CPU the buckets through which weights reach vLLM."""
    if device != "cpu":
        return 2**30
    bucket = config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes * 2**20
    largest = max((group.gpus for group in groups), default=1)
    return math.ceil(bucket * largest)
