"""The report's pictures: quantities of all methods over each other, and what each method has of its own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from verl_ext.run_report import drawing
from verl_ext.run_report.catalogue import PANELS, find
from verl_ext.run_report.history import History, Record, Series
from verl_ext.run_report.methods import Band, Method

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.4, 3.7)
MOST_POINTS = 600
"""Points of a curve; longer ones are averaged over blocks of steps, so that the page stays small."""
MOST_BARS = 200
DASHES = (0, (5.0, 5.0))
"""Style of a curve that lies on an earlier one, so that both colours are seen."""
NEAR = 0.004
"""Distance of two curves, as a share of the panel, that a line's width covers."""
VALIDATION = "validation accuracy"
OUTCOME_COLOURS = {
    "correct": drawing.GREEN,
    "wrong": drawing.ORANGE,
    "unparsable": "#c5ccd3",
    "timeout": drawing.PURPLE,
    "error": "#c2416b",
}


@dataclass(frozen=True)
class Compared:
    """A panel in which every method has a curve.

    Attributes:
        key: of `catalogue.PANELS`, for the title.
        unit: second line of the heading.
        curves: quantity of `History.series`, or `VALIDATION`, and the style of its line.
        scale: what values are multiplied with.
        logarithmic: whether the axis is, where all values are above 0.
    """

    key: str
    unit: str
    curves: tuple[tuple[str, str], ...]
    scale: float = 1.0
    logarithmic: bool = False


_OF_TOKENS = "per cent of the valid tokens"
_BOTH = "nats; solid: largest, dashed: mean"
COMPARED = (
    Compared("reward", "mean of the step's responses", (("reward", "-"),)),
    Compared("validation", "per cent, mean over data sources", ((VALIDATION, "-"),), 100),
    Compared("entropy", "nats, mean over tokens", (("entropy", "-"),)),
    Compared("clipped", _OF_TOKENS, (("clip fraction", "-"),), 100),
    Compared(
        "bounds",
        f"{_OF_TOKENS}; solid: upper, dashed: lower",
        (("actor/pg_clipfrac_high", "-"), ("actor/pg_clipfrac_low", "--")),
        100,
    ),
    Compared("policy", "nats, mean of old minus current log-prob", (("actor/ppo_kl", "-"),)),
    Compared("gradient", "norm before it is clipped, mean over updates", (("actor/grad_norm", "-"),)),
    Compared("length", "tokens, mean", (("response length", "-"),)),
    Compared("cut off", "per cent of the responses", (("response_length/clip_ratio", "-"),), 100),
    Compared(
        "mismatch",
        _BOTH,
        (("training/rollout_log_probs_diff_max", "-"), ("training/rollout_log_probs_diff_mean", "--")),
        logarithmic=True,
    ),
    Compared(
        "entropy mismatch",
        _BOTH,
        (("training/rollout_entropy_diff_max", "-"), ("training/rollout_entropy_diff_mean", "--")),
        logarithmic=True,
    ),
    Compared(
        "signal",
        "per cent of the prompts; dashed: all right, dotted: all wrong",
        (("train/groups_without_spread", "-"), ("train/groups_all_right", "--"), ("train/groups_all_wrong", ":")),
        100,
    ),
    Compared("unjudged", "per cent of the responses", (("guards/verifier/unjudged_share", "-"),), 100),
    Compared("step", "seconds", (("seconds a step", "-"),)),
)


class Picture(NamedTuple):
    """A title, for those who cannot see the picture, and the picture as an SVG element."""

    title: str
    svg: str


def quantity(name: str) -> Callable[[History], Series]:
    """A quantity of `History.series`, or `VALIDATION`, as something to ask a history for."""
    return History.accuracy if name == VALIDATION else lambda history: history.series(name)


def compared(methods: Sequence[Method], weight: float) -> Iterator[Picture]:
    """The panels with all methods in them; one that no method has numbers for is left out.

    Args:
        methods: in the order of their colours.
        weight: of the moving average, 0 for the values as they are.
    """
    last = max(record.step for method in methods for history in method.histories for record in history.records)
    for panel in COMPARED:
        bands = {
            (number, name): method.band(quantity(name))
            for number, method in enumerate(methods)
            for name, _ in panel.curves
        }
        if any(band.steps for band in bands.values()):
            draw = partial(_draw_compared, panel=panel, bands=bands, weight=weight)
            yield Picture(PANELS[panel.key], svg(draw, last, f"all-{panel.key}"))


def _draw_compared(ax: Axes, panel: Compared, bands: dict[tuple[int, str], Band], weight: float) -> None:
    drawing.title(ax, PANELS[panel.key], panel.unit)
    alone = sum(bool(band.steps) for band in bands.values()) == 1
    drawn: list[Band] = []
    for (number, name), band in bands.items():
        colour, style = drawing.COLOURS[number % len(drawing.COLOURS)], dict(panel.curves)[name]
        hidden = any(_coincide(band, other) for other in drawn)
        drawn.append(band)
        validated = name == VALIDATION
        shown = thin(band)
        # Validations are few and far apart: each is shown as it is.
        steps, mean, low, high = (
            shown.steps,
            *(_scaled(v, panel.scale, 0 if validated else weight) for v in shown[1:]),
        )
        if low != high:
            ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        elif alone and not validated and weight:
            ax.plot(steps, _scaled(shown.mean, panel.scale, 0), color=colour, alpha=0.25, linewidth=1.2)
        marker = "o" if validated or len(steps) == 1 else None
        ax.plot(
            steps, mean, color=colour, linestyle=DASHES if hidden else style, linewidth=2, marker=marker, markersize=4.5
        )
    _scale(ax, [value for band in bands.values() for value in (*band.low, *band.high)], panel.logarithmic)


def _coincide(band: Band, other: Band) -> bool:
    """Whether one curve hides the other: nowhere further apart than a line is wide."""
    if not band.steps or band.steps != other.steps:
        return False
    apart = max(abs(a - b) for a, b in zip(band.mean, other.mean, strict=True))
    return apart <= NEAR * max(max(map(abs, band.mean)), max(band.mean) - min(band.mean))


def _scale(ax: Axes, values: list[float], logarithmic: bool) -> None:
    """From 0 where that leaves the curves at least half of the panel; logarithmic where that gives labels to read."""
    from matplotlib.ticker import LogLocator, NullFormatter

    least, most = min(values), max(values)
    if logarithmic and 0 < least <= most / 10:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if most < 100 * least else (1.0,), numticks=7))
        ax.yaxis.set_minor_formatter(NullFormatter())
    elif 0 <= least <= most / 2:
        ax.set_ylim(bottom=0, top=None if most > 0 else 1)


def _scaled(values: list[float], scale: float, weight: float) -> list[float]:
    return [scale * value for value in (drawing.smooth(values, weight) if weight else values)]


def thin(band: Band, most: int = MOST_POINTS) -> Band:
    """A band with at most about `most` points: means over blocks of as many steps as that takes."""
    size = -(-len(band.steps) // most) or 1
    if size == 1:
        return band
    blocks = [slice(start, start + size) for start in range(0, len(band.steps), size)]
    steps = [band.steps[block][-1] for block in blocks]
    return Band(steps, *([sum(v[b]) / len(v[b]) for b in blocks] for v in (band.mean, band.low, band.high)))


def thin_history(history: History, most: int = MOST_BARS) -> History:
    """A history with at most about `most` records, each the mean over a block of training steps."""
    size = -(-len(history.steps()) // most) or 1
    if size == 1:
        return history
    blocks = [history.steps()[start : start + size] for start in range(0, len(history.steps()), size)]
    return History([Record(block[-1].step, _means([record.values for record in block])) for block in blocks])


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each name the mean over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items()}


def own(method: Method, weight: float, number: int) -> Iterator[Picture]:
    """The panels of one method: its groups, widths, outcomes, phases, and numbers that only it has."""
    history = thin_history(method.mean)
    last = max(record.step for record in history.records)

    def made(title: str, draw: Callable[[Axes], None]) -> Picture:
        return Picture(f"{method.name}: {title}", svg(draw, last, f"own-{number}-{title}"))

    if history.groups():
        yield made(PANELS["groups"], lambda ax: drawing.clip_fractions(ax, history))
    if len(history.groups()) > 1:
        yield made(PANELS["group entropy"], lambda ax: drawing.entropy(ax, history))
    names = sorted({name for record in history.steps() for name in record.values})
    outcomes = _outcomes(history)
    for key in ("widths", "method"):
        units: dict[str, list[str]] = {}
        for name in names:
            metric = find(name)
            if metric is not None and metric.panel == key:
                units.setdefault(metric.unit, []).append(name)
        for unit, found in units.items():
            draw = partial(_draw_lines, title=PANELS[key], unit=unit, history=history, names=found, weight=weight)
            yield made(f"{PANELS[key]}, {unit}", draw)
    if outcomes:
        yield made(PANELS["outcomes"], lambda ax: _draw_outcomes(ax, outcomes))
    if history.phases():
        yield made(PANELS["phases"], lambda ax: drawing.phases(ax, history))


def _outcomes(history: History) -> dict[str, Series]:
    series = {name: history.series(f"reward/outcome/{name}") for name in OUTCOME_COLOURS}
    return {name: (steps, [100 * v for v in values]) for name, (steps, values) in series.items() if any(values)}


def _draw_outcomes(ax: Axes, outcomes: dict[str, Series]) -> None:
    drawing.title(ax, PANELS["outcomes"], "per cent of the step's responses")
    drawing.stacked(ax, outcomes, OUTCOME_COLOURS)
    ax.set_ylim(0, 128)  # room for the legend
    ax.set_yticks(range(0, 101, 25))
    drawing.legend(ax, columns=len(outcomes))


def _draw_lines(ax: Axes, title: str, unit: str, history: History, names: list[str], weight: float) -> None:
    drawing.title(ax, title, unit)
    for number, name in enumerate(names):
        steps, values = history.series(name)
        colour = drawing.COLOURS[number % len(drawing.COLOURS)]
        drawing.line(ax, (steps, values), colour, name.split("/", 2)[-1], weight)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.12 * (high - low) * len(names))  # room for the legend
    drawing.legend(ax)


def svg(draw: Callable[[Axes], None], last: int, prefix: str) -> str:
    """A picture as an SVG element that can stand in a page beside others; its text stays text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "verl_ext", "font.family": "sans-serif"}):
        figure = Figure(figsize=SIZE, facecolor="none", layout="constrained")
        FigureCanvasSVG(figure)
        ax = figure.subplots()
        draw(ax)
        drawing.finish(ax, last)
        out = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    return _element(out.getvalue(), re.sub(r"[^a-z0-9]+", "-", prefix.lower()))


def _element(document: str, prefix: str) -> str:
    """The svg element of a document, its identifiers made different from those of other pictures of the page."""
    text = document[document.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", text)
    # The width in points would keep it from shrinking with the page.
    return re.sub(
        r'^<svg ([^>]*?)width="[^"]*"', r"<svg \1", re.sub(r'height="[\d.]+pt" ?', "", text, count=1), count=1
    )
