"""One browser for all tests of pages; without one they are skipped, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.viewer import browser


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Tab]:
    pytest.importorskip("websockets", reason="the browser is driven through the package websockets")
    if browser.executable() is None:
        pytest.skip(f"no browser on PATH ({', '.join(browser.NAMES)}); Debian's package is called chromium")
    with browser.chromium(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture
def tab(chromium: browser.Tab) -> Iterator[browser.Tab]:
    """The browser's tab; afterwards no page may have complained, or asked for anything but itself."""
    chromium.errors.clear()
    chromium.requests.clear()
    yield chromium
    assert chromium.errors == []
    assert [address for address in chromium.requests if not address.startswith(("file:", "data:", "about:"))] == []


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of SSPO and one of ESPO, with numbers that are no numbers among them."""
    from tests.viewer import made  # and with it torch, which most tests of this folder do without

    folder = tmp_path_factory.mktemp("run")
    for step, method in ((2, "sspo"), (4, "sspo"), (6, "espo")):
        columns = made.batch(step, method, prompts=5, responses=4)
        columns["ratio"][0][:5] = [np.nan, np.inf, -np.inf, -0.0, 1e-40]
        columns["response_mask"][0][7] = 0
        for row in (*range(4), *range(16, 20)):  # the first prompt is clipped above only, the last one not at all
            columns["clipped_low"][row][:] = 0
            columns["clipped_high"][row][:] = 0
        columns["clipped_high"][1][3] = 1
        made.write(folder, step, columns, **made.ABOUT)
    return folder


@pytest.fixture(scope="session")
def page(run: Path) -> str:
    from verl_ext.viewer import command

    return command.write(run, None, (), 10**6)[0].as_uri()
