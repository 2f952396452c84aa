"""The numbers of a composed configuration that memory and time depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rollouts:
    """What is generated, and by which engines.

    Attributes:
        cpu: whether trainer and rollouts are processes of a machine without an accelerator.
        prompts, responses: of a step: prompts, and responses to each.
        prompt_tokens, response_tokens: the longest.
        lora_rank, lora_targets, lora_excluded: adapters, 0 for none.
        rollout_gpus: GPUs of all engines; `rollout_tensor`, `rollout_data`: of one; `rollout_expert`: GPUs among which
            it divides experts.
        rollout_bytes: bytes of a weight there, and of a cache's entry.
        utilization, running, model_length, batched_tokens: vLLM's settings.
        kv_space: bytes of the cache without an accelerator.
    """

    cpu: bool
    prompts: int
    responses: int
    prompt_tokens: int
    response_tokens: int
    lora_rank: int
    lora_targets: str | tuple[str, ...]
    lora_excluded: str | tuple[str, ...] | None
    rollout_gpus: int
    rollout_tensor: int
    rollout_data: int
    rollout_expert: int
    rollout_bytes: int
    utilization: float
    running: int
    model_length: int
    batched_tokens: int
    kv_space: int

    @property
    def rows(self) -> int:
        """Responses of a step."""
        return self.prompts * self.responses


@dataclass(frozen=True)
class Settings(Rollouts):
    """One run.

    Attributes:
        path: the model.
        nodes, gpus_per_node: one trainer process a GPU.
        mini_prompts, epochs: prompts of an update, and passes over the batch.
        megatron: the engine is Megatron, else FSDP.
        fsdp2: FSDP2, else FSDP1.
        shards: GPUs among which FSDP divides a state; `reshard`: a layer is divided again after its forward pass.
        sequence: GPUs that share a sequence (Ulysses, or context parallel).
        tensor, pipeline, expert, expert_tensor: Megatron's parallel sizes.
        distributed_optimizer: Megatron's optimizer is divided among the copies of the model.
        weight: bytes of a stored parameter; `compute` of one in a product; `reduce` of a gradient on its way.
        master: bytes of Megatron's gradient buffer and of its optimizer, for a parameter.
        param_offload, optimizer_offload: on the host while not in use.
        stay_offloaded: parameters, gradients and optimizer never stay on the GPU (FSDP2's offload_policy).
        optimizer_on_cpu: Megatron's optimizer steps on the host.
        checkpointing: activations of a layer are computed again in the backward pass.
        flash: FSDP's model attends by flash attention, within which Ulysses exchanges the parts of a sequence.
        remove_padding, fused, entropy, chunking, entropy_checkpointing, chunk: how logits and entropies are computed.
        temperature_one: logits are used as they are.
        dynamic, update_limit, log_prob_dynamic, log_prob_limit: tokens of a micro-batch, or rows without `dynamic`.
        reference, reference_offload: a reference model of its own; whether it leaves the GPU while not in use.
        old_log_probs: a forward pass before the updates.
        apart: rollouts have GPUs of their own.
        sleeps: vLLM gives its memory back while the trainer works.
        bucket: bytes sent at a time in a weight sync.
    """

    path: str
    nodes: int
    gpus_per_node: int
    mini_prompts: int
    epochs: int
    megatron: bool
    fsdp2: bool
    shards: int
    reshard: bool
    sequence: int
    tensor: int
    pipeline: int
    expert: int
    expert_tensor: int
    distributed_optimizer: bool
    weight: int
    compute: int
    reduce: int
    master: tuple[int, int]
    param_offload: bool
    optimizer_offload: bool
    stay_offloaded: bool
    optimizer_on_cpu: bool
    checkpointing: bool
    flash: bool
    remove_padding: bool
    fused: bool
    entropy: bool
    chunking: bool
    entropy_checkpointing: bool
    chunk: int
    temperature_one: bool
    dynamic: bool
    update_limit: int
    log_prob_dynamic: bool
    log_prob_limit: int
    reference: bool
    reference_offload: bool
    old_log_probs: bool
    apart: bool
    sleeps: bool
    bucket: int

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def data_parallel(self) -> int:
        """Groups of GPUs with rows of their own."""
        return max(1, self.gpus // (self.sequence * self.tensor * self.pipeline))

    @property
    def longest(self) -> int:
        return self.prompt_tokens + self.response_tokens

    @property
    def update_tokens(self) -> int:
        """Tokens of the largest micro-batch of an update, on one GPU."""
        return self._tokens(self.dynamic, self.update_limit, self.mini_prompts * self.responses)

    @property
    def log_prob_tokens(self) -> int:
        """The same of a pass without gradients."""
        return self._tokens(self.log_prob_dynamic, self.log_prob_limit, self.rows)

    def _tokens(self, dynamic: bool, limit: int, rows: int) -> int:
        # Rows of one data-parallel group; it may have fewer tokens than the limit allows.
        own = -(-rows // self.data_parallel)
        whole = own * self.longest // self.sequence
        return min(limit, whole) if dynamic else min(limit, own) * self.longest // self.sequence
