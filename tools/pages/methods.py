"""docs/methods/README.md: the table of the methods, made of the entries of `verl_ext.plugin`."""

from __future__ import annotations

from pathlib import Path

from verl_ext import plugin

FOLDER = Path(__file__).resolve().parents[2] / "docs/methods"
HEAD = """# Methods

Made of the table in `verl_ext/plugin.py` by `make docs`. Token data that a method reads under some options only is in
`verl-ext losses`, with every hyper-parameter.
"""


def render() -> str:
    """The page."""
    losses = [
        f"| {titled(loss)} | {paper(loss)} | {listed(loss.reads)} | {listed(loss.aggregations)} |"
        for loss in plugin.POLICY_LOSSES.values()
    ]
    estimators = [
        f"| {titled(estimator)} | {paper(estimator)} | {listed(estimator.reads)} |"
        for estimator in plugin.ESTIMATORS.values()
    ]
    return "\n".join(
        [
            *(HEAD, "## Policy losses", ""),
            *("| loss | paper | token data | `loss_agg_mode` |", "|---|---|---|---|", *losses, ""),
            *("## Advantage estimators", ""),
            *("| estimator | paper | token data |", "|---|---|---|", *estimators, ""),
        ]
    )


def titled(method: plugin.Method) -> str:
    """The name, as a link where the method has a page."""
    page = f"{method.name}.md"
    return f"[`{method.name}`]({page})" if (FOLDER / page).is_file() else f"`{method.name}`"


def paper(method: plugin.Method) -> str:
    """Title and number; nothing where the method is of no paper."""
    return f"{method.title}, arXiv {method.arxiv}" if method.arxiv else method.title


def listed(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def faults() -> list[str]:
    """Methods of papers whose page is not there, as sentences."""
    return [
        f"docs/methods/{method.name}.md is not there: `{method.name}` is arXiv {method.arxiv}'s, and a paper's method "
        'needs a page with its formula, its defaults and the section "Where the paper is silent"'
        for method in [*plugin.POLICY_LOSSES.values(), *plugin.ESTIMATORS.values()]
        if method.arxiv and not (FOLDER / f"{method.name}.md").is_file()
    ]
