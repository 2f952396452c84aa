"""Scores and summaries of kept responses, rescoring, and the commands; no model runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from tests.evaluation import made
from verl_ext.evaluation import arguments, scoring
from verl_ext.evaluation import run as run_module
from verl_ext.evaluation.benchmark import read
from verl_ext.evaluation.command import app
from verl_ext.evaluation.engine import EngineError
from verl_ext.evaluation.run import BenchmarkFile, Decoding, Request, RequestError, evaluate, rescore, summaries
from verl_ext.evaluation.store import Generation, PartWriter, Store
from verl_ext.evaluation.summary import Summary

# Two problems, four samples: boxed answers right, right, wrong, none; then none at all right, one cut off.
RESPONSES = [
    ["so \\boxed{7}", "\\boxed{ 7 }", "\\boxed{8}", "7"],
    ["\\boxed{2}", "\\boxed{3}", "\\boxed{", "it is 1.0"],
]
TRUTHS = ["7", "1"]
SAID = {"answer_format": "last_number"}


def asked(tmp_path: Path, **changes: Any) -> Request:
    rows = [
        {"prompt": [{"role": "user", "content": f"question {n}"}], "reward_model": {"ground_truth": truth}}
        for n, truth in enumerate(TRUTHS)
    ]
    file = BenchmarkFile("bench", made.table(tmp_path / "bench.parquet", rows))
    decodings = {"bench": Decoding(1.0, 1.0, 4, 16)}
    return replace(Request("org/model", [file], decodings, tmp_path / "out", "exact", workers=1), **changes)


def finished(tmp_path: Path, responses: list[list[str]] = RESPONSES) -> Request:
    """A folder in which these responses are kept."""
    request = asked(tmp_path)
    benchmark = read(request.benchmarks[0])
    store = Store(request.out / "bench")
    store.claim(request.identity("bench", benchmark.sha256), "org/model", benchmark)
    with PartWriter(store, 3) as writer:
        for index, many in enumerate(responses):
            for sample, text in enumerate(many):
                reason = "length" if text.endswith("{") else "stop"
                writer.add(Generation(index, sample, f"question {index}", text, len(text), reason))
    return request


def test_a_summary_by_hand(tmp_path: Path) -> None:
    summary = evaluate(finished(tmp_path))["bench"]
    # Problem 0: 2 of 4 right, problem 1: 0 of 4. avg@4 = (1/2 + 0)/2. pass@2 = (1 - C(2,2)/C(4,2))/2 = 5/12;
    # pass@4 = 1/2. Closed boxes: 3 of 4 and 2 of 4, so fmt = 5/8.
    values = {name: metric.value for name, metric in summary.metrics.items()}
    expected = {"avg@4": 1 / 4, "pass@1": 1 / 4, "pass@2": 5 / 12, "pass@4": 1 / 2, "fmt": 5 / 8}
    assert values == pytest.approx(expected)
    assert list(values) == list(expected)
    # Two problems with values v and w: the resampled means are v, (v + w)/2 and w.
    assert (summary.metrics["fmt"].low, summary.metrics["fmt"].high, summary.metrics["fmt"].n) == (0.5, 0.75, 2)
    assert summary.outcomes == {"correct": 2, "wrong": 3, "unparsable": 3, "timeout": 0, "error": 0}
    assert (summary.truncated, summary.finish_reasons) == (1, {"length": 1, "stop": 7})
    assert (summary.problems, summary.samples, summary.seed) == (2, 4, 0)
    assert summary.tokens == sum(len(text) for many in RESPONSES for text in many) / 8
    assert summary.verifier.startswith("exact, verl_ext ")
    assert {"verl_ext", "transformers"} <= set(summary.versions)
    assert summary.sha256 == read(asked(tmp_path).benchmarks[0]).sha256
    assert Summary.read(tmp_path / "out/bench/summary.json") == summary
    scores = pq.read_table(tmp_path / "out/bench/scores.parquet").to_pylist()
    assert [row["outcome"] for row in scores[:4]] == ["correct", "correct", "wrong", "unparsable"]
    assert {row["verifier"] for row in scores} == {summary.verifier}


def test_a_timeout_is_not_correct_and_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_verifiers", made.verifiers)
    request = finished(tmp_path, [["correct", "timeout", "error", "wrong"], ["correct", "correct", "timeout", "odd"]])
    summary = evaluate(replace(request, verifier="made"))["bench"]
    assert summary.outcomes == {"correct": 3, "wrong": 1, "unparsable": 0, "timeout": 2, "error": 1, "odd": 1}
    assert summary.metrics["avg@4"].value == pytest.approx(3 / 8)


def test_rescoring_needs_no_model_and_keeps_the_first_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = finished(tmp_path)
    before = evaluate(request)["bench"]
    (tmp_path / "bench.parquet").unlink()  # everything needed is in the folder
    kept = (tmp_path / "out/bench/scores.parquet").read_bytes()
    monkeypatch.setattr(scoring, "_verifiers", lambda: made.verifiers(correct="1.0"))
    after = rescore(tmp_path / "out", "made")["bench"]
    assert after.metrics["avg@4"].value == 1 / 8  # "it is 1.0" alone
    assert after.verifier == "made 1"
    assert rescore(tmp_path / "out/bench", "made_too")["bench"].verifier == "made_too 1"
    assert (tmp_path / "out/bench/scores.parquet").read_bytes() == kept
    ((_, found),) = summaries(tmp_path / "out")
    assert [one.verifier for one in found] == [before.verifier, "made 1", "made_too 1"]


def test_a_verifier_of_another_version_scores_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = replace(finished(tmp_path, [["correct"] * 4, ["yes"] * 4]), verifier="made")
    monkeypatch.setattr(scoring, "_verifiers", made.verifiers)
    assert evaluate(request)["bench"].metrics["avg@4"].value == 0.5
    monkeypatch.setattr(scoring, "_verifiers", lambda: made.verifiers("made 1", correct="yes"))
    assert evaluate(request)["bench"].metrics["avg@4"].value == 0.5  # the same version is not asked again
    monkeypatch.setattr(scoring, "_verifiers", lambda: made.verifiers("made 2", correct="yes"))
    summary = evaluate(request)["bench"]
    assert (summary.verifier, summary.outcomes["correct"], summary.outcomes["wrong"]) == ("made 2", 4, 4)


def test_the_answer_format_is_the_files_and_is_recorded(tmp_path: Path) -> None:
    request = finished(tmp_path, [["Answer: 7", "\\boxed{7}", "7", "Answer: 8"], ["Answer: 1", "1", "", "\\boxed{1}"]])
    assert evaluate(request)["bench"].outcomes["correct"] == 2  # boxes
    with pytest.raises(RequestError, match="answer_format 'lines' is not known"):
        evaluate(replace(request, answer_format="lines"))
    line = evaluate(replace(request, answer_format="answer_line"))["bench"]  # the same responses, scored again
    assert (line.outcomes["correct"], line.outcomes["wrong"], line.verifier[-12:]) == (2, 1, " answer_line")
    assert rescore(tmp_path / "out", "exact")["bench"] == line
    rows = pq.read_table(tmp_path / "bench.parquet").to_pylist()
    file = BenchmarkFile("bench", made.table(tmp_path / "said.parquet", [{**r, "extra_info": SAID} for r in rows]))
    assert read(file).answer_format == "last_number"
    with pytest.raises(RequestError, match="bench: answer_format is 'boxed' where it is asked for, and 'last_number'"):
        evaluate(replace(request, benchmarks=[file], answer_format="boxed"))
    with pytest.raises(RequestError, match="json:loads reads responses itself"):
        evaluate(replace(request, verifier="pkg://json:loads", answer_format="auto"))
    made.table(tmp_path / "said.parquet", [{**rows[0], "extra_info": SAID}, {**rows[1], "extra_info": None}])
    with pytest.raises(RequestError, match=r"rows differ in extra_info.answer_format \(None, last_number\)"):
        read(file)


def test_unfinished_and_absent_evaluations_are_not_rescored(tmp_path: Path) -> None:
    finished(tmp_path, [RESPONSES[0]])
    with pytest.raises(RequestError, match="4 of 8 responses are missing") as raised:
        rescore(tmp_path / "out", "nonsense")
    assert "no verifier 'nonsense'" in str(raised.value)
    with pytest.raises(RequestError, match="no evaluation is there"):
        rescore(tmp_path / "nothing", "exact")


def test_an_engine_that_leaves_something_out_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = finished(tmp_path, [RESPONSES[0]])
    monkeypatch.setattr(run_module, "run_engine", lambda *arguments: None)
    with pytest.raises(EngineError, match="bench: 4 responses are missing"):
        evaluate(request)
    assert not (tmp_path / "out/bench/summary.json").exists()


def test_progress_is_told_of_both_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = finished(tmp_path, [RESPONSES[0]])
    told: list[tuple[str, str, int, int]] = []

    def engine(model: str, options: Any, stores: list[Store], part_rows: int, tick: Any) -> None:
        with PartWriter(stores[0], 1) as writer:
            for sample, text in enumerate(RESPONSES[1]):
                writer.add(Generation(1, sample, "p", text, 1, "stop"))
                tick()

    monkeypatch.setattr(run_module, "run_engine", engine)
    evaluate(request, lambda *arguments: told.append(arguments))
    assert [done for _, stage, done, _ in told if stage == "generate"] == [4, 5, 6, 7, 8, 8]
    assert [done for _, stage, done, _ in told if stage == "grade"] == list(range(1, 9))
    assert {(name, total) for name, _, _, total in told} == {("bench", 8)}


# The commands.


def invoke(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "150"})


def test_show_and_rescore_print_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(finished(tmp_path))
    result = invoke("show", tmp_path / "out")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert ["pass@2", "41.67", "[0.00,", "83.33]", "2"] in lines
    assert "8 responses: 2 correct, 3 wrong, 3 unparsable; 1 cut off" in result.output
    assert "1 of 8 responses were cut off at the length limit" in result.output
    monkeypatch.setattr(scoring, "_verifiers", lambda: made.verifiers(correct="1.0"))
    result = invoke("rescore", tmp_path / "out", "--verifier", "made")
    assert result.exit_code == 0, result.output
    assert "avg@4 25.00 -> 12.50 per cent (exact" in result.output


def test_show_of_an_unfinished_evaluation_says_how_far_it_is(tmp_path: Path) -> None:
    finished(tmp_path, [RESPONSES[0]])
    result = invoke("show", tmp_path)
    assert (result.exit_code, "no evaluation is there" in result.output) == (2, True)
    result = invoke("show", tmp_path / "out")
    assert (result.exit_code, result.output.strip()) == (0, "bench: 4 of 8 responses; not scored")


@pytest.mark.parametrize(("error", "status"), [(EngineError("it died"), 1), (KeyboardInterrupt(), 130)])
def test_exit_statuses(error: BaseException, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(run_module, "run_engine", fail)
    file = asked(tmp_path).benchmarks[0].parquet
    result = invoke("run", "org/model", "--benchmark", f"mine={file}", "--out", tmp_path / "o", "--verifier", "exact")
    assert result.exit_code == status
    assert "the same command goes on" in result.output
    assert (tmp_path / "o/mine/request.json").exists()


def test_the_options_of_run_reach_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Request] = []

    def keep(request: Request, progress: Any) -> dict[str, Summary]:
        seen.append(request)
        raise EngineError("enough")

    monkeypatch.setattr(run_module, "evaluate", keep)
    file = asked(tmp_path).benchmarks[0].parquet
    decoding = ("--samples", 8, "--temperature", 0.6, "--top-p", 0.95, "--max-tokens", 77)
    engine = ("--dtype", "float16", "--tensor-parallel", 2, "--max-model-len", 99, "--memory-share", 0.5)
    rest = ("--seed", 4, "--out", tmp_path / "o", "--verifier", "exact", "--workers", 3)
    invoke("run", "org/model", "--benchmark", file, *decoding, *engine, *rest)
    (request,) = seen
    assert request.decodings == {"bench": Decoding(0.6, 0.95, 8, 77)}
    options = request.engine
    assert (options.dtype, options.tensor_parallel, options.max_model_len, options.memory_share) == (
        "float16", 2, 99, 0.5,
    )  # fmt: skip
    assert (request.seed, request.out, request.verifier, request.workers) == (4, tmp_path / "o", "exact", 3)
    assert request.model == "org/model"


def test_faults_of_the_command_line_are_one_message(tmp_path: Path) -> None:
    result = invoke("run", "org/model", "--benchmark", "aime24", "--benchmark", tmp_path / "x.parquet")
    assert result.exit_code == 2
    assert "verl-ext data prepare aime24 --template boxed" in result.output
    assert "x.parquet does not exist" in result.output
    result = invoke("run", "org/model")
    assert (result.exit_code, "give --benchmark or --like" in result.output) == (2, True)
    assert "give <paper>/<table>" in invoke("run", "org/model", "--like", "sspo").output


def test_what_prepare_writes_by_default_is_what_eval_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_ext.data.registry import datasets

    monkeypatch.setenv("VERL_EXT_DATA", str(tmp_path))
    for name, dataset in datasets().items():
        assert arguments.benchmark_file(name).parquet == tmp_path / name / f"{dataset.template}.parquet"
    (tmp_path / "aime24").mkdir()
    (tmp_path / "aime24" / "qwen_math.parquet").touch()
    with pytest.raises(RequestError, match="it is prepared as qwen_math: give --template qwen_math, or write it"):
        arguments.chosen(["aime24"], None, None, {})


@pytest.mark.parametrize("template", [None, "boxed"])
def test_a_set_that_does_not_exist_is_not_to_be_prepared(template: str | None) -> None:
    with pytest.raises(RequestError, match="no data set 'math50'; did you mean 'math500'") as raised:
        arguments.chosen(["math50"], None, template, {})
    assert "data prepare math50" not in str(raised.value)
    assert len(raised.value.faults) == 1


def test_names_of_prepared_benchmarks_are_looked_up_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERL_EXT_DATA", str(tmp_path))
    assert arguments.benchmark_file("aime24", "boxed") == BenchmarkFile("aime24", tmp_path / "aime24/boxed.parquet")
    assert arguments.benchmark_file("a/b.parquet", "boxed") == BenchmarkFile("b", Path("a/b.parquet"))
    assert arguments.benchmark_file("n=a/b", "boxed") == BenchmarkFile("n", Path("a/b"))
    monkeypatch.delenv("VERL_EXT_DATA")
    assert arguments.benchmark_file("x", "r1").parquet == Path("outputs/data/x/r1.parquet")


def test_like_takes_benchmarks_template_and_decoding_of_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VERL_EXT_DATA", str(tmp_path))
    for name in ("aime24", "math500"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "boxed.parquet").touch()
    files, decodings = arguments.chosen(["aime24", "math500"], "tepo/table1", None, {"max_tokens": 99})
    # Section 4.1 of the paper: temperature 0.6 and 32 samples for AIME, greedy for MATH-500.
    assert decodings == {"aime24": Decoding(0.6, 1.0, 32, 99), "math500": Decoding(0.0, 1.0, 1, 99)}
    assert [file.parquet for file in files] == [tmp_path / name / "boxed.parquet" for name in ("aime24", "math500")]
    with pytest.raises(RequestError, match="tepo/table1 has no benchmark nonsense") as raised:
        arguments.chosen(["nonsense"], "tepo/table1", None, {})
    assert "nonsense/boxed.parquet does not exist" in str(raised.value)


def test_a_summary_is_plain_json(tmp_path: Path) -> None:
    evaluate(finished(tmp_path))
    found = json.loads((tmp_path / "out/bench/summary.json").read_text())
    assert found["decoding"] == {"temperature": 1.0, "top_p": 1.0, "samples": 4, "max_tokens": 16, "top_k": -1}
    assert set(found["metrics"]["avg@4"]) == {"value", "low", "high", "n"}
    assert found["interval"] == {"method": "bca", "level": 0.95, "resamples": 10000, "seed": 0}
