"""``verl-ext doctor plan``: what a configuration needs, before anything is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from verl_ext.checks import fitness
from verl_ext.checks.collecting import unset
from verl_ext.composing import preset as choice
from verl_ext.composing.errors import ConfigError
from verl_ext.composing.preset import Preset
from verl_ext.sizing import gpus, report
from verl_ext.sizing.knobs import helpful
from verl_ext.sizing.measuring import measure
from verl_ext.sizing.planning import Plan
from verl_ext.sizing.planning import plan as planned
from verl_ext.sizing.reading import read
from verl_ext.train import compose

GPU = "h100-80gb"
"""The default."""


def device_of(config: Any) -> str:
    """The GPU that a configuration is planned for unless another is named: ``cpu`` where it trains on one."""
    return "cpu" if config.trainer.device == "cpu" else GPU


def plan(
    arguments: Sequence[str], gpu: str | None = None, as_json: bool = False, console: Console | None = None
) -> int:
    """Predict memory and time of a configuration; needs neither a GPU nor Ray nor the model's weights.

    Args:
        arguments: Hydra overrides, our groups with or without ``+``, as `verl-ext train` takes them.
        gpu: a name of `gpus.GPUS`, or ``cpu``; by default `GPU`, and ``cpu`` where the configuration trains on one.
        as_json: print the plan as JSON to the standard output.
        console: the standard output by default; with `as_json` only for faults.

    Returns:
        The exit status: 0 if it fits, 1 if it does not or if the configuration is at fault.
    """
    console = console or Console(stderr=as_json, soft_wrap=True, highlight=False, markup=False)
    try:
        composed = compose(arguments)
        config = composed.config
        found = faults(config, composed.preset)
        if found:
            console.print("the configuration cannot be planned:", *(f"  - {fault}" for fault in found), sep="\n")
            return 1
        name = gpu or device_of(config)
        result = of(config, name)
    except (ConfigError, ValueError) as error:
        console.print(str(error))
        return 1
    knobs = helpful(result)
    if as_json:
        json.dump(report.as_data(result, name, knobs), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        report.show(result, name, knobs, console)
    return 0 if result.fits else 1


def faults(config: Any, preset: Preset | None = None) -> list[str]:
    """Why nothing can be computed: keys without a value, sizes that do not divide, a preset that would not run."""
    found, complete = unset(config)
    return [*found, *choice.faults(config, preset, found), *fitness.faults(config)] if complete else found


def of(config: Any, gpu: str) -> Plan:
    """The plan of a composed configuration.

    Raises:
        ValueError: the GPU, the model or a data type is not known.
    """
    settings = read(config)
    return planned(measure(settings.path), settings, gpus.device(gpu))
