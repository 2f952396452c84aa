"""The summary of one benchmark: its metrics, and everything needed to say where they come from."""

from __future__ import annotations

import importlib.metadata
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verl_ext.evaluation.metrics import PASS_AT, Metric, avg_at_k, bootstrap, pass_at_k
from verl_ext.evaluation.scoring import Score
from verl_ext.evaluation.store import Generation, Store, write_json
from verl_ext.rewards.math import OUTCOMES

LENGTH = "length"
INTERVAL = {"method": "bca", "level": 0.95, "resamples": 10_000, "seed": 0}


@dataclass(frozen=True)
class Summary:
    """Results of one benchmark.

    Attributes:
        benchmark, file, sha256: its name, where it was read and its hash.
        problems, samples: P problems, n responses each.
        model: a folder or name, as it was given.
        model_identity: name, or fingerprint of a folder.
        decoding, seed: how responses were drawn.
        verifier: name and version, and the answer format unless that is ``boxed``.
        versions: verl_ext, and what generated.
        metrics: ``avg@n``, ``pass@k`` and ``fmt``, shares in [0, 1]; see `metrics`.
        outcomes: responses by what the verifier said; only ``correct`` counts as a success.
        finish_reasons: responses by how they ended; ``length`` means cut off.
        truncated: responses that were cut off.
        tokens: mean length of a response, None where the endpoint does not count.
        interval: how the intervals were made.
        engine: what vLLM made of the request; empty for an endpoint.
        notes: what limits the meaning of the numbers.
    """

    benchmark: str
    file: str
    sha256: str
    problems: int
    samples: int
    model: str
    model_identity: dict[str, Any]
    decoding: dict[str, Any]
    seed: int
    verifier: str
    versions: dict[str, str]
    metrics: dict[str, Metric]
    outcomes: dict[str, int]
    finish_reasons: dict[str, int]
    truncated: int
    tokens: float | None
    interval: dict[str, Any]
    engine: dict[str, Any]
    notes: list[str]

    def write(self, path: Path) -> None:
        write_json(asdict(self), path)

    @staticmethod
    def read(path: Path) -> Summary:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Summary(**{**found, "metrics": {name: Metric(**one) for name, one in found["metrics"].items()}})


def summarise(store: Store, scores: Sequence[Score]) -> Summary:
    """Compute the summary of a folder whose responses are all there and were scored."""
    request, rows = store.request(), store.generations()
    identity, decoding = request["identity"], store.decoding()
    metrics = metrics_of(scores, decoding.samples)
    outcomes = Counter(score.outcome for score in scores)
    reasons = Counter(row.finish_reason for row in rows)
    lengths = [row.tokens for row in rows if row.tokens is not None]
    facts = store.engine_facts()
    return Summary(
        benchmark=store.name,
        file=request["file"],
        sha256=identity["benchmark"]["sha256"],
        problems=len(rows) // decoding.samples,
        samples=decoding.samples,
        model=request["model"],
        model_identity=identity["model"],
        decoding=identity["decoding"],
        seed=identity["seed"],
        verifier=scores[0].verifier,
        versions=_versions(identity.get("engine", {})),
        metrics=metrics,
        outcomes={**{name: outcomes.pop(name, 0) for name in OUTCOMES}, **outcomes},
        finish_reasons=dict(sorted(reasons.items())),
        truncated=reasons[LENGTH],
        tokens=sum(lengths) / len(lengths) if len(lengths) == len(rows) else None,
        interval=dict(INTERVAL),
        engine=facts,
        notes=_notes(metrics, rows, facts),
    )


def metrics_of(scores: Sequence[Score], samples: int) -> dict[str, Metric]:
    """avg@n, pass@k for every k of 1, 2, 4, ... 32 that n allows, and the boxed rate, with intervals."""
    ordered = sorted(scores, key=lambda score: (score.index, score.sample))
    correct = np.array([score.outcome == "correct" for score in ordered]).reshape(-1, samples)
    boxed = np.array([score.boxed for score in ordered]).reshape(-1, samples)
    values = {
        f"avg@{samples}": avg_at_k(correct),
        **{f"pass@{k}": pass_at_k(correct, k) for k in PASS_AT if k <= samples},
        "fmt": avg_at_k(boxed),
    }
    return {name: bootstrap(of_problems, **INTERVAL) for name, of_problems in values.items()}  # type: ignore[arg-type]


def _versions(engine: dict[str, Any]) -> dict[str, str]:
    packages = {name: version for name, version in engine.items() if name not in ("dtype", "max_model_len")}
    return {"verl_ext": importlib.metadata.version("verl-ext"), **packages}


def _notes(metrics: dict[str, Metric], rows: Sequence[Generation], facts: dict[str, Any]) -> list[str]:
    found = []
    flat = [name for name, metric in metrics.items() if metric.low == metric.high]
    if flat:
        found.append(
            f"{', '.join(flat)}: all problems have the same value, so the interval has no width and says nothing"
        )
    cut = sum(row.finish_reason == LENGTH for row in rows)
    if cut:
        found.append(f"{cut} of {len(rows)} responses were cut off at the length limit")
    if facts.get("short_of_room"):
        found.append(
            f"{len(facts['short_of_room'])} problems had room for fewer tokens than max_tokens: the model's context is "
            f"{facts['max_model_len']} tokens"
        )
    return found
