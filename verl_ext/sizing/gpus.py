"""What a GPU has: memory, operations and bytes a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """One type of device.

    Attributes:
        memory: bytes that torch reports as the device's total.
        operations: dense bfloat16 operations a second, as verl's flops counter has them.
        bandwidth: bytes a second from its own memory, from the data sheet.
        note: what is not known of these numbers.
    """

    memory: float
    operations: float
    bandwidth: float
    note: str = ""


GPUS: Mapping[str, GPU] = {
    "a100-40gb": GPU(39.4 * GIB, 312e12, 1.555e12, "memory not seen on a device"),
    "a100-80gb": GPU(79.2 * GIB, 312e12, 2.039e12),
    "h100-80gb": GPU(79.1 * GIB, 989e12, 3.35e12),
    "h800-80gb": GPU(79.1 * GIB, 989e12, 3.35e12, "memory taken as the H100's"),
    "h20-96gb": GPU(95.0 * GIB, 148e12, 4.0e12, "memory not seen on a device"),
    "h200": GPU(139.0 * GIB, 989e12, 4.8e12),
    "b200": GPU(178.0 * GIB, 2250e12, 8.0e12, "memory not seen on a device"),
    "l40s-48gb": GPU(44.4 * GIB, 362.05e12, 0.864e12, "memory not seen on a device"),
}

CPU_OPERATIONS = 448e9
"""verl's number for any CPU, in operations a second."""
CPU_BANDWIDTH = 20e9
"""Bytes a second; of the order of one memory channel."""


def device(name: str) -> GPU:
    """A device by its name; ``cpu`` is this machine.

    Raises:
        ValueError: naming the known ones.

    Example:
        >>> round(device("h200").memory / 2**30)
        139
    """
    if name == "cpu":
        import psutil

        return GPU(psutil.virtual_memory().total, CPU_OPERATIONS, CPU_BANDWIDTH, "this machine's memory")
    if name not in GPUS:
        raise ValueError(f"'{name}' is not known; choose one of {', '.join([*GPUS, 'cpu'])}")
    return GPUS[name]
