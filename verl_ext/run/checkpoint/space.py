"""Room on a disk for a checkpoint, and how a full one is recognised."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# tokenizer, configurations, the headers of torch's files
_BESIDE_TENSORS = 1 << 20
# Torch's writer says the last two, without a reason or an error number.
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed writing",
    "enforce fail at inline_container.cc",
)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists():
        path = path.parent
    return path


def free(path: Path) -> int:
    """Bytes that this user can still write to the disk of a path."""
    found = os.statvfs(existing(path))
    return found.f_bavail * found.f_frsize


def disk(path: Path) -> str:
    """What holds a path, in words: device, type and mount point, the last of the mounts that fit."""
    real = existing(path).resolve()
    best = ("", "an unknown disk")
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        device, point, kind = line.split(" ")[:3]
        if real.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, f"{device} ({kind}) mounted at {point}")
    return best[1]


def readable(size: int) -> str:
    """Example: `readable(3 * 2**20)` is '3.0 MiB'."""
    if size < 2**10:
        return f"{size} bytes"
    unit = min(4, (size.bit_length() - 1) // 10)
    return f"{size / 2 ** (10 * unit):.1f} {['', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}"


def tensor_bytes(engine: Any) -> int:
    """Bytes of what one process writes: its shards of the parameters and of the optimizer's state; 0 if unknown."""
    module: Any = getattr(engine, "module", None)
    optimizer: Any = getattr(engine, "optimizer", None)
    if not hasattr(module, "parameters") or not hasattr(optimizer, "state"):
        return 0
    states = [value for state in optimizer.state.values() for value in state.values()]
    total = _bytes([*module.parameters(), *module.buffers(), *states])
    return total + _BESIDE_TENSORS


def _bytes(tensors: Iterable[Any]) -> int:
    local = (tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors)
    return sum(tensor.numel() * tensor.element_size() for tensor in local if hasattr(tensor, "element_size"))


def says_full(error: BaseException) -> bool:
    """Whether an error while writing, or one that it came from, is that of a full disk."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(words in str(seen) for words in _FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
