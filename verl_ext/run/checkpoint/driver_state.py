"""What a resumed trainer process needs and verl does not save: its random state, the KL controller, plugin state."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl_ext.run import state as run_state
from verl_ext.run.checkpoint import layout

VERSION = 1


def collect(kl_controller: Any = None) -> dict[str, Any]:
    """The state of this process, of types that JSON knows.

    Args:
        kl_controller: the trainer's, with its coefficient as `value`; None where it has none.
    """
    import numpy as np
    import torch

    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "version": VERSION,
        "random": {
            "python": [version, list(words), gauss],
            "numpy": [name, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
            "torch": torch.get_rng_state().numpy().tobytes().hex(),
        },
        "kl_coefficient": float(kl_controller.value) if adaptive(kl_controller) else None,
        "plugin": run_state.state(),
    }


def restore_random(saved: Mapping[str, Any]) -> None:
    """Set the generators of python, numpy and torch in this process."""
    import numpy as np
    import torch

    version, words, gauss = saved["random"]["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = saved["random"]["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(torch.tensor(list(bytes.fromhex(saved["random"]["torch"])), dtype=torch.uint8))


def restore(saved: Mapping[str, Any], kl_controller: Any = None) -> None:
    """Everything but the random state, which later work before the first step would move on."""
    if adaptive(kl_controller) and saved["kl_coefficient"] is not None:
        kl_controller.value = saved["kl_coefficient"]
    run_state.restore(saved["plugin"])


def adaptive(kl_controller: Any) -> bool:
    """Whether the coefficient moves; a fixed one is what the configuration says, also when that was changed."""
    return hasattr(kl_controller, "horizon")


def write(folder: Path, state: Mapping[str, Any]) -> None:
    """Into a checkpoint's folder."""
    layout.write_json(folder / layout.STATE, state)


def read(folder: Path) -> dict[str, Any] | None:
    """Of a checkpoint; None for one that was made without the plugin.

    Raises:
        ValueError: of a version that this plugin does not know.
    """
    path = folder / layout.STATE
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["version"] != VERSION:
        raise ValueError(f"{path} has version {found['version']}, this verl_ext reads version {VERSION}")
    return found
