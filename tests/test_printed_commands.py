"""Every command that a text of ours prints can be typed: subcommands and options, overrides and their plus, targets.

Nothing is run: arguments are parsed, and keys are looked up in what two compositions give.
"""

from __future__ import annotations

import re
from functools import cache

import pytest
import typer.main
from omegaconf import DictConfig
from typer.core import TyperCommand, TyperGroup

from tests import printed
from tests.printed import GAP, ROOT, Text
from verl_ext.cli import app
from verl_ext.composing import compose as composing

COMPOSING = ("train", "plan", "cluster", "submit")
EXCEPTIONS = {
    "installed": "the distribution: `is verl-ext installed there`",
    "is": "the distribution: `verl-ext is installed`",
    GAP: "the distribution and its version",
    "0.1.0": "the distribution and its version",
    "--from-literal": "the name of a secret of Kubernetes",
    "+algoo=espo": "a misspelling that is refused",
    "verl_ext.export.every=0": "the demo's arguments, which come before it, add the key",
    "+key=value": "the form of an override",
    "project": "a group of projects that `verl-ext init` makes; tests/project composes it",
}
"""What looks like a command and is none, with the reason."""


@cache
def every() -> tuple[Text, ...]:
    return tuple(printed.texts())


@cache
def base(backend: str) -> DictConfig:
    return composing.compose([f"backend={backend}"]).config


@cache
def cli() -> TyperGroup:
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    return found


def former() -> set[str]:
    """Verbs that work for one release more, and that no help shows."""
    return {name for name, command in cli().commands.items() if command.hidden} - {"assets"}


def open_value(value: str | None) -> bool:
    """Whether a person is to fill it in."""
    return not value or value in ("...", GAP) or value.startswith("<")


def override_faults(text: str) -> list[str]:
    """What Hydra would refuse of one argument: a key of verl's with a plus, one of ours without, no such option."""
    one = composing.take_apart(text)
    if one.text in EXCEPTIONS or one.key in EXCEPTIONS or GAP in one.key:
        return []
    if one.group:
        return [] if open_value(one.value) else composing.group_faults({one.key: str(one.value)})
    found = [composing.key_faults(one, base(backend)) for backend in ("fsdp", "megatron", "cpu")]
    return min(found, key=len)


def ours(text: str) -> bool:
    """Whether something with an equals sign is an argument for Hydra: by the first part of its key."""
    key = text.lstrip("+").partition("=")[0]
    first = key.partition(".")[0]
    return (text.startswith("+") and "." not in key) or first in (*base("fsdp"), "verl_ext", "ray_kwargs")


def words(call: list[str]) -> list[str]:
    """The words of a call or of a synopsis, with something for what a person fills in."""
    found = [word.strip("[]").partition("|")[0] if word[:1] == "[" or word[-1:] == "]" else word for word in call]
    return ["1" if word in ("N", GAP) else word.partition("|")[0] for word in found if word != "..."]


def call_faults(call: list[str], complete: bool) -> list[str]:
    """What the command line would refuse, and the composition of what it passes on."""
    if call and call[0] in EXCEPTIONS:
        return []
    command: TyperGroup | TyperCommand = cli()
    rest = words(call)
    while isinstance(command, TyperGroup) and rest:
        default = getattr(command, "default", None)
        name = default if default and rest[0] not in command.commands else rest.pop(0)
        if name not in command.commands:
            return [f"verl-ext {' '.join(call)}: no such command: {name}"]
        command = command.commands[name]
    if isinstance(command, TyperGroup):
        return []
    try:
        context = command.make_context(str(command.name), list(rest))
    except Exception as error:  # typer's own copy of click has no public name
        said = error.format_message() if hasattr(error, "format_message") else repr(error)
        cut = type(error).__name__ in ("MissingParameter", "BadOptionUsage")
        return [] if cut and (not complete or "..." in call) else [f"verl-ext {' '.join(call)}: {said}"]
    arguments = context.params.get("arguments") or [] if command.name in COMPOSING else []
    return [fault for text in arguments for fault in override_faults(text)]


def faults(text: Text) -> list[str]:
    """Everything that cannot be typed of what a text prints."""
    found = [fault for call in printed.commands(text, "verl-ext") for fault in call_faults(call, text.block)]
    found += [fault for one in printed.overrides(text) if ours(one) for fault in override_faults(one)]
    for first, _ in printed.mentions(text):
        if first not in cli().commands and first not in EXCEPTIONS and first != "...":
            found.append(f"verl-ext {first}: no such command")
        if first in former():
            found.append(f"verl-ext {first}: a verb of the release before")
    found += [fault for call in printed.commands(text, "make") for fault in target_faults(call)]
    found += [fault for call in printed.commands(text, "python -m") for fault in module_faults(call)]
    return [f"{text.place}: {fault}" for fault in dict.fromkeys(found)]


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def target_faults(call: list[str]) -> list[str]:
    found = []
    for word in call:
        variable, sign, _ = word.partition("=")
        pattern = rf"^{re.escape(variable)} *[?:]?=" if sign else rf"^{re.escape(word)}:"
        if not re.search(pattern, makefile(), re.MULTILINE):
            found.append(f"make {word}: not in the Makefile")
    return found


def module_faults(call: list[str]) -> list[str]:
    """A module that is not there; the arguments of verl's entry point are Hydra's."""
    name = call[0] if call else ""
    if name.startswith("verl_ext"):
        parent, _, last = name.rpartition(".")
        folder = ROOT / parent.replace(".", "/")
        if not (folder / f"{last}.py").is_file() and not (folder / last / "__main__.py").is_file():
            return [f"python -m {name}: no such module"]
    if name != "verl.trainer.main_ppo":
        return []
    return [fault for one in call[1:] if "=" in one for fault in override_faults(one)]


def test_everything_that_is_printed_can_be_typed() -> None:
    found = [fault for text in every() for fault in faults(text)]
    assert not found, "\n".join(found)


def test_the_collection_is_not_empty() -> None:
    """Of each kind more than a page's worth, from the package and from the pages."""
    calls = [call for text in every() for call in printed.commands(text, "verl-ext") if call]
    assert len(calls) > 150
    assert {call[0] for call in calls} >= set(cli().commands) - former() - {"assets"}
    assert sum(ours(one) for text in every() for one in printed.overrides(text)) > 150
    assert sum(bool(call) for text in every() for call in printed.commands(text, "make")) > 30
    assert {text.place.partition("/")[0] for text in every()} == {"README.md", "docs", "verl_ext"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a run writes one with verl_ext.export.every=N", "there is no verl_ext.export.every"),
        ("give +trainer.save_freq=5", "write it without the +"),
        ("`verl-ext shows RUN`", "no such command: shows"),
        ("run verl-ext looks first", "verl-ext looks: no such command"),
        ("`verl-ext view RUN --stp 1`", "--stp"),
        ("`verl-ext view losses RUN --stp 1`", "--stp"),
        ("`verl-ext replay RUN`", "a verb of the release before"),
        ("`verl-ext train +algo=epso`", "no such algo; did you mean"),
        ("`make tests`", "make tests: not in the Makefile"),
        ("`make demo MODELS=tiny_moe`", "make MODELS=tiny_moe: not in the Makefile"),
        ("`python -m verl_ext.replay.makes x`", "no such module"),
        ("`python -m verl.trainer.main_ppo ... trainer.sav_freq=5`", "there is no trainer.sav_freq"),
    ],
)
def test_what_cannot_be_typed_is_found(text: str, said: str) -> None:
    assert said in "\n".join(faults(Text("here", text)))


def test_a_line_of_a_block_is_complete() -> None:
    (fault,) = faults(Text("here", "$ verl-ext view tokens  # nothing named\n", block=True))
    assert "Missing argument" in fault
    assert faults(Text("here", "`verl-ext view`")) == []


def test_every_exception_has_a_use() -> None:
    """One that nothing needs any more goes."""
    found = {word for text in every() for word, _ in printed.mentions(text)}
    found |= {one for text in every() for one in printed.overrides(text)}
    found |= {one.lstrip("+").partition("=")[0] for one in found}
    assert set(EXCEPTIONS) <= found
