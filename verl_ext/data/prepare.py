"""From a source to the file that verl reads, and its manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verl_ext.data import answers, expected, manifest, registry, solutions
from verl_ext.data.dataset import Dataset
from verl_ext.data.faults import DataError, Faults
from verl_ext.data.problems import Collected, Exemption, Problem, collect
from verl_ext.data.sources import Opened, open_hub, open_local
from verl_ext.data.templates import TEMPLATES, Baked, Template
from verl_ext.hyper import nearest
from verl_ext.rewards.answer_text import DEFAULT_FORMAT


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
        check_answers: whether the verifier has to accept each answer for itself, and not for another.
        accept_unverified: whether other numbers and contents than those recorded pass, marked in the manifest.
        exemptions: rows known to be faulty, beside those of the registry.
        baked: templates to take off, beside those that are known.
        solutions: a local file or folder with the solutions, for the template ``sft``.
        text_answers: whether words and choices are meant where more than a few answers are text.
    """

    check_answers: bool = True
    accept_unverified: bool = False
    exemptions: tuple[Exemption, ...] = ()
    baked: tuple[Baked, ...] = ()
    solutions: Path | None = None
    text_answers: bool = False


def paths(dataset: Dataset | str, template: str, out: Path) -> Prepared:
    """Where `prepare` writes, or wrote; `content` is empty."""
    dataset = registry.dataset(dataset) if isinstance(dataset, str) else dataset
    parquet = out / dataset.name / f"{template}.parquet"
    train = None if dataset.kind == "benchmark" else parquet
    if dataset.kind == "both":
        train = parquet.with_name(f"{template}.train.parquet")
    return Prepared(parquet, parquet.with_name(f"{template}.manifest.json"), train, {})


def prepare(
    name: Dataset | str,
    template: str | None,
    out: Path,
    source: Path | None = None,
    options: Options | None = None,
    progress: answers.Progress | None = None,
) -> Prepared:
    """Write ``<out>/<name>/<template>.parquet`` and its manifest; the same input gives the same bytes.

    A set of both kinds has its training problems in ``<template>.train.parquet``. Of local files that hold one of the
    two only that one is written.

    Args:
        name: of a registered set, or a set itself.
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
    dataset = registry.dataset(name) if isinstance(name, str) else name
    chosen = _template(dataset, template)
    if options.solutions is not None and not chosen.solved:
        raise ValueError(f"the template {chosen.name} has no place for solutions; sft has")
    opened = _open(dataset, source)
    exemptions = (*dataset.exemptions, *options.exemptions)
    faults, read = Faults(), {}
    for split, part in _parts(dataset, opened).items():
        faults.of = f"{split}: " if dataset.kind == "both" else ""
        read[split] = _read(dataset, chosen, part, split, options, faults, progress)
    if faults:
        raise DataError(dataset.name, faults)
    return _write(dataset, chosen, out, opened, exemptions, read)


def _template(dataset: Dataset, name: str | None) -> Template:
    template = name or dataset.template
    if template not in TEMPLATES:
        raise ValueError(f"no template {template!r}{nearest(template, TEMPLATES)}")
    if dataset.made is not None and template not in ("demo", "plain"):
        raise ValueError(f"the demo's models know no words: {dataset.name} takes the templates demo and plain only")
    if TEMPLATES[template].solved and dataset.solutions is None:
        having = ", ".join(other.name for other in registry.datasets().values() if other.solutions is not None)
        raise ValueError(f"no solutions are known for {dataset.name}; the template {template} is for {having}")
    return TEMPLATES[template]


def _open(dataset: Dataset, source: Path | None) -> Opened | None:
    if dataset.made is not None:
        if source is not None:
            raise ValueError(f"{dataset.name} is made here and takes no file")
        return None
    if source is not None:
        return open_local(source, dataset.hub.files if dataset.hub else ())
    if dataset.hub is None:
        raise ValueError(f"{dataset.name} is on no hub: give a local file or folder with --from")
    return open_hub(dataset.hub)


def _parts(dataset: Dataset, opened: Opened | None) -> dict[str, Opened | None]:
    """Split -> its source; what is evaluated on, and the manifest named after, comes first."""
    if dataset.kind != "both":
        return {"train" if dataset.kind == "train" else "test": opened}
    if opened is None:
        return {"test": None, "train": None}
    files: dict[str, list[Path]] = {"test": [], "train": []}
    for file in opened.files:
        files["train" if "train" in file.name.lower() else "test"].append(file)
    return {split: replace(opened, files=found) for split, found in files.items() if found}


@dataclass(frozen=True)
class _Read:
    """A split that was read, and what the manifest says of it."""

    collected: Collected
    facts: dict[str, Any]


def _read(
    dataset: Dataset,
    template: Template,
    opened: Opened | None,
    split: str,
    options: Options,
    faults: Faults,
    progress: answers.Progress | None,
) -> _Read:
    if opened is None:
        assert dataset.made is not None
        return _Read(collect(dataset.made(split), faults), {})
    exemptions = (*dataset.exemptions, *options.exemptions)
    collected = collect(opened.rows(), faults, exemptions, options.baked, dataset.read)
    expected.check(dataset, opened, collected, faults, options.accept_unverified, split)
    if dataset.drawn is not None:
        collected.draw(dataset.drawn)
    keep = {exemption.key for exemption in exemptions if exemption.action == "keep"}
    facts: dict[str, Any] = {"opened": opened}
    if template.solved:
        assert dataset.solutions is not None
        facts["solutions"] = solutions.add(collected.problems, dataset.solutions, options.solutions, faults, keep)
    if options.check_answers:
        text = dataset.text_answers or options.text_answers
        facts["checked"] = answers.check(
            collected.problems, faults, keep, progress, answer_format=dataset.answer_format, text_answers=text
        )
    return _Read(collected, facts)


def _write(
    dataset: Dataset,
    template: Template,
    out: Path,
    opened: Opened | None,
    exemptions: Sequence[Exemption],
    read: dict[str, _Read],
) -> Prepared:
    to = paths(dataset, template.name, out)
    to.parquet.parent.mkdir(parents=True, exist_ok=True)
    written, contents = {}, []
    for split, part in read.items():
        file = to.train if split == "train" and to.train is not None else to.parquet
        written[file.name] = _write_rows(dataset, template, part.collected.problems, split, file)
        contents.append(manifest.build(dataset, template, part.collected, exemptions, written, **part.facts))
    content = contents[0]
    if opened is not None and len(contents) > 1:
        # The whole set's facts are those of the problems to evaluate on; what is read of the others stands beside it.
        content["train"] = {key: value for key, value in contents[1].items() if key in manifest.OF_A_SPLIT}
    _replace(to.manifest, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return Prepared(to.parquet, to.manifest, to.train, content)


def rows(dataset: Dataset, template: Template, problems: Sequence[Problem], split: str) -> list[dict[str, Any]]:
    """In verl's schema, one for each problem; `extra_info` keeps the bare problem and its key."""
    # Rows without the key are boxed, and what was written before stays the same to the byte.
    style = {} if dataset.answer_format == DEFAULT_FORMAT else {"answer_format": dataset.answer_format}
    return [
        {
            "data_source": f"verl_ext/{dataset.name}",
            "messages" if template.solved else "prompt": template.apply(problem.text, problem.solution or ""),
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {
                "index": index,
                "split": split,
                "key": problem.key,
                "problem": problem.text,
                "source_index": problem.source_index,
                **style,
            },
        }
        for index, problem in enumerate(problems)
    ]


def _write_rows(
    dataset: Dataset, template: Template, problems: Sequence[Problem], split: str, to: Path
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows(dataset, template, problems, split)), buffer, compression="zstd")
    content = buffer.getvalue().to_pybytes()
    _replace(to, content)
    return {"rows": len(problems), "sha256": hashlib.sha256(content).hexdigest()}


def _replace(path: Path, content: bytes) -> None:
    # By one rename, so that an interrupted run leaves no half of a file.
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)
