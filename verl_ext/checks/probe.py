"""What runs on a node: it looks, and judges nothing.

Ray gets these functions by value, so that a node without verl_ext can answer too. So this module imports nothing but
the standard library at its head, and returns what JSON can hold.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

_LIMITS = {
    "open_files": resource.RLIMIT_NOFILE,
    "locked_memory": resource.RLIMIT_MEMLOCK,
    "processes": resource.RLIMIT_NPROC,
}
_DEVICE_QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_CGROUP_FILES = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def look(request: dict[str, Any]) -> dict[str, Any]:
    """All that is known at once about this node: the fields of `verl_ext.cluster.preflight.found.Seen` but `plugin`.

    Args:
        request: ``distributions`` (names), ``models``, ``data`` and ``files`` (setting -> path), ``checkpoints`` (a
            folder or None).
    """
    return {
        "host": socket.gethostname(),
        "folder": os.getcwd(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in request["distributions"]},
        "devices": devices(),
        "limits": {name: _limit(number) for name, number in _LIMITS.items()},
        "memory": free_memory(),
        "shared_memory": shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0,
        "disk": disk(request["checkpoints"]),
        "paths": [
            *({"key": key, **model(path)} for key, path in request["models"].items()),
            *({"key": key, **data(path)} for key, path in request["data"].items()),
            *({"key": key, **present(path)} for key, path in request["files"].items()),
        ],
    }


def clock() -> float:
    """Seconds since 1970 on this node."""
    return time.time()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _limit(number: int) -> int | None:
    soft, _ = resource.getrlimit(number)
    return None if soft == resource.RLIM_INFINITY else soft


def devices() -> list[str] | None:
    """Names of the GPUs that NVIDIA's driver reports, whichever of them Ray shows to this process."""
    if shutil.which(_DEVICE_QUERY[0]) is None:
        return None
    answer = subprocess.run(_DEVICE_QUERY, capture_output=True, text=True, timeout=20, check=False)
    return answer.stdout.split("\n")[:-1] if answer.returncode == 0 else []


def free_memory(meminfo: str = "/proc/meminfo", cgroup: str = "/sys/fs/cgroup") -> int:
    """Bytes for new processes: the machine's, or what the container's limit leaves."""
    lines = (line.split() for line in Path(meminfo).read_text().splitlines())
    kilobytes = {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}
    free = kilobytes["MemAvailable"] * 1024
    for limit, usage in _CGROUP_FILES:
        here, used = Path(cgroup, limit), Path(cgroup, usage)
        if here.is_file() and used.is_file() and (text := here.read_text().strip()) != "max":
            free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)


def disk(folder: str | None) -> dict[str, Any]:
    """Free space where the checkpoints go; the folder itself need not exist yet."""
    if folder is None:
        return {"folder": None, "free": 0, "writable": True}
    place = Path(folder).expanduser().absolute()
    existing = next(one for one in (place, *place.parents) if one.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return {"folder": str(place), "free": shutil.disk_usage(existing).free, "writable": writable}


def present(path: str) -> dict[str, Any]:
    return {"path": path, "fault": None if os.path.isfile(path) else "no such file"}


def model(path: str) -> dict[str, Any]:
    """A model's folder: configuration, tokenizer and weights; a name on a hub is left alone."""
    found: dict[str, Any] = {"path": path, "fault": None, "parameters": None, "hub": False}
    folder = Path(path)
    if not folder.exists() and is_hub_name(path):
        return {**found, "hub": True}
    if not folder.is_dir():
        return {**found, "fault": "no such folder"}
    names = sorted(os.listdir(folder))
    absent = [] if "config.json" in names else ["config.json"]
    if not any(name.startswith(("tokenizer", "vocab")) or name.endswith(".model") for name in names):
        absent.append("a tokenizer")
    weights = [name for name in names if name.endswith((".safetensors", ".bin", ".pt"))]
    if not weights:
        absent.append("weights")
    if absent:
        return {**found, "fault": f"without {', '.join(absent)}"}
    files = [folder / name for name in weights if name.endswith(".safetensors")]
    try:
        return {**found, "parameters": sum(map(parameters, files)) or None}
    except (ValueError, KeyError, struct.error) as error:
        return {**found, "fault": f"weights that cannot be read: {error}"}


def is_hub_name(path: str) -> bool:
    """``owner/name``, or something behind a protocol."""
    return "://" in path or (path.count("/") <= 1 and not path.startswith(("/", ".", "~")))


def parameters(file: Path) -> int:
    """Numbers in a safetensors file, from its head alone: 8 bytes of length, then JSON with the shapes."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        head = json.loads(stream.read(length))
    total = 0
    for name, tensor in head.items():
        if name != "__metadata__":
            numbers = 1
            for extent in tensor["shape"]:
                numbers *= extent
            total += numbers
    return total


def data(path: str) -> dict[str, Any]:
    """A data file: its columns and rows; one behind a protocol (``hdfs://``) is left alone."""
    found: dict[str, Any] = {"path": path, "fault": None, "columns": [], "hub": "://" in path}
    if found["hub"]:
        return found
    if not os.path.isfile(path):
        return {**found, "fault": "no such file"}
    try:
        return {**found, "columns": columns(path)}
    # Whatever a reader of parquet or JSON raises is a fault of the file, and told as one.
    except Exception as error:
        return {**found, "fault": f"it cannot be read: {str(error).splitlines()[0]}"}


def columns(path: str) -> list[str]:
    """Names, those inside a struct as ``reward_model.ground_truth``; of JSON lines those of the first row."""
    if path.endswith(".parquet"):
        parquet = importlib.import_module("pyarrow.parquet")
        opened = parquet.ParquetFile(path)
        if opened.metadata.num_rows == 0:
            raise ValueError("it has no rows")
        found = []
        for part in opened.schema_arrow:
            found.append(part.name)
            inner = range(part.type.num_fields) if str(part.type).startswith("struct") else ()
            found += [f"{part.name}.{part.type.field(index).name}" for index in inner]
        return found
    if not path.endswith((".json", ".jsonl")):
        raise ValueError("verl reads .parquet, .json and .jsonl")
    with open(path, encoding="utf-8") as lines:
        row = json.loads(next(lines, "{}"))
    nested = [f"{key}.{inner}" for key, value in row.items() if isinstance(value, dict) for inner in value]
    return [*row, *nested]


def plugin() -> dict[str, Any]:
    """What verl's registries hold in a process that has imported verl, and which verl_ext is here.

    Whatever an import raises is what was asked, and is told.
    """
    found: dict[str, Any] = {
        "error": None, "version": None, "losses": [], "estimators": [],
        "asked": os.environ.get("VERL_USE_EXTERNAL_PLUGINS"),
    }  # fmt: skip
    try:
        importlib.import_module("verl")
        algos = importlib.import_module("verl.trainer.ppo.core_algos")
        for kind, registry in (("losses", "POLICY_LOSS_REGISTRY"), ("estimators", "ADV_ESTIMATOR_REGISTRY")):
            found[kind] = sorted(str(getattr(name, "value", name)) for name in getattr(algos, registry))
        importlib.import_module("verl_ext.plugin")
        found["version"] = getattr(importlib.import_module("verl_ext"), "__version__", None)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    return found
