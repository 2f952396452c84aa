"""Two saved states, leaf by leaf."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def differences(one: Any, other: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """(Place, largest difference) for every leaf of two nested states that is not exactly equal."""
    import numpy as np
    import torch

    if isinstance(one, torch.Tensor):
        a, b = (getattr(x, "to_local", lambda x=x: x)() for x in (one, other))
        if not torch.equal(a, b):
            yield where, float((a.double() - b.double()).abs().max())
    elif isinstance(one, np.ndarray):
        if not np.array_equal(one, other):
            yield where, math.nan
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), f"{where}: {one.keys() ^ other.keys()}"
        for key in one:
            yield from differences(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from differences(a, b, f"{where}/{number}")
    elif one != other:
        yield where, math.nan


def loaded(file: Path) -> Any:
    import torch

    if file.suffix == ".json":
        return json.loads(file.read_text())
    return torch.load(file, weights_only=False)
