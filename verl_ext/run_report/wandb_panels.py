"""What wandb is told about the metrics: which summaries to keep, and which metric needs no chart.

Sections follow from the names alone, and the axis needs no setting: verl logs with its global step as wandb's step.
"""

from __future__ import annotations

from typing import Any

from verl_ext.run_report.catalogue import of_panel

EXTREMES = ("val-core/*", "training/rollout_*")
HIDDEN = ("actor/verl_ext/execution",)


def define(run: Any) -> None:
    """Define the metrics of a wandb run, once, before or after it has logged.

    The table of runs then has the largest value of validation accuracies, of differences between rollout and actor and
    of the guards' counts beside the last one, and a checksum has no chart.

    Args:
        run: what `wandb.init` returned, or the module `wandb` after it.
    """
    for name in (*EXTREMES, *(metric.name for metric in of_panel("guards"))):
        run.define_metric(name, summary="last,max")
    for name in HIDDEN:
        run.define_metric(name, hidden=True)
