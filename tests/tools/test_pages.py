"""What `make docs` writes is what the repository holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.presets import other_values
from tools.pages import derived, methods, presets
from verl_ext import plugin

ALGO = derived.ROOT / "configs/algo"
MODE = ".actor_rollout_ref.actor.loss_agg_mode"
NAMES = list(dict.fromkeys([*plugin.POLICY_LOSSES, *plugin.ESTIMATORS]))


def test_nothing_derived_is_stale() -> None:
    assert list(derived.differing()) == [], "run: make docs"


def test_every_method_of_a_paper_has_its_page() -> None:
    assert methods.faults() == []


def test_a_page_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(methods, "FOLDER", tmp_path)
    faults = methods.faults()
    assert len(faults) == sum(
        bool(each.arxiv) for each in (*plugin.POLICY_LOSSES.values(), *plugin.ESTIMATORS.values())
    )
    assert faults[0].startswith("docs/methods/espo.md is not there: `espo` is arXiv 2512.00499's")
    assert "[`espo`]" not in methods.render()


def test_what_differs_is_named_and_then_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs/algo").mkdir(parents=True)
    monkeypatch.setattr(derived, "ROOT", tmp_path)
    monkeypatch.setattr(derived, "PAGES", {"old.md": lambda: "new"})
    (tmp_path / "old.md").write_text("old")
    assert derived.run(check=True) == 1
    printed = capsys.readouterr().out
    assert "old.md: not what the code says, run: make docs" in printed
    assert "configs/algo/espo.yaml: not what the code says" in printed
    assert (tmp_path / "old.md").read_text() == "old"
    assert derived.run(check=False) == 0
    assert (tmp_path / "old.md").read_text() == "new"
    assert derived.run(check=True) == 0
    by_hand = tmp_path / "configs/algo/espo.yaml"
    by_hand.write_text("by: hand")
    assert derived.run(check=False) == 0
    assert by_hand.read_text() == "by: hand"


@pytest.mark.parametrize("name", NAMES)
def test_a_made_preset_is_the_one_by_hand_without_its_numbers(name: str) -> None:
    """So that a method without numbers of its own needs none by hand."""
    made = dict(leaves(yaml.safe_load(presets.render(name))))
    written = dict(leaves(yaml.safe_load((ALGO / f"{name}.yaml").read_text("utf-8"))))
    if name == "dcpo":  # of several modes that the loss honours, the first is made and the paper's stands by hand
        assert made.pop(MODE) != written.pop(MODE)
    assert made.items() <= written.items()
    assert {key.rpartition(".")[2] for key in written.keys() - made.keys()} <= {
        "clip_ratio_low",
        "clip_ratio_high",
        "clip_ratio_c",
    }


@pytest.mark.parametrize("name", plugin.POLICY_LOSSES)
def test_what_makes_a_loss_another_is_told_by_its_entry(name: str) -> None:
    assert other_values.of_loss(name) == other_values.OTHER_VALUES[name]


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in a YAML node; None for an empty one."""
    if not isinstance(node, dict):
        yield path, node
    elif not node:
        yield path, None
    else:
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
