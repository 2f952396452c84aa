"""What a run is: recorded with every checkpoint, and compared before one is resumed from.

Files are known by their content and not by their path, so that a folder may be moved between two attempts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from verl_ext.run.checkpoint import layout
from verl_ext.run.checkpoint.manifest import Manifest, sha256

REFUSED = ("loss", "estimator", "model", "adapter", "tokenizer", "optimizer", "data")
"""Parts whose weights, optimizer state or place in the data mean nothing to a run with another one."""
FOR_VALIDATION = ("model", "adapter", "tokenizer")
"""What is left of them for a run that trains nothing."""
_TOKENIZERS = ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "tiktoken.model")


@dataclass(frozen=True)
class Part:
    """One thing that a run is made of.

    Attributes:
        name: for people.
        key: what has to be equal: a digest of the content, or a name; None where it cannot be told here.
        settings: what may differ, with a word about it.
    """

    name: str
    key: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name if self.key in (None, self.name) else f"{self.name} (content {self.key[:12]}...)"


@dataclass(frozen=True)
class Identity:
    """A run's.

    Attributes:
        parts: those of `REFUSED`; `seed` and `versions`, of which only the settings count.
        files: path -> [bytes, time of the last change in nanoseconds, SHA-256] of the training data, so that a file
            that has not been touched is not read again at every resume.
    """

    parts: dict[str, Part]
    files: dict[str, list[Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Of types that JSON knows."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Identity:
        """What `as_json` made."""
        return cls({name: Part(**part) for name, part in found["parts"].items()}, dict(found["files"]))


def of_checkpoint(folder: Path) -> Identity | None:
    """Of the run that made a checkpoint; None where it has not been recorded."""
    if not (folder / layout.MANIFEST).exists():
        return None
    found = Manifest.read(folder).identity
    return None if found is None else Identity.from_json(found)


def differences(then: Identity, now: Identity, parts: Iterable[str] = REFUSED, sure: bool = False) -> list[str]:
    """In which parts two runs differ, as sentences.

    Args:
        then: of the checkpoint.
        now: of this run.
        parts: those to look at.
        sure: leave out what one of the two could not look into; else names are compared there.
    """
    found = []
    for name in parts:
        one, other = then.parts[name], now.parts[name]
        unknown = one.key is None or other.key is None
        same = (sure or one.name == other.name) if unknown else one.key == other.key
        if not same:
            found.append(f"{name}: {one} in the checkpoint, {other} in this run")
    return found


def changes(then: Identity, now: Identity) -> list[str]:
    """Which settings differ, as `loss alpha 0.1 -> 0.02`; of a part that is another one altogether, nothing."""
    found = []
    for name in then.parts.keys() & now.parts.keys():
        one, other = then.parts[name], now.parts[name]
        if one.key is not None and other.key is not None and one.key != other.key:
            continue
        keys = sorted(one.settings.keys() | other.settings.keys())
        found += [
            f"{name} {key} {one.settings.get(key)} -> {other.settings.get(key)}"
            for key in keys
            if one.settings.get(key) != other.settings.get(key)
        ]
    return sorted(found)


def files_seen(paths: Sequence[str], known: Mapping[str, list[Any]]) -> dict[str, list[Any]] | None:
    """Size, time and SHA-256 of the whole content of each file; None where one of them is not on this machine.

    Args:
        paths: in the order in which they are read, which is part of what they are.
        known: what an earlier attempt has seen: a file of the same size and time is taken to be the same.
    """
    found = {}
    for path in (Path(path).expanduser().absolute() for path in paths):
        if not path.is_file():
            return None
        state = path.stat()
        seen = known.get(str(path), [])
        if seen[:2] != [state.st_size, state.st_mtime_ns]:
            seen = [state.st_size, state.st_mtime_ns, sha256(path)]
        found[str(path)] = list(seen)
    return found


def digest(content: Any) -> str:
    """SHA-256 of anything that JSON knows; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def model_key(model: str) -> str | None:
    """Digest of a model's config.json, without what transformers writes of itself; None where it is not here."""
    file = file_of(model, "config.json")
    if file is None:
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    return digest({key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")})


def tokenizer_key(tokenizer: str) -> str | None:
    """Digest of a tokenizer's vocabulary and merges, not of how its files are written; None where none is here."""
    if fast := file_of(tokenizer, "tokenizer.json"):
        found = json.loads(fast.read_text(encoding="utf-8"))
        return digest([found.get("model"), found.get("added_tokens")])
    files = [file for file in (file_of(tokenizer, name) for name in _TOKENIZERS) if file]
    return digest([sha256(file) for file in files]) if files else None


def template_of(tokenizer: str) -> str | None:
    """Digest of what turns messages into text; None where none is here."""
    files = [file_of(tokenizer, name) for name in ("tokenizer_config.json", "chat_template.jinja")]
    return digest([sha256(file) for file in files if file]) if any(files) else None


def file_of(model: str, name: str) -> Path | None:
    """A file of a model: in its folder, or in the cache of the hub's client; nothing is downloaded."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, name)
    except HFValidationError:  # a path of a machine that is not this one
        return None
    return Path(found) if isinstance(found, str) else None
