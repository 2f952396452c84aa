"""Settings of the token export, the section `verl_ext.export` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from verl_ext.hyper import Checked, hyper, integer, optional, text

NODE = "verl_ext.export"


@dataclass
class TokenExportSettings(Checked):
    """Which steps write what the loss made of each token; see docs/token-export.md.

    Attributes:
        every: export the steps whose number this divides; 0 exports none.
        dir: where; null is `token_export` in `trainer.default_local_dir`.
        max_rows: responses that each rank writes at a step, >= 1, whole groups as far as possible; null is all.
    """

    method: ClassVar[str] = "export"
    where: ClassVar[str] = NODE

    every: int = hyper(0, integer(least=0))
    dir: str | None = hyper(None, optional(text()))
    max_rows: int | None = hyper(256, optional(integer(least=1)))

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        default = cls.defaults()
        if values.get("every", default["every"]) != 0:
            return []
        idle = [name for name in ("dir", "max_rows") if values.get(name, default[name]) != default[name]]
        return [f"{name}={values[name]} does nothing with every=0" for name in idle]
