"""Pages that need no other file: the template that all reports stand on, and the page of `verl-ext report`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

    from verl_ext.run_report.methods import Method


def template(package: str, name: str) -> jinja2.Template:
    """A template of a package, which may extend ``base.html.j2`` and import ``section.html.j2`` of this one."""
    import jinja2

    def load(wanted: str) -> str:
        folder = package if wanted == name else __package__
        return resources.files(folder).joinpath(wanted).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FunctionLoader(load)
    )
    return environment.get_template(name)


def render(methods: Sequence[Method], title: str, weight: float) -> str:
    """The page of `verl-ext report`.

    Args:
        methods: what is compared, in the order of legend and tables.
        title: heading of the page.
        weight: of the moving average that curves are drawn with; 0 for the values as they are.
    """
    from verl_ext.run_report import drawing, panels, tables

    return template("verl_ext.run_report", "page.html.j2").render(
        title=title,
        legend=[(drawing.COLOURS[i % len(drawing.COLOURS)], method.name) for i, method in enumerate(methods)],
        repeated=len(methods) > len(drawing.COLOURS),
        averaged=[(method.name, len(method.runs)) for method in methods if len(method.runs) > 1],
        weight=weight,
        pictures=list(panels.compared(methods, weight)),
        own=[(method.name, list(panels.own(method, weight, i))) for i, method in enumerate(methods)],
        tables=tables.tables(methods),
        summary=tables.SUMMARY,
        notes=[(method.name, note) for method in methods for run in method.runs for note in run.notes],
        missing=_missing(methods),
    )


def _missing(methods: Sequence[Method]) -> list[tuple[str, str]]:
    """What is not reported, and by whom."""
    by_fault: dict[str, list[str]] = {}
    for method in methods:
        for fault in method.mean.missing():
            by_fault.setdefault(fault, []).append(method.name)
    everybody = len(methods)
    return [
        (fault, "any run" if len(names) == everybody > 1 else ", ".join(names)) for fault, names in by_fault.items()
    ]
