"""Data and model of a run: which files a row needs, and how they come to be there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from verl_ext.tables.job import Job, model_path
from verl_ext.tables.work import StageError, sha256_of


@contextmanager
def data_folder(job: Job) -> Iterator[Path]:
    """The folder of prepared data, absolute, and in the environment, where the configuration looks for it."""
    before, folder = os.environ.get("VERL_EXT_DATA"), job.places.data.absolute()
    os.environ["VERL_EXT_DATA"] = str(folder)
    try:
        yield folder
    finally:
        if before is None:
            del os.environ["VERL_EXT_DATA"]
        else:
            os.environ["VERL_EXT_DATA"] = before


def benchmark_sets(job: Job) -> set[str]:
    """``<name>/<template>`` of the benchmarks behind the columns."""
    return {f"{column.benchmark}/{job.row.template}" for column in job.table.columns if column.benchmark}


def training_sets(job: Job, keys: tuple[str, ...] = ("train_files", "val_files")) -> set[str]:
    """``<name>/<file without ending>`` of what the configuration names below the data folder.

    Raises:
        StageError: if it names a file elsewhere that does not exist.
    """
    from omegaconf import OmegaConf

    config = job.config()
    if not config:
        return set()
    with data_folder(job) as root:
        data = OmegaConf.create({"data": config["data"]}).data
        entries = [data.get(key) for key in keys]
        lists = [[entry] if isinstance(entry, str) else entry for entry in entries if entry]
        paths = [Path(path) for some in lists for path in some]
    inside = {path for path in paths if path.is_relative_to(root)}
    if absent := [str(path) for path in paths if path not in inside and not path.exists()]:
        raise StageError(f"no such data file: {', '.join(absent)}")
    return {str(path.relative_to(root).with_suffix("")) for path in inside}


def prepare_set(job: Job, name: str) -> str:
    """Make the file of a set, if it is not there, and return its SHA-256.

    Raises:
        StageError: if it cannot be made, with what to do.
    """
    from verl_ext.data.prepare import prepare
    from verl_ext.data.registry import dataset
    from verl_ext.data.templates import TEMPLATES

    root = job.places.data.absolute()
    file = root / f"{name}.parquet"
    if not file.exists():
        folder, _, stem = name.partition("/")
        try:
            # The file to train on may stand beside the one that is named after the template.
            prepare(folder, stem if stem in TEMPLATES else dataset(folder).template, root)
        except (ValueError, OSError) as error:
            raise StageError(f"data {name} cannot be prepared", str(error).splitlines()) from error
        if not file.exists():
            raise StageError(f"`verl-ext data prepare {folder}` does not write {file}; put that file there")
    return sha256_of(file)


def model_of(job: Job) -> str | None:
    """The model's folder (the demo's are built) or its name on the hub; None for an endpoint."""
    from verl_ext.demo.run import MODELS

    choice = job.row.choices.get("model")
    if choice in MODELS:
        from verl_ext.toy.assets import prepare

        return str(prepare(choice, job.places.assets).model_dir)  # type: ignore[arg-type]
    return model_path(choice) if choice else None


def intact(job: Job) -> bool:
    """Whether the prepared files are what they were, and a model that was built is still there."""
    outputs, root = job.work.outputs("data"), job.places.data
    files = {root / f"{name}.parquet": digest for name, digest in outputs["files"].items()}
    model = outputs["model"]
    built = model is None or not Path(model).is_absolute() or Path(model).is_dir()
    return built and all(file.exists() and sha256_of(file) == digest for file, digest in files.items())
