"""The result of a replay, for terminals, as JSON and as one HTML file."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from typing import Any

from rich.console import Console
from rich.table import Table

from verl_ext.replay.dump import NO_SIGNAL
from verl_ext.replay.run import Replay

MISSING = "-"


def header(replay: Replay) -> list[str]:
    """What the figures are of."""
    rows, tokens = len(replay.dump.keys), replay.dump.tokens
    subject = "the model's parameters" if replay.by_parameters else "the log-probs"
    return [
        *([] if replay.dump.signal else [f"{NO_SIGNAL}. A gradient that is left is that of a KL or entropy term."]),
        f"{rows} rows, {tokens} tokens, taken as one mini-batch",
        f"norm and cosine: gradient with respect to {subject}; top {100 * replay.top:g}%: share of |gradient| with "
        "respect to the log-probs on the tokens of highest entropy",
    ]


def rows(replay: Replay) -> list[dict[str, Any]]:
    """One entry a loss; numbers that do not exist are None."""
    found = []
    for subject, measured, norm in zip(replay.subjects, replay.measured, replay.norms.tolist(), strict=True):
        found.append(
            {
                "loss": subject.label,
                "name": subject.name,
                "value": measured.loss,
                "gradient_norm": norm,
                "clip_low": measured.clip_low,
                "clip_high": measured.clip_high,
                "no_gradient": measured.no_gradient,
                "top_share": _finite(replay.top_share(measured)),
                "mean_ratio": measured.mean_ratio(replay.dump.mask),
                "hyper_parameters": dict(subject.hyper),
            }
        )
    return found


def as_data(replay: Replay) -> dict[str, Any]:
    """Everything in the tables, JSON-able."""
    return {
        "rows": len(replay.dump.keys),
        "tokens": replay.dump.tokens,
        "signal": replay.dump.signal,
        "gradient_of": "parameters" if replay.by_parameters else "log_probs",
        "top": replay.top,
        "losses": rows(replay),
        "cosine": [[_finite(value) for value in row] for row in replay.cosine.tolist()],
        "notes": list(replay.notes),
    }


def as_json(replay: Replay) -> str:
    """See `as_data`."""
    return json.dumps(as_data(replay), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits for people."""
    return MISSING if value is None else f"{value:.{digits}g}"


def percent(value: float | None) -> str:
    """A share in per cent; a share above 0 never reads as 0."""
    return MISSING if value is None else "0" if value == 0 else f"{100 * value:.3g}"


def cells(replay: Replay) -> list[list[str]]:
    """The main table: headings first. Without a signal there is nothing to clip and no share of anything."""
    if not replay.dump.signal:
        found = [
            [row["loss"], *(number(row[name]) for name in ("value", "gradient_norm", "mean_ratio"))]
            for row in rows(replay)
        ]
        return [["loss", "value", "norm", "mean ratio"], *found]
    top = f"top {100 * replay.top:g}%"
    table = [["loss", "value", "norm", "clip low %", "clip high %", "no gradient %", f"{top} %", "mean ratio"]]
    for row in rows(replay):
        shares = [percent(row[name]) for name in ("clip_low", "clip_high", "no_gradient", "top_share")]
        ratio = MISSING if row["mean_ratio"] is None else f"{row['mean_ratio']:.6f}"
        table.append([row["loss"], number(row["value"]), number(row["gradient_norm"], 4), *shares, ratio])
    return table


def cosine_cells(replay: Replay) -> list[list[str]]:
    """The table of cosines: headings first."""
    labels = [subject.label for subject in replay.subjects]
    table = [["cosine", *labels]]
    for label, values in zip(labels, replay.cosine.tolist(), strict=True):
        table.append([label, *(MISSING if math.isnan(value) else f"{value:.4f}" for value in values)])
    return table


def tables(replay: Replay) -> list[list[list[str]]]:
    """What can be said: of gradients that are all 0 there are no cosines."""
    return [cells(replay), *([cosine_cells(replay)] if bool(replay.norms.any()) else [])]


def show(replay: Replay, console: Console) -> None:
    """Print the tables and the notes."""
    for line in header(replay):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for table in tables(replay):
        console.print()
        shown = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for column, heading in enumerate(table[0]):
            # A narrow screen breaks headings, never the name of a loss.
            label = None if column else max(len(row[0]) for row in table)
            shown.add_column(heading, justify="right" if column else "left", min_width=label)
        for row in table[1:]:
            shown.add_row(*row)
        console.print(shown)
    console.print()
    for note in replay.notes:
        console.print(f"note  {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def as_html(replay: Replay, picture: bytes) -> str:
    """One file with the tables and the picture in it, which needs nothing else."""
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(HTML)
    return template.render(
        header=header(replay),
        tables=tables(replay),
        notes=replay.notes,
        picture=b64encode(picture).decode(),
    )


HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Replay</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #e4e8ec } img { max-width: 100% }
</style>
<h1>Replay</h1>
{% for line in header %}<p>{{ line }}</p>{% endfor %}
{% for table in tables %}<table>
{% for row in table %}<tr>{% for cell in row %}
{%- if loop.first %}<th>{{ cell }}</th>{% else %}<td>{{ cell }}</td>{% endif %}
{%- endfor %}</tr>
{% endfor %}</table>{% endfor %}
<img alt="cosines, clip fractions and the gradient over entropy" src="data:image/png;base64,{{ picture }}">
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
</html>
"""
