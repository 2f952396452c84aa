"""The page in a headless Chromium: windows, long responses, many of them."""

from __future__ import annotations

import pytest

from tests.viewer import made
from tests.viewer.browser import visible_tokens
from verl_ext.viewer import command

pytestmark = pytest.mark.slow

NODES = 5_000


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (1440, 900), (2560, 1440), (700, 900)])
def test_it_fits_the_window(tab, page, width, height):
    tab.open(page, width, height)
    assert tab.run("document.documentElement.scrollWidth") <= width
    top, lines = tab.run(
        "(() => { const body = document.querySelector('.body');"
        "return [body.getBoundingClientRect().top, body.clientHeight / 25]; })()"
    )
    assert lines >= 9
    if width >= 1366:
        assert top < 0.5 * height, "the text starts in the upper half"
    tab.press("t")
    tab.press("?")
    assert tab.run("document.getElementById('help').open")


def test_a_large_file_keeps_the_page_small(tab, tmp_path, record_property, capsys):
    """50 responses of 2,000 tokens in the file; only what is in view is in the document."""
    blank = tmp_path / "blank.html"
    blank.write_text("<!doctype html><title>blank</title>")
    made.write(tmp_path, 1, made.long_batch(50, 2_000), **made.ABOUT)
    target, steps = command.write(tmp_path, None, (), 10**6)
    assert sum(len(rows) for rows in steps[0].rows) == 50
    times = {
        name: min(tab.open(path.as_uri()) for _ in range(5)) for name, path in (("blank", blank), ("page", target))
    }
    counts = {}
    for size in ((1440, 900), (3840, 2160)):
        tab.open(target.as_uri(), *size)
        for columns in (1, 2, 3):
            tab.run(f"viewer.app.setColumns({columns})")
            for share in (0, 0.5, 1):
                tab.run(f"for (const {{body}} of viewer.app.panels) body.scrollTop = {share} * body.scrollHeight")
                tab.frame()
                counts[size, columns, share] = tab.nodes()
            drawn = visible_tokens(tab, "true")
            assert max(drawn) == 1_999, "the end can be reached"
            assert len(drawn) < 1_500
    assert max(counts.values()) <= NODES
    ratio = times["page"] / times["blank"]
    told = (
        f"50 x 2,000 tokens: {target.stat().st_size / 1e6:.1f} MB, at most {max(counts.values())} nodes, "
        f"loaded in {times['page']:.2f} s, {ratio:.1f} times a blank page ({times['blank']:.3f} s)"
    )
    record_property("viewer", told)
    with capsys.disabled():
        print(f"\n{told}")
    assert times["page"] < 10


def test_8k_tokens_a_response_stay_usable(tab, tmp_path):
    made.write(tmp_path, 1, made.long_batch(4, 8_192, group=4), **made.ABOUT)
    tab.open(command.write(tmp_path, None, (), 10**6)[0].as_uri())
    seconds = tab.run(
        "(() => { const start = performance.now(); for (let i = 0; i < 40; i++) {"
        "for (const {body} of viewer.app.panels) body.scrollTop = (i / 40) * body.scrollHeight;"
        "for (const panel of viewer.app.panels) panel.draw(); } return (performance.now() - start) / 1000 / 40; })()"
    )
    assert seconds < 0.25  # a step of scrolling
    switch = tab.run(
        "(() => { const start = performance.now(); viewer.app.setFirst(2);"
        "return (performance.now() - start) / 1000; })()"
    )
    assert switch < 3  # two responses unpacked and laid out
    tab.run("viewer.app.pick(viewer.app.panels[0], 8191)")
    tab.frame()
    assert tab.run("document.querySelector('.picked').dataset.i") == "8191"
    assert tab.nodes() <= NODES
