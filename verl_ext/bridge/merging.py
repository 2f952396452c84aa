"""verl's merger of FSDP shards in the type that the weights have: ``python -m verl_ext.bridge.merging``.

verl rounds every tensor to bfloat16 while it reads the shards. Here that one step is replaced; configuration,
tokenizer, adapters, tied weights and the names on disk stay verl's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from verl.model_merger.base_model_merger import ModelMergerConfig
from verl.model_merger.fsdp_model_merger import FSDPModelMerger, merge_non_dtensor_shards

KEEP = "keep"
_REPLICATED = ("dp", "ddp")
"""Leading dimensions of a device mesh along which ranks hold the same."""


class Merger(FSDPModelMerger):
    """verl's merger without the rounding.

    Args:
        config: verl's.
        dtype: of floating-point weights; None for what the shards have. An adapter's run keeps it in any case, as the
            adapter is merged afterwards.
    """

    def __init__(self, config: ModelMergerConfig, dtype: torch.dtype | None) -> None:
        super().__init__(config)
        self.dtype = dtype

    def _load_and_merge_state_dicts(
        self, world_size: int, total_shards: int, mesh_shape: tuple[int, ...], mesh_dim_names: tuple[str, ...]
    ) -> dict[str, torch.Tensor]:
        shards = [self._shard(world_size, rank) for rank in range(total_shards)]
        names = set(shards[0])
        differing = [str(rank) for rank, shard in enumerate(shards) if set(shard) != names]
        if differing:
            raise ValueError(f"the shards of ranks {', '.join(differing)} hold other parameters than rank 0's")
        adapter = {name for name in names if "lora_" in name}
        if adapter == names:
            raise ValueError(
                "the checkpoint holds a LoRA adapter only (save_lora_only): save again with the base model's weights"
            )
        dtype = None if adapter else self.dtype
        skipped = int(mesh_dim_names[0] in _REPLICATED)
        return {
            name: self._whole(name, [shard.pop(name) for shard in shards], skipped, dtype) for name in sorted(names)
        }

    def _shard(self, world_size: int, rank: int) -> dict[str, Any]:
        file = Path(str(self.config.local_dir)) / f"model_world_size_{world_size}_rank_{rank}.pt"
        # Mapped, so that memory holds the merged weights and not all shards beside them.
        return torch.load(file, map_location="cpu", weights_only=False, mmap=True)

    def _whole(self, name: str, parts: list[Any], skipped: int, dtype: torch.dtype | None) -> torch.Tensor:
        if isinstance(parts[0], DTensor):
            placements = {tuple(part.placements)[skipped:] for part in parts}
            if len(placements) != 1 or len(next(iter(placements))) != 1:
                raise NotImplementedError(f"{name} is laid out as {placements}: only plain FSDP shards can be merged")
            merged = self._merge_by_placement([part.to_local() for part in parts], placements.pop()[0])
        else:
            merged = merge_non_dtensor_shards(name, parts)
        return merged.to(dtype) if dtype is not None and merged.is_floating_point() else merged


def merge(local_dir: Path, target_dir: Path, dtype: str = KEEP) -> None:
    """Write the Hugging Face folder of an FSDP checkpoint.

    Args:
        local_dir: with ``fsdp_config.json``, the shards of all ranks, and ``huggingface/``.
        target_dir: the folder to write.
        dtype: ``keep``, or the name of one of torch's.
    """
    target_dir.mkdir(parents=True, exist_ok=True)
    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(local_dir),
        target_dir=str(target_dir),
        hf_model_config_path=str(local_dir / "huggingface"),
    )
    Merger(config, None if dtype == KEEP else getattr(torch, dtype)).merge_and_save()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local_dir", type=Path, required=True)
    parser.add_argument("--target_dir", type=Path, required=True)
    parser.add_argument("--dtype", default=KEEP)
    given = parser.parse_args(arguments)
    merge(given.local_dir, given.target_dir, given.dtype)


if __name__ == "__main__":
    main()
