"""A small study for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SMALL: dict[str, Any] = {
    "name": "small",
    "choices": {"backend": "cpu", "data": "demo_arithmetic", "experiment": "cpu_study"},
    "seeds": [1, 2],
    "limit_s": 300,
    "models": {"tiny_dense": ["gspo", "espo"], "tiny_moe": ["gspo"]},
    "methods": {
        "gspo": {"label": "GSPO", "algo": "gspo", "overrides": ["actor_rollout_ref.actor.clip_ratio_low=1e-3"]},
        "espo": {"label": "ESPO", "algo": "espo"},
    },
    "tuning": {"method": "gspo", "model": "tiny_dense", "seed": 0, "candidates": {"narrow": [], "wide": ["a.b=1"]}},
}


def written(folder: Path, **changes: Any) -> Path:
    """A study's folder; a change to None leaves the key out."""
    data = {key: value for key, value in {**SMALL, **changes}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder
