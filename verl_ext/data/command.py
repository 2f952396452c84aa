"""The commands ``verl-ext data prepare | list | contamination``."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from verl_ext.data.answers import Progress
    from verl_ext.data.contamination import Item
    from verl_ext.data.prepare import Options, Prepared

app = typer.Typer(
    help="Prepare training sets and benchmarks, and compare them.", no_args_is_help=True, rich_markup_mode="markdown"
)
Folder = Annotated[
    Path, typer.Option("--out", envvar="VERL_EXT_DATA", help="Folder of all prepared data; the configurations' own.")
]
OUT = Path("outputs/data")


@app.command()
def prepare(
    names: Annotated[list[str] | None, typer.Argument(help="See `verl-ext data list`.")] = None,
    spec: Annotated[
        Path | None, typer.Option(help="A set of your own: a Python file with SET, as those in verl_ext/data/sets.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Around each problem; the data set's own by default.")] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Local file or folder in place of the hub: parquet, jsonl, json, arrow, csv."),
    ] = None,
    out: Folder = OUT,
    check_answers: Annotated[bool, typer.Option(help="Let the verifier grade each answer, and another row's.")] = True,
    text_answers: Annotated[
        bool, typer.Option("--text-answers", help="Accept many answers that are words or choices, no mathematics.")
    ] = False,
    unverified: Annotated[
        bool, typer.Option("--unverified", help="Accept other numbers and contents than those recorded.")
    ] = False,
    exemptions: Annotated[
        Path | None, typer.Option(help="JSON list of rows that are faulty and known to be: key, action, reason.")
    ] = None,
    baked_in: Annotated[
        Path | None, typer.Option(help="Text file with a template to take off; {problem} marks the place.")
    ] = None,
    solutions: Annotated[
        Path | None,
        typer.Option(help="For the template sft: local file or folder with the columns problem and solution."),
    ] = None,
) -> None:
    """Write each data set in verl's schema, one row for each problem, and a manifest beside it.

    The exit status is 2 if a source has faults; all of them are listed, and nothing of it is written.
    """
    from rich.console import Console

    from verl_ext.data.manifest import to_record
    from verl_ext.data.prepare import prepare as write
    from verl_ext.data.registry import dataset, load

    console, errors = Console(), Console(stderr=True)
    asked: list[str | Path] = [*(names or ()), *((spec,) if spec is not None else ())]
    if not asked:
        raise typer.BadParameter("give the name of a data set, or --spec", param_hint="NAMES")
    if source is not None and len(asked) > 1:
        raise typer.BadParameter("one file is one data set; give one name", param_hint="--from")
    failed = False
    options = _options(check_answers, unverified, exemptions, baked_in, solutions, text_answers)
    for one in asked:
        try:
            chosen = load(one) if isinstance(one, Path) else dataset(one)
            with _progress(errors, f"answers of {chosen.name}") as progress:
                done = write(chosen, template, out, source, options, progress)
        except (ValueError, OSError) as error:
            errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
            failed = True
            continue
        _show(done, console)
        record = to_record(chosen, done.content)
        if record is not None:
            errors.print(record, markup=False, highlight=False, soft_wrap=True, style="yellow")
    raise typer.Exit(2 if failed else 0)


def _options(
    check_answers: bool,
    unverified: bool,
    exemptions: Path | None,
    baked_in: Path | None,
    solutions: Path | None,
    text_answers: bool,
) -> Options:
    from verl_ext.data.prepare import Options
    from verl_ext.data.problems import read_exemptions
    from verl_ext.data.templates import PLACE, Baked

    try:
        exempt = read_exemptions(exemptions) if exemptions is not None else ()
        baked: tuple[Baked, ...] = ()
        if baked_in is not None:
            # An editor ends the file with a line break that is none of the template's.
            before, place, after = baked_in.read_text(encoding="utf-8").removesuffix("\n").partition(PLACE)
            if not place or not (before or after):
                raise ValueError(f"{baked_in} has to hold {PLACE} and a text around it")
            baked = (Baked(baked_in.stem, before, after),)
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error
    return Options(check_answers, unverified, exempt, baked, solutions, text_answers)


def _show(done: Prepared, console: Console) -> None:  # type: ignore[name-defined] # noqa: F821
    content = done.content
    for name in content["written"]:
        console.print(f"{done.parquet.with_name(name)}", markup=False, highlight=False, soft_wrap=True)
    train = content.get("train")
    times = ", ".join(f"{count} {copies} times" for copies, count in content["repetition"].items() if copies != "1")
    facts = {
        "problems": f"{content['rows']} from {content['source_rows']} rows of {content['source']}",
        "to train": f"{train['rows']} from {train['source_rows']} rows" if train else "",
        "repeated": times,
        "templates": ", ".join(f"{name} off {count} rows" for name, count in content["templates_removed"].items()),
        "answers": ", ".join(f"{shape} in {found['rows']} rows" for shape, found in content["ground_truths"].items()),
        "excluded": "; ".join(f"{row['key']}: {row['reason']}" for row in content["excluded"]),
        "kept": "; ".join(f"{row['key']}: {row['reason']}" for row in content["kept_though_not_verifiable"]),
        "solutions": (content["solutions"] or {}).get("source"),
        "content": f"known from {content['content_known_from']}" if not content["unverified"] else "unverified",
    }
    for label, text in facts.items():
        if text:
            console.print(f"  {label:10}{text}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Progress]:  # type: ignore[name-defined] # noqa: F821
    from rich.progress import Progress as Bar

    with Bar(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@app.command("list")
def list_datasets(
    out: Folder = OUT,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """All data sets: where they come from, what is known of them, and what is prepared."""
    from rich.console import Console
    from rich.table import Table

    from verl_ext.data.registry import broken, datasets
    from verl_ext.data.templates import TEMPLATES

    found: list[dict[str, Any]] = [
        {
            "name": d.name,
            "title": d.title,
            "kind": d.kind,
            "problems": d.drawn or d.problems or d.rows,
            "source": d.source,
            "verified": d.verified,
            "template": d.template,
            "prepared": [name for name in TEMPLATES if (out / d.name / f"{name}.manifest.json").exists()],
            "note": d.note,
        }
        for d in datasets().values()
    ]
    found += _prepared_alone(out, {row["name"] for row in found})
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for name, reason in broken().items():
        Console(stderr=True).print(f"{name}: {reason}", markup=False, highlight=False, soft_wrap=True, style="yellow")
    table = Table("name", "kind", "problems", "source", "verified", "own template", "prepared", box=None)
    for row in found:
        count = "-" if row["problems"] is None else f"{row['problems']:,}"
        verified = "[green]yes[/green]" if row["verified"] else "[yellow]no[/yellow]"
        prepared = ", ".join(row["prepared"]) or "-"
        table.add_row(row["name"], row["kind"], count, row["source"], verified, row["template"], prepared)
    console = Console()
    console.print(table)
    console.print("templates", *(f"{t.name} {t.sha256[:12]}" for t in TEMPLATES.values()), sep="  ", highlight=False)


def _prepared_alone(out: Path, known: Collection[str]) -> list[dict[str, Any]]:
    """Sets that are prepared and have no name of their own: those of ``--spec``."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(out.glob("*/*.manifest.json")):
        name = file.parent.name
        if name in known:
            continue
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # a file of that name that is none of ours
            content = json.loads(file.read_text(encoding="utf-8"))
            facts = {key: content.get(key) for key in ("title", "kind", "source")}
            row = {"name": name, **facts, "problems": content["rows"], "verified": not content["unverified"]}
            template = content["template"]["name"]
            found.setdefault(name, {**row, "template": template, "prepared": [], "note": "--spec"})
            found[name]["prepared"].append(template)
    return list(found.values())


@app.command()
def contamination(
    train: Annotated[str, typer.Option(help="Training set.")] = "dapo_math_17k",
    benchmarks: Annotated[
        list[str] | None, typer.Option("--benchmark", help="Repeatable; all that are prepared by default.")
    ] = None,
    out: Folder = OUT,
    ngram: Annotated[int, typer.Option(help="Words in a row that count as a piece.")] = 13,
    threshold: Annotated[
        float, typer.Option(help="Smallest share of a problem's pieces, in one training problem, that is reported.")
    ] = 0.5,
    pairs: Annotated[int, typer.Option(help="Pairs to print; the JSON file has them all.")] = 20,
    json_file: Annotated[Path | None, typer.Option("--json", help="Default: OUT/TRAIN/contamination.json.")] = None,
) -> None:
    """Search a training set for the problems of every prepared benchmark."""
    from rich.console import Console

    from verl_ext.data.contamination import compare
    from verl_ext.data.report import show

    try:
        found = compare(train, *_prepared(train, benchmarks, out), ngram=ngram, threshold=threshold)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    target = json_file or out / train / "contamination.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(found.data(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    console = Console()
    show(found, console, pairs)
    console.print(f"all pairs: {target}", markup=False, highlight=False, soft_wrap=True)


def _prepared(train: str, benchmarks: list[str] | None, out: Path) -> tuple[list[Item], dict[str, list[Item]]]:
    from verl_ext.data.contamination import read
    from verl_ext.data.prepare import paths
    from verl_ext.data.registry import dataset, datasets
    from verl_ext.data.templates import TEMPLATES

    for name in [train, *(benchmarks or ())]:
        dataset(name)

    def find(name: str, training: bool) -> Path | None:
        # The template does not matter: the bare problem stands beside each prompt.
        places = [paths(name, template, out) for template in TEMPLATES]
        files = [place.train if training else place.parquet for place in places]
        return next((file for file in files if file is not None and file.exists()), None)

    every = [name for name, known in datasets().items() if known.kind != "train"]
    files = {name: find(name, False) for name in benchmarks or every}
    train_file = find(train, True)
    missing = [name for name, file in {train: train_file, **files}.items() if file is None]
    wanted = [name for name in missing if name == train or benchmarks]
    if wanted or train_file is None:
        raise ValueError(f"not prepared under {out}: {', '.join(wanted)}; `verl-ext data prepare` does it")
    if len(missing) == len(files):
        raise ValueError(f"no benchmark is prepared under {out}; `verl-ext data prepare` does it")
    return read(train_file), {name: read(file) for name, file in files.items() if file is not None}
