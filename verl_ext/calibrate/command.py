"""``verl-ext view clip EXPORT``. Imports stand inside the function, so that help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    export: Annotated[Path, typer.Argument(help="A guard's batch, a file of a token export, or the folder of either.")],
    losses: Annotated[
        list[str] | None, typer.Option("--loss", help="espo or sspo; both by default. Repeatable.")
    ] = None,
    target_clip: Annotated[float | None, typer.Option(help="Share of the tokens that ESPO may clip, 0 to 1.")] = None,
    match: Annotated[
        str | None, typer.Option(help="Loss whose clip width ESPO's mean width shall have; gspo by default.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="LOSS:key=value, for instance espo:entropy_quantiles=[0.5,0.8].")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="To cut segments, where the file has none.")] = None,
    vocab_size: Annotated[int | None, typer.Option(help="Where the file does not say it.")] = None,
    mini_batch: Annotated[int | None, typer.Option(help="Only its rows; all of the file by default.")] = None,
    only_finite: Annotated[
        bool, typer.Option("--only-finite", help="Leave out rows with NaN or infinities instead of refusing.")
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="Picture (.png) of the clip fraction over each parameter.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Propose ESPO's alpha and SSPO's alpha, beta and gamma from a dumped batch, and predict what they clip.

    The exit status is 1 if the target cannot be met or the batch has no signal, 2 if the input cannot be used; every
    fault is listed.
    """
    from verl_ext.calibrate import figure, report
    from verl_ext.calibrate.run import Request
    from verl_ext.calibrate.run import calibrate as run
    from verl_ext.replay.dump import Selection
    from verl_ext.replay.faults import refusing, write

    request = Request(
        path=export.expanduser(),
        losses=losses or (),
        target_clip=target_clip,
        match=match,
        settings=settings or (),
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        selection=Selection(mini_batch, only_finite),
        plot=plot,
    )
    with refusing("nothing was calibrated"):
        found = run(request)
    typer.echo(report.as_json(found) if as_json else "\n".join(report.lines(found)))
    if plot is not None and found.dump.signal:
        write(plot, figure.picture(found), as_json)
    elif plot is not None:
        typer.echo(f"not written: {plot}: without a signal nothing is clipped at any value", err=True)
    raise typer.Exit(0 if found.met else 1)
