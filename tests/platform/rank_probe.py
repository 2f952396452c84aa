"""Run as a program, once a rank: gradients of one recorded ragged batch through verl's FSDP2 engine.

Usage: RANK=r WORLD_SIZE=n ... python rank_probe.py MODEL_DIR OUT_FILE. Rank 0 writes every parameter's full
gradient. `segment_ids` is a field that verl does not know: its padding row keeps the length of the row it
was made from, so that the alignment of the token context is at work here as well, and is checked.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

os.environ["VERL_PLATFORM"] = "cpu"

PROMPT, LENGTHS = 5, (3, 11, 7, 1, 9, 4, 6)  # responses of seven real rows; the eighth is verl's padding row


def segments(length: int) -> torch.Tensor:
    """Segment ids of a response: a new segment every four tokens."""
    import torch

    return torch.arange(length) // 4


def rows(eos: int) -> list[dict]:
    """Seven ragged rows and one of verl's padding rows, with per-token fields as the trainer has them."""
    import torch
    from verl.trainer.ppo.padding_utils import construct_minimal_padding_template

    generator = torch.Generator().manual_seed(0)
    found = []
    for length in LENGTHS:
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
                "entropy": 5 * torch.rand(length, generator=generator),
                "advantages": torch.randn(1, generator=generator).expand(length).clone(),
                "segment_ids": segments(length),
            }
        )
    padding, _ = construct_minimal_padding_template(found[1], {"seq_len": 0}, eos)
    # As in the trainer: fields computed after the padding rows were added have the padding row's own length.
    for name in ("old_log_probs", "entropy", "advantages"):
        padding[name] = torch.zeros(1)
    assert len(padding["segment_ids"]) == LENGTHS[1] > len(padding["responses"])
    return [*found, {name: padding[name] for name in found[0]}]


def batch(chosen: list[dict]):
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    jagged = partial(torch.nested.as_nested_tensor, layout=torch.jagged)
    columns = {name: jagged([row[name] for row in chosen]) for name in chosen[0]}
    data = TensorDict(columns, batch_size=len(chosen))
    tu.assign_non_tensor(
        data,
        global_batch_size=len(LENGTHS) + 1,
        temperature=1.0,
        use_remove_padding=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=140,
        use_fused_kernels=False,
        calculate_entropy=False,
    )
    return data


def check_alignment() -> list[int]:
    """Make the registered loss check the segment ids that it is called with; the list counts its calls."""
    import torch
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY

    from verl_ext import current_context

    espo, calls = POLICY_LOSS_REGISTRY["espo"], []

    def checked(response_mask: torch.Tensor, **arguments: Any) -> Any:
        found = current_context().segment_ids
        assert found is not None
        assert found.shape == response_mask.shape, (found.shape, response_mask.shape)
        for row, length in zip(found, response_mask.sum(-1).tolist(), strict=True):
            assert torch.equal(row[:length], segments(length)), row
            assert (row[max(length, 1) :] == -1).all(), row
        calls.append(1)
        return espo(response_mask=response_mask, **arguments)

    POLICY_LOSS_REGISTRY["espo"] = checked
    return calls


def main(model_dir: str, out_file: str) -> None:
    import torch
    import verl  # noqa: F401  (loads the plugin)
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers import engine_workers
    from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine import EngineRegistry

    from verl_ext.config import ESPOLossConfig

    initialize_global_process_group_ray()
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    model_config = HFModelConfig(
        path=model_dir, override_config={"attn_implementation": "sdpa"}, use_remove_padding=False
    )
    model_config.model_type = "language_model"
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model_config,
        engine_config=FSDPEngineConfig(
            strategy="fsdp2", model_dtype="fp32", mixed_precision=precision, use_torch_compile=False
        ),
        optimizer_config=FSDPOptimizerConfig(lr=1e-3),
        checkpoint_config=None,
    )
    engine.initialize()
    actor = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        loss_agg_mode="seq-mean-token-mean",
        policy_loss=ESPOLossConfig(alpha=0.5),
    )
    actor.model_config = model_config
    calls = check_alignment()
    everything = rows(eos=257)
    share = len(everything) // world
    with engine.train_mode():
        engine.optimizer_zero_grad()
        data = batch(everything[rank * share : (rank + 1) * share])
        engine.forward_backward_batch(data, partial(engine_workers.ppo_loss, config=actor))
        assert calls
        gradients = {
            name: parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            for name, parameter in engine.module.named_parameters()
        }
        if rank == 0:
            torch.save({name: value.clone() for name, value in gradients.items()}, out_file)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
