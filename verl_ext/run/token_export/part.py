"""The rows of one step that one rank writes."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_ext import batch_file


@dataclass(frozen=True)
class Request:
    """What the controller asks the workers for.

    Attributes:
        folder: of the export.
        step: the training step.
        update: of the step, from 0: verl's asynchronous trainers update several times a step.
        max_rows: responses that a rank writes; None is all.
        run: name of the run.
    """

    folder: str
    step: int
    update: int
    max_rows: int | None
    run: str

    def text(self) -> str:
        """In a form that verl carries beside a batch."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Request:
        return cls(**json.loads(text))

    def path(self, rank: int) -> Path:
        """Of a rank's part."""
        more = f"-{self.update}" if self.update else ""
        return Path(self.folder) / f"step-{self.step:05d}" / f"rank-{rank:05d}{more}.parquet"


def choose(keys: Iterable[str], limit: int | None) -> set[str]:
    """The rows to write: `limit` of them, in an order of prompts that looks random and is the same on every rank.

    So a group stays together even where its responses are on several ranks, and all mini-batches have rows.
    """
    order = sorted(set(keys), key=lambda key: (zlib.crc32(key.split("_")[0].encode()), key))
    return set(order[:limit])


class Part:
    """Rows of a step, gathered while its losses run.

    Args:
        request: the controller's.
        rank: of this worker.
        keys: of all rows that this worker is going to see; the empty one is padding.

    Attributes:
        mini_batch: the update that is under way, from 0; -1 before the first.
        chosen: keys of the rows to write.
        about: what the file's metadata say beside the request.
        tokenizer: of the model, for the text; None is none.
    """

    def __init__(self, request: Request, rank: int, keys: Iterable[str]) -> None:
        self.request, self.rank = request, rank
        self.chosen = choose(filter(None, keys), request.max_rows)
        self.mini_batch = -1
        self.about: dict[str, Any] = {}
        self.tokenizer: Any = None
        self._rows: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row, columns without `mini_batch` and `rank`."""
        self._rows.append({**row, "mini_batch": self.mini_batch, "rank": self.rank})

    def columns(self) -> dict[str, list[Any]]:
        """The rows as `batch_file.write` wants them: columns that every row has, and their tokens as text."""
        names = [name for name in self._rows[0] if all(name in row for row in self._rows)]
        found = {name: [row[name] for row in self._rows] for name in names}
        if self.tokenizer is None:
            return found
        for name in ("prompt", "response"):
            if f"{name}s" in found:
                found[f"{name}_text"] = [self.tokenizer.decode(ids) for ids in found[f"{name}s"]]
        if "responses" in found:
            of = token_texts(self.tokenizer)
            found[batch_file.TOKENS] = [[of(int(token)) for token in ids] for ids in found["responses"]]
        return found

    def write(self) -> None:
        """Write the rows, if there are any. A disk that fails is reported, and the run goes on without them."""
        if not self._rows:
            return
        path = self.request.path(self.rank)
        about = {**json.loads(json.dumps(self.about, default=str)), "run": self.request.run}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            batch_file.write(path, self.columns(), self.request.step, about)
        except OSError as error:
            # Through stderr rather than logging: verl raises its log level.
            sys.stderr.write(f"verl_ext: the tokens of step {self.request.step} are not exported: {error}\n")
            sys.stderr.flush()


def token_texts(tokenizer: Any) -> Callable[[int], str]:
    """Token id -> its text alone; each id is decoded once."""
    known: dict[int, str] = {}

    def of(token: int) -> str:
        if token not in known:
            known[token] = tokenizer.decode([token])
        return known[token]

    return of
