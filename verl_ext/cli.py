"""The command ``verl-ext``. Imports of a command stand inside it, so that help and completion stay fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from verl_ext.calibrate.command import calibrate
from verl_ext.cluster.submission.command import submit
from verl_ext.data.command import app as data
from verl_ext.demo.command import STEPS
from verl_ext.evaluation.command import app as evaluation
from verl_ext.export.command import export
from verl_ext.project.command import init
from verl_ext.replay.command import replay
from verl_ext.run_report.command import report
from verl_ext.study.command import app as study
from verl_ext.tables.command import app as tables
from verl_ext.verbs import group, under
from verl_ext.viewer.command import view as tokens

app = typer.Typer(
    name="verl-ext",
    help="Entropy- and segment-aware policy optimisation for veRL.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

view = typer.Typer(
    cls=group("tokens"),
    no_args_is_help=False,
    help="What stands in a dumped batch: tokens, losses side by side, clips.",
)
doctor = typer.Typer(cls=group("env"), help="What is missing or wrong here, on a cluster, in a plan or on a GPU.")

app.command()(init)
app.command()(submit)
app.command()(report)
view.command("tokens")(tokens)
under(app, view, "view losses", "replay")(replay)
under(app, view, "view clip", "calibrate")(calibrate)
under(app, evaluation, "eval export", "export")(export)
app.add_typer(view, name="view")
app.add_typer(doctor, name="doctor")
app.add_typer(data, name="data")
app.add_typer(evaluation, name="eval")
app.add_typer(tables, name="tables")
app.add_typer(study, name="study")

AssetsFolder = Annotated[Path, typer.Option(help="Cache of the demo's models and data.")]
Model = Annotated[str, typer.Option(help="tiny_dense or tiny_moe.")]


def _version(wanted: bool) -> None:
    if wanted:
        from verl_ext import __version__

        typer.echo(f"verl-ext {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Entropy- and segment-aware policy optimisation for veRL."""


@app.command()
def demo(
    algo: Annotated[str, typer.Option(help="A file of configs/algo: espo, gspo, grpo ...")] = "espo",
    model: Model = "tiny_dense",
    steps: Annotated[int | None, typer.Option(help=f"Training steps [{STEPS}].")] = None,
    seed: Annotated[int, typer.Option(help="Seed of rollouts and data order.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder of the run, else under outputs/demo.")] = None,
    assets_dir: AssetsFolder = Path("outputs/assets"),
    control: Annotated[bool, typer.Option("--control", help="Train on rewards that are shuffled.")] = False,
    overrides: Annotated[list[str] | None, typer.Argument(help="Further Hydra overrides for verl.")] = None,
) -> None:
    """Train a tiny language model on this CPU: real veRL, Ray, FSDP and vLLM.

    Each step is one line. A table, a report and the commands that look at the
    checkpoint and at the tokens of the last step end the run.
    """
    from verl_ext.demo.run import Options, run_demo

    options = Options(algo, model, steps, seed, out, assets_dir, control, tuple(overrides or ()))
    raise typer.Exit(run_demo(options))


@app.command(hidden=True)
def assets(
    model: Model = "tiny_dense",
    out: AssetsFolder = Path("outputs/assets"),
    seed: Annotated[int, typer.Option(help="Seed of the weights and the training problems.")] = 0,
) -> None:
    """Build the demo's model and data, or find them in the cache, and print where they lie."""
    from verl_ext.demo.run import MODELS
    from verl_ext.toy.assets import prepare

    if model not in MODELS:
        raise typer.BadParameter(f"'{model}' is not known; choose one of {', '.join(MODELS)}", param_hint="--model")
    built = prepare(model, out, seed=seed)  # type: ignore[arg-type]
    for path in (built.model_dir, built.train_parquet, built.val_parquet, built.control_parquet):
        typer.echo(path)


@app.command()
def train(
    arguments: Annotated[
        list[str], typer.Argument(metavar="experiment=... [OVERRIDE]...", help="Group choices and Hydra overrides.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compose, check and print; needs neither a GPU nor Ray.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show verl's own log, not a line a step.")] = False,
) -> None:
    """Train with verl's own trainer: a row of a table, or choices of groups.

    Groups: backend, cluster, model, data, algo, experiment; for instance experiment=sspo/table1/sspo_1_5b, or
    backend=fsdp cluster=1x8 model=qwen2_5_7b data=dapo_math_17k algo=espo actor_rollout_ref.rollout.n=8. Every fault of
    the configuration is listed before anything starts.

    Each step is one line; verl's log goes to a new file beside the checkpoints.
    A table and report.html end the run.

    The exit status is the trainer's, 1 if the configuration is at fault, 130
    if interrupted.
    """
    from verl_ext.train.command import train as run

    raise typer.Exit(run(arguments, dry_run, verbose=verbose))


@under(app, doctor, "doctor plan", "plan")
def plan(
    arguments: Annotated[
        list[str], typer.Argument(metavar="experiment=... [OVERRIDE]...", help="Group choices and Hydra overrides.")
    ],
    gpu: Annotated[str | None, typer.Option(help="h100-80gb by default; h200, b200 ... or cpu.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Predict memory and time of a training run, part by part, and what helps where it does not fit.

    The exit status is 1 if it does not fit, or if the configuration is at fault.
    """
    from verl_ext.train.plan import plan as run

    raise typer.Exit(run(arguments, gpu, as_json))


@under(app, doctor, "doctor cluster", "preflight")
def preflight(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[experiment=... [OVERRIDE]...]", help="What is going to be run.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster; local for this machine without Ray.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    limit_s: Annotated[float, typer.Option("--limit", help="Seconds for the whole command.")] = 48.0,
) -> None:
    """Compare what a run wants with what every node of the cluster has, before a model is loaded.

    The exit status is 0 if the run can start, 1 if something is missing or wrong, 130 if interrupted.
    """
    from verl_ext.cluster.preflight.command import preflight as run

    raise typer.Exit(run(arguments or [], address, as_json, limit_s))


@app.command()
def losses(
    names: Annotated[list[str] | None, typer.Argument(help="Show these only.")] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", help="Module or .py file that adds your method; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List every loss and estimator: paper, token data it needs, hyper-parameters with defaults and ranges."""
    import json

    from rich.console import Console

    from verl_ext import catalogue

    try:
        if as_json:
            typer.echo(json.dumps(catalogue.choose(names or (), imports or ()), indent=2))
        else:
            catalogue.show(Console(), names or (), imports or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="names") from error


@app.command()
def conformance(
    names: Annotated[
        list[str] | None, typer.Argument(help="Losses or estimators in verl's registry; all by default.")
    ] = None,
    kind: Annotated[str, typer.Option(help="losses, estimators or all.")] = "all",
    properties: Annotated[
        list[str] | None, typer.Option("--property", help="Test this column only; repeatable.")
    ] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", help="Module or .py file that registers your method; repeatable.")
    ] = None,
    clip: Annotated[
        str, typer.Option(help="Clip form of the losses that you name, for off_policy and clipping: ppo, dual_ppo, ...")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a page.")] = False,
    seed: Annotated[int, typer.Option(help="The same seed draws the same cases.")] = 0,
    examples: Annotated[int, typer.Option(min=1, help="Cases for each cell; options and some columns add more.")] = 30,
    replay: Annotated[Path | None, typer.Option(help="Run only the case in this file.")] = None,
    out: Annotated[Path, typer.Option(help="Where failing cases are written.")] = Path("outputs/conformance"),
) -> None:
    """Put losses and estimators, verl's, ours or yours, through properties that any of them should have.

    The exit status is 1 if a method that you named fails a cell; if you name none, 1 if one of verl_ext's own does.
    """
    from verl_ext.conformance.command import Request, console, run, run_again

    output = "json" if as_json else "markdown" if as_markdown else "table"
    request = Request(names or (), kind, properties or (), imports or (), output, clip, seed, examples, out)
    try:
        raise typer.Exit(run(request, console()) if replay is None else run_again(replay, request, console()))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@under(app, doctor, "doctor entropies", "entropy-check")
def entropy_check(
    model: Annotated[str, typer.Argument(help="Name of a model, or its folder.")],
    temperatures: Annotated[
        list[float] | None, typer.Option("--temperature", help="Repeatable; 0.6 and 1.0 by default.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Text file, one prompt a line; a few of ours by default.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="Tokens of a response.")] = 64,
    samples: Annotated[int, typer.Option(help="Responses to a prompt.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="Of the engine: auto, float32, bfloat16 or float16; float32 on a CPU, else auto.")
    ] = None,
    log_prob_limit: Annotated[
        float | None, typer.Option(help="Largest |Δ log p|, nats: 1e-4 in float32, 0.5 in bfloat16, 0.1 in float16.")
    ] = None,
    entropy_limit: Annotated[
        float | None, typer.Option(help="Largest |Δ H|, nats: 1e-3 in float32, 0.5 in bfloat16, 0.1 in float16.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    max_model_len: Annotated[int | None, typer.Option(help="What the check needs by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Compare the entropies and log-probs that vLLM hands back with those of transformers, token by token.

    The model generates in vLLM with the tap; transformers then computes the same tokens: below 10^9 parameters in
    float64 on the CPU, else in the engine's dtype with a log-softmax in float32. The limits of the 16-bit types are
    wide because each layer rounds to 8 bits (bfloat16) or 11 bits (float16): of logits near 20 that is 1/8 or 1/64.

    Both sides give every id of the model's vocabulary its probability, also those that the tokenizer does not have.
    A rollout of verl excludes these, so that its entropies can be a little lower.

    The exit status is 0 if all is within the limits, 1 if something is not, or if the engine answers without
    entropies, and 2 if nothing could be compared: faults of the options, no fitting vLLM, a model that does not load.
    """
    from rich.console import Console

    from verl_ext.entropy_check.command import Request, run

    request = Request(
        model,
        tuple(temperatures or (0.6, 1.0)),
        prompts,
        tokens,
        samples,
        dtype,
        log_prob_limit,
        entropy_limit,
        seed,
        max_model_len,
        as_json,
    )
    raise typer.Exit(run(request, Console()))


@doctor.command("env")
def environment(as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False) -> None:
    """Compare this environment with the tested one, and check that the plugin, its methods and its groups load."""
    from verl_ext.doctor import doctor as run

    raise typer.Exit(run(as_json))


@under(app, doctor, "doctor gpu", "gpu-check")
def gpu_check(
    out: Annotated[Path | None, typer.Option(help="File for the result as JSON.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this check only; repeatable.")] = None,
) -> None:
    """What only a GPU can show: kernels, packing, weight sync, a short run. One child process a check.

    The exit status is 0 if every check passed, 1 otherwise, also where there is no GPU.
    """
    from verl_ext.gpu_check.command import Request, run

    raise typer.Exit(run(Request(out, tuple(only or ()))))
