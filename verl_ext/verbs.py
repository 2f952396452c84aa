"""Groups of commands with one that is meant where none is named, and the verbs of the release before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

Command = Callable[..., None]


def group(meant: str) -> type[TyperGroup]:
    """A class of groups: `meant` runs where the first word is none of its commands."""

    class Group(TyperGroup):
        default = meant

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            named = args[:1] and (args[0] in self.commands or args[0] == "--help")
            return super().parse_args(ctx, args if named else [meant, *args])

    return Group


def former(new: str) -> type[TyperCommand]:
    """A class of commands that say on stderr, so that what is piped stays as it was, what their name is now."""

    class Former(TyperCommand):
        def invoke(self, ctx: Any) -> Any:
            typer.echo(
                f"verl-ext {ctx.info_name} is now verl-ext {new}; the old name goes with the next release", err=True
            )
            return super().invoke(ctx)

    return Former


def under(app: typer.Typer, holder: typer.Typer, new: str, old: str) -> Callable[[Command], Command]:
    """Register a command in its group, by the last word of `new`, and for one release at the top as `old`."""

    def register(command: Command) -> Command:
        holder.command(new.split()[-1])(command)
        return app.command(old, cls=former(new), hidden=True)(command)

    return register
