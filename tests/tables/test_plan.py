"""Plans: which rows are meant, what they are estimated to cost, and what is done."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tables
from typer.testing import CliRunner

from verl_ext.tables.command import app
from verl_ext.tables.estimate import ACTIVE_PARAMETERS, DECODE_EFFICIENCY, PEAK, TRAIN_EFFICIENCY, estimate
from verl_ext.tables.job import Job
from verl_ext.tables.plan import jobs, select
from verl_ext.tables.ray_jobs import entrypoint
from verl_ext.tables.recipe import RecipeError, all_tables


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


CONFIG: dict[str, Any] = {
    "algorithm": {"use_kl_in_reward": False, "rollout_correction": {"bypass_mode": False}},
    "data": {"train_batch_size": 16, "max_prompt_length": 48, "max_response_length": 64},
    "actor_rollout_ref": {"actor": {"use_kl_loss": False}, "rollout": {"n": 8}},
    "trainer": {"total_training_steps": 10, "total_epochs": 1},
}


def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> float:
    monkeypatch.setattr(Job, "config", lambda self: {**CONFIG, **changes})
    found = estimate(tables.job(tmp_path, "one")).training
    assert found is not None
    return found


def test_the_estimate_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 10 steps of 16 x 8 responses, each of 48 + 64/2 = 80 tokens: 102,400 tokens
    operations = 102_400 * ACTIVE_PARAMETERS["tiny_dense"]
    expected = (operations * 8 / TRAIN_EFFICIENCY + operations * 2 / DECODE_EFFICIENCY) / (PEAK * 3600)
    assert planned(tmp_path, monkeypatch) == pytest.approx(expected)


def test_passes_that_are_not_made_cost_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = 102_400 * ACTIVE_PARAMETERS["tiny_dense"] / TRAIN_EFFICIENCY / (PEAK * 3600)
    plain = planned(tmp_path, monkeypatch)
    bypass = {"algorithm": {"use_kl_in_reward": False, "rollout_correction": {"bypass_mode": True}}}
    reference = {"actor_rollout_ref": {"actor": {"use_kl_loss": True}, "rollout": {"n": 8}}}
    assert planned(tmp_path, monkeypatch, **bypass) == pytest.approx(plain - 2 * operations)
    assert planned(tmp_path, monkeypatch, **reference) == pytest.approx(plain + 2 * operations)


def test_steps_by_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = {"total_training_steps": None, "total_epochs": 3}
    monkeypatch.setattr(Job, "config", lambda self: {**CONFIG, "trainer": trainer})
    assert estimate(tables.job(tmp_path, "one")).steps == 3 * (4096 // 16)


def test_every_model_has_a_size() -> None:
    models = {row.choices["model"] for table in all_tables() for row in table.rows if "model" in row.choices}
    assert models <= set(ACTIVE_PARAMETERS)


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
