"""How a method's hyper-parameters are declared and checked.

A method's signature is the source: a parameter `alpha: Annotated[float, number(least=0)] = 0.02` says type, range and
default. The function checks its own call with `check_call`; its class of hyper-parameters, a dataclass with the mixin
`Checked`, takes each field from there with `hyper_of(function, name)`. What no function takes is a field made with
`hyper(default, check)`. Unknown keys, values out of range and contradictions between keys are collected and raised
together. The classes themselves are in verl_ext.config.
"""

import dataclasses
import difflib
import functools
import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_type_hints


class Unfit(Exception):
    """A value that a check refuses; the message, if any, is a hint."""


@dataclass(frozen=True)
class Check:
    """Turns a value into its final type, or raises ValueError("must be <wanted>").

    Attributes:
        wanted: what a value must be, for errors and for the table of hyper-parameters.
        parse: value -> value in its final type; raises `Unfit`.
    """

    wanted: str
    parse: Callable[[Any], Any]

    def __call__(self, value: Any) -> Any:
        try:
            return self.parse(value)
        except Unfit as fault:
            raise ValueError(f"must be {self.wanted}{fault}") from None


def one_of(*names: str) -> Check:
    """A string out of a closed list."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            close = difflib.get_close_matches(str(value), names, n=1)
            raise Unfit(f"; did you mean '{close[0]}'?" if close else "")
        return value

    return Check(f"one of {', '.join(names)}", parse)


def text() -> Check:
    """A string that is not empty."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise Unfit
        return value

    return Check("a string that is not empty", parse)


def flag() -> Check:
    """true or false."""

    def parse(value: Any) -> bool:
        if not isinstance(value, bool):
            raise Unfit
        return value

    return Check("true or false", parse)


def switch() -> Check:
    """on or off; a YAML file reads these words as true and false."""

    def parse(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if value not in ("on", "off"):
            raise Unfit
        return bool(value == "on")

    return Check("on or off", parse)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)  # numpy's scalars are Real too


def number(least: float = -math.inf, most: float = math.inf, above: float = -math.inf) -> Check:
    """A finite number, least <= x <= most and x > above."""
    bounds = [f"> {above:g}"] * (above > -math.inf)
    bounds += [f">= {least:g}"] * (least > -math.inf) + [f"<= {most:g}"] * (most < math.inf)

    def parse(value: Any) -> float:
        if not _is_number(value) or not (math.isfinite(value) and least <= value <= most and value > above):
            raise Unfit
        return float(value)

    return Check(" ".join(["a finite number", " and ".join(bounds)]).strip(), parse)


def integer(least: int) -> Check:
    """A whole number, x >= least."""

    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
            raise Unfit
        return int(value)

    return Check(f"a whole number >= {least}", parse)


def optional(check: Check) -> Check:
    """null, or what `check` accepts."""
    return Check(f"null or {check.wanted}", lambda value: None if value is None else check.parse(value))


def ascending(above: float, below: float = math.inf) -> Check:
    """A list of strictly ascending numbers, above < x < below."""
    limit = f" and < {below:g}" if below < math.inf else ""

    def parse(value: Any) -> list[float]:
        # OmegaConf's ListConfig is a Sequence; a bare number or a string is what a shell leaves of a list.
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(map(_is_number, value)):
            raise Unfit
        items = [float(x) for x in value]
        if not all(above < x < below for x in items) or any(a >= b for a, b in itertools.pairwise(items)):
            raise Unfit
        return items

    return Check(f"a list of ascending numbers, each > {above:g}{limit}", parse)


def one_each(error: BaseException) -> list[str]:
    """The faults that an error of a `Checked` class lists, each with the node of the configuration it is in."""
    head, *listed = str(error).strip().splitlines()
    where = head.split(" ")[0]
    return [f"{where}: {line.strip().removeprefix('- ')}" for line in listed] or [head]


def hyper(default: Any, check: Check) -> Any:
    """A dataclass field that is a hyper-parameter of the method."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"check": check})
    return field(default=default, metadata={"check": check})


def hyper_of(function: Callable[..., Any], name: str) -> Any:
    """A dataclass field with the default and the check of a function's parameter."""
    default = inspect.signature(function).parameters[name].default
    return hyper(list(default) if isinstance(default, tuple) else default, checks_of(function)[name])


@functools.cache
def checks_of(function: Callable[..., Any]) -> dict[str, Check]:
    """The checks with which a function's parameters are `Annotated`."""
    return {
        name: check
        for name, hint in get_type_hints(function, include_extras=True).items()
        for check in getattr(hint, "__metadata__", ())
        if isinstance(check, Check)
    }


def check_call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    contradictions: Callable[[Mapping[str, Any]], Iterable[str]] = lambda values: (),
) -> None:
    """Refuse arguments that the configuration would refuse; the first line of a public function.

    Args:
        function: its annotated parameters have the checks.
        arguments: `locals()`; what has no check is not looked at.
        contradictions: values that are each fine -> faults between them.

    Raises:
        ValueError: all faults at once.
    """
    checks = checks_of(function)
    bad = out_of_range(checks, arguments)
    sound = {name: arguments[name] for name in checks if name in arguments and name not in bad}
    if faults := [*bad.values(), *contradictions(sound)]:
        raise ValueError(f"{function.__name__}: {'; '.join(faults)}")


def out_of_range(checks: Mapping[str, Check], given: Mapping[str, Any]) -> dict[str, str]:
    """Key -> fault, for the values that their check refuses."""
    faults = {}
    for name, check in checks.items():
        if name in given:
            try:
                check(given[name])
            except ValueError as fault:
                faults[name] = f"{name}={given[name]!r} {fault}"
    return faults


class Checked:
    """Mixin of the dataclasses below: checks every key before the instance exists.

    An unknown key reaches a dataclass's `__init__` as a bare TypeError about the first one; `__new__` sees
    all arguments before that, and hydra calls it like any other constructor.
    """

    method: ClassVar[str]
    where: ClassVar[str]  # the node of verl's configuration that holds these keys

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        given = {**dict(zip(known, args, strict=False)), **kwargs}
        bad = out_of_range({spec.name: spec.metadata["check"] for spec in cls._hypers()}, given)
        sound = {name: value for name, value in {**cls.defaults(), **given}.items() if name not in bad}
        faults = cls._unknown(given) + list(bad.values()) + cls._contradictions(sound)
        if faults:
            lines = "".join(f"\n  - {fault}" for fault in faults)
            raise ValueError(f"{cls.where} ({cls.__name__}) is not valid:{lines}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for spec in self._hypers():
            # verl's BaseConfig refuses a second assignment through its own __setattr__.
            object.__setattr__(self, spec.name, spec.metadata["check"](getattr(self, spec.name)))

    @classmethod
    def _hypers(cls) -> list[dataclasses.Field[Any]]:
        return [f for f in dataclasses.fields(cls) if "check" in f.metadata]  # type: ignore[arg-type]

    @classmethod
    def names(cls) -> list[str]:
        """Names of the method's own hyper-parameters."""
        return [spec.name for spec in cls._hypers()]

    @classmethod
    def ranges(cls) -> dict[str, str]:
        """Hyper-parameter -> what its values must be, in words."""
        return {spec.name: spec.metadata["check"].wanted for spec in cls._hypers()}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Hyper-parameter -> default, JSON-able."""
        return {
            spec.name: spec.default if spec.default_factory is dataclasses.MISSING else spec.default_factory()
            for spec in cls._hypers()
        }

    def resolved(self) -> dict[str, Any]:
        """Hyper-parameter -> value in force, JSON-able."""
        values = {name: getattr(self, name) for name in self.names()}
        return {name: list(value) if isinstance(value, list) else value for name, value in values.items()}

    @classmethod
    def _unknown(cls, given: Mapping[str, Any]) -> list[str]:
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        faults = []
        for key in given:
            if key not in known:
                # The method's own keys come first: a slip there is likelier than one in verl's.
                close = difflib.get_close_matches(key, cls.names(), n=1)
                close = close or difflib.get_close_matches(key, known, n=1)
                reads = f"{cls.method} reads {', '.join(cls.names())}"
                faults.append(f"unknown key '{key}'; " + (f"did you mean '{close[0]}'?" if close else reads))
        return faults

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        """Faults between keys that are each fine by themselves; `values` lacks those that are not."""
        return []


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or the list of what there is."""
    names = [str(getattr(key, "value", key)) for key in known]
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is: {', '.join(sorted(names))}"
