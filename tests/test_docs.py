"""What the pages say in numbers and names, against the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from verl_ext import plugin

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("recipes/*/README.md"), ROOT / "docker/README.md"]
METHODS = [each for each in (*plugin.POLICY_LOSSES.values(), *plugin.ESTIMATORS.values()) if each.arxiv]
ROW = re.compile(r"^\| (`[^|]*`) \| ([^|]*) \|", re.MULTILINE)


def defaults_of(page: str) -> Iterator[tuple[str, str]]:
    """Key and default of each row of a page's tables; a row may have several, "`a`, `b` | `1`, `2`"."""
    for keys, values in ROW.findall(page):
        found = [part.strip().strip("`") for part in values.split(", ")]
        names = [part.strip().strip("`").split(".")[-1] for part in keys.split(", ")]
        if len(found) == len(names):
            yield from zip(names, found, strict=True)


def written(default: Any) -> set[str]:
    """How a page may write a default."""
    if default == "\n\n":
        return {"a double line break"}
    if isinstance(default, bool | list):
        return {str(default).lower()}
    return {str(default), f"{default:g}".replace("e-0", "e-") if isinstance(default, float) else str(default)}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{type(method).__name__}-{method.name}")
def test_the_tables_of_a_methods_page_have_the_defaults_of_its_signature(method: Any) -> None:
    page = dict(defaults_of((ROOT / "docs" / "methods" / f"{method.name}.md").read_text("utf-8")))
    for name, default in method.config_type().defaults().items():
        assert page[name] in written(default), f"{method.name}: {name} is {default!r}, the page says {page[name]}"


def test_recipes_and_presets_leave_espos_alpha_to_its_default_or_say_where_theirs_is_from() -> None:
    alpha = plugin.POLICY_LOSSES["espo"].config_type().defaults()["alpha"]
    assert f"| alpha | the default, {alpha:g} |" in (ROOT / "recipes/espo/README.md").read_text("utf-8")
    assert (
        "alpha"
        not in yaml.safe_load((ROOT / "configs/algo/espo.yaml").read_text())["actor_rollout_ref"]["actor"][
            "policy_loss"
        ]
    )
    for file in ROOT.glob("recipes/espo/tables/*.yaml"):
        for line in file.read_text("utf-8").splitlines():
            assert "policy_loss.alpha" not in line or "# paper: version 2" in line, f"{file.name}: {line}"


def imports(text: str) -> Iterator[tuple[str, str | None]]:
    """Module and name of every import of ours in the Python blocks of a page."""
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("verl_ext"):
                yield from ((str(node.module), alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names if alias.name.startswith("verl_ext"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    """Imports of ours, and files of the tests and of the package."""
    text = page.read_text("utf-8")
    for module, name in imports(text):
        owner = import_module(module)
        assert name is None or hasattr(owner, name) or import_module(f"{module}.{name}"), (module, name)
    named = set(re.findall(r"\b(?:tests|verl_ext|recipes)/[\w/]+\.(?:py|yaml|md)\b", text))
    assert sorted(file for file in named if not (ROOT / file).exists()) == []


def test_the_check_of_pages_sees_something() -> None:
    found = [found for page in PAGES for found in imports(page.read_text("utf-8"))]
    assert ("verl_ext", "batch_file") in found
    assert len(found) >= 6


def ours_in_verl(policy: str) -> list[str]:
    """Our names in the registries of a process that imports verl under a policy for plugins, and our package itself."""
    code = (
        "import sys, verl; from verl.trainer.ppo import core_algos as known\n"
        "names = [*known.POLICY_LOSS_REGISTRY, *map(str, known.ADV_ESTIMATOR_REGISTRY), *sys.modules]\n"
        "print(*names)"
    )
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": policy}
    environment.pop("VERL_USE_EXTERNAL_MODULES", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    return sorted({*plugin.POLICY_LOSSES, *plugin.ESTIMATORS, "verl_ext"} & set(done.stdout.split()))


def test_the_plugin_is_switched_off_as_the_readme_says() -> None:
    (policy,) = set(re.findall(r"`VERL_USE_EXTERNAL_PLUGINS=(\w+)` in", (ROOT / "README.md").read_text("utf-8")))
    assert ours_in_verl(policy) == []
    assert ours_in_verl("auto") == sorted({*plugin.POLICY_LOSSES, *plugin.ESTIMATORS, "verl_ext"})


def anchors(page: str) -> set[str]:
    """What GitHub makes of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s:]+)\)", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            dead.append(link)
    assert not dead
