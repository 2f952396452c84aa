"""A new project: what is written, what is refused, and that it is runnable as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from verl_ext.project import examples, writing
from verl_ext.project.command import CPU_COMMAND, init
from verl_ext.project.examples import ProjectError

app = typer.Typer()
app.command()(init)


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work") / "mine"
    status, printed = call(folder, "--no-model")
    assert status == 0, printed
    assert CPU_COMMAND in printed
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def commands(project: Path) -> list[str]:
    """The trainer's command lines of the README."""
    return re.findall(r"^verl-ext (train .*)$", (project / "README.md").read_text(), re.MULTILINE)


def test_every_file_is_there_and_filled_in(project: Path) -> None:
    files = {file.relative_to(project).as_posix() for file in project.rglob("*") if file.is_file()}
    assert files == {
        ".gitignore",
        "README.md",
        "reward.py",
        "test_reward.py",
        *(f"configs/project/{name}.yaml" for name in ("task", "cpu", "gpu")),
        "data/train.jsonl",
        "data/validation.jsonl",
    }
    for file in files:
        text = (project / file).read_text(encoding="utf-8")
        assert "{{ " not in text
        assert str(project) not in text  # it can be moved
    assert "256 and 64 examples, from the demo's arithmetic" in (project / "README.md").read_text()
    assert not [path for path in project.parent.iterdir() if path.name.startswith(".")]


def test_the_examples_are_in_verls_schema_and_disjoint(project: Path) -> None:
    train, validation = rows(project / "data/train.jsonl"), rows(project / "data/validation.jsonl")
    assert (len(train), len(validation)) == (256, 64)
    for row in (*train, *validation):
        assert row.keys() == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
        assert row["data_source"] == "mine"
        assert row["reward_model"]["ground_truth"]
    texts = [{row["prompt"][0]["content"] for row in chosen} for chosen in (train, validation)]
    assert not texts[0] & texts[1]
    # "3+4*2-5=?" and a line break are ten bytes, the demo's longest
    assert yaml.safe_load((project / "configs/project/cpu.yaml").read_text())["data"]["max_prompt_length"] == 10


def test_the_projects_own_tests_pass_and_notice_a_wrong_example(project: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "13 passed" in done.stdout
    copy = tmp_path / "copy"
    writing.write(copy, examples.demo("copy"))
    wrong = rows(copy / "data/train.jsonl")
    wrong[2]["reward_model"]["ground_truth"] = "a}b"
    (copy / "data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in wrong))
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert "line 3: the right answer is not accepted: 'a}b'" in done.stdout


def test_the_readme_has_a_command_for_the_cpu_and_one_for_gpus(project: Path) -> None:
    cpu, gpu = commands(project)
    assert cpu == CPU_COMMAND.removeprefix("verl-ext ")
    assert "backend=fsdp" in gpu


@pytest.mark.parametrize("which", [0, 1])
def test_the_commands_compose_without_a_fault_and_find_the_data(
    project: Path, which: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    from verl_ext.train.command import train

    monkeypatch.chdir(project)
    arguments = shlex.split(commands(project)[which])[1:]
    assert train(arguments, dry_run=True) == 0
    shown = capsys.readouterr()
    config = yaml.safe_load(shown.out)
    lost = [line for line in shown.err.splitlines() if "not on this machine" in line]
    assert not any("data." in line or "reward" in line for line in lost)
    assert config["reward"]["custom_reward_function"] == {
        **config["reward"]["custom_reward_function"],
        "path": "./reward.py",
        "name": "compute_score",
    }
    assert config["trainer"]["project_name"] == "mine"
    model = ("tiny_dense", "Qwen2.5-1.5B")[which]
    assert config["trainer"]["default_local_dir"] == f"./outputs/grpo-{model}-data-train-seed42"
    # what stock verl is told
    assert "python -m verl.trainer.main_ppo" in shown.err
    assert f"+project={('cpu', 'gpu')[which]}" in shown.err


def test_verl_loads_the_reward_function_by_its_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils.import_utils import load_extern_object

    monkeypatch.chdir(project)
    monkeypatch.setenv("VERL_EXT_PROJECT", str(project))
    compute_score: Any = load_extern_object("./reward.py", "compute_score")
    result = compute_score(data_source="x", solution_str="so \\boxed{4}", ground_truth="4", extra_info={}, more=1)
    assert (result["score"], result["outcome"], result["verified"]) == (1.0, "correct", 1.0)


def test_our_conventions_of_a_reward_are_kept(project: Path) -> None:
    """Where our own reward function has a key, the project's has it with the same meaning."""
    from verl.utils.import_utils import load_extern_object

    from verl_ext.rewards.math import OUTCOMES, close_pools, compute_score

    theirs: Any = load_extern_object(str(project / "reward.py"), "compute_score")
    try:
        for response in ("\\boxed{7}", "\\boxed{8}", "no answer"):
            own = compute_score("x", response, "7")
            found = theirs("x", response, "7")
            assert found.items() <= own.items()
            assert found["outcome"] in OUTCOMES
    finally:
        close_pools()


def test_nothing_is_overwritten(project: Path, tmp_path: Path) -> None:
    before = (project / "reward.py").stat().st_mtime_ns
    status, printed = call(project, "--no-model")
    assert status == 1
    assert "nothing is overwritten" in printed
    assert (project / "reward.py").stat().st_mtime_ns == before
    (tmp_path / "empty").mkdir()
    assert call(tmp_path / "empty", "--no-model")[0] == 0
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert call(tmp_path / "link", "--no-model")[0] == 1


def test_all_faults_at_once_and_before_a_model_is_built(tmp_path: Path) -> None:
    status, printed = call(tmp_path / "2 bad", "--data", tmp_path / "absent.jsonl", "--template", "no")
    assert status == 1
    assert "'2 bad' cannot be a project's name" in printed
    assert "--template no: no such template; there are qwen_math, boxed" in printed
    assert "absent.jsonl does not exist" in printed
    status, printed = call(tmp_path / "good", "--template", "boxed")
    assert (status, "--template is for --data" in printed) == (1, True)
    assert os.listdir(tmp_path) == []


# Data of one's own.


def own(file: Path, count: int, **more: Any) -> Path:
    lines = [{"question": f"What is {n} plus {n}?", "answer": 2 * n, **more} for n in range(count)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_problems_of_ones_own(tmp_path: Path) -> None:
    status, printed = call(tmp_path / "mine", "--data", own(tmp_path / "mine.jsonl", 100), "--no-model")
    assert status == 0, printed
    train, validation = (rows(tmp_path / f"mine/data/{name}.jsonl") for name in ("train", "validation"))
    assert len(train) + len(validation) == 100
    assert 3 <= len(validation) <= 20  # a tenth, by a hash
    assert {int(row["reward_model"]["ground_truth"]) for row in (*train, *validation)} == {2 * n for n in range(100)}
    prompt = next(row["prompt"] for row in (*train, *validation) if row["reward_model"]["ground_truth"] == "14")
    assert prompt[0]["content"].startswith("What is 7 plus 7?\n")
    assert "\\boxed{}" in prompt[0]["content"]
    settings = yaml.safe_load((tmp_path / "mine/configs/project/cpu.yaml").read_text())
    assert settings["data"]["max_prompt_length"] == len(max((r["prompt"][0]["content"] for r in train), key=len)) + 1


def of_gsm8k(folder: Path, schema: str, count: int = 40) -> Path:
    """A parquet file as GSM8K's, worked solutions for answers: the hub's columns, or verl's own preprocessing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    for n in range(count):
        total = 1000 + 25 * n
        question = f"Ann sells {total - n} clips in May and {n} in June. How many in all?"
        answer = f"She sells {total - n}+{n}=<<{total - n}+{n}={total}>>{total} clips.\n#### {total:,}"
        asked = f'{question} Let\'s think step by step and output the final answer after "####".'
        model = {"style": "rule", "ground_truth": f"{total}" if schema == "verl" else answer}
        found.append(
            {"question": question, "answer": answer}
            if schema == "hub"
            else {
                "data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": asked}], "ability": "math",
                "reward_model": model, "extra_info": {"split": "train", "index": n, "answer": answer},
            }
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(found), folder / "gsm8k.parquet")
    return folder / "gsm8k.parquet"


@pytest.mark.parametrize("schema", ["hub", "verl", "verl, unmarked"])
def test_right_answers_to_worked_solutions_earn_1_by_the_projects_own_test(schema: str, tmp_path: Path) -> None:
    status, printed = call(tmp_path / "mine", "--data", of_gsm8k(tmp_path, schema), "--no-model")
    assert status == 0, printed
    made = rows(tmp_path / "mine/data/train.jsonl") + rows(tmp_path / "mine/data/validation.jsonl")
    found = {row["reward_model"]["ground_truth"].replace(",", "") for row in made}
    assert found == {str(1000 + 25 * n) for n in range(40)}
    told = "gsm8k.parquet (answers taken from the #### of 40 rows)" in (tmp_path / "mine/README.md").read_text()
    assert told == (schema != "verl")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "13 passed" in done.stdout
    if schema != "hub":
        return
    # It has to notice what it is there for: a worked solution in place of an answer, and a wrong answer that pays.
    made[0]["reward_model"]["ground_truth"] = "We add.\n#### 5"
    (tmp_path / "mine/data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    reward = (tmp_path / "mine/reward.py").read_text()
    done = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert "line 1: a worked solution, of which the answer alone is a ground truth: '5'" in done.stdout
    made[0]["reward_model"]["ground_truth"] = "5"
    (tmp_path / "mine/data/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    (tmp_path / "mine/reward.py").write_text(re.sub("return verifiers.*outcome", 'return "correct"', reward))
    done = subprocess.run(command, cwd=tmp_path / "mine", capture_output=True, text=True)
    assert "line 1: -271828182 is accepted" in done.stdout


@pytest.mark.parametrize("schema", ["hub", "verl"])
def test_worked_solutions_without_a_mark_are_refused(schema: str, tmp_path: Path) -> None:
    lines = []
    for n in range(30):
        problem, text = f"What is {n} plus {n}?", f"We add {n} and {n} and have {2 * n}, which is all."
        made = {"prompt": [{"role": "user", "content": problem}], "reward_model": {"ground_truth": text}}
        lines.append(json.dumps(made if schema == "verl" else {"problem": problem, "answer": text}) + "\n")
    (tmp_path / "w.jsonl").write_text("".join(lines))
    status, printed = call(tmp_path / "mine", "--data", tmp_path / "w.jsonl", "--no-model")
    assert status == 1
    assert "30 of 30 answers are text" in printed
    assert printed.count("We add") == 3
    assert "--text-answers" in printed
    assert not (tmp_path / "mine").exists()
    assert call(tmp_path / "mine", "--data", tmp_path / "w.jsonl", "--no-model", "--text-answers")[0] == 0


def test_more_problems_move_none_to_the_other_side(tmp_path: Path) -> None:
    few, many = (examples.own("x", own(tmp_path / f"{count}.jsonl", count), "plain") for count in (60, 90))
    held = [{row["prompt"][0]["content"] for row in found.validation} for found in (few, many)]
    assert held[0] <= held[1]


@pytest.mark.parametrize("count", [5, 6, 9, 30])
def test_batches_are_never_larger_than_the_data(count: int, tmp_path: Path) -> None:
    found = examples.own("x", own(tmp_path / "mine.jsonl", count), "plain")
    values = writing.settings("x", found)
    for batch, mini in (("tiny_batch", "tiny_mini"), ("batch", "mini")):
        assert values[batch] <= len(found.train)
        assert values[batch] == 4 * values[mini] > 0


def test_faults_of_ones_own_data(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="has 4 different problems; at least 5 are needed"):
        examples.own("x", own(tmp_path / "few.jsonl", 4), "plain")
    (tmp_path / "bad.jsonl").write_text('{"question": "1+1?", "answer": ""}\n{"text": "what"}\n')
    with pytest.raises(ProjectError) as caught:
        examples.own("x", tmp_path / "bad.jsonl", "plain")
    assert len(caught.value.faults) > 1
    alike = [f"What is twice {n}, as a number? Think step by step, please." for n in range(20)]
    lines = [json.dumps({"problem": problem, "answer": "1"}) + "\n" for problem in alike]
    (tmp_path / "alike.jsonl").write_text("".join(lines))
    with pytest.raises(ProjectError, match="or give rows in verl's schema"):
        examples.own("x", tmp_path / "alike.jsonl")


def test_rows_in_verls_schema_are_taken_as_they_are(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = [{**row, "data_source": "theirs"} for row in examples.demo("x").train[:30]]
    for row in made:  # an instruction of their own, the same in each
        row["prompt"] = [{"role": "user", "content": row["prompt"][0]["content"] + " Think, then write #### and it."}]
    pq.write_table(pa.Table.from_pylist([*made, made[0]]), tmp_path / "mine.parquet")
    found = examples.own("x", tmp_path / "mine.parquet")
    assert sorted((*found.train, *found.validation), key=lambda row: row["extra_info"]["index"]) == made
    with pytest.raises(ProjectError, match="have prompts of their own"):
        examples.own("x", tmp_path / "mine.parquet", "boxed")
    made[3]["reward_model"] = {"style": "rule", "ground_truth": ""}
    made[5]["prompt"] = []
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    with pytest.raises(ProjectError, match="rows 4, 6 need a prompt"):
        examples.own("x", tmp_path / "mine.jsonl")


def test_a_long_prompt_leaves_room_for_the_response(tmp_path: Path) -> None:
    problems = [f"{n:05d} " * 300 for n in range(20)]
    lines = [json.dumps({"problem": problem, "answer": "1"}) + "\n" for problem in problems]
    (tmp_path / "long.jsonl").write_text("".join(lines))
    values = writing.settings("x", examples.own("x", tmp_path / "long.jsonl", "plain"))
    assert values["prompt"] + values["response"] == 512  # the tiny model's positions


# The model, and the package.


def test_the_tiny_model_lies_where_its_group_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from verl_ext.toy import assets
    from verl_ext.toy.models import build_untrained

    built = SimpleNamespace(model_dir=build_untrained("tiny_dense", True, tmp_path / "model", seed=0))
    monkeypatch.setattr(assets, "prepare", lambda *_, **__: built)
    status, printed = call(tmp_path / "mine")
    assert status == 0, printed
    group = yaml.safe_load((Path(__file__).parents[2] / "configs/model/tiny_dense.yaml").read_text())
    path = group["actor_rollout_ref"]["model"]["path"].replace(
        "${oc.env:VERL_EXT_MODELS,outputs/models}", "outputs/models"
    )
    assert (tmp_path / "mine" / path / "model.safetensors").is_file()


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("verl_ext.project.writing.shutil.copytree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writing.write(tmp_path / "mine", examples.demo("mine"), tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_templates_are_package_data(pytestconfig: pytest.Config) -> None:
    """A pattern of setup.py for each of them: a wheel without them makes empty projects."""
    text = (pytestconfig.rootpath / "setup.py").read_text()
    found = re.search(r'"verl_ext\.project": \[(.*)\]', text)
    assert found is not None, "setup.py does not name the templates of verl_ext.project"
    package = Path(writing.__file__).parent
    patterns = re.findall(r'"([^"]+)"', found[1])
    matched = {file for pattern in patterns for file in package.glob(pattern) if file.is_file()}
    files = {package / "template" / path for path, _ in writing.template_files()}
    assert files <= matched
