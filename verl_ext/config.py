"""Typed hyper-parameters. Each class is the whole list of what its method reads, with ranges.

Losses: `actor_rollout_ref.actor.policy_loss._target_=verl_ext.config.ESPOLossConfig`, further keys with
Hydra's `+`. Estimators: the keys of `algorithm.<name>`, e.g. `+algorithm.espo.failed=incorrect`.

A class is a dataclass whose fields are made with `hyper(default, check)`. Unknown keys, values out of range
and contradictions between keys are collected and raised together.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from verl.workers.config import PolicyLossConfig

from verl_ext.advantages import espo as espo_advantage
from verl_ext.bridge.install import install
from verl_ext.losses import espo as espo_loss

# A configuration that names a class of this module must not depend on verl's plugin discovery, which can be switched
# off and swallows exceptions: here a plugin that cannot be installed is an error that Hydra reports.
install()

Check = Callable[[Any], Any]  # returns the value in its final type, or raises ValueError("must be ...")


def one_of(*names: str) -> Check:
    """A string out of a closed list."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            close = difflib.get_close_matches(str(value), names, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ValueError(f"must be one of {', '.join(names)}{hint}")
        return value

    return check


def number(least: float = -math.inf, most: float = math.inf) -> Check:
    """A finite number, least <= x <= most."""
    bounds = [f">= {least:g}"] * (least > -math.inf) + [f"<= {most:g}"] * (most < math.inf)
    wanted = " ".join(["must be a finite number", " and ".join(bounds)]).strip()

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(wanted)
        if not (math.isfinite(value) and least <= value <= most):
            raise ValueError(wanted)
        return float(value)

    return check


def ascending(above: float, below: float = math.inf) -> Check:
    """A list of strictly ascending numbers, above < x < below."""
    wanted = f"must be a list of ascending numbers, each > {above:g}"
    wanted += f" and < {below:g}" if below < math.inf else ""

    def check(value: Any) -> list[float]:
        # OmegaConf's ListConfig is a Sequence; a bare number or a string is what a shell leaves of a list.
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ValueError(wanted)
        items = list(value)
        if any(isinstance(x, bool) or not isinstance(x, int | float) for x in items):
            raise ValueError(wanted)
        inside = all(above < x < below for x in items)
        if not inside or any(a >= b for a, b in itertools.pairwise(items)):
            raise ValueError(wanted)
        return [float(x) for x in items]

    return check


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


@dataclass
class MethodConfig(Checked, PolicyLossConfig):
    """Base of the loss configurations: verl's own keys stay known, so that its YAML defaults may be there."""

    method: ClassVar[str] = ""
    where: ClassVar[str] = "actor_rollout_ref.actor.policy_loss"

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        mode = values.get("loss_mode", cls.method)
        if mode == cls.method:
            return []
        # verl's YAML says loss_mode: vanilla, so setting _target_ alone would train with another loss.
        return [f"loss_mode={mode!r} would leave these keys unread; set {cls.where}.loss_mode={cls.method}"]


@dataclass
class ESPOLossConfig(MethodConfig):
    """Hyper-parameters of the `espo` loss, arXiv 2512.00499; see docs/methods/espo.md.

    Attributes:
        grouping: `quantile`, `threshold`, `sequence` or `token`.
        entropy_quantiles: cuts of `quantile`, each strictly between 0 and 1.
        entropy_thresholds: cuts of `threshold`, nats.
        token_ratio: `detached` or `old`.
        clip: `adaptive` or `fixed` (actor.clip_ratio_low and clip_ratio_high).
        alpha: factor of the adaptive width, >= 0.
    """

    method: ClassVar[str] = "espo"

    loss_mode: str = "espo"
    grouping: str = hyper("quantile", one_of(*espo_loss.GROUPINGS))
    entropy_quantiles: list[float] = hyper([0.8], ascending(above=0, below=1))  # noqa: RUF009
    entropy_thresholds: list[float] = hyper([], ascending(above=0))  # noqa: RUF009
    token_ratio: str = hyper("detached", one_of(*espo_loss.TOKEN_RATIOS))
    clip: str = hyper("adaptive", one_of(*espo_loss.CLIPS))
    alpha: float = hyper(0.1, number(least=0))

    @classmethod
    def _contradictions(cls, values: Mapping[str, Any]) -> list[str]:
        faults = super()._contradictions(values)
        grouping, thresholds = values.get("grouping"), values.get("entropy_thresholds")
        if grouping == "quantile" and not values.get("entropy_quantiles", True):
            faults.append("grouping=quantile needs at least one number in entropy_quantiles")
        if grouping == "threshold" and thresholds is not None and not thresholds:
            faults.append("grouping=threshold needs at least one number, in nats, in entropy_thresholds")
        if grouping in ("quantile", "sequence", "token") and thresholds:
            unread = f"entropy_thresholds is not read with grouping={grouping}"
            faults.append(f"{unread}; set grouping=threshold")
        return faults


@dataclass
class ESPOAdvantageConfig(Checked):
    """Hyper-parameters of the `espo` estimator, `algorithm.espo`.

    Attributes:
        failed: rows that get advantage 0 and enter no statistic: `unverified`, or `incorrect` (those and
            the rows with a reward <= 0).
    """

    method: ClassVar[str] = "espo"
    where: ClassVar[str] = "algorithm.espo"

    failed: str = hyper("unverified", one_of(*espo_advantage.FAILED))
