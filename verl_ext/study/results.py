"""The file that a run of a study leaves: curves of its steps, and where they come from.

Format, version 1: JSON, one object; keys are the attributes of `Result`. All curves and phases have one number a
training step. Units: `entropy` in nats, `reward`, `accuracy` and the clip fractions are shares, `response_length` in
tokens, times in seconds.

* `reward`: mean over the responses of a step. `entropy`: mean over the valid tokens of the old policy's entropies.
* `clip_low`, `clip_high`: share of valid tokens that the loss clipped below and above, by the rule of the token export
  (docs/token-export.md); `clip_low_sequences`, `clip_high_sequences`: share of responses with such a token.
* `grad_norm`: mean over the mini-batches. `seconds`: of the step, without validation.
* `validation`: `step`, `accuracy` (lists) and `problems` (their number).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
CURVES = (
    "step",
    "reward",
    "entropy",
    "clip_low",
    "clip_high",
    "clip_low_sequences",
    "clip_high_sequences",
    "grad_norm",
    "response_length",
    "seconds",
)


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        study, model, method, seed: which run.
        steps: training steps done, all that were asked for.
        arguments: of `verl-ext train`, without paths.
        commit: of the code; None outside a checkout.
        versions: of what it ran with.
        finished: time, UTC.
        seconds, startup_seconds: launch to end, launch to the first validation.
        validation, curves, phases: see the module.
    """

    study: str
    model: str
    method: str
    seed: int
    steps: int
    arguments: tuple[str, ...]
    commit: str | None
    versions: Mapping[str, str]
    finished: str
    seconds: float
    startup_seconds: float
    validation: Mapping[str, Any]
    curves: Mapping[str, list[float]]
    phases: Mapping[str, list[float]]

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read a result.

        Raises:
            ValueError: another format, keys or lengths that do not fit.
        """
        data = json.loads(path.read_text(encoding="utf-8"))
        if data.get("format") != FORMAT:
            raise ValueError(f"{path} has format {data.get('format')!r}; this code reads {FORMAT}")
        del data["format"]
        wanted = set(cls.__dataclass_fields__)
        if data.keys() != wanted:
            raise ValueError(f"{path}: keys differ from the format's: {', '.join(sorted(data.keys() ^ wanted))}")
        result = cls(**{**data, "arguments": tuple(data["arguments"])})
        if found := result.faults():
            raise ValueError(f"{path}: " + "; ".join(found))
        return result

    def faults(self) -> list[str]:
        """What is missing or of another length than the run."""
        found = [f"there is no curve {name}" for name in CURVES if name not in self.curves]
        series = {**{f"curve {name}": one for name, one in self.curves.items()}, **self.phases}
        found += [f"{name} has {len(one)} numbers for {self.steps} steps" for name, one in series.items()
                  if len(one) != self.steps]  # fmt: skip
        if len(self.validation["step"]) != len(self.validation["accuracy"]):
            found.append("validation has another number of steps than of accuracies")
        return found

    def write(self, path: Path) -> None:
        """Write it, in one piece, numbers with six digits, a curve a line."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(_text({"format": FORMAT, **asdict(self)}) + "\n", encoding="utf-8")
        part.replace(path)


def read_all(folder: Path) -> list[Result]:
    """All results below a folder, by model, method and seed; none where there is no such folder."""
    found = [Result.read(path) for path in sorted(folder.glob("*/*.json"))]
    return sorted(found, key=lambda one: (one.model, one.method, one.seed))


def _text(value: Any, depth: int = 0) -> str:
    """JSON with a line for each key and none for each number, so that differences can be read."""
    if not isinstance(value, Mapping):
        return json.dumps(_rounded(value), ensure_ascii=False)
    pad = " " * (depth + 1)
    inner = ",\n".join(f"{pad}{json.dumps(key)}: {_text(one, depth + 1)}" for key, one in value.items())
    return "{\n" + inner + "\n" + " " * depth + "}"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value
