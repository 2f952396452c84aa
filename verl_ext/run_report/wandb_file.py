"""Read the history out of the file that wandb's client writes, offline or not: ``run-<id>.wandb``.

The file is a log as LevelDB writes it, of protocol buffers that the wandb package describes::

    file    header of 7 bytes (":W&B", 0xBEE1, version), then blocks of 32,768 bytes; the header counts to the first
    block   chunks, and zeros where fewer than 7 bytes are left
    chunk   checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4: last), data
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, CHUNK = 32768, struct.Struct("<IHB")
HEADER = b":W&B" + struct.pack("<HB", 0xBEE1, 0)
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def history(file: Path) -> tuple[list[dict[str, Any]], bool]:
    """The rows of `wandb.log`, and whether the file ends in the middle of something, as after a killed run.

    Args:
        file: ``run-<id>.wandb``.

    Returns:
        For each row its values with `_step` among them, in the order in which they were logged.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    message: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]  # made when the module is imported
    rows = []
    try:
        for data in records(file.read_bytes()):
            record = message.FromString(data)
            if record.WhichOneof("record_type") == "history":
                # Nested values have a path of names, plain ones a name.
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                rows.append({"_step": record.history.step.num, **row})
    except (EOFError, DecodeError, ValueError):
        return rows, True
    return rows, False


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log.

    Raises:
        EOFError: it is cut off inside of a record, is no such log, or a record is not followed by its rest.
    """
    if not data.startswith(HEADER):
        raise EOFError("no file of wandb")
    at = len(HEADER)
    parts: list[bytes] = []
    while at < len(data):
        room = BLOCK - at % BLOCK
        if room < CHUNK.size:
            at += room
            continue
        if at + CHUNK.size > len(data):
            raise EOFError("cut off in the head of a chunk")
        _, length, kind = CHUNK.unpack_from(data, at)
        at += CHUNK.size
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or length > room - CHUNK.size or at + length > len(data):
            raise EOFError("cut off or damaged")
        if (kind in (WHOLE, FIRST)) != (not parts):
            raise EOFError("a record that has no end, or no beginning")
        parts.append(data[at : at + length])
        at += length
        if kind in (WHOLE, LAST):
            yield b"".join(parts)
            parts = []
    if parts:
        raise EOFError("cut off between two chunks")
