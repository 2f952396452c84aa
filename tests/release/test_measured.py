"""The numbers of docs/measured.md on alpha are those of the runs that are kept in recipes/demo/measured."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "recipes" / "demo" / "measured"
LABELS = {"0.1": "ESPO, alpha 0.1, the demo's own", "0.02": "ESPO, alpha 0.02, the default"}


def runs(alpha: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(KEPT.glob(f"espo_alpha_{alpha}-seed*.json"))]


def row(alpha: str) -> str:
    found = runs(alpha)
    cells = [f"{100 * run['before']['accuracy']:.1f} → {100 * run['after']['accuracy']:.1f}" for run in found]
    gain, clipped = (100 * mean(figures) for figures in (
        [run["gain"] for run in found], [run["means"]["clip fraction"] for run in found]
    ))  # fmt: skip
    return f"| {LABELS[alpha]} | {' | '.join(cells)} | {gain:+.1f} | {clipped:.1f}% |"


@pytest.mark.parametrize("alpha", LABELS)
def test_the_pages_row_is_that_of_the_kept_runs(alpha: str) -> None:
    assert [run["seed"] for run in runs(alpha)] == [1, 2, 3]
    assert all(f"policy_loss.alpha={alpha}" in run["command"] for run in runs(alpha))
    assert row(alpha) in (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")


def test_the_demo_has_an_alpha_of_its_own_because_it_learns_more_with_it() -> None:
    ends = {alpha: [run["after"]["accuracy"] for run in runs(alpha)] for alpha in LABELS}
    assert min(ends["0.1"]) > max(ends["0.02"])
