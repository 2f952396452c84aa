"""`verl-ext doctor entropies`: its comparison on hand-made numbers, its table, its refusals, and a real engine."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from tests.platform import programs
from verl_ext.cli import app
from verl_ext.engine_failure import EngineError, failure
from verl_ext.entropy_check import command as entropy_command
from verl_ext.entropy_check import engine, reference
from verl_ext.entropy_check.compare import Limits, Response, Row, Values, compare
from verl_ext.entropy_check.engine import Answer, Job, run_engine
from verl_ext.entropy_check.report import Report, as_json, show, token_text
from verl_ext.platform.cpu import cpu_env
from verl_ext.rollout import tap
from verl_ext.toy.models import build_tokenizer, build_untrained

WIDE = Limits(10.0, 10.0)
NAN, INF = math.nan, math.inf


# Comparison. All numbers are sums of powers of 1/2, so that differences are exact.
ENGINE = [
    Response(0, 0, [7, 8, 9], Values([-1.0, -2.0, -3.0], [0.5, 1.5, 3.5])),
    Response(1, 2, [4], Values([-0.5], [2.0])),
]
REFERENCE = [Values([-1.0, -2.25, -3.0], [0.5, 1.5, 3.625]), Values([-0.625], [2.0])]


def test_means_maxima_and_worst_tokens() -> None:
    row = compare(0.6, ENGINE, REFERENCE, WIDE)
    assert (row.temperature, row.tokens) == (0.6, 4)
    # |Δ log p| = 0, 0.25, 0 and 0.125: mean 0.375 / 4
    assert (row.log_prob.mean, row.log_prob.largest) == (0.09375, 0.25)
    worst = row.log_prob.worst
    assert (worst.prompt, worst.sample, worst.position, worst.token) == (0, 0, 1, 8)
    assert (worst.engine, worst.reference) == (-2.0, -2.25)
    # |Δ H| = 0, 0, 0.125 and 0
    assert (row.entropy.mean, row.entropy.largest) == (0.03125, 0.125)
    assert (row.entropy.worst.position, row.entropy.worst.token) == (2, 9)
    assert (row.lowest, row.highest) == (0.5, 3.5)
    assert (row.engine_non_finite, row.reference_non_finite) == (0, 0)
    assert row.ok


def test_the_worst_token_of_a_later_response_is_named_by_its_own_prompt_and_position() -> None:
    off = [REFERENCE[0], Values([-4.5], [2.0])]
    worst = compare(1.0, ENGINE, off, WIDE).log_prob.worst
    assert (worst.prompt, worst.sample, worst.position, worst.token) == (1, 2, 0, 4)


def test_the_shift_is_taken_within_a_response_and_in_the_direction_that_shows_less() -> None:
    # late:  |1.5 - 0.5|, |3.5 - 1.5|   = 1, 2      early: |0.5 - 1.5|, |1.5 - 3.625| = 1, 2.125
    # Across the border of the responses 3.5 would stand against 2.0; the second response has nothing to shift.
    row = compare(1.0, ENGINE, REFERENCE, WIDE)
    assert row.shifted == 2.0
    assert compare(1.0, ENGINE[1:], REFERENCE[1:], WIDE).shifted is None
    assert not row.misalignment_shows  # 2 is within the limit of 10
    assert compare(1.0, ENGINE, REFERENCE, Limits(10, 1.5)).misalignment_shows


@pytest.mark.parametrize(
    ("limits", "faults"),
    [
        (Limits(0.25, 0.125), []),  # a limit belongs to what passes
        (Limits(0.24, 0.125), ["max |Δ log p| 0.25 is above the limit 0.24"]),
        (Limits(0.25, 0.12), ["max |Δ H| 0.12 is above the limit 0.12"]),  # 0.125 in two digits
        (Limits(0, 0), ["max |Δ log p| 0.25 is above the limit 0", "max |Δ H| 0.12 is above the limit 0"]),
    ],
)
def test_limits(limits: Limits, faults: list[str]) -> None:
    row = compare(1.0, ENGINE, REFERENCE, limits)
    assert row.faults() == faults
    assert row.ok == (not faults)


def test_values_that_are_not_finite_are_counted_left_out_and_fail() -> None:
    engine = [Response(0, 0, [1, 2, 3], Values([-1.0, NAN, -INF], [1.0, NAN, 3.0]))]
    reference = [Values([-1.5, -1.0, -1.0], [1.0, 2.0, INF])]
    row = compare(1.0, engine, reference, WIDE)
    assert (row.engine_non_finite, row.reference_non_finite) == (3, 1)
    assert (row.log_prob.mean, row.log_prob.largest) == (0.5, 0.5)  # of token 0 alone
    assert (row.entropy.mean, row.entropy.largest) == (0.0, 0.0)
    assert (row.log_prob.worst.position, row.entropy.worst.position) == (1, 1)  # the first of them
    assert (row.lowest, row.highest) == (1.0, 3.0)
    assert row.faults() == ["3 of the engine's values are not finite", "1 of the reference's values is not finite"]


def test_two_infinities_are_not_a_difference_of_zero() -> None:
    row = compare(1.0, [Response(0, 0, [1], Values([-INF], [NAN]))], [Values([-INF], [NAN])], WIDE)
    assert (row.log_prob.mean, row.log_prob.largest, row.lowest) == (None, None, None)
    assert not row.ok


def test_a_side_with_fewer_values_is_refused() -> None:
    with pytest.raises(AssertionError):
        compare(1.0, ENGINE, [Values([-1.0, -2.0], [0.5, 1.5]), REFERENCE[1]], WIDE)


number = st.floats(0, 20, width=32)
ragged = st.lists(st.lists(st.tuples(number, number), min_size=2, max_size=6), min_size=1, max_size=5)


@given(ragged)
def test_equal_sides_agree_and_a_shift_shows_at_least_what_was_said(drawn: list[list[tuple[float, float]]]) -> None:
    sides = [Values([-p for p, _ in row], [h for _, h in row]) for row in drawn]
    same = [Response(n, 0, list(range(len(row))), side) for n, (row, side) in enumerate(zip(drawn, sides, strict=True))]
    row = compare(1.0, same, sides, Limits(0, 0))
    assert row.ok
    assert row.tokens == sum(map(len, drawn))
    late = [
        Response(r.prompt, 0, r.tokens, Values(r.values.log_probs, [r.values.entropies[0], *r.values.entropies[:-1]]))
        for r in same
    ]
    shifted = compare(1.0, late, sides, Limits(0, 0))
    assert shifted.entropy.largest == row.shifted


# The reference's arithmetic.


def test_values_of_a_token_by_hand() -> None:
    # T = 0.5: logits 0 and (ln 3)/2 become weights 1 and 3; -inf has none.
    # H = 1/4 ln 4 + 3/4 ln(4/3) = 0.3465735903 + 0.2157615543; ln 3/4 = -0.2876820724
    row = torch.tensor([0.0, 0.5 * math.log(3), -INF], dtype=torch.float64)
    tokens = [1, 0] * reference.ROWS  # more rows than are worked on at a time
    found = reference.token_values(row.expand(len(tokens), 3), tokens, 0.5)
    assert found.log_probs == pytest.approx([-0.2876820724, -1.3862943611] * reference.ROWS, abs=1e-10)
    assert found.entropies == pytest.approx([0.5623351446] * len(tokens), abs=1e-10)


def test_logits_of_sixteen_bits_are_normalised_in_float32() -> None:
    # 1000 equal logits: ln 1000 = 6.9077553; the nearest bfloat16 is 6.90625
    found = reference.token_values(torch.zeros(1, 1000, dtype=torch.bfloat16), [3], 1.0)
    assert found.entropies == pytest.approx([6.9077553], abs=1e-5)
    assert found.log_probs == pytest.approx([-6.9077553], abs=1e-5)


# The table.


def report_of(rows: list[Row], vocabulary: int = 258, model: str = "a/model") -> Report:
    job = Job(model, "float32", 100, [[1, 2]], [row.temperature for row in rows], 4, 1, 0)
    answer = Answer("0.28.0", "float32", [])
    return Report(job, answer, "float64 on the CPU", 400_000, build_tokenizer(), vocabulary, rows)


def printed(report: Report, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(report, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_whole_with_the_widest_values(width: int) -> None:
    engine = [Response(100, 15, [151_935, 91], Values([-11.9312345, -0.1], [11.9301234, 0.0]))]
    reference = [Values([-11.9312344, NAN], [11.9301233, 3.0])]
    text = printed(report_of([compare(0.6, engine, reference, Limits(1e-4, 1e-3))], 151_936), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    lines = [line.split() for line in text.splitlines()]
    # |Δ log p| = 1e-7 of the finite token; |Δ H| = 1e-7 and 3: mean 1.5
    assert ["0.6", "2", "1.0e-07", "1.0e-07", "1.500", "3.000", "0.00..11.93", "8.930", "1", "FAIL"] in lines
    assert ["0.6", "log", "p", "100", "15", "1", "91", "'['", "-0.1000000", "nan"] in lines
    assert "FAIL  T = 0.6: max |Δ H| 3 is above the limit 0.001" in text
    assert "1 of the reference's values is not finite" in text
    assert "the tokenizer has 258 tokens, the model 151936" in text.replace("\n", " ")


def test_a_check_that_cannot_see_a_shift_says_so_and_passes() -> None:
    flat = Values([-1.0, -1.0], [2.0, 2.0])
    report = report_of([compare(t, [Response(0, 0, [1, 2], flat)], [flat], Limits(1e-4, 1e-3)) for t in (0.6, 1.0)])
    assert report.ok
    text = printed(report, 120)
    assert "note  T = 0.6, 1: a shift by one token would stay within the limit" in text
    assert "ok    all differences are within the limits" in text
    assert "note" not in printed(report_of([compare(1.0, ENGINE, REFERENCE, Limits(1, 1))]), 120)


def test_a_token_that_looks_like_markup_is_printed_as_it_is() -> None:
    class Tokenizer:
        def __len__(self) -> int:
            return 300

        def decode(self, ids: list[int]) -> str:
            return "[bold]"

    report = replace(report_of([compare(1.0, ENGINE, REFERENCE, WIDE)]), tokenizer=Tokenizer())
    assert "'[bold]'" in printed(report, 80)


def test_json_holds_what_is_not_finite_as_words() -> None:
    engine = [Response(0, 0, [91], Values([NAN], [1.0]))]
    found = json.loads(as_json(report_of([compare(1.0, engine, [Values([-1.0], [1.0])], WIDE)])))
    assert found["ok"] is False
    (row,) = found["rows"]
    assert row["log_prob"]["mean"] is None
    assert (row["log_prob"]["worst"]["engine"], row["log_prob"]["worst"]["text"]) == ("nan", "'['")
    assert (row["engine_non_finite"], row["shifted"]) == (1, None)


@pytest.mark.parametrize(
    ("token", "text"), [(10, "'\\n'"), (32, "' '"), (257, "'<|im_end|>'"), (258, "(no such token)")]
)
def test_token_text(token: int, text: str) -> None:
    assert token_text(build_tokenizer(), token) == text


# What cannot be checked.


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models that differ in their weights alone."""
    root = tmp_path_factory.mktemp("models")
    return tuple(build_untrained("tiny_moe", True, root / str(seed), seed=seed) for seed in (0, 1))  # type: ignore[return-value]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the command finds its platform chosen and leaves this process's environment alone."""
    for key, value in cpu_env().items():
        monkeypatch.setenv(key, value)


def refused(*arguments: Any) -> str:
    result = CliRunner().invoke(app, ["doctor", "entropies", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.mark.usefixtures("on_cpu")
def test_all_faults_of_the_options_are_named_at_once(tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    numbers = ("--temperature", "0", "--temperature", "inf", "--tokens", "0", "--samples", "0", "--seed", "-1")
    limits = ("--log-prob-limit", "-1", "--entropy-limit", "nan", "--dtype", "fp8", "--prompts", empty)
    output = refused(tmp_path / "absent", *numbers, *limits)
    for fault in (
        "--temperature 0.0 must be", "--temperature inf must be", "--tokens 0 must be", "--samples 0 must be",
        "--seed -1 must be", "--log-prob-limit -1.0 must", "--entropy-limit nan must", "--dtype fp8 is not one of auto",
        f"{empty} has no line that is not blank", f"{tmp_path / 'absent'}: no such folder",
    ):  # fmt: skip
        assert fault in output, output


@pytest.mark.usefixtures("on_cpu")
def test_prompts_that_are_too_long_are_counted_in_tokens(folders: tuple[Path, Path], tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("abcd\n\nabcdefgh\n")  # 4 and 8 bytes, a token each; the blank line is none of them
    output = refused(folders[0], "--prompts", prompts, "--tokens", 6, "--max-model-len", 12)
    assert "prompt 1 has 8 tokens; with --tokens 6 that is above 12 (--max-model-len)" in output
    assert "prompt 0" not in output
    assert "--max-model-len 513 is above the model's 512 positions" in refused(folders[0], "--max-model-len", 513)
    output = refused(folders[0], "--prompts", prompts, "--tokens", 505)
    assert "prompt 1 has 8 tokens; with --tokens 505 that is above 512 (the model's positions)" in output


@pytest.mark.usefixtures("on_cpu")
def test_unreadable_prompts_and_a_folder_without_a_model(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    output = refused(tmp_path, "--prompts", binary)
    assert f"{binary} cannot be read as UTF-8 text: UnicodeDecodeError" in output
    assert f"{tmp_path}: its configuration cannot be loaded: " in output
    assert f"{tmp_path}: its tokenizer cannot be loaded: " in output


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(("untapped", "status"), [(False, 2), (True, 1)])
def test_an_engine_that_fails_is_one_message(
    untapped: bool, status: int, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: Job) -> Answer:
        raise EngineError("the cause", untapped)

    monkeypatch.setattr(entropy_command, "run_engine", fail)
    result = CliRunner().invoke(app, ["doctor", "entropies", str(folders[0])])
    assert result.exit_code == status
    assert result.output.splitlines()[1:] == ["  the cause"]
    assert "answers without entropies" in result.output or not untapped


def job_for(model: Path, **changes: Any) -> Job:
    kwargs = {"model": str(model), "dtype": "float32", "max_model_len": 64, "prompts": [[40, 41], [50] * 9]}
    return Job(**{**kwargs, "temperatures": [0.6, 1.0], "tokens": 12, "samples": 2, "seed": 3, **changes})  # type: ignore[arg-type]


def test_an_unsupported_vllm_is_refused_before_it_is_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tap, "version_fault", lambda: "works with vLLM 0.24.0 and 0.28.0; installed is vLLM 0.31.0")
    request, answer = tmp_path / "request.json", tmp_path / "answer.json"
    request.write_text(json.dumps(vars(job_for(tmp_path))))
    engine.main(request, answer)
    found = json.loads(answer.read_text())
    error = failure(found, 0, tmp_path / "no log is read")
    assert "0.24.0 and 0.28.0; installed is vLLM 0.31.0" in str(error)
    assert not error.untapped


def test_a_process_that_dies_is_reported_with_its_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "dies"
    program.write_text("#!/bin/sh\nfor n in $(seq 30); do echo line $n; done\nexit 7\n")
    program.chmod(0o755)
    monkeypatch.setattr(engine.sys, "executable", str(program))
    monkeypatch.setattr(engine.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(EngineError) as raised:
        run_engine(job_for(tmp_path))
    lines = str(raised.value).splitlines()
    assert lines[0] == "the process ended with status 7 and without an answer"
    assert [line.strip() for line in lines[2:]] == [f"line {n}" for n in range(19, 31)]
    (log,) = tmp_path.glob("verl-ext-engine-*.log")
    assert str(log) in lines[1]
    assert "line 1\n" in log.read_text()


# A real engine.


@pytest.mark.ray
@pytest.mark.usefixtures("on_cpu")
def test_the_engine_agrees_with_its_own_model_and_not_with_another(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own, other = folders
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("()\n222222222\n")
    options = ["--prompts", str(prompts), "--samples", "2", "--tokens", "12", "--seed", "3"]
    answer = run_engine(job_for(own))
    assert not [p for p in psutil.Process().children(recursive=True) if "entropy_check.engine" in " ".join(p.cmdline())]
    responses = answer.responses[0]
    assert [(r.prompt, r.sample) for r in responses] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert len({tuple(r.tokens) for r in responses}) == 4  # the samples are not copies of one another
    assert {len(r.tokens) for r in responses} == {12}

    monkeypatch.setattr(entropy_command, "run_engine", lambda job: answer)

    def status(model: Path, *more: str) -> int:
        result = CliRunner().invoke(app, ["doctor", "entropies", str(model), *options, *more])
        assert ("FAIL" in result.output) == bool(result.exit_code), result.output
        return result.exit_code

    assert status(own, "--log-prob-limit", "1e-5", "--entropy-limit", "1e-4") == 0
    assert status(own, "--log-prob-limit", "1e-12") == 1
    assert status(own, "--entropy-limit", "1e-12") == 1
    assert status(other) == 1


@pytest.mark.ray
def test_the_command_from_start_to_end(tmp_path: Path) -> None:
    model = build_untrained("tiny_dense", False, tmp_path / "model", seed=0, vocab_size=300)
    command = ("-c", "from verl_ext.cli import app; app()", "doctor", "entropies", model, "--tokens", "8")
    # Nothing tells it that it is on a CPU; programs.run takes such variables out.
    done = programs.run(*command, "--json", "--temperature", "0.6", limit_s=240)
    assert done.returncode == 0, done.output
    found = json.loads(done.output[done.output.index("{\n") :])
    assert found["engine"]["dtype"] == "float32"
    assert found["reference"] == "float64 on the CPU"
    assert found["limits"] == {"log_prob": 1e-4, "entropy": 1e-3}
    (row,) = found["rows"]
    assert row["tokens"] == 6 * 8
    assert 0 < row["log_prob"]["largest"] < 1e-5
    assert 0 < row["entropy"]["largest"] < 1e-4
    assert row["shifted"] > 1e-3
    assert "258 tokens, the model 300" in found["notes"][0]


@pytest.mark.ray
def test_an_engine_without_the_plugin_is_detected(tmp_path: Path) -> None:
    model = build_untrained("tiny_dense", False, tmp_path / "model", seed=0)
    command = ("-c", "from verl_ext.cli import app; app()", "doctor", "entropies", model, "--tokens", "2")
    done = programs.run(*command, limit_s=240, VLLM_PLUGINS="")
    assert done.returncode == 1, done.output
    assert "the engine answers without entropies" in done.output
    assert "instead of an entropy" in done.output
    assert len(done.output.splitlines()) < 6, done.output
