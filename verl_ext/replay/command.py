"""``verl-ext view losses EXPORT``. Imports stand inside the function, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    export: Annotated[Path, typer.Argument(help="A guard's batch, a file of a token export, or the folder of either.")],
    losses: Annotated[
        list[str] | None,
        typer.Option("--loss", help="NAME or LABEL=NAME: a file of configs/algo or a loss of verl's; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="LOSS:key=value, for instance espo:alpha=0.2; repeatable.")
    ] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", help="Module that adds your method; repeatable.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Its log-probs, its entropies, and gradients of its parameters.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="To cut segments; the model's own with --model.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Where the file does not say it.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the sampling; read with --model.")] = 1.0,
    top: Annotated[float, typer.Option(help="Share of the tokens that count as of high entropy.")] = 0.2,
    mini_batch: Annotated[int | None, typer.Option(help="Only its rows; all of the file by default.")] = None,
    only_finite: Annotated[
        bool, typer.Option("--only-finite", help="Leave out rows with NaN or infinities instead of refusing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Picture (.png), or tables and picture (.html).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Put one dumped batch through several losses: gradients, cosines between them, what each clips.

    Without --model the gradient is that of the log-probs. The exit status is 2 if the input cannot be used; every
    fault is listed.
    """
    from rich.console import Console

    from verl_ext.replay import figure, report
    from verl_ext.replay.dump import Selection
    from verl_ext.replay.faults import refusing, write
    from verl_ext.replay.run import Request
    from verl_ext.replay.run import replay as run

    request = Request(
        path=export.expanduser(),
        losses=losses or (),
        settings=settings or (),
        imports=imports or (),
        model=model,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        temperature=temperature,
        top=top,
        selection=Selection(mini_batch, only_finite),
        out=out,
    )
    with refusing("nothing was replayed"):
        result = run(request)
    if as_json:
        typer.echo(report.as_json(result))
    else:
        screen = Console()
        # A file or a pipe has no edge at which a table would have to fold.
        report.show(result, screen if screen.is_terminal else Console(width=200))
    if out is not None:
        picture = figure.picture(result)
        write(out, picture if out.suffix == ".png" else report.as_html(result, picture).encode(), as_json)
