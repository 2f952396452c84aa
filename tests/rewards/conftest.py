"""The grading processes are shared by the tests of this folder: starting one takes longer than most tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from verl_ext.rewards.verifiers import close_pools


@pytest.fixture(scope="session", autouse=True)
def _pools() -> Iterator[None]:
    yield
    close_pools()
