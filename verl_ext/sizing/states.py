"""Bytes of parameters, gradients and optimizer that one GPU holds.

With P parameters of which T are trained, stored in w bytes, FSDP divides all of them among S GPUs::

    parameters  P w / S        gradients  T w / S        Adam  2 T w / S

FSDP gathers what it works on in c bytes, the type of products (ZeRO stage 3, arXiv 1910.02054, section 5.3): a layer
and the one fetched ahead, and without a separate output layer (a shared embedding) the whole embedding all the time.

Megatron divides layers among PP stages, matrices among TP, experts among EP x ETP, and the optimizer's 12 bytes (a
float32 copy and two moments) among the copies of the same part::

    parameters  2 N   gradients  4 N   optimizer  12 (N_dense / (gpus / (TP PP)) + N_expert / (gpus / (ETP EP PP)))
    N_dense     ((dense - embeddings - R) / PP + embeddings) / TP + R / PP     R: vectors and routers, not divided
    N_expert    experts / (EP ETP PP)
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.sizing.model import Model
from verl_ext.sizing.settings import Settings

MOMENTS = 2
"""Moments of Adam."""


@dataclass(frozen=True)
class States:
    """Bytes on one GPU.

    Attributes:
        parameters, gradients, optimizer: while an update runs.
        gathered: whole layers, put together for a moment, in a pass without gradients.
        gathered_backward: the same with the gradients of a layer before they are divided again.
        stepping: what the optimizer's step needs besides.
        reference: a reference model's parameters while it computes.
    """

    parameters: float
    gradients: float
    optimizer: float
    gathered: float
    gathered_backward: float
    stepping: float
    reference: float


def trained(model: Model, settings: Settings) -> int:
    """Parameters that are trained: the adapters of LoRA, or all."""
    if settings.lora_rank:
        return model.adapters(settings.lora_rank, settings.lora_targets, settings.lora_excluded)
    return model.total


def states(model: Model, settings: Settings) -> States:
    """The states of either engine."""
    return _megatron(model, settings) if settings.megatron else _fsdp(model, settings)


def _fsdp(model: Model, settings: Settings) -> States:
    train = trained(model, settings)
    total = model.total + (train if settings.lora_rank else 0)
    share = settings.weight / settings.shards
    # A shared embedding belongs to the root, which stays gathered; separate ones are gathered one at a time.
    root = 0 if model.head else model.embedding
    part = max(model.largest_layer, model.head)
    # FSDP2 copies a layer also where one GPU has all of it.
    at_once = root + part + model.largest_layer if settings.reshard else total
    gathered = settings.compute * at_once
    # Of adapters the gradients are small.
    whole = 0 if settings.lora_rank else part + root
    backward = gathered + whole * (settings.compute + settings.reduce)
    held = 0 if settings.stay_offloaded else 1
    return States(
        parameters=held * total * share,
        gradients=held * train * share,
        optimizer=held * MOMENTS * train * share,
        gathered=gathered,
        gathered_backward=backward,
        # torch's foreach implementation, the default on GPUs, takes the roots of all second moments at once.
        stepping=held * share * (min(train, model.embedding) if settings.cpu else train),
        reference=0.0,
    )


def _megatron(model: Model, settings: Settings) -> States:
    gradient, optimizer = settings.master
    dense, expert = _own(model, settings)
    copies = (settings.gpus // (settings.tensor * settings.pipeline)) if settings.distributed_optimizer else 1
    ways = settings.expert_tensor * settings.expert * settings.pipeline
    expert_copies = max(1, settings.gpus // ways) if settings.distributed_optimizer else 1
    share = trained(model, settings) / model.total if settings.lora_rank else 1.0
    stepped = 0.0 if settings.optimizer_on_cpu else optimizer * share * (dense / copies + expert / expert_copies)
    return States(
        parameters=settings.weight * (dense + expert) * (1 + (share if settings.lora_rank else 0)),
        gradients=gradient * share * (dense + expert),
        optimizer=stepped,
        gathered=0.0,
        gathered_backward=0.0,
        stepping=0.0,
        reference=settings.weight * (dense + expert) if settings.reference else 0.0,
    )


def _own(model: Model, settings: Settings) -> tuple[float, float]:
    """Parameters of the fullest GPU: those that all tokens use, and experts."""
    outer = model.embedding + model.head
    if settings.pipeline > 1:
        # The first stage has the embedding, the last one the output layer.
        outer = max(model.embedding, model.head)
    body = (model.body - model.expert - model.replicated) / settings.pipeline
    dense = (body + outer) / settings.tensor + model.replicated / settings.pipeline
    return dense, model.expert / (settings.expert * settings.expert_tensor * settings.pipeline)
