"""An export as text that fits into a page and is unpacked a response at a time.

Every response is one chunk: its columns one behind the other as little-endian numbers, deflated, in base64. Chunks are
lined up in blocks, so that a page with many responses has few elements. What a chunk holds, and where it stands, is in
the manifest.

Shapes: T tokens of a response.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Characters of a block. Browsers hold a text of 512 MB at most, and every block is two nodes of the page.
BLOCK = 4 << 20
TEXT = "text"
INTEGER_TYPES = ("int8", "int16", "int32")


@dataclass(frozen=True)
class Place:
    """Where a chunk stands."""

    block: int
    start: int
    size: int

    def to_list(self) -> list[int]:
        """For the manifest."""
        return [self.block, self.start, self.size]


@dataclass
class Blocks:
    """Chunks in base64, lined up.

    Example:
        >>> blocks = Blocks()
        >>> place = blocks.add(b"abc")
        >>> unpacked(blocks.texts, place.to_list())
        b'abc'
    """

    limit: int = BLOCK
    _parts: list[list[str]] = field(default_factory=lambda: [[]])
    _size: int = 0

    def add(self, data: bytes) -> Place:
        """Deflate and append."""
        text = encoded(data)
        if self._size and self._size + len(text) > self.limit:
            self._parts.append([])
            self._size = 0
        place = Place(len(self._parts) - 1, self._size, len(text))
        self._parts[-1].append(text)
        self._size += len(text)
        return place

    @property
    def texts(self) -> list[str]:
        """One text a block."""
        return ["".join(parts) for parts in self._parts]


def encoded(data: bytes) -> str:
    """Raw deflate, then base64."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return base64.b64encode(packer.compress(data) + packer.flush()).decode("ascii")


def unpacked(blocks: Sequence[str], place: Sequence[int]) -> bytes:
    """The inverse of `Blocks.add`, as the page does it."""
    block, start, size = place
    return zlib.decompress(base64.b64decode(blocks[block][start : start + size]), -15)


def as_json(value: Any) -> bytes:
    """The same bytes for equal values; characters outside ASCII are written as escapes, lone surrogates too.

    Raises:
        ValueError: NaN or an infinity, which the page's reader of JSON refuses.
    """
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def type_of(name: str, rows: Sequence[np.ndarray]) -> str:
    """The narrowest type that holds a column exactly: float32 stays, integers shrink.

    Raises:
        ValueError: an integer that needs more than 32 bits.
    """
    if any(row.dtype.kind == "f" for row in rows):
        return "float32"
    least = min((int(row.min()) for row in rows if len(row)), default=0)
    greatest = max((int(row.max()) for row in rows if len(row)), default=0)
    for kind in INTEGER_TYPES:
        if np.iinfo(kind).min <= least and greatest <= np.iinfo(kind).max:
            return kind
    raise ValueError(f"column {name} holds {least} .. {greatest}: the viewer shows integers of 32 bits")


def chunk(row: Mapping[str, np.ndarray], types: Mapping[str, str]) -> bytes:
    """The columns of a response, in the order of `types`; those that the row lacks are left out."""
    return b"".join(
        np.ascontiguousarray(row[name], f"<{_code(types[name])}").tobytes() for name in types if name in row
    )


def columns_of(data: bytes, names: Sequence[str], types: Mapping[str, str], tokens: int) -> dict[str, np.ndarray]:
    """The inverse of `chunk`, as the page does it."""
    found, offset = {}, 0
    for name in names:
        kind = np.dtype(f"<{_code(types[name])}")
        found[name] = np.frombuffer(data, kind, count=tokens, offset=offset)
        offset += tokens * kind.itemsize
    if offset != len(data):
        raise ValueError(f"a chunk of {len(data)} bytes holds {offset} bytes of columns")
    return found


def _code(kind: str) -> str:
    return np.dtype(kind).str[1:]
