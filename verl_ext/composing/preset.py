"""Which preset was chosen, what it says alone, and sentences about what differs from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.composing import identity
from verl_ext.composing.identity import Values
from verl_ext.config_groups import config_dir

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

GROUP, EXPERIMENT, SEARCH_PATH = "algo", "experiment", "hydra.searchpath"

Compose = Callable[[str | None, Sequence[str]], DictConfig]
"""Name of a config and overrides -> the configuration, with Hydra's own node in it."""


@dataclass(frozen=True)
class Preset:
    """The preset of a composed configuration.

    Attributes:
        name: the option of the group ``algo``.
        chosen_by: ``algo=...``, or the experiment that names the preset and whose overrides are then a part of it.
        reference: what that choice gives alone.
        typed: the command line.
    """

    name: str
    chosen_by: str
    reference: DictConfig = field(repr=False)
    typed: tuple[Override, ...] = field(default=(), repr=False)

    @property
    def keys(self) -> list[str]:
        """The keys that the preset's file sets, and the hyper-parameters of its method."""
        own = alone(self.name)
        leaves = [key for key in identity.keys(own) if not isinstance(identity.raw(own, key), DictConfig)]
        return list(dict.fromkeys([*leaves, *identity.hyper_parameters(self.reference)]))

    def broken(self, config: DictConfig) -> Values:
        """The changed keys with which another method would run."""
        return identity.broken(self.name, config, self.reference)

    def changed(self, config: DictConfig) -> Values:
        """The other changed keys."""
        broken = self.broken(config)
        return identity.differences([key for key in self.keys if key not in broken], config, self.reference)

    def fault(self, config: DictConfig, broken: Values) -> str:
        """The keys `broken`, each with both values and what to do, and the preset that would fit."""
        chosen = f"{GROUP}={self.name}"
        by = "" if self.chosen_by == chosen else f" of {self.chosen_by}"
        keys = "; ".join(
            f"{key}={shown(found)} where the preset has {shown(own)}: {self._remedy(key, own)}"
            for key, (found, own) in broken.items()
        )
        other = self._fitting(config)
        return f"{chosen}{by} would not run: {keys}{f'; or choose {GROUP}={other}' if other else ''}"

    def _remedy(self, key: str, own: Any) -> str:
        typed = [one for one in self.typed if f"{key}.".startswith(f"{one.key_or_group}.")]
        if typed:
            return f"drop {' and '.join(str(one.input_line) for one in typed)} from the command line"
        return f"a file that is merged after it says so; add {key}={shown(own)} to the command line"

    def _fitting(self, config: DictConfig) -> str | None:
        """The preset whose method would run; of several the one with the fewest other values, which says the most."""
        others = [Preset(name, "", alone(name)) for name in names()]
        fitting = [other for other in others if not other.broken(config)]
        ranked = sorted((len(other.changed(config)), -len(other.keys), other.name) for other in fitting)
        return ranked[0][2] if ranked else None

    def summary(self, config: DictConfig) -> str:
        """The keys that were changed, each with the preset's value in brackets; empty where there is none."""
        return ", ".join(f"{key}={shown(found)} ({shown(own)})" for key, (found, own) in self.changed(config).items())


def faults(config: DictConfig, preset: Preset | None, told: Iterable[str]) -> list[str]:
    """The fault of a preset that would not run; none where it does.

    Args:
        config: composed.
        preset: None where nothing is known of Hydra's choices, so that nothing can be compared.
        told: the faults so far; a key that one of them begins with is not told again.
    """
    if preset is None:
        return []
    before = {fault.partition("=")[0] for fault in told}
    broken = {key: values for key, values in preset.broken(config).items() if key not in before}
    return [preset.fault(config, broken)] if broken else []


def find(primary: str | None, overrides: Sequence[str], name: str | None, compose: Compose) -> Preset | None:
    """The preset of a configuration, or None where none of ours was chosen.

    Args:
        primary: the config that was composed.
        overrides: its command line.
        name: the option of ``algo`` that then holds.
        compose: composes others as that one was.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if name not in names():
        return None
    typed = tuple(OverridesParser.create().parse_overrides(list(overrides)))
    if not any(one.key_or_group == GROUP and one.is_add() for one in typed):
        # Something else chooses a preset too: an experiment, or the config itself. Is it this one?
        experiment = _lines(typed, EXPERIMENT)
        around = compose(primary, [*experiment, *_lines(typed, SEARCH_PATH)])
        if around.hydra.runtime.choices.get(GROUP) == name:
            chosen_by = experiment[-1].lstrip("+") if experiment else f"--config-name {primary}"
            return Preset(name, chosen_by, around, typed)
    return Preset(name, f"{GROUP}={name}", alone(name), typed)


def of_this_process() -> Preset | None:
    """The preset of verl's entry point, where Hydra runs it in this process."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    if not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):
        return None
    hydra = HydraConfig.get()
    overrides = [*hydra.overrides.hydra, *hydra.overrides.task]
    return find(
        hydra.job.config_name,
        overrides,
        hydra.runtime.choices.get(GROUP),
        lambda name, lines: compose(name, list(lines), return_hydra_config=True),
    )


def names() -> list[str]:
    """Every preset of ours."""
    return sorted(file.stem for file in (config_dir() / GROUP).glob("*.yaml"))


def alone(name: str) -> DictConfig:
    """What the preset's file says, with the presets that it is made of. Hydra would take as long as for everything."""
    own = OmegaConf.load(config_dir() / GROUP / f"{name}.yaml")
    assert isinstance(own, DictConfig)
    parts = [own if part == "_self_" else alone(part) for part in own.pop("defaults", ["_self_"])]
    merged = OmegaConf.merge(*parts)
    assert isinstance(merged, DictConfig)
    return merged


def shown(value: Any) -> str:
    """As Hydra's command line reads it."""
    from verl_ext.recipe_files.schema import literal

    return literal(value)


def _lines(typed: Sequence[Override], key: str) -> list[str]:
    return [str(one.input_line) for one in typed if one.key_or_group == key]
