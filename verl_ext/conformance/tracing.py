"""Counting what would make the host wait for a GPU, on a machine that has none."""

from __future__ import annotations

import functools
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# Operators whose result, or its size, the host has to know.
_OPERATORS = {
    aten._local_scalar_dense.default: "item",  # also float(), int(), bool(), if, any and all of Python
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.equal.default: "equal",
}
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
SHOWN = 6  # places named in a report
# Methods that on a CPU reach no operator.
_METHODS = ("tolist", "cpu", "numpy", "__array__")


class TransferLog(TorchDispatchMode):
    """Context in which transfers to the host are noted.

    Attributes:
        seen: one text a transfer: what, and the line of the code that asked for it.

    Example:
        >>> with TransferLog() as log:
        ...     values = torch.stack([torch.ones(()), torch.zeros(())]).tolist()
        >>> len(log.seen)
        1
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._originals: dict[str, Any] = {}
        self._inside = 0

    def summary(self) -> str:
        """What was seen, with counts; the first few places."""
        counts = Counter(self.seen)
        places = [f"{what} x{count}" if count > 1 else what for what, count in counts.items()]
        rest = len(places) - SHOWN
        return ", ".join(places[:SHOWN]) + (f" and {rest} more places" if rest > 0 else "")

    def __enter__(self) -> TransferLog:
        for name in _METHODS:
            self._originals[name] = getattr(Tensor, name)
            setattr(Tensor, name, self._noted(name, self._originals[name]))
        self._originals["to"] = Tensor.to
        Tensor.to = self._noted_to(Tensor.to)  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, original in self._originals.items():
            setattr(Tensor, name, original)
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _OPERATORS.get(func)
        if name is None and func in _INDEXING and _by_mask(func, args):
            name = "indexing by a mask"
        if name is None and func is aten.repeat_interleave.Tensor and not (kwargs or {}).get("output_size"):
            name = "repeat_interleave without output_size"
        if name is not None and not self._inside:
            self._note(name)
        return func(*args, **(kwargs or {}))

    def _noted(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(*args: Any, **kwargs: Any) -> Any:
            if not self._inside:
                self._note(name)
            self._inside += 1
            try:
                return original(*args, **kwargs)
            finally:
                self._inside -= 1

        return method

    def _noted_to(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            # Only the word: `x.to(y.device)` is a transfer or not depending on y, and here every device is the CPU.
            if "cpu" in [arg for arg in (*args, *kwargs.values()) if isinstance(arg, str)] and not self._inside:
                self._note("to('cpu')")
            return original(tensor, *args, **kwargs)

        return to

    def _note(self, what: str) -> None:
        self.seen.append(f"{what} ({_caller()})")


def _by_mask(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an index is a mask, whose True places are counted first."""
    masks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    # Writing one number through a mask becomes masked_fill, which asks for nothing.
    return masks and (func is aten.index.Tensor or args[2].numel() != 1)


def _caller() -> str:
    """File and line of the innermost frame that is neither torch's nor this file's."""
    inside = (str(Path(torch.__file__).parent), __file__)
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(inside):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return "?"
