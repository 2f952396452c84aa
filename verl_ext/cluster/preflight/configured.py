"""The process that checks a configuration: ``python -m verl_ext.cluster.preflight.configured REQUEST ANSWER``.

What is needed is told first, so that the cluster can be asked while verl is imported for the checks.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_ext import modules
from verl_ext.checks.collecting import examine, unset
from verl_ext.checks.files import absent
from verl_ext.cluster.preflight.asking import publish
from verl_ext.cluster.preflight.compare import config_findings
from verl_ext.cluster.preflight.finding import Finding
from verl_ext.cluster.preflight.wanted import Wanted, bare, wanted
from verl_ext.composing.compose import Composed
from verl_ext.composing.errors import ConfigError
from verl_ext.train import compose


@dataclass(frozen=True)
class Configured:
    """What is known of a configuration.

    Attributes:
        need: what it needs; where it cannot be resolved, what any run needs.
        findings: what is wrong with it.
        complete: whether nothing more is to come.
    """

    need: Wanted
    findings: tuple[Finding, ...] = ()
    complete: bool = False


def main(asked: str, answer: str) -> None:
    """The child: what is needed, then what is at fault."""
    arguments = json.loads(Path(asked).read_text())
    try:
        composed = compose(arguments)
    except ConfigError as error:
        publish(answer, pickle.dumps(Configured(bare(), _refused(error), complete=True)))
        return
    need = _wanted(composed)
    publish(answer, pickle.dumps(Configured(need)))
    publish(answer, pickle.dumps(Configured(need, _examined(composed, need), complete=True)))


def request(arguments: Sequence[str]) -> bytes:
    """What the child reads."""
    return json.dumps(list(arguments)).encode()


def _refused(error: ConfigError) -> tuple[Finding, ...]:
    lines = str(error).splitlines()
    return tuple(config_findings([line.removeprefix("  - ") for line in lines[1:]] or lines, []))


def _wanted(composed: Composed) -> Wanted:
    config = copy.deepcopy(composed.config)
    _, complete = unset(config)
    if complete and not modules.faults(config):
        modules.hand_on(config)  # the nodes are asked with what the run's processes would load
    return wanted(config) if complete else bare()


def _examined(composed: Composed, need: Wanted) -> tuple[Finding, ...]:
    found = examine(composed.config, composed.preset)
    # Each node is asked for these files; that they are not on this machine says nothing.
    asked = {*need.models, *need.data, *need.files}
    told = {note for key, note in absent(composed.config).items() if key in asked} if found.notes else set()
    return tuple(config_findings(found.faults, [note for note in found.notes if note not in told]))


if __name__ == "__main__":
    # Under its own name, so that what is pickled can be read elsewhere.
    from verl_ext.cluster.preflight.configured import main as start

    start(*sys.argv[1:])
