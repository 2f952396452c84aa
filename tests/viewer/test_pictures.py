"""The pictures of docs/images. `PICTURES=docs/images pytest tests/viewer/test_pictures.py` draws them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from tests.viewer import made
from tests.viewer.browser import Tab
from verl_ext.viewer import command

pytestmark = pytest.mark.slow

LIMIT = 300_000
# Keys to press, and where the mouse points: entropies with a token's numbers; ratios of segments in the dark.
PICTURES = {"viewer.png": ("1", ".panel:nth-child(2) [data-i='1']"), "viewer-dark.png": ("t3", "")}


@pytest.mark.parametrize("name", PICTURES)
def test_picture(tab: Tab, tmp_path: Path, name: str) -> None:
    keys, token = PICTURES[name]
    for step in (10, 20, 30):
        made.write(tmp_path, step, made.batch(step, prompts=14), **made.ABOUT)
    target, _ = command.write(tmp_path, None, (), 10**6)
    tab.open(target.as_uri(), 1366, 800, 1.4)
    tab.run("viewer.app.setTheme('light')")
    for key in ("]", "j", "l", *keys):
        tab.press(key)
    tab.frame()
    if token:
        tab.move(*tab.place(token))
        tab.frame()
        assert not tab.run("document.getElementById('card').hidden")
    picture = Path(os.environ.get("PICTURES", tmp_path)) / name
    tab.screenshot(picture)
    # 256 colours do for a page, and a README loads fast.
    Image.open(picture).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(picture, optimize=True)
    assert 50_000 < picture.stat().st_size < LIMIT
