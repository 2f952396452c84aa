"""From a source to the file that verl reads, and its manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.bridge.driver import nearest
from verl_ext.data import answers, expected, manifest, registry, solutions
from verl_ext.data.faults import DataError, Faults
from verl_ext.data.problems import Collected, Exemption, Problem, collect
from verl_ext.data.registry import DATASETS, DEMO_TRAIN, DEMO_VALIDATION, Dataset
from verl_ext.data.sources import open_hub, open_local
from verl_ext.data.templates import TEMPLATES, Baked, Template


@dataclass(frozen=True)
class Prepared:
    """What was written.

    Attributes:
        parquet: the problems to evaluate on, or of a training set those to train on.
        manifest: beside it.
        train: the problems to train on; None for a benchmark.
        content: of the manifest.
    """

    parquet: Path
    manifest: Path
    train: Path | None
    content: dict[str, Any]


@dataclass(frozen=True)
class Options:
    """How a source is treated.

    Attributes:
        check_answers: whether the verifier has to accept each answer for itself.
        accept_unverified: whether other numbers and contents than those recorded pass, marked in the manifest.
        exemptions: rows known to be faulty, beside those of the registry.
        baked: templates to take off, beside those that are known.
        solutions: a local file or folder with the solutions, for the template ``sft``.
    """

    check_answers: bool = True
    accept_unverified: bool = False
    exemptions: tuple[Exemption, ...] = ()
    baked: tuple[Baked, ...] = ()
    solutions: Path | None = None


def paths(name: str, template: str, out: Path) -> Prepared:
    """Where `prepare` writes, or wrote; `content` is empty."""
    dataset = DATASETS[name]
    parquet = out / name / f"{template}.parquet"
    train = None if dataset.kind == "benchmark" else parquet
    if dataset.kind == "both":
        train = parquet.with_name(f"{template}.train.parquet")
    return Prepared(parquet, parquet.with_name(f"{template}.manifest.json"), train, {})


def prepare(
    name: str,
    template: str | None,
    out: Path,
    source: Path | None = None,
    options: Options | None = None,
    progress: answers.Progress | None = None,
) -> Prepared:
    """Write ``<out>/<name>/<template>.parquet`` and its manifest; the same input gives the same bytes.

    Args:
        name: of the registry.
        template: of `verl_ext.data.templates`; None for the data set's own. ``sft`` has a column ``messages`` with
            prompt and solution in place of the column ``prompt``, and is for training sets with solutions only.
        out: folder of all prepared data.
        source: a local file or folder in place of the hub.
        options: how strict to be.
        progress: of the check of the answers.

    Raises:
        ValueError: for an unknown name or template, or solutions that the template has no place for.
        SourceError: if the source cannot be had or read.
        DataError: with all faults of the source; nothing is written then.
    """
    options = options or Options()
    dataset, chosen = _choose(name, template)
    if options.solutions is not None and not chosen.solved:
        raise ValueError(f"the template {chosen.name} has no place for solutions; sft has")
    if dataset.hub is None:
        if source is not None:
            raise ValueError(f"{name} is made here and takes no file")
        return _write(dataset, chosen, out, _demo("validation"), (), {})
    opened = open_hub(dataset.hub) if source is None else open_local(source, dataset.hub.files)
    faults = Faults()
    exemptions = (*dataset.exemptions, *options.exemptions)
    collected = collect(opened.rows(), faults, exemptions, options.baked)
    expected.check(dataset, opened, collected, faults, options.accept_unverified)
    keep = {exemption.key for exemption in exemptions if exemption.action == "keep"}
    facts: dict[str, Any] = {"opened": opened}
    if chosen.solved:
        assert dataset.solutions is not None
        facts["solutions"] = solutions.add(collected.problems, dataset.solutions, options.solutions, faults, keep)
    if options.check_answers:
        facts["checked"] = answers.check(collected.problems, faults, keep, progress)
    if faults:
        raise DataError(name, faults)
    return _write(dataset, chosen, out, collected, exemptions, facts)


def _choose(name: str, template: str | None) -> tuple[Dataset, Template]:
    dataset = registry.dataset(name)
    template = template or dataset.template
    if template not in TEMPLATES:
        raise ValueError(f"no template {template!r}{nearest(template, TEMPLATES)}")
    if dataset.hub is None and template not in ("demo", "plain"):
        raise ValueError(f"the demo's models know no words: {name} takes the templates demo and plain only")
    if TEMPLATES[template].solved and dataset.solutions is None:
        having = ", ".join(other.name for other in DATASETS.values() if other.solutions is not None)
        raise ValueError(f"no solutions are known for {name}; the template {template} is for {having}")
    return dataset, TEMPLATES[template]


def _demo(split: str) -> Collected:
    from verl_ext.demo import task

    count = DEMO_TRAIN if split == "train" else DEMO_VALIDATION
    made = task.problems(split, count, seed=0)  # type: ignore[arg-type]
    return collect(({"problem": problem.prompt, "answer": problem.answer} for problem in made), Faults())


def _write(
    dataset: Dataset,
    template: Template,
    out: Path,
    collected: Collected,
    exemptions: Sequence[Exemption],
    facts: dict[str, Any],
) -> Prepared:
    to = paths(dataset.name, template.name, out)
    to.parquet.parent.mkdir(parents=True, exist_ok=True)
    split = "train" if dataset.kind == "train" else "test"
    written = {to.parquet.name: _write_rows(dataset.name, template, collected.problems, split, to.parquet)}
    if to.train is not None and to.train != to.parquet:
        more = _demo("train").problems
        written[to.train.name] = _write_rows(dataset.name, template, more, "train", to.train)
    content = manifest.build(dataset, template, collected, exemptions, written, **facts)
    _replace(to.manifest, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return Prepared(to.parquet, to.manifest, to.train, content)


def rows(name: str, template: Template, problems: Sequence[Problem], split: str) -> list[dict[str, Any]]:
    """In verl's schema, one for each problem; `extra_info` keeps the bare problem and its key."""
    return [
        {
            "data_source": f"verl_ext/{name}",
            "messages" if template.solved else "prompt": template.apply(problem.text, problem.solution or ""),
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {
                "index": index,
                "split": split,
                "key": problem.key,
                "problem": problem.text,
                "source_index": problem.source_index,
            },
        }
        for index, problem in enumerate(problems)
    ]


def _write_rows(name: str, template: Template, problems: Sequence[Problem], split: str, to: Path) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows(name, template, problems, split)), buffer, compression="zstd")
    content = buffer.getvalue().to_pybytes()
    _replace(to, content)
    return {"rows": len(problems), "sha256": hashlib.sha256(content).hexdigest()}


def _replace(path: Path, content: bytes) -> None:
    # By one rename, so that an interrupted run leaves no half of a file.
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
