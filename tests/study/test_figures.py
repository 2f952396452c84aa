"""The pictures: made of any runs, the same bytes again, small enough for a repository."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.study import made
from verl_ext.study import figures, schema
from verl_ext.study.measures import by_method

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "cpu_study"
NAMES = [picture.name for picture in figures.PICTURES]


@pytest.fixture(scope="module")
def study() -> schema.Study:
    return schema.read(FOLDER)


def some() -> list[made.Result]:
    """Three seeds, one seed, a collapsed run with numbers that are none, another model."""
    rising = [0.001, 0.01, 0.02, 0.05, 0.1, 0.2]
    return [
        *(made.result("gspo", seed, clip_low=rising, accuracy=(0.4, 0.5, 0.5 + 0.05 * seed)) for seed in (1, 2, 3)),
        made.result("espo", 2, clip_high=rising, accuracy=(0.3, 0.4, 0.9)),
        made.result("tepo_full_kl", 1, grad_norm=[1, 2, float("inf"), float("nan"), 1, 1], entropy=0.0),
        made.result("grpo", 1, "tiny_moe"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_drawn(study: schema.Study, name: str) -> None:
    from PIL import Image

    png = figures.drawn(study, by_method(some()), name)
    image = Image.open(io.BytesIO(png))
    assert image.width > 1000
    assert image.height > 300
    # As with all runs: the text of 16 panels is what takes the space, and these have a quarter of them.
    assert len(png) < 75_000
    assert len(image.convert("RGB").getcolors(1 << 24)) > 5
    assert not {"Creation Time", "date:create"} & set(image.info)


def test_a_picture_is_the_same_again(study: schema.Study) -> None:
    found = by_method(some())
    assert figures.drawn(study, found, NAMES[0]) == figures.drawn(study, found, NAMES[0])


def test_panels_stand_in_the_studys_order(study: schema.Study) -> None:
    shown = figures.panels(study, by_method(some()))
    assert {model: [one.method for one in runs] for model, runs in shown.items()} == {
        "tiny_dense": ["gspo", "espo", "tepo_full_kl"],
        "tiny_moe": ["grpo"],
    }


def test_a_panel_shows_the_numbers(study: schema.Study) -> None:
    """The mean of the seeds in the method's own panel, and GSPO's in the others."""
    from verl_ext.replay.figure import canvas

    found = by_method(some())
    own, other = canvas(4, 4).subplots(1, 2)
    figures.as_percent(own, found["tiny_dense", "gspo"], found)
    figures.as_percent(other, found["tiny_dense", "espo"], found)
    # 0.5 + 0.05 * (1 + 2 + 3) / 3
    assert list(own.lines[-1].get_ydata()) == pytest.approx([0.4, 0.5, 0.6])
    assert len(own.lines) == 3 + 1
    assert list(other.lines[0].get_ydata()) == pytest.approx([0.4, 0.5, 0.6])
    assert list(other.lines[0].get_xdata()) == [0, 3, 6]
    assert list(other.lines[-1].get_ydata()) == pytest.approx([0.3, 0.4, 0.9])
    assert not other.collections  # one seed has no interval
    assert own.collections


def test_clip_fractions_lie_between_the_seeds(study: schema.Study) -> None:
    from verl_ext.replay.figure import canvas

    runs = made.runs("espo", (1, 2), clip_low=[0.1, 0.3], clip_high=[0.01, 0.01])
    ax = canvas(4, 4).subplots()
    figures.clipping(ax, runs, {}, ending="")
    assert list(ax.lines[0].get_ydata()) == pytest.approx([0.2] * made.STEPS)
    assert list(ax.lines[1].get_ydata()) == pytest.approx([0.01] * made.STEPS)
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.1, 0.3))


def test_bars_add_up_to_the_phases(study: schema.Study) -> None:
    figure = figures.times(study, by_method([made.result("espo", phases={"rollout": 1.5, "actor update": 0.25})]))
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [1.5, 0.25]
    assert [text.get_text().strip() for text in ax.texts] == ["1.75"]
