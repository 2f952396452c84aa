"""The command line: fast help, clear errors."""

from __future__ import annotations

import inspect
import re
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperCommand
from typer.testing import CliRunner

from verl_ext.cli import app

HEAVY = ("torch", "verl", "vllm", "ray", "transformers", "matplotlib", "numpy", "hydra")


def test_help_imports_nothing_heavy_and_is_fast() -> None:
    code = (
        "import sys\n"
        "from verl_ext.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds = time.monotonic() - begun
    assert "LOADED []" in done.stdout
    assert all(command in done.stdout for command in ("demo", "view", "doctor"))
    # About 0.3 s alone; the margin is for a machine that runs other tests beside this one.
    assert seconds < 3.0


@pytest.mark.parametrize(
    ("arguments", "limit_s", "part"),
    [
        (["--help"], 1.0, "demo"),
        (["--version"], 1.0, "verl-ext 0."),
        (["losses"], 1.0, "espo"),
        (["losses", "espo"], 1.0, "alpha"),
        (["losses", "esppo"], 1.0, "did you mean"),
        (["train", "algo=esppo"], 3.0, "did you mean"),
    ],
)
def test_what_is_asked_often_costs_little(arguments: list[str], limit_s: float, part: str) -> None:
    """CPU seconds of the child alone, so that other work on the machine does not count."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "from verl_ext.cli import app; app()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert part in done.stdout + done.stderr
    # Twice the limit, as a core that others use too counts more seconds for the same work.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2 * limit_s


def test_demo_refuses_an_unknown_algorithm_with_status_one() -> None:
    result = CliRunner().invoke(app, ["demo", "--algo", "epso"])
    assert result.exit_code == 1
    assert "algo=epso is not known" in result.output


def test_assets_refuses_an_unknown_model() -> None:
    result = CliRunner().invoke(app, ["assets", "--model", "huge"])
    assert result.exit_code == 2
    assert "'huge' is not known" in result.output


FORMER = {
    "replay": "view losses",
    "calibrate": "view clip",
    "export": "eval export",
    "plan": "doctor plan",
    "preflight": "doctor cluster",
    "entropy-check": "doctor entropies",
    "gpu-check": "doctor gpu",
}


@pytest.mark.parametrize("old", FORMER)
def test_a_former_verb_is_the_new_one_and_names_it_on_stderr(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command does is not done: only what is said before it counts."""
    new, called = COMMANDS[tuple(FORMER[old].split())], COMMANDS[(old,)]
    assert called.hidden
    assert [param.name for param in called.params] == [param.name for param in new.params]
    monkeypatch.setattr(TyperCommand, "invoke", lambda *_: typer.echo("done"))
    result = CliRunner().invoke(app, [old, *("x" for param in called.params if param.required)])
    assert f"verl-ext {old} is now verl-ext {FORMER[old]};" in result.stderr
    assert result.stdout == "done\n"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["view", "nowhere"], ["view", "tokens", "nowhere"]),
        (["view", "--step", "1", "nowhere"], ["view", "tokens", "--step", "1", "nowhere"]),
        (["doctor", "--json"], ["doctor", "env", "--json"]),
        (["doctor"], ["doctor", "env"]),
    ],
)
def test_a_group_without_a_verb_means_its_first(arguments: list[str], meant: list[str]) -> None:
    short, full = (CliRunner().invoke(app, words) for words in (arguments, meant))
    assert (short.output, short.exit_code) == (full.output, full.exit_code)
    assert short.output


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_every_word_and_fills_its_lines(path: tuple[str, ...]) -> None:
    """In 80 columns: nothing is eaten as markup, and a paragraph's lines are as long as they can be."""
    command = COMMANDS[path]
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout
    words = set(re.sub(r"[│╭╮╰╯─]", " ", shown).split())
    for option in command.params:
        lost = [word for word in (option.help or "").replace("`", "").split() if word not in words]
        # What is too long for its column is cut, which the dots tell.
        assert [word for word in lost if f"{word[:8]}" not in shown] == [], option.name
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        for line in textwrap.wrap(paragraph.replace("`", ""), 78, break_on_hyphens=False):
            assert line in shown
