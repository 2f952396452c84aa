"""A model of which checkpoints are made."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from verl_ext.toy.models import build_untrained

    return build_untrained("tiny_dense", True, tmp_path_factory.mktemp("model"), seed=3)
