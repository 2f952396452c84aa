"""How a method's hyper-parameters are declared and checked.

A class of hyper-parameters is a dataclass with the mixin `Checked` whose fields are made with
`hyper(default, check)`. Unknown keys, values out of range and contradictions between keys are collected and raised
together. The classes themselves are in verl_ext.config.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar


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
    return isinstance(value, int | float) and not isinstance(value, bool)


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
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise Unfit
        return value

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
        bad = cls._out_of_range(given)
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
    def _out_of_range(cls, given: Mapping[str, Any]) -> dict[str, str]:
        faults = {}
        for spec in cls._hypers():
            if spec.name in given:
                try:
                    spec.metadata["check"](given[spec.name])
                except ValueError as fault:
                    faults[spec.name] = f"{spec.name}={given[spec.name]!r} {fault}"
        return faults

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        """Faults between keys that are each fine by themselves; `values` lacks those that are not."""
        return []
