"""Which hyper-parameters a method is tried with: every value of its options, and some combinations.

A variant holds what differs from the defaults; `{}` are the defaults.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from verl_ext.conformance.declared import Declaration

MAX_VARIANTS, MAX_COMBINATIONS = 4096, 12

Variant = Mapping[str, Any]


def chosen_variants(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All variants with one deviation, and at most `MAX_COMBINATIONS` of the others, the same at every call."""
    single = [variant for variant in found if len(variant) == 1]
    combined = [variant for variant in found if len(variant) > 1]
    # Where an option value is allowed together with another one only, all of its variants are among these.
    alone = {item for variant in single for item in _items(variant)}
    needed = [variant for variant in combined if not alone.issuperset(_items(variant))]
    picked = random.Random(0).sample(combined, min(MAX_COMBINATIONS, len(combined)))
    return [*single, *needed[:MAX_COMBINATIONS], *(variant for variant in picked if variant not in needed)]


def _items(variant: Variant) -> list[tuple[str, str]]:
    return [(name, repr(value)) for name, value in variant.items()]


def variants(options: Mapping[str, Sequence[Any]], build: Callable[[Variant], Any]) -> list[dict[str, Any]]:
    """Combinations of option values as deviations from the defaults, those with the fewest first.

    All combinations that `build` accepts, or, where there are more than `MAX_VARIANTS`, one deviation at a time.
    """
    others = {name: values[1:] for name, values in options.items()}
    single: list[dict[str, Any]] = [{name: value} for name, values in others.items() for value in values]
    if math.prod(len(values) for values in options.values()) > MAX_VARIANTS:
        return [{}, *(variant for variant in single if _valid(variant, build))]
    choices = [[{}, *({name: value} for value in values)] for name, values in others.items()]
    combined = [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*choices)]
    return sorted((variant for variant in combined if _valid(variant, build)), key=len)


def _valid(variant: Variant, build: Callable[[Variant], Any]) -> bool:
    """Whether a configuration class accepts a combination of its options; the defaults are always tried."""
    try:
        build(variant)
    except ValueError:
        return not variant
    return True


def declaration_of_ours(method: Any) -> Declaration:
    """Options and their values from the method's configuration class: closed lists, flags, and the method's `tried`."""
    cls = method.config_type()
    defaults, extra = cls.defaults(), method.tried
    unread = getattr(method, "controller_keys", ())
    options = {
        name: (default, *(value for value in (*_named_values(wanted), *extra.get(name, ())) if value != default))
        for name, wanted, default in ((name, wanted, defaults[name]) for name, wanted in cls.ranges().items())
        if name not in unread
    }
    return Declaration(
        policy_loss=lambda options: cls(**options),
        options={name: values for name, values in options.items() if len(values) > 1},
        exempt=getattr(method, "exempt", {}),
        clip=getattr(method, "clip_form", None),
    )


def _named_values(wanted: str) -> tuple[Any, ...]:
    """The values that verl_ext.hyper's `one_of` and `flag` allow, from what they say that a value must be."""
    if wanted == "true or false":
        return (True, False)
    return tuple(wanted.removeprefix("one of ").split(", ")) if wanted.startswith("one of ") else ()
