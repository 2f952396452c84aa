"""Training by verl's own entry point, with the configuration put together and checked first."""

from verl_ext.train.checks import check
from verl_ext.train.composing import Composed, compose

__all__ = ["Composed", "check", "compose"]
