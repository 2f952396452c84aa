"""Entropy- and segment-aware policy optimisation for veRL.

The names below are the public API. They are resolved on first use, because every Ray process of a
training job imports this package and must not pay for torch or verl here.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verl_ext.context import MissingTokenData, TokenContext, current_context, token_context
    from verl_ext.plugin import Estimator, PolicyLoss, add, register

__all__ = [
    "Estimator",
    "MissingTokenData",
    "PolicyLoss",
    "TokenContext",
    "__version__",
    "add",
    "current_context",
    "register",
    "token_context",
]

_HOME = {
    "Estimator": "verl_ext.plugin",
    "PolicyLoss": "verl_ext.plugin",
    "add": "verl_ext.plugin",
    "MissingTokenData": "verl_ext.context",
    "TokenContext": "verl_ext.context",
    "current_context": "verl_ext.context",
    "register": "verl_ext.plugin",
    "token_context": "verl_ext.context",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("verl-ext")
    if name not in _HOME:
        raise AttributeError(f"module 'verl_ext' has no attribute '{name}'; it offers {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
