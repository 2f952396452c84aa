"""Writing an export: whole weights, what is refused, and what the command prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests.export import made
from verl_ext.export import writing
from verl_ext.export.command import export
from verl_ext.export.finding import Checkpoint, ExportError

app = typer.Typer()
app.command()(export)


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.output


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Path:
    """A run's folder with one checkpoint of whole weights."""
    made.whole(tmp_path / "run" / "global_step_2" / "actor", model)
    return tmp_path / "run"


def test_whole_weights_are_taken_as_they_are(model: Path, run: Path) -> None:
    import torch

    status, printed = call(run)
    assert status == 0, printed
    target = run / "model_step_2"
    before, after = made.state(model), made.state(target)
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name])
    assert json.loads((target / "config.json").read_text())["dtype"] == "float32"
    config = run / "global_step_2/actor/huggingface/config.json"
    assert json.loads(config.read_text())["dtype"] == "bfloat16"  # the checkpoint itself is as it was
    assert (target / "chat_template.jinja").read_text() == (model / "chat_template.jinja").read_text()
    record = json.loads((target / "verl_ext_export.json").read_text())
    assert (record["step"], record["backend"], record["parameters"]) == (2, "fsdp", 329_088)
    for part in ("329,088", "float32", record["sha256"]["model.safetensors"], "chat template copied", str(target)):
        assert part in printed
    assert not list(run.glob("*.log"))
    assert not list(run.glob(".*"))


def test_a_type_can_be_chosen(run: Path) -> None:
    import torch

    status, printed = call(run, "--dtype", "bfloat16", "--out", run / "rounded")
    assert status == 0, printed
    assert {one.dtype for one in made.state(run / "rounded").values()} == {torch.bfloat16}
    assert json.loads((run / "rounded/config.json").read_text())["dtype"] == "bfloat16"


def test_nothing_is_overwritten_unasked(run: Path) -> None:
    assert call(run)[0] == 0
    mine = run / "model_step_2/mine"
    mine.write_text("x")
    status, printed = call(run)
    assert status == 1
    assert "exists; add --force" in printed
    assert mine.exists()
    assert call(run, "--force")[0] == 0
    assert not mine.exists()


def test_force_removes_models_only_and_never_the_checkpoint(run: Path) -> None:
    (run / "papers").mkdir()
    for out, told in ((run / "papers", "holds no model"), (run, "holds the checkpoint itself")):
        status, printed = call(run, "--out", out, "--force")
        assert status == 1
        assert told in printed
        assert out.exists()


def test_all_faults_at_once(run: Path) -> None:
    (run / "model_step_2").mkdir()
    (run / "global_step_2/actor/huggingface/tokenizer_config.json").unlink()
    status, printed = call(run, "--dtype", "int8")
    assert status == 1
    for told in ("--dtype int8: choose one of keep", "model_step_2 exists", "has no tokenizer"):
        assert told in printed
    status, printed = call(run / "absent", "--dtype", "int8")
    assert "--dtype int8" in printed
    assert "no such folder" in printed


def test_an_interrupted_export_leaves_nothing_that_looks_whole(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("verl_ext.export.weights.describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writing.write(Checkpoint(run / "global_step_2/actor", "fsdp", 2), run / "out", "keep", run / "log")
    assert not (run / "out").exists()
    monkeypatch.undo()
    writing.write(Checkpoint(run / "global_step_2/actor", "fsdp", 2), run / "out", "keep", run / "log")
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_megatron_goes_to_verls_merger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made.megatron(tmp_path / "actor")
    checkpoint = Checkpoint(folder, "megatron", None)
    part = tmp_path / "part"
    command = writing.merger_command(checkpoint, part, "keep")
    wanted = f"-m verl.model_merger merge --backend megatron --local_dir {folder} --target_dir {part}"
    assert command == [sys.executable, *wanted.split(), "--tie-word-embedding"]
    (folder / "model/huggingface/config.json").write_text("{}")
    assert writing.merger_command(checkpoint, part, "keep") == [sys.executable, *wanted.split()]
    # verl's parser takes it, and looks for the configuration where we do.
    from verl.model_merger.base_model_merger import generate_config_from_args, parse_args

    monkeypatch.setattr(sys, "argv", ["merge", *command[3:]])
    config = generate_config_from_args(parse_args())
    assert (config.backend, config.operation, config.tie_word_embedding) == ("megatron", "merge", True)
    assert Path(config.hf_model_config_path or "") == checkpoint.huggingface


def test_whole_weights_of_megatron_need_no_merger(model: Path, tmp_path: Path) -> None:
    folder = made.megatron(tmp_path / "actor")
    for file in model.iterdir():
        (folder / "model/huggingface" / file.name).write_bytes(file.read_bytes())
    writing.write(Checkpoint(folder, "megatron", None), tmp_path / "out", "keep", tmp_path / "log")
    assert made.state(tmp_path / "out").keys() == made.state(model).keys()


def test_a_merger_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; print('Traceback (most recent call last):\\nValueError: the last words'); sys.exit(3)"
    monkeypatch.setattr(writing, "merger_command", lambda *_: [sys.executable, "-c", program])
    made.fsdp(tmp_path / "global_step_1/actor")
    status, printed = call(tmp_path)
    assert status == 1
    assert "putting the shards together failed (exit status 3)" in printed
    assert "ValueError: the last words" in printed
    assert not (tmp_path / "model_step_1").exists()
    with pytest.raises(ExportError):
        writing.write(Checkpoint(tmp_path / "global_step_1/actor", "fsdp", 1), tmp_path / "o", "keep", tmp_path / "l")
