"""Plans: which rows are meant, what they are estimated to cost, and what is done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tables
from typer.testing import CliRunner

from verl_ext.data.registry import datasets
from verl_ext.recipe_files.recipe import RecipeError, all_tables, find_table
from verl_ext.recipe_files.schema import Row
from verl_ext.sizing import gpus
from verl_ext.sizing.cost import forward
from verl_ext.sizing.measuring import measure
from verl_ext.tables.command import app
from verl_ext.tables.estimate import estimate
from verl_ext.tables.job import Job, Places
from verl_ext.tables.plan import jobs, plan, select
from verl_ext.tables.ray_jobs import entrypoint
from verl_ext.train import plan as command


def names(*references: str) -> list[str]:
    return [row.reference for _, rows in select(references) for row in rows]


def test_references() -> None:
    assert names("demo/table1/espo") == ["demo/table1/espo"]
    assert len(names("demo/table1")) == 7
    assert names("demo") == names("demo/table1")
    assert names("demo/table1/espo", "demo/table1") == [
        "demo/table1/espo",
        *[n for n in names("demo") if "espo" not in n],
    ]
    with pytest.raises(RecipeError) as caught:
        select(["nobody", "demo/table1/nothing"])
    assert len(caught.value.faults) == 2


def test_everything_without_a_reference() -> None:
    assert len(names()) == sum(len(table.rows) for table in all_tables())


def test_one_job_for_each_seed_of_a_row_with_a_run(tmp_path: Path) -> None:
    made = tables.job(tmp_path)
    found = jobs([(made.table, made.table.rows)], made.places)
    assert [job.name for job in found] == ["p/t/base seed 1", "p/t/one seed 1", "p/t/one seed 2", "p/t/other seed 1"]
    assert [job.seed for job in jobs([(made.table, made.table.rows[:1])], made.places, seeds=[7, 8])] == [7, 8]


def stepwise(row: Row, capsys: pytest.CaptureFixture[str]) -> float:
    """GPU-hours of a step as `verl-ext doctor plan` prints them for the row's own arguments."""
    capsys.readouterr()
    command.plan(Job(find_table(row.reference.rpartition("/")[0]), row, row.seeds[0]).arguments(), as_json=True)
    found: float = json.loads(capsys.readouterr().out)["step"]["gpu_hours"]
    return found


@pytest.mark.parametrize("table", ["demo/table1", "sspo/table1", "erpo/table1", "espo/table1"])
def test_both_commands_say_the_same_of_every_row(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = CliRunner().invoke(app, ["plan", table, "--json"])
    assert outcome.exit_code == 0, outcome.output
    rows = {row["row"]: row for row in json.loads(outcome.output)[0]["rows"]}
    trained = [row for row in find_table(table).rows if row.kind == "train"]
    assert len(trained) >= 3
    for row in trained:
        said = rows[row.reference]
        assert said["gpu_hours_training"] == pytest.approx(said["steps"] * stepwise(row, capsys))
        assert said["gpu_hours_estimate"] > said["gpu_hours_training"]


def test_a_supervised_row_by_hand() -> None:
    table = find_table("erpo/table1")
    job = Job(table, table.by_name["sft_7b"], 1)
    data = job.config()["data"]
    length = data["max_length"] / 2
    # Forwards, backwards and the layers again, attention at half the square, without the output layer again.
    once = 2 * 7_070_285_824 + 2 * 28 * 3584 * length
    operations = 532 * data["train_batch_size"] * length * (4 * once - 2 * 152_064 * 3584)
    assert estimate(job).training == pytest.approx(operations / (0.35 * 989e12) / 3600)


def test_an_evaluation_by_hand(tmp_path: Path) -> None:
    """Two decodings, each of the demo's problems, all at once on one engine, bound by reading weights and cache."""
    job = tables.job(tmp_path, "base")
    problems = datasets()["demo_arithmetic"].problems or datasets()["demo_arithmetic"].rows
    model, device = measure("tiny_dense"), gpus.device("h100-80gb")
    seconds = 0.0
    for samples in (1, 4):
        together = min(1024, problems * samples)
        token = 2 * 2 * model.layers * model.key_value
        step = (2 * model.total + together * token * (200 + 16)) / (device.bandwidth * 0.6)
        operations = together * forward(model, 200 + 16) / (device.operations * 0.4)
        prefill = problems * 200 * forward(model, 200) / (device.operations * 0.4)
        seconds += 32 * problems * samples / together * max(step, operations) + prefill
    assert estimate(job).evaluation == pytest.approx(seconds / 3600)
    wide = tables.job(tmp_path, "base", overrides=())
    assert estimate(replace(wide, tensor_parallel=2)).evaluation != estimate(job).evaluation


def test_steps_by_epochs(tmp_path: Path) -> None:
    overrides = ("trainer.total_training_steps=null", "trainer.total_epochs=3")
    job = tables.job(tmp_path, "one", overrides=overrides)
    assert estimate(job).steps == 3 * (4096 // job.config()["data"]["train_batch_size"])


def test_nothing_is_estimated_where_nothing_can_be_generated(tmp_path: Path) -> None:
    job = Job(find_table("espo/table1"), find_table("espo/table1").rows[0], 1)
    small = replace(job, overrides=("actor_rollout_ref.rollout.gpu_memory_utilization=0.1",))
    assert estimate(small).training is None
    assert estimate(small).total is None


def test_a_row_whose_model_has_no_sizes_is_planned_with_its_fault(tmp_path: Path) -> None:
    table = tables.table(tables.TEXT.replace("{algo: grpo}", "{algo: grpo, model: qwen2_5_7b}"))
    row = table.by_name["other"]
    assert plan(table, [row], Places(tmp_path))[0].fault is None
    nowhere = replace(row, overrides={"actor_rollout_ref.model.path": "no/model"})
    assert "sizes of no/model are not known" in str(plan(table, [nowhere], Places(tmp_path))[0].fault)


def test_plan_of_the_demo(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(app, ["plan", "demo/table1", "--json", "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    rows = {row["row"]: row for row in json.loads(outcome.output)[0]["rows"]}
    assert rows["demo/table1/espo"]["steps"] == 8
    assert rows["demo/table1/base"]["steps"] == 0
    assert rows["demo/table1/espo"]["config"][-1] == "experiment=demo"
    assert all(0 < row["gpu_hours_estimate"] < 1 for row in rows.values())
    assert all(row["fault"] is None and row["state"] == [""] for row in rows.values())


def test_list_and_an_empty_report(tmp_path: Path) -> None:
    assert "demo/table1" in CliRunner().invoke(app, ["list"]).output
    outcome = CliRunner().invoke(app, ["report", "demo/table1", "--html", "--out", str(tmp_path)])
    assert outcome.exit_code == 0, outcome.output
    assert "0 of 7 rows have a result" in (tmp_path / "demo" / "table1" / "report.md").read_text()
    assert (tmp_path / "demo" / "table1" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demo/table9"], "there is no table 'demo/table9'"),
        (["run", "demo/table1", "--rows", "espo,ppo"], "no such row: ppo"),
        (["run", "demo/table1", "--seeds", "a"], "seeds are whole numbers"),
        (["run", "demo/table1", "--from", "rollout"], "there is no stage 'rollout'"),
        (["run", "demo/table1", "--as", "ray"], "ray together with --address"),
    ],
)
def test_faults_of_the_command_line(arguments: list[str], message: str) -> None:
    outcome = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})
    assert outcome.exit_code == 2
    assert message in " ".join(outcome.output.replace("│", " ").split())


def test_a_ray_job_is_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tables.job(tmp_path, "one", 2, overrides=("a.b='x y'",))
    command = "verl-ext tables run p/t/one --seeds 2 --as local --override 'a.b='\"'\"'x y'\"'\"'' --force"
    assert entrypoint(job, ["--force"]) == command
    import ray.job_submission

    from verl_ext.tables.ray_jobs import submit

    asked: list[dict[str, Any]] = []

    def client(address: str) -> Any:
        return SimpleNamespace(submit_job=lambda **given: asked.append({"address": address, **given}) or "job_1")

    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", client)
    monkeypatch.setenv("VERL_EXT_DATA", "/shared/data")
    assert submit([job], "http://head:8265", ["--force"]) == ["job_1"]
    assert [one.pop("submission_id")[:20] for one in asked] == ["verl-ext-p-t-one-see"]
    variables = asked[0].pop("runtime_env")["env_vars"]
    assert variables["VERL_EXT_DATA"] == "/shared/data"
    assert asked == [
        {
            "address": "http://head:8265",
            "entrypoint": command,
            "metadata": {"name": "p/t/one seed 2", "row": "p/t/one", "seed": "2"},
        }
    ]
    with pytest.raises(ConnectionError, match="http://<head>:8265"):
        submit([job], "head:6379")
