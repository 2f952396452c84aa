"""The demo's arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_ext.demo.command import ALPHA, overrides
from verl_ext.toy.assets import Assets

ASSETS = Assets.under(Path("assets"))


@pytest.mark.parametrize(("algo", "own"), [("espo", True), ("espo_loss", True), ("sspo", False), ("gspo", False)])
def test_espo_has_the_demos_own_alpha(algo: str, own: bool) -> None:
    assert (f"+{ALPHA}=0.1" in overrides(ASSETS, algo)) is own


@pytest.mark.parametrize("given", [f"+{ALPHA}=0.02", f"++{ALPHA}=0.02"])
def test_an_alpha_of_the_user_is_the_only_one_and_comes_last(given: str) -> None:
    found = overrides(ASSETS, "espo", further=["trainer.test_freq=5", given])
    assert [one for one in found if ALPHA in one] == [given]
    assert found[-2:] == ["trainer.test_freq=5", given]
