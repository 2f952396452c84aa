"""The work folder of one run of a row: which stages are done, and for which inputs.

::

    outputs/tables/<paper>/<table>/<row>/seed<k>/
        config.yaml         the composed configuration, as trained
        stages.json         each stage's state, inputs, key, outputs and seconds
        checkpoints/        verl's, for resuming
        model/step_<n>/     the trained weights as a Hugging Face folder
        evaluation/step_<n>/<benchmark>.<decoding>/
        result.json         the columns' values and where they come from
        logs/               train-<attempt>.log, metrics-<attempt>.jsonl
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

STAGES = ("data", "train", "export", "evaluate", "result")


class StageError(RuntimeError):
    """A stage that cannot be done, in words for the person who asked for it.

    Attributes:
        details: further lines, for instance the end of a log.
    """

    def __init__(self, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.details = details or []


def key_of(inputs: Mapping[str, Any]) -> str:
    """SHA-256 of inputs, 16 digits; the order of keys does not matter.

    Example:
        >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(inputs, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_json(data: Any, path: Path) -> None:
    """Write a JSON file that is either whole or absent."""
    waiting = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    waiting.write_text(json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    waiting.replace(path)


@dataclass(frozen=True)
class Work:
    """A work folder.

    Attributes:
        folder: ``<out>/<paper>/<table>/<row>/seed<k>``.
    """

    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def models(self) -> Path:
        return self.folder / "model"

    @property
    def evaluation(self) -> Path:
        return self.folder / "evaluation"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def result_file(self) -> Path:
        return self.folder / "result.json"

    def stages(self) -> dict[str, Any]:
        """What stages.json holds; empty before the first stage."""
        file = self.folder / "stages.json"
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return found

    def result(self) -> dict[str, Any] | None:
        """The result, if the last stage is done."""
        done = self.stages().get("result", {}).get("state") == "done" and self.result_file.exists()
        return json.loads(self.result_file.read_text(encoding="utf-8")) if done else None

    def state(self, stage: str, inputs: Mapping[str, Any]) -> str:
        """``new``, ``begun`` (interrupted or failed), ``done``, or ``changed``: begun or done for other inputs."""
        entry = self.stages().get(stage)
        if entry is None:
            return "new"
        return str(entry["state"]) if entry["key"] == key_of(inputs) else "changed"

    def changes(self, stage: str, inputs: Mapping[str, Any]) -> list[str]:
        """In which inputs the recorded stage differs from the one asked for."""
        from verl_ext.evaluation.request import differences

        return differences(self.stages()[stage]["inputs"], json.loads(json.dumps(inputs)))

    def begin(self, stage: str, inputs: Mapping[str, Any]) -> None:
        """Note that a stage starts; what an earlier attempt took is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stages = self.stages()
        before = stages.get(stage, {}) if self.state(stage, inputs) == "begun" else {}
        stages[stage] = {
            "state": "begun",
            "key": key_of(inputs),
            "begun": before.get("begun", _now()),
            "attempts": before.get("attempts", 0) + 1,
            "seconds": before.get("seconds", 0.0),
            "inputs": dict(inputs),
        }
        write_json(stages, self.folder / "stages.json")

    def spend(self, stage: str, seconds: float, outputs: Mapping[str, Any] | None = None) -> None:
        """Add an attempt's seconds; with outputs the stage is done."""
        stages = self.stages()
        entry = stages[stage]
        entry["seconds"] = round(entry["seconds"] + seconds, 3)
        if outputs is not None:
            entry |= {"state": "done", "finished": _now(), "outputs": dict(outputs)}
        write_json(stages, self.folder / "stages.json")

    def outputs(self, stage: str) -> dict[str, Any]:
        """What a finished stage left for the later ones; empty for a stage that this kind of row does not have."""
        found: dict[str, Any] = self.stages().get(stage, {}).get("outputs", {})
        return found

    def forget(self, first: str) -> None:
        """Forget a stage and those after it."""
        stages = self.stages()
        for stage in STAGES[STAGES.index(first) :]:
            stages.pop(stage, None)
        self.result_file.unlink(missing_ok=True)
        if self.folder.exists():
            write_json(stages, self.folder / "stages.json")

    @contextlib.contextmanager
    def timed(self, stage: str, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Around the work of a stage, which puts its outputs into the dictionary; an error leaves it ``begun``."""
        self.begin(stage, inputs)
        started = time.monotonic()
        outputs: dict[str, Any] = {}
        try:
            yield outputs
        except BaseException:
            self.spend(stage, time.monotonic() - started)
            raise
        self.spend(stage, time.monotonic() - started, outputs)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run out of the folder; the lock goes with the process, however that ends.

        Raises:
            StageError: if another process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StageError(f"another run is at work in {self.folder}; wait for it, or end it") from None
            yield


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
