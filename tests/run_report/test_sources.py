"""Reading what runs have logged: four formats give the same history, and every fault is a sentence."""

from __future__ import annotations

import csv
import json
import struct
from pathlib import Path

import pytest

from tests.run_report import made
from verl_ext.run_report import sources, wandb_file
from verl_ext.run_report.history import History
from verl_ext.run_report.sources import Logged, SourceError, read


def one(path: Path) -> Logged:
    (logged,) = read(path)
    return logged


def as_rows(history: History) -> dict[int, dict[str, float]]:
    return {record.step: record.values for record in history.records}


def test_the_file_logger(tmp_path: Path) -> None:
    logged = one(made.log(tmp_path / "run" / "espo.jsonl", made.rows()))
    assert as_rows(logged.history) == made.rows()
    assert (logged.kind, logged.notes) == ("verl's file logger", ())
    assert logged.history.accuracy() == ([0, 2], [0.5, 0.625])


def test_attempts_are_joined_and_the_later_one_counts(tmp_path: Path) -> None:
    """Attempt 2 takes up after step 1; of the lost step 2 nothing may stay, not even a metric of its own."""
    first = {1: {"a": 1.0}, 2: {"a": 2.0, "only here": 7.0}}
    made.log(tmp_path / "logs" / "metrics-2.jsonl", {2: {"a": 20.0}, 3: {"a": 30.0}})
    made.log(tmp_path / "logs" / "metrics-10.jsonl", {3: {"a": 300.0}})
    made.log(tmp_path / "logs" / "metrics-1.jsonl", first)
    logged = one(tmp_path)
    assert as_rows(logged.history) == {1: {"a": 1.0}, 2: {"a": 20.0}, 3: {"a": 300.0}}
    assert [file.name for file in logged.files] == ["metrics-1.jsonl", "metrics-2.jsonl", "metrics-10.jsonl"]
    assert logged.notes == (
        "metrics-2.jsonl began at step 2: step 2 of the attempt before it is void",
        "metrics-10.jsonl began at step 3: step 3 of the attempt before it is void",
    )


def test_two_lines_of_a_step_in_one_log_are_one_step(tmp_path: Path) -> None:
    """Trainers may log a step's validation by itself."""
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "data": {"a": 1.0}}\n{"step": 1, "data": {"b": 2.0}}\n')
    assert as_rows(one(file).history) == {1: {"a": 1.0, "b": 2.0}}


def test_lost_lines_and_lost_values_are_told(tmp_path: Path) -> None:
    """orjson, with which verl writes, makes null of NaN."""
    file = tmp_path / "metrics.jsonl"
    file.write_text(
        '{"step": 1, "data": {"a": null, "b": 1.0, "t": "text"}}\n{"step": 2, "data": {"a": NaN}}\n{"step": 3, "da'
    )
    logged = one(file)
    assert as_rows(logged.history) == {1: {"b": 1.0}, 2: {}}
    assert logged.notes == ("1 of 3 lines of metrics.jsonl are no records", "not finite: a (2 steps)")


def test_tensorboard(tmp_path: Path) -> None:
    """Written as verl's adapter does, with torch's writer; event files hold float32."""
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    for part in ({0: made.rows()[0], 1: made.rows()[1]}, {2: made.rows()[2]}):
        writer = SummaryWriter(str(tmp_path / "tensorboard_log" / "p" / "espo"), filename_suffix=f".{len(part)}")
        for step, data in part.items():
            for name, value in data.items():
                writer.add_scalar(name, value, step)
        writer.close()
    logged = one(tmp_path)
    assert logged.kind == "TensorBoard"
    assert len(logged.files) == 2
    for step, values in made.rows().items():
        assert as_rows(logged.history)[step] == pytest.approx(values, rel=1e-6)


def test_exports_of_wandb(tmp_path: Path) -> None:
    """`history(pandas=False)` as JSON and JSON lines, a data frame's to_json, and its to_csv with empty cells."""
    flat = [{"_step": step, "_runtime": 9.5, **data} for step, data in made.rows().items()]
    names = list(dict.fromkeys(name for row in flat for name in row))
    (tmp_path / "list.json").write_text(json.dumps(flat))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, flat)))
    frame = {name: {str(i): row.get(name) for i, row in enumerate(flat)} for name in names}
    (tmp_path / "frame.json").write_text(json.dumps(frame))
    with (tmp_path / "frame.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ["", *names])
        table.writeheader()
        table.writerows({"": str(i), **row} for i, row in enumerate(flat))
    for name in ("list.json", "lines.jsonl", "frame.json", "frame.csv"):
        assert as_rows(one(tmp_path / name).history) == made.rows(), name


def test_the_export_of_a_chart_holds_several_runs(tmp_path: Path) -> None:
    file = tmp_path / "chart.csv"
    file.write_text(
        '"Step","espo - actor/entropy","espo - actor/entropy__MIN","espo - actor/entropy__MAX","gspo - actor/entropy"\n'
        '"1","0.5","0.4","0.6","0.7"\n"2","","","","0.8"\n'
    )
    found = {logged.label: as_rows(logged.history) for logged in read(file)}
    assert found == {
        "espo": {1: {"actor/entropy": 0.5}},
        "gspo": {1: {"actor/entropy": 0.7}, 2: {"actor/entropy": 0.8}},
    }


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.txt", "x", "not a log that can be read"),
        ("run.jsonl", "no json\n", "holds no step of a run"),
        ("run.json", "{", "no JSON"),
        ("run.json", '{"a": 1}', "not a history of wandb"),
        ("run.csv", "a,b\n1,2\n", "holds no step of a run"),
        ("run-x.wandb", "text", "holds no step of a run"),
    ],
)
def test_files_that_are_no_runs(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SourceError, match=said):
        read(tmp_path / name)


def test_folders_that_hold_no_run_or_several(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="no log of a run in this folder"):
        read(tmp_path)
    (tmp_path / "generations.jsonl").write_text('{"prompt": "2+2"}\n')
    made.log(tmp_path / "espo.jsonl", made.rows())
    assert len(read(tmp_path)) == 1, "a file of something else beside the log does not matter"
    made.log(tmp_path / "gspo.jsonl", made.rows())
    with pytest.raises(SourceError, match=r"2 runs lie here; name those you want: .*espo.jsonl, .*gspo.jsonl"):
        read(tmp_path)


def chunk(kind: int, data: bytes) -> bytes:
    return struct.pack("<IHB", 0, len(data), kind) + data


def test_the_log_format_of_wandb_files() -> None:
    """A record over three blocks. The first block holds the header, so that its chunk has 32768 - 7 - 7 bytes."""
    head, middle, tail = b"a" * (32768 - 14), b"b" * (32768 - 7), b"c"
    data = wandb_file.HEADER + chunk(2, head) + chunk(3, middle) + chunk(4, tail) + chunk(1, b"next")
    assert list(wandb_file.records(data)) == [head + middle + tail, b"next"]
    # Fewer than 7 bytes are left of the first block: filled with zeros, and the next chunk begins a block.
    most = b"d" * (32768 - 14 - 6)
    data = wandb_file.HEADER + chunk(1, most) + bytes(6) + chunk(1, b"e")
    assert list(wandb_file.records(data)) == [most, b"e"]
    for broken in (b"no", data[:-1], wandb_file.HEADER + chunk(2, b"f"), wandb_file.HEADER + chunk(4, b"g")):
        with pytest.raises(EOFError):
            list(wandb_file.records(broken))


def test_missing_packages_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    (tmp_path / "events.out.tfevents.1.host").write_text("")
    (tmp_path / "run-a.wandb").write_text("")
    with pytest.raises(SourceError, match="pip install tensorboard"):
        read(tmp_path / "events.out.tfevents.1.host")
    with pytest.raises(SourceError, match="pip install wandb, or export"):
        read(tmp_path / "run-a.wandb")


def console(file: Path, *steps: tuple[int, dict[str, float]]) -> None:
    lines = (
        f"(TaskRunnerV1 pid=1) step:{step} - " + " - ".join(f"{k}:{v}" for k, v in data.items()) for step, data in steps
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"(WorkerDict pid=2) chatter\n{line}\n" for line in lines))


def test_the_log_of_a_run_without_a_file_logger(tmp_path: Path) -> None:
    console(tmp_path / "run/train.1.log", (0, {"val-core/x/acc/mean@1": 0.5}), (1, {"timing_s/step": 2.0, "a": 1e-05}))
    logged = one(tmp_path / "run")
    assert as_rows(logged.history) == {0: {"val-core/x/acc/mean@1": 0.5}, 1: {"timing_s/step": 2.0, "a": 1e-05}}
    assert (logged.kind, logged.notes) == ("verl's console", ())
    made.log(tmp_path / "run/metrics.jsonl", {7: {"a": 1.0}})
    assert [*as_rows(one(tmp_path / "run").history)] == [7]  # a file logger's is the better record


@pytest.mark.parametrize("validated", [True, False])
def test_of_logs_only_what_the_last_attempt_stands_on_counts(tmp_path: Path, validated: bool) -> None:
    """It takes up after step 1, whose own numbers stay; all that attempt 1 made later is lost, validation included."""
    acc, timing = "val-core/x/acc/mean@1", "timing_s/step"
    console(
        tmp_path / "train.1.log",
        (1, {timing: 1.0, "a": 1.0}), (2, {timing: 1.0, "a": 2.0}), (3, {timing: 1.0, acc: 0.99}),
    )  # fmt: skip
    begun = [(1, {acc: 0.25})] if validated else []
    console(tmp_path / "train.2.log", *begun, (2, {timing: 1.0, "a": 20.0}))
    logged = one(tmp_path)
    of_step_1 = {timing: 1.0, "a": 1.0, **({acc: 0.25} if validated else {})}
    assert as_rows(logged.history) == {1: of_step_1, 2: {timing: 1.0, "a": 20.0}}
    said = "train.2.log began at step 2: 2 steps, 2 to 3, of the attempts before it are void"
    assert logged.notes == (said,)


def test_a_run_begun_anew_has_nothing_of_the_former_one_and_a_refused_attempt_changes_nothing(tmp_path: Path) -> None:
    console(tmp_path / "train.1.log", *((step, {"timing_s/step": 1.0, "a": 1.0}) for step in range(1, 10)))
    console(tmp_path / "train.2.log", *((step, {"timing_s/step": 1.0}) for step in (1, 2)))
    (tmp_path / "train.10.log").write_text("refused\n")
    logged = one(tmp_path)
    assert as_rows(logged.history) == {1: {"timing_s/step": 1.0}, 2: {"timing_s/step": 1.0}}
    assert [file.name for file in logged.files] == ["train.1.log", "train.2.log", "train.10.log"]
