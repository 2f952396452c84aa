"""What is changed in verl's loggers: no step is lost, wandb knows our metrics, and all of them end with the process.

verl's file logger opens its file anew, so that an attempt that fails at its start erases what the one before it has
logged. It appends here, and each line has the number of its attempt (`verl_ext.run_report.attempts`). Where the run's
output is read, the steps are printed even without verl's console logger.
"""

from __future__ import annotations

import atexit
import builtins
import functools
import os
import weakref
from pathlib import Path
from types import ModuleType
from typing import IO, Any

from verl_ext.live.logs import STEP_LINES
from verl_ext.run_report import attempts, wandb_panels


def bind(tracking: ModuleType) -> None:
    """Called when ``verl.utils.tracking`` has been imported."""
    _append(tracking)
    cls = tracking.Tracking
    original, original_log = cls.__init__, cls.log

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if "wandb" in self.logger:
            wandb_panels.define(self.logger["wandb"])
        atexit.register(_end, weakref.ref(self))

    @functools.wraps(original_log)
    def log(self: Any, data: dict[str, Any], step: int, *args: Any, **kwargs: Any) -> None:
        original_log(self, data, step, *args, **kwargs)
        if os.environ.get(STEP_LINES) and "console" not in self.logger:
            from verl.utils.logger.aggregate_logger import concat_dict_to_str

            print(concat_dict_to_str(data, step=step), flush=True)

    cls.__init__, cls.log = __init__, log


def _end(reference: weakref.ref[Any]) -> None:
    """Close the loggers while Python is whole; verl leaves it to `__del__`, which comes after it has been taken down.

    wandb ends itself, in a function that was registered before this one: it knows how the process ends.
    """
    tracking = reference()
    if tracking is not None:
        tracking.logger.pop("wandb", None)
        tracking.finish()


def _append(tracking: ModuleType) -> None:
    """Have `FileLogger` append; where its file lies is for verl to say."""
    import orjson

    cls = tracking.FileLogger
    original = cls.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.attempt = 1 + attempts.last(Path(self.filepath))

    def log(self: Any, data: Any, step: int) -> None:
        line = {"step": step, "attempt": self.attempt, "data": data}
        self.fp.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    cls.__init__, cls.log = __init__, log
    # The name that verl's module finds before the built-in function; its other files are opened as text.
    vars(tracking)["open"] = _open


def _open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> IO[Any]:
    """`open`, except that a binary file that would be emptied is continued, on a line of its own."""
    if mode != "wb" or not Path(file).is_file():
        return builtins.open(file, mode, *args, **kwargs)  # whoever opens it closes it
    opened = builtins.open(file, "ab", *args, **kwargs)  # noqa: SIM115
    if not _ends_whole(Path(file)):
        opened.write(b"\n")
    os.utime(file)  # readers see that a further attempt has begun
    return opened


def _ends_whole(file: Path) -> bool:
    """Whether the last line was written to its end: a killed run may have left half a one."""
    with file.open("rb") as lines:
        size = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, size - 1))
        return lines.read(1) in (b"", b"\n")
