"""The engine's part of `verl-ext doctor entropies`, in a process of its own, as vLLM wants a fresh one.

Run as a program: ``python -m verl_ext.entropy_check.engine REQUEST ANSWER``, two JSON files. Nothing here taps the
engine: the environment asks for it, and vLLM has to load the plugin as it does in a training run.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_ext.engine_failure import PROCESSES, failure
from verl_ext.entropy_check.compare import Response, Values
from verl_ext.platform import cpu
from verl_ext.process import ProcessFamily, child_environment, stop_signals_raise
from verl_ext.rollout import tap


class NoVLLMError(RuntimeError):
    """vLLM is not installed."""


@dataclass(frozen=True)
class Job:
    """What the engine is to do. `prompts` are token ids; a prompt gets `samples` responses of `tokens` tokens."""

    model: str
    dtype: str
    max_model_len: int
    prompts: Sequence[Sequence[int]]
    temperatures: Sequence[float]
    tokens: int
    samples: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """The engine's version and dtype, and for each temperature its responses."""

    vllm: str
    dtype: str
    responses: Sequence[Sequence[Response]]


def run_engine(job: Job) -> Answer:
    """Start the engine, wait for its answer, and end whatever it started.

    Raises:
        EngineError: it could not start, died, or does not run the tap.
    """
    # In one process an error of the engine reaches us as it is, not as "see above".
    changes = {tap.VARIABLE: "1", PROCESSES: os.environ.get(PROCESSES, "0")}
    with tempfile.TemporaryDirectory(prefix="verl-ext-") as folder, stop_signals_raise():
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(json.dumps(asdict(job)), encoding="utf-8")
        log = Path(folder, "engine.log")
        command = [sys.executable, "-m", __name__, str(request), str(answer)]
        process = ProcessFamily(command, child_environment(changes), log)
        try:
            while process.poll() is None and not answer.exists():
                process.note_family()
                time.sleep(0.2)
        finally:
            status = process.poll()
            process.end()
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
        if "responses" not in found:
            raise failure(found, status, log)
    return Answer(
        found["vllm"],
        found["dtype"],
        [[Response(**{**one, "values": Values(**one["values"])}) for one in many] for many in found["responses"]],
    )


def generate(job: Job) -> Answer:
    """In the engine's process: load, sample, decode the entropies.

    Raises:
        UnsupportedVLLMError, UntaggedRankError, NoVLLMError: see there.
    """
    if cpu.chosen():
        from verl_ext.platform import patches

        patches.install()
    try:
        tap.check_version()
    except importlib.metadata.PackageNotFoundError as error:
        raise NoVLLMError(f"vLLM is not installed; the tap works with {' and '.join(tap.SUPPORTED)}") from error
    import vllm

    llm = vllm.LLM(
        job.model,
        dtype=job.dtype,
        max_model_len=job.max_model_len,
        logprobs_mode=tap.MODE,
        # The model's own top_p or repetition penalty would change the distribution.
        generation_config="vllm",
        skip_tokenizer_init=True,
        # Compiling takes minutes on a CPU.
        enforce_eager=cpu.chosen(),
    )
    dtype = str(llm.llm_engine.model_config.dtype).removeprefix("torch.")
    return Answer(vllm.__version__, dtype, [_responses(llm, job, temperature) for temperature in job.temperatures])


def _responses(llm: Any, job: Job, temperature: float) -> list[Response]:
    from vllm import SamplingParams

    from verl_ext.rollout.payload import decode

    settings = [
        SamplingParams(
            n=job.samples,
            temperature=temperature,
            max_tokens=job.tokens,
            logprobs=0,
            # vLLM gives sample i of a request the seed plus i.
            seed=job.seed + prompt * job.samples,
            ignore_eos=True,
            detokenize=False,
        )
        for prompt in range(len(job.prompts))
    ]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in job.prompts], settings, use_tqdm=False)
    found = []
    for prompt, output in enumerate(outputs):
        for sample in output.outputs:
            ids = list(sample.token_ids)
            steps = [step[token] for step, token in zip(sample.logprobs, ids, strict=True)]
            values = Values([step.logprob for step in steps], decode([step.rank for step in steps]))
            found.append(Response(prompt, sample.index, ids, values))
    return found


def main(request: Path, answer: Path) -> None:
    try:
        found: dict[str, Any] = asdict(generate(Job(**json.loads(request.read_text(encoding="utf-8")))))
    except Exception as error:  # whatever it is, the process that waits has to learn of it
        found = {"kind": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
    # In one go, as the file's appearance is the signal.
    written = answer.with_suffix(".part")
    written.write_text(json.dumps(found), encoding="utf-8")
    written.rename(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
