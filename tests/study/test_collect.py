"""From metrics and token export to a result: numbers worked out by hand, nothing missing passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.study.sample import written
from verl_ext import batch_file
from verl_ext.study.collect import EXPORT, IncompleteRun, collect, tokens
from verl_ext.study.schema import Cell, read

METRICS = "metrics.jsonl"
ROWS = {
    "key": ["a", "b"],
    "responses": [[1, 2, 3], [4]],
    "response_mask": [[1, 1, 0], [1]],
    "entropy": [[0.1, 0.3, 9.0], [0.8]],
    "clipped_low": [[1, 1, 1], [0]],
    "clipped_high": [[0, 0, 1], [0]],
}


def export(folder: Path, step: int, **changes: list[list[float]] | None) -> Path:
    target = folder / EXPORT / f"step-{step:05d}"
    target.mkdir(parents=True)
    columns = {name: rows for name, rows in {**ROWS, **changes}.items() if rows is not None}
    batch_file.write(target / "rank-00000.parquet", columns, step)
    return target


def metrics(folder: Path, *left_out: str, last_validated: bool = True) -> None:
    accuracy = {"val-core/demo/acc/mean@1": 0.5}
    lines = [{"step": 0, "data": accuracy}]
    for step in (1, 2):
        data = {
            "critic/rewards/mean": 0.25 * step, "actor/grad_norm": 1.5, "response_length/mean": 30.0,
            "timing_s/step": 4.0, "timing_s/gen": 3.0, "timing_s/update_actor": 0.5,
        }  # fmt: skip
        data = {name: value for name, value in data.items() if name not in left_out}
        lines.append({"step": step, "data": {**data, **(accuracy if step == 2 and last_validated else {})}})
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return read(written(tmp_path / "study")).compared()[0]


def test_tokens_by_hand(tmp_path: Path) -> None:
    """Three valid tokens, of which two of one response are clipped low; what is masked counts nowhere."""
    found = tokens(batch_file.read_all(export(tmp_path, 1)))
    assert found == pytest.approx(
        {
            "entropy": (0.1 + 0.3 + 0.8) / 3, "clip_low": 2 / 3, "clip_low_sequences": 1 / 2,
            "clip_high": 0.0, "clip_high_sequences": 0.0,
        }
    )  # fmt: skip


def test_a_run_becomes_a_result(cell: Cell, tmp_path: Path) -> None:
    metrics(tmp_path)
    export(tmp_path, 1)
    export(tmp_path, 2, clipped_high=[[1, 0, 0], [1]])
    result = collect(cell, tmp_path, tmp_path / METRICS, 90.0, 45.0, 256)
    assert not result.faults()
    assert (result.model, result.method, result.seed, result.steps) == ("tiny_dense", "gspo", 1, 2)
    assert result.curves["reward"] == [0.25, 0.5]
    assert result.curves["clip_high"] == pytest.approx([0, 2 / 3])
    assert result.curves["clip_high_sequences"] == [0, 1]
    assert result.phases == {"rollout": [3.0, 3.0], "actor update": [0.5, 0.5], "the rest": [0.5, 0.5]}
    assert result.validation == {"step": [0, 2], "accuracy": [0.5, 0.5], "problems": 256}
    assert result.arguments == tuple(cell.arguments())


def test_all_that_is_missing_is_named(cell: Cell, tmp_path: Path) -> None:
    metrics(tmp_path, "actor/grad_norm", last_validated=False)
    export(tmp_path, 1, clipped_low=None)
    with pytest.raises(IncompleteRun) as caught:
        collect(cell, tmp_path, tmp_path / METRICS, 90.0, 45.0, 256)
    text = str(caught.value)
    assert "grad_norm: 0 of 2 steps have it" in text
    assert "step 1: the token export has no column clipped_low" in text
    assert "step-00002" in text
    assert "no validation after the last step, 2" in text


def test_an_entropy_that_is_no_number_is_no_result(cell: Cell, tmp_path: Path) -> None:
    metrics(tmp_path)
    export(tmp_path, 1)
    export(tmp_path, 2, entropy=[[0.1, float("nan"), 0.0], [0.8]])
    with pytest.raises(IncompleteRun, match="step 2: 1 entropies are not finite"):
        collect(cell, tmp_path, tmp_path / METRICS, 90.0, 45.0, 256)


def test_a_run_without_a_step_is_no_result(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text("")
    with pytest.raises(IncompleteRun, match="has no training step"):
        collect(cell, tmp_path, tmp_path / METRICS, 1.0, 1.0, 256)


def test_the_commit_is_that_of_the_code_and_not_of_a_result() -> None:
    """Results are committed one by one: each would else name another commit for the same code."""
    import subprocess

    from verl_ext.recipe_files.recipe import recipes_dir
    from verl_ext.study.collect import CODE
    from verl_ext.tables.results import commit

    if not (recipes_dir().parent / ".git").exists():
        pytest.skip("not in a checkout")
    log = ["git", "-C", str(recipes_dir().parent), "log", "-1", "--format=%h", "--abbrev=12", "--"]
    wanted = {paths: subprocess.run([*log, *paths], check=True, capture_output=True, text=True).stdout.strip()
              for paths in (CODE, ("recipes",))}  # fmt: skip
    assert (commit(*CODE) or "").removesuffix("+changes") == wanted[CODE]
    assert (commit("recipes") or "").removesuffix("+changes") == wanted[("recipes",)]
