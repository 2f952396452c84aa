"""Every metric that is emitted has an entry in the catalogue."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import verl_ext
from verl_ext.conformance import options
from verl_ext.conformance.batches import Batch
from verl_ext.conformance.cases import Case, plain_batch
from verl_ext.conformance.estimators import PROMPT, REWARDS, VERIFIED
from verl_ext.conformance.options import chosen_variants
from verl_ext.conformance.registry import subjects
from verl_ext.plugin import ESTIMATORS, POLICY_LOSSES
from verl_ext.run_report import catalogue, panels
from verl_ext.run_report.history import QUANTITIES


def lacking(names: Any) -> list[str]:
    return [name for name in names if catalogue.find(name) is None]


@pytest.fixture(scope="module")
def emitted() -> dict[str, set[str]]:
    """Loss -> names of its metrics, over its defaults and every value of its options, with every aggregation."""
    found: dict[str, set[str]] = {}
    with pytest.MonkeyPatch.context() as patch:
        # TEPO alone has 1,680 combinations; each value of each option is enough here.
        patch.setattr(options, "MAX_VARIANTS", 40)
        losses = subjects("loss", POLICY_LOSSES)
    for loss in losses:
        cases = [(variant, loss.modes({})[0]) for variant in chosen_variants(loss.variants)]
        cases += [({}, mode) for mode in loss.modes({})]
        found[loss.name] = {
            name for variant, mode in cases for name in loss.run(Case(variant, mode, {}, plain_batch())).metrics
        }
    return found


def test_losses_emit_only_what_the_catalogue_has(emitted: dict[str, set[str]]) -> None:
    assert emitted.keys() == POLICY_LOSSES.keys()
    assert {name: lacking(names) for name, names in emitted.items() if lacking(names)} == {}


def test_the_catalogue_has_no_metric_that_no_loss_emits(emitted: dict[str, set[str]]) -> None:
    """Of the part that is about losses; an entry whose metric was renamed must not stay."""
    names = set.union(*emitted.values())
    parts = (catalogue.LOSSES, catalogue.ESPO, catalogue.SSPO, catalogue.OTHERS)
    of_losses = [metric for metric in catalogue.everything() if metric.about in parts]
    assert [m.name for m in of_losses if not any(m.pattern.fullmatch(name) for name in names)] == []
    assert len(of_losses) >= 25


def test_estimators_emit_none() -> None:
    """Their registry's signature returns advantages and returns; the page says so."""
    rows = {
        REWARDS: torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        "response_mask": torch.ones(2, 2),
        PROMPT: torch.zeros(2, 2, dtype=torch.long),
        VERIFIED: torch.ones(2, 2, dtype=torch.bool),
        "old_entropy": torch.tensor([[0.5, 1.0], [0.25, 2.0]]),
        "old_log_prob": torch.full((2, 2), -1.0),
        "ref_log_prob": torch.full((2, 2), -1.5),
    }
    batch = Batch(rows)
    for estimator in subjects("estimator", ESTIMATORS):
        for variant in ({}, *chosen_variants(estimator.variants)):
            result = estimator.call(variant, batch)
            assert len(result) == 2, estimator.name
            assert all(isinstance(part, torch.Tensor) for part in result), estimator.name


def test_figures_of_the_watch_on_the_rollout() -> None:
    from verl_ext.rollout import mismatch

    fields = {name: torch.zeros(1, 2) for pair in mismatch.PAIRS.values() for name in pair}
    found = mismatch.measure(fields, torch.ones(1, 2))
    assert len(found) == 8
    assert lacking(found) == []


def test_outcomes_and_validation() -> None:
    from verl_ext.bridge.controller import outcome_shares
    from verl_ext.rewards import math

    shares = outcome_shares([{"outcome": "correct"}])
    assert lacking(shares) == []
    assert set(shares) == {metric.name for metric in catalogue.of_panel("outcomes")}
    graded = math.compute_score("source", r"\boxed{4}", "4")
    numbers = [name for name, value in graded.items() if isinstance(value, float)]
    parts = {name: "val-core" if name == "acc" else "val-aux" for name in numbers}
    assert lacking(f"{part}/any/source/{name}/mean@8" for name, part in parts.items()) == []
    math.close_pools()


def test_weight_sync_and_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_ext.bridge import execution

    assert lacking([execution.CHECKSUM_METRIC]) == []
    source = Path(verl_ext.__file__).parent.joinpath("platform", "weight_sync.py").read_text()
    keys = {text for text in _texts(ast.parse(source)) if text.startswith("weight_sync/")}
    assert keys == {"weight_sync/tensors", "weight_sync/mismatches", "weight_sync/seconds"}
    monkeypatch.setitem(
        execution.sys.modules, "verl_ext.platform.weight_sync", SimpleNamespace(last_report=dict.fromkeys(keys, 0.0))
    )
    assert lacking(execution._weight_sync_report()) == []
    assert len(execution._weight_sync_report()) == 3


SECTIONS = (
    "actor",
    "critic",
    "training",
    "reward",
    "guards",
    "watchdog",
    "timing_s",
    "rollout",
    "perf",
    "token_export",
)


def _texts(tree: ast.AST) -> Iterator[str]:
    """Constant texts, and f-strings with an asterisk in each gap."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "*" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_name_that_is_written_into_metrics_is_known() -> None:
    """Where code says `metrics["section/name"] = ...`: guards, watchdog and whatever a bridge adds later."""
    folder = Path(verl_ext.__file__).parent
    found: dict[str, str] = {}
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Constant | ast.JoinedStr):
                    text = next(_texts(target.slice), "")
                    if text.split("/")[0] in SECTIONS and "/" in text:
                        found[text] = str(file.relative_to(folder))
    assert "guards/entropy/streak" in found
    names = [metric.name for metric in catalogue.everything()]
    known = {text: any(fnmatch.fnmatchcase(name, text) for name in names) for text in found}
    assert {text: file for text, file in found.items() if not known[text]} == {}


def test_names_are_unique_and_panels_exist() -> None:
    names = [metric.name for metric in catalogue.everything()]
    assert len(names) == len(set(names))
    assert {metric.panel for metric in catalogue.everything()} <= catalogue.PANELS.keys()
    for metric in catalogue.everything():
        example = metric.name.replace("<k>", "3").replace("<n>", "8").replace("<data source>", "verl_ext/demo")
        assert catalogue.find(example) is metric, metric.name
        assert metric.meaning.endswith(".")
        assert metric.unit
    assert catalogue.find("actor/espo/groupx/eps") is None
    assert catalogue.find("xactor/pg_clipfrac") is None


def test_the_report_draws_what_the_catalogue_says() -> None:
    """Of the compared panels; groups, widths and outcomes are found by name, and guards stand in a table."""
    for panel in panels.COMPARED:
        shown = {name for quantity, _ in panel.curves for name in QUANTITIES.get(quantity, (quantity,))}
        named = {metric.name for metric in catalogue.of_panel(panel.key)}
        assert panel.key == "validation" or named <= shown, panel.key
    found_by_name = {"outcomes", "groups", "group entropy", "widths", "method", "guards", "none"}
    used = {metric.panel for metric in catalogue.everything()}
    assert used <= found_by_name | {panel.key for panel in panels.COMPARED}
