"""The sizes of a model from its own configuration."""

from __future__ import annotations

from functools import cache

from verl_ext.sizing.configuration import parse, read, unusable
from verl_ext.sizing.model import Model


def measure(name: str) -> Model:
    """The sizes of a model by its folder, or by its name on the hub.

    Raises:
        ValueError: the model is found nowhere, its file is damaged, or its type is not one that can be sized.

    Example:
        >>> moe = measure("Qwen/Qwen3-30B-A3B-Base")
        >>> moe.total, moe.active
        (30532122624, 3353032704)
    """
    return _measured(name, *read(name))


@cache
def _measured(name: str, text: str, source: str, unverified: bool) -> Model:
    # torch and transformers take seconds to import, which a wrong name need not wait for.
    from verl_ext.sizing.counting import count

    config = parse(name, text)
    try:
        return count(name, source, unverified, config)
    except (AttributeError, KeyError, TypeError, ZeroDivisionError) as error:  # a model of another make
        raise unusable(name, error) from error
