"""docs/study.md and its pictures, from the results that are there: ``verl-ext study page FOLDER``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_ext.study import figures, schema, tables
from verl_ext.study.claims import CLAIMS, Claim
from verl_ext.study.intervals import intraclass, student_quantile
from verl_ext.study.judging import HOLDS, SEEDS, WORDS, Verdict
from verl_ext.study.measures import Runs, by_method
from verl_ext.study.results import Result, read_all
from verl_ext.study.schema import RESULTS, TUNING, Study

PAGE, IMAGES = "study.md", "images"
TEMPLATE = "page.md.j2"
DESIGN = {"prompts": 16, "responses": 8, "updates": 4, "learning_rate": "2e-4"}
"""What all runs share beyond study.yaml; a test compares it with configs/experiment/cpu_study.yaml."""
MARKS = ("gspo", "gspo_tuned", "grpo")
"""Methods with which the others are compared."""
Found = Mapping[tuple[str, str], Runs]


@dataclass(frozen=True)
class Judged:
    """A claim on a model."""

    number: int
    claim: Claim
    model: str
    verdict: Verdict


def write(study_folder: Path, docs: Path) -> list[Path]:
    """Write the page and its pictures; pictures of an earlier page that have no results any more are removed.

    Args:
        study_folder: with study.yaml, results and tuning.
        docs: folder of study.md and images/.

    Returns:
        the files written.
    """
    study = schema.read(study_folder)
    results = of_study(study, read_all(study_folder / RESULTS))
    page = docs / PAGE
    images = docs / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    page.write_text(render(study, results, read_all(study_folder / TUNING)), encoding="utf-8")
    written = [page]
    for picture in figures.PICTURES:
        file = images / picture.name
        if results:
            file.write_bytes(figures.drawn(study, by_method(results), picture.name))
            written.append(file)
        else:
            file.unlink(missing_ok=True)
    return written


def render(study: Study, results: Sequence[Result], tuned: Sequence[Result] = ()) -> str:
    """The page as Markdown.

    Args:
        study: what was to be run.
        results: of the runs that are compared, any number of them.
        tuned: of the tuning.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("verl_ext.study", "."),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    compared = of_study(study, results)
    found = by_method(compared)
    judged = judgements(study, found)
    return environment.get_template(TEMPLATE).render(
        study=study,
        design=DESIGN,
        seeds_needed=SEEDS,
        factor=f"{student_quantile(SEEDS - 1) / SEEDS**0.5:.1f}",
        planned=len(study.compared()),
        done=len(compared),
        steps=", ".join(map(str, sorted({one.steps for one in compared}))),
        problems=", ".join(map(str, sorted({one.validation["problems"] for one in compared}))),
        made_with=made_with(compared),
        changed=changed(study, compared),
        runs=tables.runs_table(study, found),
        judged=judged,
        counts="; ".join(f"{word}: {sum(one.verdict.word == word for one in judged)}" for word in WORDS),
        claims=CLAIMS,
        pictures={picture.name.removeprefix("study-").removesuffix(".png"): picture for picture in figures.PICTURES},
        models=[per_model(study, model, found) for model in study.models if any(key[0] == model for key in found)],
        foregone=[one.number for one in judged if one.claim.foregone and one.verdict.word == HOLDS],
        correlation=shared_by_a_seed(study, found),
        settings=tables.settings_table(study),
        tuning=tables.tuning_table(study, tuned),
    )


def of_study(study: Study, results: Iterable[Result]) -> list[Result]:
    """The results of runs that the study compares."""
    planned = {(cell.model, cell.method.name, cell.seed) for cell in study.compared()}
    return [one for one in results if (one.model, one.method, one.seed) in planned]


def judgements(study: Study, found: Found) -> list[Judged]:
    """Every claim on every model of the study that it is tested on."""
    return [
        Judged(place, claim, model, claim.verdict({name: runs for (at, name), runs in found.items() if at == model}))
        for place, claim in enumerate(CLAIMS, start=1)
        for model in claim.models
        if model in study.models
    ]


def per_model(study: Study, model: str, found: Found) -> dict[str, object]:
    """The tables of one model."""
    runs = [found[model, name] for name in study.models[model] if (model, name) in found]
    marks = {name: found[model, name] for name in MARKS if (model, name) in found}
    return {
        "name": model,
        "accuracy": tables.accuracy_table(study, runs, marks),
        "levels": ", ".join(f"`{name}` {tables.mean_of(mark.final(), tables.share)}" for name, mark in marks.items()),
        "steps": tables.steps_table(study, runs, marks),
        "clipping": tables.clipping_table(study, runs),
        "training": tables.training_table(study, runs),
        "time": tables.time_table(study, runs),
    }


# --- where the results come from


def made_with(results: Sequence[Result]) -> list[str]:
    """Versions of the runs, each set once, with the number of runs and the commits of the code."""
    kinds: dict[str, list[Result]] = {}
    for one in results:
        kinds.setdefault(", ".join(f"{name} {version}" for name, version in one.versions.items()), []).append(one)
    return [
        f"{versions} ({len(runs)} run{'s' if len(runs) > 1 else ''}; code of "
        + ", ".join(sorted({one.commit or "no known commit" for one in runs}))
        + ")"
        for versions, runs in sorted(kinds.items())
    ]


def changed(study: Study, results: Iterable[Result]) -> list[str]:
    """Runs whose arguments are not those that the study has now."""
    cells = {cell.name: cell for cell in study.compared()}
    names = ((f"{one.model}/{one.method}-seed{one.seed}", one.arguments) for one in results)
    return [name for name, arguments in names if not cells[name].is_of(arguments)]


def shared_by_a_seed(study: Study, found: Found) -> str:
    """The intra-class correlation of the last accuracies of one seed, in words; empty where nothing can be said."""
    said = []
    for model in study.models:
        finals = [runs.final() for (at, _), runs in found.items() if at == model]
        complete = [final for final in finals if final.keys() == set(study.seeds)]
        correlation = intraclass([[final[seed] for final in complete] for seed in study.seeds])
        if correlation is not None:
            said.append(f"{correlation:.2f} on `{model}`")
    return " and ".join(said)
