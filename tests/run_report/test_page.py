"""The page: numbers of its tables and pictures, and that it needs nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from typer.testing import CliRunner

from tests.run_report import made
from verl_ext.run_report import command, panels, tables
from verl_ext.run_report.history import History, Record
from verl_ext.run_report.methods import Band, Method, gather
from verl_ext.run_report.sources import Logged

app = typer.Typer()
app.command()(command.report)
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def methods(tmp_path: Path) -> list[Method]:
    espo = made.log(tmp_path / "espo" / "metrics.jsonl", made.rows())
    plain = {step: {k: v for k, v in data.items() if "espo" not in k} for step, data in made.rows(0.125).items()}
    gspo = made.log(tmp_path / "gspo" / "metrics.jsonl", plain)
    return gather([f"espo={espo}", f"gspo={gspo}"])


def cells(found: list[tables.Table], heading: str) -> dict[str, list[str]]:
    table = next(table for table in found if table.heading == heading)
    assert {len(row) for row in table.rows} <= {len(table.columns)}
    return {row[0]: list(row[1:]) for row in table.rows}


def test_tables_of_two_runs(methods: list[Method]) -> None:
    """Rewards are 0.25, 0.5 and 0.125, 0.25; the last validation 62.5 per cent; 3 of 4 seconds are rollout."""
    found = tables.tables(methods)
    last, means = cells(found, "Last values"), cells(found, "Means over the training steps")
    #       steps  reward  validation entropy clipped upper lower length gradient gap seconds
    assert last["espo"] == ["2", "0.5", "62.5", "0.5", "10", "4", "6", "40", "1.5", "1e-05", "4"]
    assert last["gspo"][1] == "0.25"
    assert means["espo"] == ["2", "0.375", "0.5", "10", "4", "6", "40", "1.5", "1e-05", "4"]
    assert means["gspo"][1] == "0.188"  # (0.125 + 0.25) / 2 = 0.1875
    assert cells(found, "Guards: the largest value of any step")["guards/nonfinite/values"] == ["3", "3"]
    assert cells(found, "Seconds a step by phase, mean") == {"rollout": ["3", "3"], "the rest": ["1", "1"]}
    assert cells(found, "What was read")["espo"] == ["verl's file logger", "metrics.jsonl", "0 to 2", "3"]


def test_tables_of_seeds_show_their_range(tmp_path: Path) -> None:
    """Last rewards 0.5 and 1.0: mean 0.75."""
    logs = [made.log(tmp_path / str(i) / "metrics.jsonl", made.rows(0.25 * i)) for i in (1, 2)]
    found = tables.tables(gather([f"espo={log}" for log in logs], seeds=True))
    assert cells(found, "Last values")["espo"][1] == "0.75 (0.5 to 1)"


def curves(svg: str) -> list[list[tuple[float, float]]]:
    """The points of the coloured lines of a picture, in its own coordinates."""
    found = []
    for path in ET.fromstring(svg.replace("xlink:href", "href")).iter(f"{SVG}path"):
        style = path.get("style", "")
        if any(f"stroke: {colour}" in style for colour in panels.drawing.COLOURS) and "clip-path" in path.attrib:
            found.append([(float(x), float(y)) for x, y in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d", ""))])
    return found


def test_a_compared_panel_has_a_curve_a_run(methods: list[Method]) -> None:
    """Unsmoothed rewards rise from 0.25 to 0.5 and from 0.125 to 0.25: twice as far, and from the same axis."""
    pictures = {picture.title: picture.svg for picture in panels.compared(methods, weight=0)}
    (e1, e2), (g1, g2) = curves(pictures["Reward"])
    assert (e1[1] - e2[1]) == pytest.approx(2 * (g1[1] - g2[1]), rel=1e-3)
    assert e2[1] == pytest.approx(g2[1] - (e1[1] - e2[1]), rel=1e-3)
    assert g2[1] == pytest.approx(e1[1], rel=1e-3)
    assert e1[0] == g1[0] < e2[0] == g2[0]
    # Upper and lower bound of both runs.
    assert len(curves(pictures["Clipped tokens by bound"])) == 4
    assert "Entropies, rollout against actor" not in pictures, "no run reports them"


def test_a_band_is_drawn_between_seeds(tmp_path: Path) -> None:
    logs = [made.log(tmp_path / str(i) / "metrics.jsonl", made.rows(0.25 * i)) for i in (1, 2)]
    (together,) = gather([f"espo={log}" for log in logs], seeds=True)
    pictures = {picture.title: picture.svg for picture in panels.compared([together], weight=0)}
    assert "FillBetween" in pictures["Reward"] or "PolyCollection" in pictures["Reward"]
    assert "Collection" not in pictures["Entropy"], "equal seeds have no band"


def test_own_panels(methods: list[Method]) -> None:
    espo, gspo = ([picture.title for picture in panels.own(m, 0.7, i)] for i, m in enumerate(methods))
    assert espo == [
        "espo: Clipped tokens by group",
        "espo: Entropy by group",
        "espo: Clip widths, ratio",
        "espo: Verifier outcomes",
        "espo: Time by phase",
    ]
    assert gspo == ["gspo: Verifier outcomes", "gspo: Time by phase"]


def test_long_curves_are_averaged_over_blocks() -> None:
    """Five points, at most two: blocks of three. Means (0 + 1 + 2) / 3 and (3 + 4) / 2, drawn at their last step."""
    values = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert panels.thin(Band([1, 2, 3, 4, 5], values, values, values), 2) == Band([3, 5], *([[1.0, 3.5]] * 3))
    history = History([Record(0, {"v": 9.0}), *(Record(i + 1, {"a": value}) for i, value in enumerate(values))])
    assert panels.thin_history(history, 2).records == [Record(3, {"a": 1.0}), Record(5, {"a": 3.5})]
    assert panels.thin_history(history, 5) is history


class Outside(HTMLParser):
    """Collects what a page would load, and all identifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v for name, v in attrs if name in ("src", "href", "xlink:href") and v and not v.startswith("#")]
        self.links += [tag] if tag in ("link", "script", "iframe", "image") else []
        self.ids += [value for name, value in attrs if name == "id" and value]


def test_the_page_needs_nothing_else(methods: list[Method], tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    arguments = [f"a<b>={tmp_path / 'espo'}", f"gspo={tmp_path / 'gspo'}", "--out", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    page = out.read_text()
    parser = Outside()
    parser.feed(page)
    assert parser.links == []
    assert len(parser.ids) == len(set(parser.ids))
    assert re.findall(r"url\((?!#)", page) == []
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', page))
    assert used, "pictures refer to their own parts"
    assert used <= set(parser.ids)
    assert "a<b>" not in page
    assert "a&lt;b&gt;" in page
    assert len(page) < 1_000_000


def test_missing_and_lost_numbers_are_told(tmp_path: Path) -> None:
    rows = made.rows()
    del rows[0], rows[2][made.ACC]
    rows[1]["actor/grad_norm"] = None
    made.log(tmp_path / "espo" / "metrics.jsonl", rows)
    page = command.make([f"espo={tmp_path / 'espo'}"], tmp_path / "out.html")
    assert "validation accuracy (looked for" in page
    assert "not finite: actor/grad_norm (1 steps)" in page


def test_all_faults_at_once_and_nothing_written(tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "out.html"
    done = CliRunner().invoke(app, [str(tmp_path / "gone"), "--out", str(out), "--smooth", "1"])
    assert done.exit_code == 2
    lines = [line for line in done.output.splitlines() if line.startswith("  - ")]
    assert len(lines) == 3
    assert "--smooth 1: must be" in lines[0]
    assert "there is no folder" in lines[1]
    assert "gone: no such file or folder" in lines[2]
    assert not out.exists()


def drawn(methods: list[Method], key: str) -> Axes:
    """A panel of the comparison as it is drawn."""
    panel = next(panel for panel in panels.COMPARED if panel.key == key)
    bands = {
        (number, name): method.band(panels.quantity(name))
        for number, method in enumerate(methods)
        for name, _ in panel.curves
    }
    figure = Figure()
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    panels._draw_compared(ax, panel, bands, weight=0)
    panels.drawing.finish(ax, 2)
    figure.canvas.draw()
    return ax


def run(name: str, **values: list[float]) -> Method:
    """A run with these metrics at the steps 1, 2 ..."""
    steps = range(1, 1 + max(map(len, values.values())))
    records = [Record(step, {key.replace(".", "/"): v[step - 1] for key, v in values.items()}) for step in steps]
    return Method(name, (Logged(History(records), "made", ()),))


@pytest.mark.parametrize("most", [1.1e-5, 2.5e-5, 9e-5, 4e-4, 3.0, 0.0])
def test_every_axis_has_labels_and_none_has_an_offset(most: float) -> None:
    """From a tenth of a decade to five of them; an offset would stand over the second line of the heading."""
    gap = {"training.rollout_log_probs_diff_max": [most, most], "training.rollout_log_probs_diff_mean": [1e-5, 1e-5]}
    ax = drawn([run("a", **gap)], "mismatch")
    low, high = ax.get_ylim()
    shown = [label for label in ax.get_yticklabels() if low <= label.get_position()[1] <= high and label.get_text()]
    assert len(shown) >= 2
    assert ax.yaxis.get_offset_text().get_text() == ""


def test_a_narrow_range_far_from_zero_has_no_offset() -> None:
    ax = drawn([run("a", **{"response_length.mean": [1e6 + 1, 1e6 + 3]})], "length")
    assert ax.yaxis.get_offset_text().get_text() == ""


def test_runs_that_coincide_are_both_seen() -> None:
    values = {"critic.rewards.mean": [0.1, 0.9]}
    near = {"critic.rewards.mean": [0.1001, 0.9]}
    other = {"critic.rewards.mean": [0.15, 0.9]}
    ax = drawn([run("a", **values), run("b", **near), run("c", **other)], "reward")
    assert [line.get_linestyle() for line in ax.get_lines()] == ["-", "--", "-"]


def test_hyper_parameters_stand_beside_the_last_values(tmp_path: Path) -> None:
    """What the workers of the latest attempt printed, and Hydra's configuration; one key lacks its variable."""
    log = made.log(tmp_path / "espo" / "metrics.jsonl", made.rows())
    ran = {"loss": "espo", "hyper_parameters": {"alpha": 0.02, "clip": "adaptive"}, "rank": 0}
    (log.parent / "train.1.log").write_text('verl_ext.execution {"loss": "gspo", "hyper_parameters": {}}\n')
    (log.parent / "train.2.log").write_text(f"noise\n(WorkerDict pid=1) verl_ext.execution {json.dumps(ran)}\n")
    os.utime(log.parent / "train.1.log", (1, 1))
    hydra = log.parent / "hydra" / ".hydra"
    hydra.mkdir(parents=True)
    actor = {"optim": {"lr": 1e-6}, "loss_agg_mode": "${oc.env:NOT_SET_HERE}"}
    model = {"path": "/models/Qwen/Qwen3-4B"}
    (hydra / "config.yaml").write_text(json.dumps({"actor_rollout_ref": {"actor": actor, "model": model}}))
    plain = made.log(tmp_path / "gspo" / "metrics.jsonl", made.rows())
    found = gather([str(log.parent), str(plain)])
    assert cells(tables.tables(found), "Hyper-parameters") == {
        "loss": ["espo", ""],
        "espo: alpha": ["0.02", ""],
        "espo: clip": ["adaptive", ""],
        "model": ["Qwen/Qwen3-4B", ""],
        "learning rate": ["1e-06", ""],
    }
    page = command.make([str(log.parent)], tmp_path / "page.html")
    assert page.index("<h2>Last values</h2>") < page.index("<h2>Hyper-parameters</h2>") < page.index("<figure")
    assert page.count("<h2>Hyper-parameters</h2>") == 1
