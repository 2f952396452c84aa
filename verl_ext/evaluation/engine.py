"""Responses from vLLM's offline engine, in a process of its own that ends when the responses are there.

Run as a program: ``python -m verl_ext.evaluation.engine JOB``, a JSON file. It reads what is missing from the
benchmarks' folders and writes parts there, so that whoever starts it again goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verl_ext.engine_failure import PROCESSES, EngineError, failure
from verl_ext.evaluation.request import Decoding, EngineOptions, RequestError
from verl_ext.evaluation.store import Generation, PartWriter, Store, write_json
from verl_ext.platform import cpu
from verl_ext.process import ProcessFamily, child_environment, stop_signals_raise
from verl_ext.rollout import tap

__all__ = ["EngineError", "run_engine", "sample_seed"]
_POLL_S = 0.5


@dataclass(frozen=True)
class Wanted:
    """One response to be generated: where it goes, and the prompt as text and as token ids."""

    store: int
    index: int
    sample: int
    text: str
    ids: Sequence[int]
    decoding: Decoding
    seed: int


def sample_seed(seed: int, benchmark: str, index: int, sample: int) -> int:
    """Seed of one response: 31 bits that depend on everything that names it, and on no order or chunking.

    Sums like ``seed + sample`` would give sample 1 of seed 1 the random numbers of sample 0 of seed 2.
    """
    digest = hashlib.sha256(f"{seed}/{benchmark}/{index}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def run_engine(
    model: str, options: EngineOptions, stores: Sequence[Store], part_rows: int, tick: Callable[[], None]
) -> None:
    """Generate what is missing in the folders, in a child process; it is ended with all it started.

    Args:
        model: folder or name on the hub.
        options: how vLLM runs.
        stores: folders that were claimed.
        part_rows: see `Request.part_rows`.
        tick: called twice a second while the child runs.

    Raises:
        RequestError: if the model cannot take the prompts.
        EngineError: if the engine could not start or died.
    """
    # Told to tap the sampler by an outer run, vLLM would refuse what is asked of it here.
    changes = {tap.VARIABLE: "0", PROCESSES: os.environ.get(PROCESSES, "0")}
    with tempfile.TemporaryDirectory(prefix="verl-ext-") as folder, stop_signals_raise():
        job, failed, log = (Path(folder, name) for name in ("job.json", "failed.json", "engine.log"))
        found: dict[str, Any] = {
            "model": model,
            "options": asdict(options),
            "folders": [str(store.folder.resolve()) for store in stores],
            "part_rows": part_rows,
            "failed": str(failed),
        }
        write_json(found, job)
        process = ProcessFamily([sys.executable, "-m", __name__, str(job)], child_environment(changes), log)
        try:
            while process.poll() is None:
                process.note_family()
                tick()
                time.sleep(_POLL_S)
        finally:
            status = process.poll()
            process.end()
        if failed.exists() or status != 0:
            found = json.loads(failed.read_text(encoding="utf-8")) if failed.exists() else {}
            if found.get("kind") == RequestError.__name__:
                raise RequestError(found["faults"])
            raise failure(found, status, log)


def main(file: Path) -> int:
    """In the child: generate; what goes wrong is left in a file for the process that waits."""
    job = json.loads(file.read_text(encoding="utf-8"))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        with stop_signals_raise():
            generate(job)
    except Exception as error:
        words = {"kind": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        write_json({**words, "faults": getattr(error, "faults", [])}, Path(job["failed"]))
        return 1
    return 0


def _end_with(parent: int) -> None:
    """A killed parent cannot end its child: stop as if asked to, and die if that takes too long."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
    os._exit(1)


def generate(job: dict[str, Any]) -> None:
    """In the child: load the model, ask for every missing response, write parts as responses finish."""
    # Where there is no accelerator this is what a run with backend=cpu does.
    if cpu.choose_from_command_line(["backend=cpu"]):
        from verl_ext.platform import patches

        patches.install()
    stores = [Store(Path(folder)) for folder in job["folders"]]
    options = EngineOptions(**job["options"])
    wanted = list(_wanted(job["model"], options, stores))
    if not wanted:
        return
    length = _context(job["model"], options, wanted)
    import vllm

    llm = vllm.LLM(
        job["model"],
        dtype=options.dtype or ("float32" if cpu.chosen() else "auto"),
        max_model_len=length,
        tensor_parallel_size=options.tensor_parallel,
        gpu_memory_utilization=options.memory_share,
        trust_remote_code=options.trust_remote_code,
        # The model's own top_p or repetition penalty would change the decoding that was asked for.
        generation_config="vllm",
        # Compiling takes minutes on a CPU.
        enforce_eager=cpu.chosen(),
    )
    for number, store in enumerate(stores):
        here = [one for one in wanted if one.store == number]
        facts = {
            "dtype": str(llm.llm_engine.model_config.dtype).removeprefix("torch."),
            "max_model_len": length,
            "short_of_room": sorted({o.index for o in here if _room(o, length) < o.decoding.max_tokens}),
        }
        store.note_engine(facts)
    _drive(llm, wanted, stores, length, job["part_rows"])


def _wanted(model: str, options: EngineOptions, stores: Sequence[Store]) -> Iterator[Wanted]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=options.trust_remote_code)
    if not tokenizer.chat_template:
        raise RequestError([f"the tokenizer of {model} has no chat template; put a chat_template.jinja beside it"])
    for number, store in enumerate(stores):
        identity = store.request()["identity"]
        decoding, seed = store.decoding(), identity["seed"]
        texts: dict[int, tuple[str, list[int]]] = {}
        for problem, sample in store.pending():
            if problem.index not in texts:
                text = tokenizer.apply_chat_template(problem.messages, tokenize=False, add_generation_prompt=True)
                # The template has written the special tokens already.
                texts[problem.index] = text, list(tokenizer.encode(text, add_special_tokens=False))
            of_sample = sample_seed(seed, store.name, problem.index, sample)
            yield Wanted(number, problem.index, sample, *texts[problem.index], decoding, of_sample)


def _context(model: str, options: EngineOptions, wanted: Sequence[Wanted]) -> int:
    """Tokens of prompt and response together: what is needed, at most what the model has positions for."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, trust_remote_code=options.trust_remote_code).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    needed = max(len(one.ids) + one.decoding.max_tokens for one in wanted)
    length = int(options.max_model_len or min(needed, positions or needed))
    long = {(one.store, one.index): len(one.ids) for one in wanted if _room(one, length) < 1}
    if long:
        raise RequestError(
            [
                f"{len(long)} prompts leave no room for a response in {length} tokens; the longest has "
                f"{max(long.values())} tokens. Use a model with more positions, or another template"
            ]
        )
    return length


def _room(one: Wanted, length: int) -> int:
    return length - len(one.ids)


def _drive(llm: Any, wanted: Sequence[Wanted], stores: Sequence[Store], length: int, part_rows: int) -> None:
    """Put all requests in at once, so that the engine's batch stays full, and take responses as they finish."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine = llm.llm_engine
    for number, one in enumerate(wanted):
        decoding = one.decoding
        settings = SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            max_tokens=min(decoding.max_tokens, _room(one, length)),
            seed=one.seed,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        engine.add_request(str(number), {"prompt_token_ids": one.ids}, settings)
    with ExitStack() as stack:
        writers = [stack.enter_context(PartWriter(store, part_rows)) for store in stores]
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    one, (answer,) = wanted[int(output.request_id)], output.outputs
                    reason = answer.finish_reason or "unknown"
                    row = Generation(one.index, one.sample, one.text, answer.text, len(answer.token_ids), reason)
                    writers[one.store].add(row)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
