"""Run as a program: what a rollback and a NaN do to verl's FSDP2 engine, in the middle of training.

Usage: RANK=0 WORLD_SIZE=1 ... python engine_probe.py MODEL_DIR FOLDER. The engine, the batch and the loss are those of
tests/platform/rank_probe.py, whose one pass is replaced by the scenario below.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

import rank_probe


def state(engine: Any) -> dict[str, Any]:
    """Weights, moments of the optimizer and the learning rate, as plain copies."""
    import torch

    def local(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()

    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    found: dict[str, Any] = {name: local(parameter) for parameter, name in names.items()}
    for parameter, moments in engine.optimizer.state.items():
        found |= {f"{names[parameter]}.{key}": local(value) for key, value in moments.items()}
    return {**found, "lr": torch.tensor(engine.lr_scheduler.get_last_lr())}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(bool((one[name] == other[name]).all()) for name in one)


def scenario(engine: Any, loss: Any, folder: Path) -> dict[str, Any]:
    import torch

    def update(advantage: float | None = None) -> tuple[dict[str, Any], float]:
        rows = rank_probe.rows(eos=257)
        if advantage is not None:
            rows[2]["advantages"][1] = advantage
        norm = engine.train_batch(rank_probe.batch(rows), loss)["metrics"]["grad_norm"]
        if advantage is None:
            engine.lr_scheduler_step()
        return state(engine), float(norm)

    first, _ = update()
    engine.save_checkpoint(str(folder / "actor"), None, 1, None)
    second, _ = update()
    third, _ = update()
    engine.load_checkpoint(str(folder / "actor"), None, False)
    back = state(engine)
    again, _ = update()
    poisoned, norm = update(advantage=math.nan)
    assert not torch.isnan(torch.tensor(again["lr"]))
    return {
        "training changes the state": not same(first, third) and not same(first, second),
        "the state after going back is the saved one": same(back, first),
        "the next update is the one that was made before": same(again, second),
        "the checkpoint is still there": (folder / "actor").is_dir(),
        "norm of a batch with NaN": str(norm),
        "a batch with NaN changes nothing": same(poisoned, again),
    }


def main(model_dir: str, folder: str) -> None:
    import verl  # noqa: F401  (loads the plugin)
    from verl.workers.engine import EngineRegistry

    make = EngineRegistry.new

    def new(*args: Any, **kwargs: Any) -> Any:
        engine = make(*args, **kwargs)
        run = engine.forward_backward_batch

        def forward_backward_batch(data: Any, loss: Any) -> None:
            engine.forward_backward_batch = run
            result = scenario(engine, loss, Path(folder))
            print("RESULT", json.dumps(result), flush=True)
            sys.exit(0)

        engine.forward_backward_batch = forward_backward_batch
        return engine

    EngineRegistry.new = new
    rank_probe.main(model_dir, "")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
