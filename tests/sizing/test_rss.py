"""The predicted memory of the trainer's and the rollout's process against the peak of a run of verl on the CPU.

For the tiny models the process itself is nearly all of it; a model of 116 million parameters shows whether what a model
adds is right.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import psutil
import pytest

from tests.e2e import trainer
from verl_ext.toy import models, task
from verl_ext.train import compose
from verl_ext.train.plan import of

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900, func_only=True)]

TITLES = {"trainer": "ray::WorkerDict", "rollout": "VLLM::Worker"}
"""How the processes call themselves."""
WITHIN = 0.2
MIB = 2**20


class Peaks(threading.Thread):
    """The largest resident set that any process of each kind has had, as the kernel records it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes = dict.fromkeys(TITLES, 0)
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.5):
            for process in psutil.process_iter(["cmdline"]):
                title = " ".join(process.info["cmdline"] or [])
                for kind, prefix in TITLES.items():
                    if title.startswith(prefix):
                        self.bytes[kind] = max(self.bytes[kind], high_water(process.pid))

    def end(self) -> None:
        self._over.set()
        self.join()


def high_water(pid: int) -> int:
    """Bytes; 0 for a process that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    found = re.search(r"VmHWM:\s*(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def larger(folder: Path) -> Path:
    """A dense model of 116 million parameters: 0.47 GB of weights in float32, four times that while it is trained."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    tokenizer = models.build_tokenizer()
    config = Qwen2Config(
        vocab_size=16_384, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True, dtype="float32",
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return models.save(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval(), folder)


def measured(folder: Path, arguments: list[str]) -> dict[str, int]:
    peaks = Peaks()
    peaks.start()
    try:
        run = trainer.run(folder, arguments, limit_s=800)
    finally:
        peaks.end()
    assert run.returncode == 0, run.tail()
    assert all(peaks.bytes.values()), peaks.bytes
    return peaks.bytes


def predicted(arguments: list[str]) -> dict[str, float]:
    phases = of(compose(arguments).config, "cpu").phases
    return {
        "trainer": max(phase.total for phase in phases if phase.name != "rollout"),
        "rollout": next(phase.total for phase in phases if phase.name == "rollout"),
    }


@pytest.mark.parametrize("name", ["tiny_dense", "tiny_moe", "larger"])
def test_the_peak_of_both_processes(name: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "validation"):
        rows = [task.row(problem, number) for number, problem in enumerate(task.problems(split, 16, seed=0))]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{split}.parquet")
    folder = tmp_path / "model"
    model = larger(folder) if name == "larger" else models.build_untrained(name, True, folder, seed=0)
    arguments = trainer.overrides(model, tmp_path, steps=2, algo="grpo")
    found, said = measured(tmp_path / "run", arguments), predicted(arguments)
    for kind in TITLES:
        print(f"{name}, {kind}: measured {found[kind] / MIB:.0f} MiB, predicted {said[kind] / MIB:.0f}")
    assert said == pytest.approx(found, rel=WITHIN)
