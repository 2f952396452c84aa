"""What is added to verl's loggers: wandb is told about our metrics, and a log that is read has every step."""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

from verl_ext.live.logs import STEP_LINES
from verl_ext.run_report import wandb_panels


def bind(tracking: ModuleType) -> None:
    """Called when ``verl.utils.tracking`` has been imported."""
    cls = tracking.Tracking
    original, original_log = cls.__init__, cls.log

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if "wandb" in self.logger:
            wandb_panels.define(self.logger["wandb"])

    @functools.wraps(original_log)
    def log(self: Any, data: dict[str, Any], step: int, *args: Any, **kwargs: Any) -> None:
        original_log(self, data, step, *args, **kwargs)
        if os.environ.get(STEP_LINES) and "console" not in self.logger:
            from verl.utils.logger.aggregate_logger import concat_dict_to_str

            print(concat_dict_to_str(data, step=step), flush=True)

    cls.__init__, cls.log = __init__, log
