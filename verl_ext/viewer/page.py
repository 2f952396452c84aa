"""The page: template, styles and scripts of this package put into one file, with the data behind them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from verl_ext.viewer.packing import as_json, encoded

TEMPLATE = "page.html.j2"
STYLES = ("style.css",)
# In the order in which they need each other.
SCRIPTS = ("inflate.js", "data.js", "colours.js", "layout.js", "tokens.js", "panel.js", "legend.js", "app.js")


def render(manifest: dict[str, Any], blocks: Sequence[str]) -> str:
    """The whole page; it needs no other file and no network."""
    return _template().render(
        title=manifest["title"],
        styles=[source(name) for name in STYLES],
        scripts=[source(name) for name in SCRIPTS],
        manifest=encoded(as_json(manifest)),
        blocks=blocks,
    )


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(source(TEMPLATE))


def source(name: str) -> str:
    """A file of the template."""
    return resources.files("verl_ext.viewer").joinpath("template", name).read_text(encoding="utf-8")
