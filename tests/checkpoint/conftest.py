"""Runs that several tests look at."""

from __future__ import annotations

import pytest

from tests.checkpoint.runs import Family


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The straight run, the killed one, and the one that continues it."""
    return Family(tmp_path_factory.mktemp("resume"))
