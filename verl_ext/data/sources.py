"""Rows of a data set: from the Hugging Face hub at a pinned revision, or from local files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

_BATCH = 4096
_SUFFIXES = (".parquet", ".jsonl", ".json", ".arrow", ".csv")
Row = dict[str, Any]


class SourceError(ValueError):
    """A source that cannot be had or read; says what to do."""


@dataclass(frozen=True)
class Hub:
    """A data set of the hub.

    Attributes:
        repo: its id.
        revision: commit that is loaded; None where none could be seen, then the newest is, and its id printed.
        files: patterns of the files that hold the rows.
    """

    repo: str
    revision: str | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class Opened:
    """A source whose files are here.

    Attributes:
        name: the hub's repository or the file's name, never a path of this machine.
        revision: of the repository; None for local files.
        files: what is read, in order.
    """

    name: str
    revision: str | None
    files: Sequence[Path]

    def rows(self) -> Iterator[Row]:
        """All rows of all files, in order.

        Raises:
            SourceError: if one cannot be read.
        """
        for file in self.files:
            try:
                yield from _READERS[file.suffix](file)
            except SourceError:
                raise
            except Exception as error:  # whatever a damaged file brings about in the libraries that read it
                what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
                raise SourceError(f"{file.name} cannot be read as {file.suffix[1:]}: {what}") from error


def open_hub(hub: Hub) -> Opened:
    """Download what is not in the hub's cache yet.

    Raises:
        SourceError: if the hub cannot be reached or does not have it.
    """
    import httpx
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = Path(
            snapshot_download(
                hub.repo,
                repo_type="dataset",
                revision=hub.revision or "main",
                allow_patterns=list(hub.files),
                # Else it asks for the list of files even where the cache has them all.
                local_files_only=constants.HF_HUB_OFFLINE,
            )
        )
    # The hub's client lets httpx's own errors through where a name does not resolve or nobody answers.
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError, httpx.TransportError) as error:
        raise SourceError(
            f"{hub.repo} at revision {hub.revision or 'main'} cannot be had from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}); "
            "where there is no network, give a local file or folder with --from"
        ) from error
    # The cache names a snapshot's folder by its commit.
    return Opened(hub.repo, folder.name, _matching(folder, hub.files, hub.repo))


def open_local(path: Path, patterns: Sequence[str] = ()) -> Opened:
    """A file, or a folder's files: those that match the patterns if any do, else all of known types.

    Raises:
        SourceError: if there is no such file, or none of a known type.
    """
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise SourceError(f"{path} is none of {', '.join(_SUFFIXES)}")
        return Opened(path.name, None, [path])
    if not path.is_dir():
        raise SourceError(f"{path} does not exist")
    return Opened(path.name, None, _matching(path, patterns, str(path)))


def _matching(folder: Path, patterns: Sequence[str], name: str) -> list[Path]:
    # The cards and settings that lie beside the rows.
    known = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in _SUFFIXES and file.name not in ("dataset_info.json", "state.json", "dataset_dict.json")
    ]
    chosen = [f for f in known if any(fnmatch(f.relative_to(folder).as_posix(), p) for p in patterns)]
    if not chosen and not known:
        raise SourceError(f"{name} has no file of the types {', '.join(_SUFFIXES)}")
    return chosen or known


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    # In batches: one of the training sets repeats its 17 thousand problems a hundred times.
    for batch in pq.ParquetFile(file).iter_batches(_BATCH):
        yield from batch.to_pylist()


def _arrow(file: Path) -> Iterator[Row]:
    import pyarrow as pa

    with pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield from batch.to_pylist()


def _json_lines(file: Path) -> Iterator[Row]:
    lines = file.read_text(encoding="utf-8").split("\n")
    yield from _objects([json.loads(line) for line in lines if line.strip()], file)


def _json(file: Path) -> Iterator[Row]:
    yield from _objects(json.loads(file.read_text(encoding="utf-8")), file)


def _csv(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig", newline="") as text:
        yield from csv.DictReader(text, restkey="(more)")


def _objects(rows: Any, file: Path) -> list[Row]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise SourceError(f"{file.name} is not a list of objects, one a row")
    return rows


_READERS = {".parquet": _parquet, ".arrow": _arrow, ".jsonl": _json_lines, ".json": _json, ".csv": _csv}
