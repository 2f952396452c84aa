"""One rank of verl's FSDP engine: the loss and gradients of a ragged batch, ``python -m ... PLAN OUT``.

The plan is the JSON of a `Plan`; RANK, WORLD_SIZE and the other variables of torch.distributed are set. Rank 0 writes
the loss and every parameter's full gradient.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

PROMPT = 5
LENGTHS = (3, 11, 7, 1, 9, 4, 6, 2)
# In the loss, so that the gradients show the entropies' as well.
ENTROPY_COEFF = 0.1


@dataclass(frozen=True)
class Plan:
    """How the engine is to compute.

    Attributes:
        model: folder of the model.
        device: `cuda` or `cpu`.
        dtype: `fp32` or `bf16`, in which parameters are used.
        attention: `sdpa`, `eager` or `flash_attention_2`.
        remove_padding: packed sequences.
        fused: backend of the fused kernels, or empty for the plain pass.
        ulysses: ranks that share a sequence.
    """

    model: str
    device: str
    dtype: str = "fp32"
    attention: str = "sdpa"
    remove_padding: bool = False
    fused: str = ""
    ulysses: int = 1


def batch(plan: Plan) -> Any:
    """The rows, as the trainer hands them to the engine."""
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    jagged = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
    found = rows(LENGTHS)
    data = TensorDict({name: jagged([row[name] for row in found]) for name in found[0]}, batch_size=len(found))
    tu.assign_non_tensor(
        data,
        global_batch_size=len(found),
        temperature=0.7,
        use_remove_padding=plan.remove_padding,
        use_fused_kernels=bool(plan.fused),
        use_dynamic_bsz=True,
        # Two micro-batches at least: with one only, a wrong normaliser would not show.
        max_token_len_per_gpu=60 // plan.ulysses,
        calculate_entropy=True,
    )
    return data


def rows(lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Ragged rows with fields as the trainer has them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    found = []
    for length in lengths:
        prompt, response = (torch.randint(32, 127, (n,), generator=generator) for n in (PROMPT, length))
        found.append(
            {
                "prompts": prompt,
                "responses": response,
                "input_ids": torch.cat([prompt, response]),
                "position_ids": torch.arange(PROMPT + length),
                "response_mask": torch.ones(length, dtype=torch.long),
                "loss_mask": torch.ones(length, dtype=torch.long),
                "old_log_probs": -5 - torch.rand(length, generator=generator),
                "advantages": torch.randn(1, generator=generator).expand(length).clone(),
            }
        )
    return found


def build(plan: Plan) -> tuple[Any, Any]:
    """verl's engine, and the actor's configuration with STEER, which reads the current entropies."""
    from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine import EngineRegistry

    from verl_ext.config import STEERLossConfig

    model = HFModelConfig(
        path=plan.model,
        override_config={"attn_implementation": plan.attention},
        use_remove_padding=plan.remove_padding,
        use_fused_kernels=bool(plan.fused),
        fused_kernel_options={"impl_backend": plan.fused or None},
    )
    model.model_type = "language_model"
    settings = FSDPEngineConfig(
        strategy="fsdp2",
        model_dtype="fp32",
        mixed_precision={"param_dtype": plan.dtype, "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        use_torch_compile=False,
        entropy_from_logits_with_chunking=plan.remove_padding,
        ulysses_sequence_parallel_size=plan.ulysses,
        use_remove_padding=plan.remove_padding,
        use_fused_kernels=bool(plan.fused),
    )
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model,
        engine_config=settings,
        optimizer_config=FSDPOptimizerConfig(lr=1e-3),
        checkpoint_config=None,
    )
    engine.initialize()
    actor = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        policy_loss=STEERLossConfig(),
        entropy_coeff=ENTROPY_COEFF,
    )
    actor.model_config = model
    return engine, actor


def main(plan: Plan, out: Path) -> None:
    if plan.device == "cpu":
        os.environ["VERL_PLATFORM"] = "cpu"
    import torch

    if plan.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    import verl  # noqa: F401 - loads the plugin
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers import engine_workers

    initialize_global_process_group_ray()
    engine, actor = build(plan)
    with engine.train_mode():
        engine.optimizer_zero_grad()
        found = engine.forward_backward_batch(batch(plan), partial(engine_workers.ppo_loss, config=actor))
        gradients = {name: whole(parameter.grad) for name, parameter in engine.module.named_parameters()}
    if torch.distributed.get_rank() == 0:
        torch.save({"loss": sum(found["loss"]), "gradients": gradients}, out)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def whole(gradient: Any) -> Any:
    """All of a sharded gradient, on the CPU."""
    full = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return full.detach().float().cpu().clone()


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])), Path(sys.argv[2]))
