"""wandb is told about the metrics of this package when verl opens its loggers."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from verl_ext.run_report import wandb_panels


def bind(tracking: ModuleType) -> None:
    """Called when ``verl.utils.tracking`` has been imported."""
    cls = tracking.Tracking
    original = cls.__init__

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if "wandb" in self.logger:
            wandb_panels.define(self.logger["wandb"])

    cls.__init__ = __init__
