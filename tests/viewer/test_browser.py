"""The page in a headless Chromium."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.viewer.browser import Tab, visible_tokens
from verl_ext import batch_file
from verl_ext.batch_file import BatchFile
from verl_ext.viewer import command
from verl_ext.viewer.columns import COLUMNS

pytestmark = pytest.mark.slow

HOSTILE = [
    "</script><img src=x onerror=window.pwned=1>",
    "&lt;b&gt;",
    " a\u202eb",
    "\x00\x1b",
    "\n\n",
    "",
    "\u05d0\u05d1",
    "\t",
    " \ud55c",
    "x" * 300,
]


def export(run: Path, step: int) -> BatchFile:
    return batch_file.read_all(run / f"token_export/step-{step:05d}")


def hovered(tab: Tab) -> dict[str, str]:
    """Column -> text, on the card."""
    return tab.run(
        "Object.fromEntries([...document.querySelectorAll('#card tr')]"
        ".map((row) => [row.dataset.column, row.children[1].textContent]))"
    )


def digits(text: str) -> int:
    """Significant digits of a number as text."""
    return len(text.lower().split("e")[0].replace(".", "").replace("-", "").strip("0"))


def number(text: str) -> float:
    return float(text.replace("∞", "inf").replace("−", "-"))


def test_hover_shows_the_exports_values(tab, page, run):
    tab.open(page)
    for key, step in (("", 2), ("]", 4), ("]", 6)):
        if key:
            tab.press(key)
        columns = export(run, step).columns
        for token in (0, 1, 2, 3, 4, 7, 20):
            tab.frame()
            tab.move(*tab.place(f'.panel .token[data-i="{token}"]'))
            tab.frame()
            shown = hovered(tab)
            expected = {name: columns[name][0][token] for name in COLUMNS if name in columns}
            assert set(shown) == set(expected)
            for name, value in expected.items():
                kind = np.asarray(value).dtype
                assert np.asarray(number(shown[name]), kind).tobytes() == np.asarray(value, kind).tobytes(), (
                    step,
                    token,
                    name,
                )
                if kind == np.float32 and np.isfinite(value):
                    assert digits(shown[name]) == digits(str(value)), "numpy too writes the shortest decimals"


def test_every_value_of_every_response_is_unpacked_as_it_was(tab, page, run):
    tab.open(page)
    for at, step in enumerate((2, 4, 6)):
        columns = export(run, step).columns
        rows = {key: row for row, key in enumerate(columns["key"])}
        found = tab.run(
            f"viewer.manifest.steps[{at}].prompts.flatMap(({{rows}}) => rows.map((row) => [row.key, Object.fromEntries("
            "Object.entries(viewer.valuesOf(row)).map(([name, values]) => [name, name === 'text'"
            " ? [...values.keys()].map((i) => viewer.textOf(viewer.valuesOf(row), i))"
            " : [...(values instanceof Float32Array ? new Int32Array(values.buffer) : values)]]))]))"
        )
        assert sorted(key for key, _ in found) == sorted(rows)
        for key, values in found:
            row = rows[key]
            assert values.pop("text") == columns["tokens"][row]
            assert set(values) == {name for name in COLUMNS if name in columns}
            for name, numbers in values.items():
                array = columns[name][row]
                assert numbers == (array.view(np.int32) if array.dtype == np.float32 else array).tolist(), (key, name)


def test_colours_follow_the_column_and_the_legend_dims(tab, page, run):
    tab.open(page, 1440, 1400)
    columns = export(run, 2).columns
    entropy, mask = columns["entropy"][0], columns["response_mask"][0]
    tab.press("1")
    low, high = tab.run("(({low, high}) => [low, high])(viewer.app.painter.colouring)")
    tab.run(
        "{ const to = document.querySelector('#legend .from'); to.value = 0.25; to.dispatchEvent(new Event('input')); }"
    )
    dimmed = visible_tokens(tab, "token.classList.contains('dimmed')")
    assert len(dimmed) > 80
    for token, is_dimmed in dimmed.items():
        share = (float(entropy[token]) - low) / (high - low)
        assert is_dimmed == bool(mask[token] and share < 0.25), token
    tab.press("n")
    first = next(token for token in range(len(mask)) if mask[token] and entropy[token] >= low + 0.25 * (high - low))
    assert tab.run("viewer.app.picked.token") == first
    assert number(hovered(tab)["entropy"]) == pytest.approx(float(entropy[first]), rel=1e-6)
    tab.press("Escape")
    assert tab.run("document.getElementById('card').hidden")
    for key, name in (("4", "clipped"), ("7", "segment_ids")):
        tab.press(key)
        assert tab.run("viewer.app.colouring.column") == name
        assert not any(visible_tokens(tab, "token.classList.contains('dimmed')").values()), (
            "another colouring, no filter"
        )
    tab.run("document.querySelectorAll('#legend .class')[1].click()")
    dimmed = visible_tokens(tab, "token.classList.contains('dimmed')")
    assert dimmed == {token: bool(mask[token]) and columns["segment_ids"][0][token] != 1 for token in dimmed}


def test_clipped_tokens_and_segment_borders_are_where_the_export_has_them(tab, page, run):
    tab.open(page, 1440, 1400)
    columns = export(run, 2).columns
    clipped = next(row for row in range(len(columns["key"])) if columns["clipped_low"][row].any())
    tab.run(f"viewer.app.setPrompt({clipped // 4}); viewer.app.setFirst({clipped % 4})")
    tab.press("4")
    below = visible_tokens(tab, "token.classList.contains('below')")
    assert any(below.values())
    assert below == {token: bool(columns["clipped_low"][clipped][token]) for token in below}
    starts = visible_tokens(tab, "token.classList.contains('starts')")
    ids = columns["segment_ids"][clipped]
    assert starts == {token: bool(token == 0 or ids[token] != ids[token - 1]) for token in starts}
    tab.press("s")
    assert not any(visible_tokens(tab, "token.classList.contains('starts')").values())


def test_prompts_are_filtered_and_steps_and_responses_chosen(tab, page, run):
    tab.open(page)
    columns = export(run, 2).columns
    scores = np.array(columns["score"]).reshape(5, 4)

    def listed() -> list[int]:
        return tab.run("viewer.app.listed")

    def choose(outcome: str) -> list[int]:
        box = "document.getElementById('outcome')"
        tab.run(f"{box}.value = '{outcome}'; {box}.dispatchEvent(new Event('change'))")
        return listed()

    equal = [prompt for prompt in range(5) if len(set(scores[prompt])) == 1]
    assert choose("equal") == equal
    assert choose("differ") == [prompt for prompt in range(5) if prompt not in equal]
    clipped = [any(columns[name][row].any() for name in ("clipped_low", "clipped_high")) for row in range(20)]
    assert choose("clipped") == [prompt for prompt in range(5) if any(clipped[4 * prompt : 4 * prompt + 4])]
    assert (any(clipped[:4]), any(clipped[16:])) == (True, False)
    choose("all")
    tab.press("/")
    for letter in "apples":
        tab.press(letter)
    assert listed() == [prompt for prompt in range(5) if "apples" in columns["prompt_text"][4 * prompt]] == [1]
    assert tab.run("document.getElementById('count').textContent") == "1 of 5 prompts"
    tab.press("Escape")
    tab.press("j")
    assert tab.run("viewer.app.prompt") == 1
    # Lines of a prompt are lines on the page, empty ones too.
    assert tab.run("document.querySelector('#prompt p').textContent") == columns["prompt_text"][4]
    tab.press("l")
    tab.press("l")
    assert tab.run("viewer.app.panels.map((panel) => panel.row.key)") == ["prompt1_2_0", "prompt1_3_0"]
    tab.press("]")
    assert tab.run("[viewer.app.steps[viewer.app.step].step, viewer.app.prompts[viewer.app.prompt].uid]") == [
        4,
        "prompt1",
    ]
    tab.press("c")
    assert tab.run("document.querySelectorAll('.panel').length") == 3
    bars = tab.run("[...document.querySelectorAll('.bar-of')].map((bar) => bar.children[1].textContent)")
    assert bars == [f"{score:g}" for score in export(run, 4).columns["score"][4:8]]


def test_missing_columns_disable_a_colouring_and_say_why(tab, page, tmp_path):
    tab.open(page)
    assert tab.run("document.querySelector('[data-colouring=group_ids]').disabled")
    assert "only methods with entropy groups" in tab.run("document.getElementById('why').textContent")
    tab.press("6")
    assert tab.run("viewer.app.colouring.column") == "entropy"
    for _ in range(2):
        tab.press("]")  # the step of ESPO has groups, and no segments
    assert not tab.run("document.querySelector('[data-colouring=group_ids]').disabled")
    assert tab.run("document.querySelector('[data-colouring=segment_ids]').disabled")
    bare = {"key": ["k"], "responses": [np.arange(5)], "advantages": [np.ones(5)]}
    batch_file.write(tmp_path / "batch.parquet", bare, 1)
    tab.open(command.write(tmp_path, None, (), 10**6)[0].as_uri())
    assert tab.run("viewer.app.colouring.column") == "advantages"
    assert tab.run("document.querySelector('.token').textContent") == "#0 "
    assert tab.run("document.querySelectorAll('#colourings button:disabled').length") == 6


def test_hostile_texts_are_shown_and_nothing_else(tab, tmp_path):
    columns = {
        "key": ["k"],
        "uid": ["u"],
        "prompt_text": ["</script><img src=x onerror=window.pwned=1>\u202e"],
        "responses": [np.arange(len(HOSTILE))],
        "entropy": [np.zeros(len(HOSTILE))],
        "tokens": [HOSTILE],
    }
    batch_file.write(tmp_path / "batch.parquet", columns, 1)
    tab.open(command.write(tmp_path, None, (), 10**6)[0].as_uri())
    shown = tab.run("[...document.querySelectorAll('.token')].map((token) => token.textContent)")
    assert shown[1:9] == ["&lt;b&gt;", " a‹U+202E›b", "‹U+0000›‹U+001B›", "⏎⏎", "∅", "\u05d0\u05d1", "⇥", " \ud55c"]
    assert shown[0] == HOSTILE[0]
    assert shown[9] == "x" * 47 + "…"
    assert not tab.run("'pwned' in window")
    assert tab.run("document.querySelectorAll('img').length") == 0
    assert tab.run("document.querySelector('#prompt p').textContent").endswith("onerror=window.pwned=1>‹U+202E›")


def test_letters_stand_out_and_scales_read_without_hues(tab, page):
    tab.open(page)
    themes = tab.run("viewer.SCALES")
    lights = {
        f"{theme} {kind}": tab.run(
            f"{json.dumps(stops)}.map((stop) => stop && viewer.luminance(viewer.channels(stop)))"
        )
        for theme, kinds in themes.items()
        for kind, stops in kinds.items()
    }
    for theme, sign in (("light", -1), ("dark", 1)):
        assert (sign * np.diff(lights[f"{theme} sequential"]) > 0).all()
        down, up = np.split(np.diff(lights[f"{theme} diverging"]), 2)
        assert (sign * down < 0).all()
        assert (sign * up > 0).all()
        low, _, high = lights[f"{theme} clipping"]
        assert abs(np.log(high + 0.05) - np.log(low + 0.05)) > 0.2
    contrasts = tab.run(
        "['light', 'dark'].flatMap((theme) => viewer.manifest.colourings.filter(({columns, missing}) => missing)"
        ".flatMap((colouring) => new viewer.Painter(colouring, theme, null).paints.filter(Boolean)"
        ".map(({background, ink}) => {"
        "const over = viewer.luminance(viewer.channels(ink));"
        "const under = viewer.luminance(background.match(/\\d+/g).map(Number));"
        "return (Math.max(over, under) + 0.05) / (Math.min(over, under) + 0.05); })))"
    )
    assert len(contrasts) > 1000
    assert min(contrasts) > 4.45  # 4.5 before colours were rounded to whole channels
