"""The pictures of a study: which there are, and what each of them draws."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from verl_ext.replay.figure import as_png, canvas, finish
from verl_ext.run_report.drawing import GREY, GRID, INK, PHASE_COLOURS, REST_COLOUR
from verl_ext.study.measures import Runs
from verl_ext.study.panels import (
    CLIP_KEY,
    WIDTH,
    Found,
    against,
    clipping,
    key_with_references,
    legend,
    multiples,
    panels,
    seeds,
    smoothed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from verl_ext.study.schema import Study


@dataclass(frozen=True)
class Picture:
    """A picture of the page.

    Attributes:
        name: file name in docs/images.
        title: heading.
        caption: what is drawn.
        draw: figure of (study, runs).
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Study, Found], Figure]


def drawn(study: Study, found: Found, name: str) -> bytes:
    """One of `PICTURES` as PNG; its bytes depend on the results and matplotlib's version alone."""
    (picture,) = [picture for picture in PICTURES if picture.name == name]
    return small(as_png(picture.draw(study, found)))


def small(png: bytes) -> bytes:
    """The picture with 128 colours, a third of the bytes."""
    from PIL import Image

    target = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
        target, "png", optimize=True
    )
    return target.getvalue()


def as_percent(ax: Axes, runs: Runs, found: Found) -> None:
    from matplotlib.ticker import PercentFormatter

    against(ax, runs, found, Runs.accuracy, 1.0)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def times(study: Study, found: Found) -> Figure:
    """Seconds a step by phase, a bar for each method."""
    shown = panels(study, found)
    figure = canvas(WIDTH, 0.8 + sum(0.75 + 0.33 * len(runs) for runs in shown.values()))
    heights = [len(runs) for runs in shown.values()]
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    phases = list(dict.fromkeys(name for runs in shown.values() for one in runs for name in one.phases()))
    order = [name for name in PHASE_COLOURS if name in phases] + [name for name in phases if name not in PHASE_COLOURS]
    legend(figure, [(name, {"facecolor": PHASE_COLOURS.get(name, REST_COLOUR)}) for name in order])
    for ax, (model, runs) in zip(axes, shown.items(), strict=True):
        labels = [study.methods[one.method].label for one in runs]
        base = [0.0] * len(runs)
        for name in order:
            widths = [fmean(one.phases()[name].values()) if one.phases().get(name) else 0.0 for one in runs]
            ax.barh(range(len(runs)), widths, left=base, height=0.72, color=PHASE_COLOURS.get(name, REST_COLOUR))
            base = [b + width for b, width in zip(base, widths, strict=True)]
        for place, end in enumerate(base):
            ax.text(end, place, f" {end:.2f}", va="center", fontsize=9, color=INK)
        finish(ax)
        ax.set_yticks(range(len(runs)), labels, fontsize=9.5, color=INK)
        ax.invert_yaxis()
        ax.grid(axis="x", color=GRID, linewidth=0.8)
        ax.set_title(f"{model}: seconds a step, {seeds(runs)}", loc="left", fontsize=11, color=GREY)
    return figure


def lines(name: str, unit: str) -> Callable[[Study, Found], Figure]:
    """Small panels of a curve of training steps."""
    panel = partial(against, quantity=lambda runs: smoothed(runs, name))
    return lambda study, found: multiples(study, found, panel, unit, key_with_references(study))


def clips(ending: str, unit: str) -> Callable[[Study, Found], Figure]:
    """Small panels of clip fractions."""
    return lambda study, found: multiples(study, found, partial(clipping, ending=ending), unit, CLIP_KEY)


CUT = "An interval that leaves the panel is cut."
AVERAGED = "Each seed's curve is a moving average over steps (weight 0.7)."
PICTURES = (
    Picture(
        "study-accuracy.png",
        "Learning curves",
        f"Validation accuracy over training steps. {CUT}",
        lambda study, found: multiples(study, found, as_percent, "validation accuracy", key_with_references(study)),
    ),
    Picture(
        "study-clip-tokens.png",
        "Clipped tokens",
        f"Share of valid tokens that the loss clipped; logarithmic above 0.01%. {AVERAGED}",
        clips("", "share of tokens clipped"),
    ),
    Picture(
        "study-clip-sequences.png",
        "Responses with a clipped token",
        f"Share of responses with a clipped token; logarithmic above 0.01%. {AVERAGED}",
        clips("_sequences", "share of responses with a clipped token"),
    ),
    Picture(
        "study-entropy.png",
        "Entropy",
        f"Of the policy that sampled, mean over the tokens of a step. {AVERAGED} {CUT}",
        lines("entropy", "entropy, nats a token"),
    ),
    Picture(
        "study-gradient.png",
        "Gradient norm",
        f"Before it is clipped, mean over the mini-batches of a step. {AVERAGED} {CUT}",
        lines("grad_norm", "gradient norm"),
    ),
    Picture(
        "study-length.png",
        "Response length",
        f"Mean over the responses of a step. {AVERAGED} {CUT}",
        lines("response_length", "tokens a response"),
    ),
    Picture(
        "study-time.png",
        "Time a step",
        "By phase: median over the steps of a run, mean over seeds, without validation.",
        times,
    ),
)
