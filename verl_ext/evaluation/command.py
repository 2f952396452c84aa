"""The commands ``verl-ext eval run | rescore | show``. Imports stand inside them, so that help stays fast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from verl_ext.evaluation.run import Progress

app = typer.Typer(
    help="Evaluate a model on benchmarks; score kept responses again.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)

Verifier = Annotated[str, typer.Option(help="math_verify, exact, or pkg://module:function.")]
Workers = Annotated[int | None, typer.Option(help="Grading processes (default: one a core, at most 8).", min=1)]
Folder = Annotated[Path, typer.Argument(help="Folder of an evaluation, or of one of its benchmarks.")]
INTERRUPTED = 130


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="Model folder, name on the hub, or the endpoint's model.")],
    benchmark: Annotated[list[str] | None, typer.Option(help="Name, parquet file or NAME=FILE; repeatable.")] = None,
    like: Annotated[str | None, typer.Option(help="Decode as this table does, for instance sspo/table1.")] = None,
    template: Annotated[str | None, typer.Option(help="Of benchmarks given by name [their own].")] = None,
    samples: Annotated[int | None, typer.Option(help="Responses a problem [1].")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy [0].")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus [1].")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest response in tokens [8192].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the results; the same again goes on.")] = Path("outputs/eval"),
    verifier: Verifier = "math_verify",
    answer_format: Annotated[
        str | None, typer.Option(help="boxed, answer_line, last_number or auto [the file's, else boxed].")
    ] = None,
    workers: Workers = None,
    endpoint: Annotated[bool, typer.Option("--endpoint", help="MODEL is behind an OpenAI-compatible API.")] = False,
    base_url_env: Annotated[str, typer.Option(help="Variable that holds its base URL.")] = "OPENAI_BASE_URL",
    api_key_env: Annotated[str, typer.Option(help="Variable that holds its key.")] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(help="Requests to it at once.")] = 8,
    limit_name: Annotated[str, typer.Option(help="max_tokens or max_completion_tokens.")] = "max_tokens",
    dtype: Annotated[str | None, typer.Option(help="Of the engine [auto; float32 on the CPU].")] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs a copy of the model is spread over.")] = 1,
    max_model_len: Annotated[int | None, typer.Option(help="Tokens of prompt and response.")] = None,
    memory_share: Annotated[float, typer.Option(help="Share of GPU memory for vLLM.")] = 0.9,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code in the model's folder.")
    ] = False,
) -> None:
    """Generate, score and sum up. Exit status: 0 done, 1 responses are missing, 2 the request is at fault."""
    from verl_ext.evaluation import report
    from verl_ext.evaluation.arguments import chosen
    from verl_ext.evaluation.run import Endpoint, EngineOptions, Request, evaluate

    with explained():
        asked = {"samples": samples, "temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        files, decodings = chosen(benchmark or [], like, template, {k: v for k, v in asked.items() if v is not None})
        api = Endpoint(model, base_url_env, api_key_env, concurrency, limit_name=limit_name)
        options = EngineOptions(dtype, tensor_parallel, max_model_len, memory_share, trust_remote_code)
        request = Request(
            api if endpoint else model, files, decodings, out, verifier, seed, options, workers=workers,
            answer_format=answer_format,
        )  # fmt: skip
        with bars() as progress:
            found = evaluate(request, progress)
        report.show(list(found.values()), _console())


@app.command()
def rescore(
    folder: Folder,
    verifier: Annotated[str, typer.Option(help="math_verify, exact, or pkg://module:function.")],
    workers: Workers = None,
) -> None:
    """Score kept responses with another verifier. The scores that are there stay."""
    from verl_ext.evaluation import report
    from verl_ext.evaluation.run import rescore as again
    from verl_ext.evaluation.run import summaries

    with explained():
        with bars() as progress:
            found = again(folder, verifier, progress, workers)
        console = _console()
        report.show(list(found.values()), console)
        for store, (first, *_) in summaries(folder):
            console.print(report.changes(first, found[store.name]), markup=False, highlight=False, soft_wrap=True)


@app.command()
def show(folder: Folder) -> None:
    """Print the results in a folder, and how far unfinished benchmarks are."""
    from verl_ext.evaluation import report
    from verl_ext.evaluation.run import summaries

    with explained():
        console, found = _console(), summaries(folder)
        ready = [summary for _, many in found for summary in many]
        if ready:
            report.show(ready, console)
        for store, many in found:
            if not many:
                console.print(f"{store.name}: {store.done()} of {store.total()} responses; not scored", highlight=False)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what can go wrong into one message and an exit status."""
    from verl_ext.evaluation.endpoint import EndpointError
    from verl_ext.evaluation.engine import EngineError
    from verl_ext.evaluation.request import RequestError

    try:
        yield
    except RequestError as error:
        _say(f"the request is at fault\n  {error}")
        raise typer.Exit(2) from error
    except (EndpointError, EngineError) as error:
        _say(f"responses are missing; what came is kept, and the same command goes on\n  {error}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        _say("interrupted; what came is kept, and the same command goes on")
        raise typer.Exit(INTERRUPTED) from error


def _say(words: str) -> None:
    _console(stderr=True).print(f"eval: {words}", markup=False, highlight=False, soft_wrap=True)


def _console(**kwargs: Any) -> Any:
    from rich.console import Console

    return Console(**kwargs)


@contextmanager
def bars() -> Iterator[Progress]:
    """A bar for each benchmark and stage, on the error stream so that the output can be piped."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=_console(stderr=True)) as shown:
        tasks: dict[tuple[str, str], Any] = {}

        def progress(benchmark: str, stage: str, done: int, total: int) -> None:
            key = benchmark, stage
            if key not in tasks:
                tasks[key] = shown.add_task(f"{benchmark} {stage}", total=total)
            shown.update(tasks[key], completed=done)

        yield progress
