"""The sample paper in the place of recipes/."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train import sample
from verl_ext.recipe_files import recipe


@pytest.fixture
def sample_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = sample.write(tmp_path / "recipes")
    monkeypatch.setattr(recipe, "recipes_dir", lambda: folder)
    return folder
