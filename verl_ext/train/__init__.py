"""Training by verl's own entry point, with the configuration put together and checked first."""

from collections.abc import Sequence

from verl_ext.checks.collecting import check
from verl_ext.composing import compose as composing
from verl_ext.composing.compose import Composed

__all__ = ["Composed", "check", "compose"]


def compose(arguments: Sequence[str]) -> Composed:
    """As `verl_ext.composing.compose.compose`, every fault told at once."""
    return composing.compose(arguments, check)
