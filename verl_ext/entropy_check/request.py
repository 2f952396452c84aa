"""The arguments of `verl-ext doctor entropies`: what is wrong with them, and what they come to for a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.entropy_check.compare import Limits
from verl_ext.entropy_check.engine import Job
from verl_ext.platform import cpu

PROMPTS = (
    "The capital of France is",
    "Question: a train covers 240 km in three hours. How fast is it on average? Answer:",
    "def fibonacci(n):",
    "Once upon a time, in a village between two rivers,",
    "1, 2, 4, 8, 16,",
    "Yes",
)
# Largest |difference| that passes, by the engine's dtype: log p and H, nats. float32 differs by the order of
# summation. The 16-bit types round every layer's output, to 8 bits of precision (bfloat16) or 11 (float16): a logit
# between 16 and 32 is a multiple of 1/8 in bfloat16 and of 1/64 in float16, and a temperature below 1 enlarges that.
LIMITS = {"float32": Limits(1e-4, 1e-3), "bfloat16": Limits(0.5, 0.5), "float16": Limits(0.1, 0.1)}
DTYPES = ("auto", *LIMITS)


@dataclass(frozen=True)
class Request:
    """The command's arguments; None where a default depends on the machine or on the model."""

    model: str
    temperatures: Sequence[float] = (0.6, 1.0)
    prompts: Path | None = None
    tokens: int = 64
    samples: int = 1
    dtype: str | None = None
    log_prob_limit: float | None = None
    entropy_limit: float | None = None
    seed: int = 0
    max_model_len: int | None = None
    as_json: bool = False


class RequestError(ValueError):
    """What is wrong with a request: every fault, one a line."""


@dataclass(frozen=True)
class Prepared:
    """A request without faults: the engine's work, and what turns ids into text."""

    job: Job
    tokenizer: Any
    vocabulary: int


def limits_for(request: Request, dtype: str) -> Limits:
    """Those asked for, else those of the engine's dtype."""
    usual = LIMITS[dtype]
    return Limits(
        usual.log_prob if request.log_prob_limit is None else request.log_prob_limit,
        usual.entropy if request.entropy_limit is None else request.entropy_limit,
    )


def prepare(request: Request) -> Prepared:
    """Read the prompts, look at the model, and decide what depends on both.

    Raises:
        RequestError: with every fault of the request.
    """
    faults = [*number_faults(request)]
    lines = prompt_lines(request.prompts, faults)
    config, tokenizer = model_parts(request.model, faults)
    ids = []
    if tokenizer is not None:
        ids = [list(tokenizer.encode(line)) for line in lines]
        faults += [f"prompt {n} ({line!r}) has no token" for n, line in enumerate(lines) if not ids[n]]
    longest = max(map(len, ids), default=0) + request.tokens
    length = longest if request.max_model_len is None else request.max_model_len
    if ids and config is not None:
        faults += length_faults(request, ids, length, getattr(config, "max_position_embeddings", None))
    if faults:
        raise RequestError("\n  ".join(faults))
    dtype = request.dtype or ("float32" if cpu.chosen() else "auto")
    temperatures = list(dict.fromkeys(request.temperatures))
    job = Job(request.model, dtype, length, ids, temperatures, request.tokens, request.samples, request.seed)
    return Prepared(job, tokenizer, config.vocab_size)


def number_faults(request: Request) -> list[str]:
    faults = [
        f"--temperature {t} must be a number above 0; at 0 the distribution is a single token"
        for t in request.temperatures
        if not (math.isfinite(t) and t > 0)
    ]
    for name, least in (("tokens", 1), ("samples", 1), ("seed", 0)):
        if getattr(request, name) < least:
            faults.append(f"--{name} {getattr(request, name)} must be at least {least}")
    for name in ("log_prob_limit", "entropy_limit"):
        limit = getattr(request, name)
        if limit is not None and not limit >= 0:
            faults.append(f"--{name.replace('_', '-')} {limit} must not be negative")
    if request.dtype is not None and request.dtype not in DTYPES:
        faults.append(f"--dtype {request.dtype} is not one of {', '.join(DTYPES)}")
    return faults


def length_faults(request: Request, ids: Sequence[Sequence[int]], length: int, positions: int | None) -> list[str]:
    where = "--max-model-len" if request.max_model_len is not None else "the model's positions"
    limit = length if request.max_model_len is not None else positions
    faults = []
    if request.max_model_len is not None and positions is not None and length > positions:
        faults.append(f"--max-model-len {length} is above the model's {positions} positions")
    if limit is not None:
        faults += [
            f"prompt {n} has {len(prompt)} tokens; with --tokens {request.tokens} that is above {limit} ({where})"
            for n, prompt in enumerate(ids)
            if len(prompt) + request.tokens > limit
        ]
    return faults


def prompt_lines(path: Path | None, faults: list[str]) -> list[str]:
    """The lines of the file that are not blank, or the built-in prompts; what is wrong goes to `faults`."""
    if path is None:
        return list(PROMPTS)
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"--prompts {path} cannot be read as UTF-8 text: {cause(error)}")
        return []
    if not lines:
        faults.append(f"--prompts {path} has no line that is not blank; it should hold one prompt a line")
    return lines


def model_parts(name: str, faults: list[str]) -> tuple[Any, Any]:
    """Configuration of the text model and tokenizer, or None and an entry in `faults`."""
    if not Path(name).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        faults.append(f"{name}: no such folder")
        return None, None
    from transformers import AutoConfig, AutoTokenizer

    parts = []
    for what, loader in (("configuration", AutoConfig), ("tokenizer", AutoTokenizer)):
        try:
            parts.append(loader.from_pretrained(name))
        except Exception as error:  # what lies in the folder decides what is raised
            faults.append(f"{name}: its {what} cannot be loaded: {cause(error)}")
            parts.append(None)
    config, tokenizer = parts
    return config and config.get_text_config(), tokenizer


def cause(error: BaseException) -> str:
    """An exception in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:3])}"
