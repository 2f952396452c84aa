r"""MATH's problems with their solutions: joined by the text, written as conversations, and read by verl's trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from tests.data.sources import json_lines, parquet, verl_row
from verl_ext.data.command import app
from verl_ext.data.contamination import read
from verl_ext.data.faults import DataError
from verl_ext.data.prepare import Options, prepare
from verl_ext.data.problems import Exemption
from verl_ext.data.registry import datasets
from verl_ext.data.sources import SourceError
from verl_ext.data.text import key

CHATML = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}\nPlease reason step by step, "
)
CHATML += "and put your final answer within \\boxed{{}}.<|im_end|>\n<|im_start|>assistant\n"
ASKED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def problem(n: int) -> str:
    return f"What  is ${n} \\cdot 7$?"


def solution(n: int) -> str:
    return f"We add seven {n} times.\n\nSo it is $\\boxed{{{7 * n}}}$."


def of_simplerl(folder: Path, count: int = 6) -> Path:
    """Rows as SimpleRL's: verl's schema, the chat's marks inside the prompt, no solution."""
    rows = [verl_row(CHATML.format(problem(n)), str(7 * n), index=n) for n in range(count)]
    return parquet(folder / "simplerl" / "train.parquet", rows)


def of_math(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as those of MATH on the hub, which go by subject."""
    common = {"level": "Level 4", "type": "Algebra"}
    half = len(rows) // 2
    for name, part in (("algebra/train-0.parquet", rows[:half]), ("geometry/test-0.parquet", rows[half:])):
        parquet(folder / name, [{**row, **common} for row in part])
    return folder


def all_of_math(folder: Path) -> Path:
    # In another order, with other white space, and with more than the training set.
    rows = [{"problem": problem(n).replace(" ", "\n "), "solution": f" {solution(n)}\n"} for n in reversed(range(9))]
    return of_math(folder / "math", rows)


def options(solutions: Path | None = None, *exemptions: Exemption, check_answers: bool = False) -> Options:
    return Options(check_answers, True, exemptions, solutions=solutions)


def written(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "math_l3to5" / "sft.parquet").to_pylist()


def test_the_rl_files_prompts_in_its_order_with_maths_solutions(tmp_path: Path) -> None:
    source = of_simplerl(tmp_path)
    rl = prepare("math_l3to5", "boxed", tmp_path, source, options())
    done = prepare("math_l3to5", "sft", tmp_path, source, options(all_of_math(tmp_path)))
    assert (done.parquet, done.train) == (tmp_path / "math_l3to5" / "sft.parquet", done.parquet)
    rows = written(tmp_path)
    assert rows[2]["messages"] == [
        {"role": "user", "content": problem(2) + ASKED},
        {"role": "assistant", "content": "We add seven 2 times.\n\nSo it is $\\boxed{14}$."},
    ]
    beside = pq.read_table(rl.parquet).to_pylist()
    assert [row["messages"][:-1] for row in rows] == [row["prompt"] for row in beside]
    assert [row["extra_info"] for row in rows] == [row["extra_info"] for row in beside]
    # verl would read these.
    assert not {"prompt", "tools", "images", "videos", "enable_thinking"} & set(rows[0])
    manifest = json.loads((tmp_path / "math_l3to5" / "sft.manifest.json").read_text())
    assert manifest["solutions"] == {
        "source": "math",
        "files": ["train-0.parquet", "test-0.parquet"],
        "revision": None,
    }
    assert (manifest["rows"], manifest["template"]["name"]) == (6, "sft")
    assert manifest["template"]["sha256"] == rl.content["template"]["sha256"]
    assert rl.content["solutions"] is None
    assert str(tmp_path) not in json.dumps(manifest)
    assert read(done.parquet) == read(rl.parquet)


def test_solutions_of_the_same_rows_come_first(tmp_path: Path) -> None:
    rows = [{"problem": problem(n), "answer": 7 * n, "solution": solution(n)} for n in range(3)]
    source = json_lines(tmp_path / "own.jsonl", rows)
    content = prepare("math_l3to5", "sft", tmp_path, source, options()).content
    assert content["solutions"]["source"] == "the same rows"
    assert [row["messages"][-1]["content"] for row in written(tmp_path)] == [solution(n) for n in range(3)]
    other = json_lines(tmp_path / "other.jsonl", [{**row, "solution": f"No: {row['solution']}"} for row in rows])
    prepare("math_l3to5", "sft", tmp_path, source, options(other))
    assert written(tmp_path)[0]["messages"][-1]["content"].startswith("No: ")


def test_all_faults_at_once_and_nothing_written(tmp_path: Path) -> None:
    of = {
        0: "  ",
        1: "It is 7.",
        2: "It is $\\boxed{14$.",
        3: None,
        # The last box is the answer, and this one is cut.
        4: "$\\boxed{28}$, that is $\\boxed{2",
        # Number 5 is not in it.
        6: solution(6),
    }
    math = of_math(tmp_path / "math", [{"problem": problem(n), "solution": text} for n, text in of.items()])
    source = of_simplerl(tmp_path, 7)
    with pytest.raises(DataError) as caught:
        prepare("math_l3to5", "sft", tmp_path / "out", source, options(math))
    found = {fault.what: [place.row for place in fault.places] for fault in caught.value.faults}
    no_box = r"the solution has no \boxed{...}, or its last one is empty or not closed"
    assert found == {"the solution is empty": [0, 3], no_box: [1, 2, 4], "there is no solution of this problem": [5]}
    assert f"row 1 [{key(problem(1), '7')}] ends with 'It is 7.'" in str(caught.value)
    assert not (tmp_path / "out").exists()
    # A solution without a box may be kept by name; one that is not there may not.
    kept = [Exemption(key(problem(n), str(7 * n)), "keep", "as MATH has it") for n in (0, 1, 2, 4, 5)]
    with pytest.raises(DataError) as caught:
        prepare("math_l3to5", "sft", tmp_path / "out", source, options(math, *kept))
    assert [[place.row for place in fault.places] for fault in caught.value.faults] == [[0, 3], [5]]


def test_sources_and_names_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = of_simplerl(tmp_path)
    with pytest.raises(DataError, match="has no rows with the columns problem and solution"):
        prepare("math_l3to5", "sft", tmp_path, source, options(source))
    with pytest.raises(ValueError, match=r"no solutions are known for dapo_math_17k; .* is for math_l3to5"):
        prepare("dapo_math_17k", "sft", tmp_path, source, options())
    with pytest.raises(ValueError, match="boxed has no place for solutions"):
        prepare("math_l3to5", "boxed", tmp_path, source, options(source))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="EleutherAI/hendrycks_math at revision 21a5633"):
        prepare("math_l3to5", "sft", tmp_path, source, options())


def test_the_hubs_math_is_read_from_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = datasets()["math_l3to5"].solutions
    assert hub is not None
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "cache" / f"datasets--{hub.repo.replace('/', '--')}" / "snapshots" / str(hub.revision)
    of_math(snapshot, [{"problem": problem(n), "solution": solution(n)} for n in range(6)])
    content = prepare("math_l3to5", "sft", tmp_path, of_simplerl(tmp_path), options()).content
    assert (content["solutions"]["source"], content["solutions"]["revision"]) == (hub.repo, hub.revision)
    assert written(tmp_path)[5]["messages"][1]["content"] == solution(5)


def test_solutions_are_graded_and_the_command_does_it(tmp_path: Path) -> None:
    rows = [{"problem": problem(n), "solution": solution(n if n != 4 else 5)} for n in range(6)]
    arguments = ["prepare", "math_l3to5", "--template", "sft", "--out", tmp_path, "--unverified"]
    sources = ["--from", of_simplerl(tmp_path), "--solutions", of_math(tmp_path / "math", rows)]
    result = CliRunner().invoke(app, [str(argument) for argument in [*arguments, *sources]])
    assert result.exit_code == 0, result.output
    assert "solutions math" in result.output
    manifest = json.loads((tmp_path / "math_l3to5" / "sft.manifest.json").read_text())
    # The solution of the fifth problem is the sixth's: 35 is not 28.
    checked = manifest["answers_checked"]
    assert (checked["accepted"], checked["of"], checked["solutions_accepted"]) == (6, 6, 5)


@pytest.mark.parametrize("padding", ["right", "no_padding"])
def test_verls_trainer_learns_the_assistants_part_only(tmp_path: Path, padding: str) -> None:
    from omegaconf import OmegaConf
    from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

    from verl_ext.composing.compose import verl_config_dir
    from verl_ext.toy.models import END_OF_TURN, build_tokenizer

    prepare("math_l3to5", "sft", tmp_path, of_simplerl(tmp_path), options(all_of_math(tmp_path)))
    # The trainer's own settings, and the lengths of the row of the table.
    config = OmegaConf.load(verl_config_dir() / "sft_trainer_engine.yaml").data
    config.update({"max_length": 2048, "truncation": "right", "pad_mode": padding})
    tokenizer = build_tokenizer()
    dataset = MultiTurnSFTDataset(str(tmp_path / "math_l3to5" / "sft.parquet"), tokenizer, config)
    assert len(dataset) == 6
    for n in range(6):
        item = dataset[n]
        length = len(item["input_ids"]) if padding == "no_padding" else int(item["attention_mask"].sum())
        ids, mask = item["input_ids"][:length], item["loss_mask"][:length].bool()
        assert tokenizer.decode(ids[mask]) == solution(n) + END_OF_TURN
        assert tokenizer.decode(ids[~mask]) == problem(n) + ASKED + "\n"
        # All of the answer stands behind all of the question, and the padding is not learned.
        assert mask.int().diff().abs().sum() == 1
        assert item["loss_mask"].sum() == mask.sum() == len((solution(n)).encode()) + 1
