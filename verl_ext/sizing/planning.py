"""The phases of a step, and what each of them holds on one GPU."""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.sizing import activations
from verl_ext.sizing.cost import Cost, cost, moved_bytes
from verl_ext.sizing.gpus import GIB, GPU
from verl_ext.sizing.model import Model
from verl_ext.sizing.rollout import Engine, engine
from verl_ext.sizing.settings import Settings
from verl_ext.sizing.states import States, states

RESERVE = 2.0 * GIB
"""The trainer's CUDA context, communication buffers and the allocator's gaps; an assumption."""
ASLEEP = 1.5 * GIB
"""What a sleeping vLLM keeps: its CUDA context and graphs; an assumption."""
TRAINER_PROCESS, ROLLOUT_PROCESS = 727 * 2**20, 686 * 2**20
"""Resident bytes of verl's worker and of vLLM's without an accelerator, before a tiny model computes: interpreter,
torch, verl, Ray. Measured, see docs/sizing.md. On GPUs they are on the host, and in no phase."""
TIGHT = 0.93
"""Share of the memory above which a phase is called tight: no formula here is better than that."""


@dataclass(frozen=True)
class Phase:
    """One phase of a step.

    Attributes:
        name: update, optimizer step, log-probs, reference, weight sync or rollout.
        parts: bytes by what they hold.
    """

    name: str
    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """What a run needs.

    Attributes:
        model, settings, gpu: what it was computed from.
        states: of the training engine, on one GPU.
        engine: of the rollouts, on one GPU.
        phases: in the order of a step.
        host: bytes on the host of one node by what they hold.
        cost: operations and seconds of a step.
    """

    model: Model
    settings: Settings
    gpu: GPU
    states: States
    engine: Engine
    phases: tuple[Phase, ...]
    host: dict[str, float]
    cost: Cost

    @property
    def fullest(self) -> Phase:
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def missing(self) -> list[str]:
        """Why the run does not fit, in sentences; empty if it does."""
        limit = self.gpu.memory
        found = [
            f"{phase.name} needs {phase.total / GIB:.1f} GiB of {limit / GIB:.1f}"
            for phase in self.phases
            if phase.total > limit
        ]
        one = self.engine
        if one.cache < one.longest:
            found.append(
                f"rollout: after {one.weights / GIB:.1f} GiB of weights and {one.workspace / GIB:.1f} GiB of workspace "
                f"no sequence of {self.settings.model_length} tokens fits into the cache"
            )
        return found

    @property
    def gpu_hours(self) -> float:
        """Of a step: its seconds on all GPUs, those of rollouts apart included; infinite if nothing is generated."""
        gpus = self.settings.gpus + self.settings.rollout_gpus * self.settings.apart
        return self.cost.total_seconds * gpus / 3600

    @property
    def fits(self) -> bool:
        return not self.missing

    @property
    def tight(self) -> bool:
        return self.fits and self.fullest.total > TIGHT * self.gpu.memory


def plan(model: Model, settings: Settings, gpu: GPU) -> Plan:
    """The plan of a run on a type of GPU."""
    held = states(model, settings)
    one = engine(model, settings, gpu.memory)
    trainer = _trainer(model, settings, held)
    if settings.cpu:
        # As much as the whole weights stays resident from the first weight sync on; measured, see docs/measured.md.
        beside = {"kept from a sync": float(settings.weight * model.total), "process": float(TRAINER_PROCESS)}
        working = [Phase(phase.name, {**phase.parts, **beside}) for phase in trainer]
        phases = (*working, Phase("rollout", {**_engine_parts(one), "process": ROLLOUT_PROCESS}))
    elif settings.apart:
        # Other GPUs; both kinds have a context, and the rollouts' buffers are in vLLM's share.
        alone = [Phase(phase.name, {**phase.parts, "reserve": RESERVE}) for phase in trainer]
        phases = (*alone, Phase("rollout", {**_engine_parts(one), "reserve": ASLEEP}))
    else:
        beside = {"vLLM, asleep": ASLEEP} if settings.sleeps else _engine_parts(one)
        working = [Phase(phase.name, {**phase.parts, **beside, "reserve": RESERVE}) for phase in trainer]
        phases = (*working, *_with_rollouts(model, settings, held, one))
    moved = moved_bytes(model, settings, held.parameters, held.optimizer)
    return Plan(
        model, settings, gpu, held, one, phases, host(model, settings, held), cost(model, settings, one, gpu, moved)
    )


def _trainer(model: Model, settings: Settings, held: States) -> list[Phase]:
    """Phases in which the trainer computes."""
    steady = {"parameters": held.parameters, "gradients": held.gradients, "optimizer": held.optimizer}
    waiting = {"parameters": held.parameters, "optimizer": 0.0 if settings.optimizer_offload else held.optimizer}
    before = activations.log_prob(model, settings)
    found = []
    if settings.old_log_probs:
        found.append(Phase("log-probs", {**waiting, "gathered layers": held.gathered, **_pass_parts(before)}))
    if settings.reference:
        without = activations.log_prob(model, settings, entropy=False)
        own = 0.0 if settings.param_offload else held.parameters
        parts = {**waiting, "parameters": own, "reference": held.reference, "gathered layers": held.gathered}
        found.append(Phase("reference", {**parts, **_pass_parts(without)}))
    backward = activations.update(model, settings)
    found.append(Phase("update", {**steady, "gathered layers": held.gathered_backward, **_pass_parts(backward)}))
    found.append(Phase("optimizer step", {**steady, "temporary": held.stepping}))
    return found


def _with_rollouts(model: Model, settings: Settings, held: States, one: Engine) -> list[Phase]:
    """Phases in which vLLM has its memory."""
    optimizer = 0.0 if settings.optimizer_offload else held.optimizer
    # A sync sends whole matrices, the largest of which are the embeddings.
    largest = settings.weight * max(model.embedding, model.head)
    sync = {"parameters": held.parameters, "optimizer": optimizer, "gathered layers": largest}
    awake = {"vLLM weights": one.weights} if settings.sleeps else _engine_parts(one)
    waiting = {"parameters": 0.0 if settings.param_offload else held.parameters, "optimizer": optimizer}
    if not settings.reference_offload:
        waiting["reference"] = held.reference
    return [
        Phase("weight sync", {**sync, **awake, "bucket": settings.bucket, "reserve": RESERVE}),
        Phase("rollout", {**waiting, **_engine_parts(one), "reserve": RESERVE}),
    ]


def _pass_parts(one: activations.Pass) -> dict[str, float]:
    return {"activations": one.activations, "logits": one.logits, "entropy": one.entropy}


def _engine_parts(one: Engine) -> dict[str, float]:
    return {"vLLM weights": one.weights, "vLLM workspace": one.workspace, "KV cache": max(0.0, one.cache)}


def host(model: Model, settings: Settings, held: States) -> dict[str, float]:
    """Bytes on the host of one node, without the interpreters.

    Parameters are read on the host first: by the first process alone, or by all of them if the output layer is the
    input embedding.
    """
    ranks = settings.gpus_per_node
    readers = ranks if not model.head else 1
    found = {"loading": float(readers * settings.weight * model.total)}
    if settings.megatron:
        found = {"loading": held.parameters * ranks}
    if settings.param_offload:
        found["parameters"] = held.parameters * ranks
    if settings.optimizer_offload:
        found["optimizer"] = held.optimizer * ranks
    if settings.stay_offloaded:
        found["parameters, gradients and optimizer"] = 4 * settings.weight * model.total / settings.shards * ranks
    if settings.reference:
        own = held.reference if settings.megatron else settings.weight * model.total / settings.shards
        found["reference"] = own * ranks * settings.reference_offload
    return found
