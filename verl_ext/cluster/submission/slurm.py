"""The same job as a batch script for Slurm: a Ray cluster while it lasts, and `verl-ext submit` on its head."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from verl_ext.cluster.submission.environment import secret
from verl_ext.cluster.submission.job import Job, Request

_BODY = r"""
# The batch script runs on the first node, which is the head.
ulimit -n "$(ulimit -Hn)"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
head_ip=$(hostname -I | cut -d ' ' -f 1)
port=$((20000 + SLURM_JOB_ID % 10000))
# Of this machine only: whoever reaches the job server can run commands.
server=http://127.0.0.1:$((port + 10000))

# Ray's head asks for a token where it finds one, and the commands below do not bring it along unless they are told to.
token=${RAY_AUTH_TOKEN_PATH:-${HOME:-}/.ray/auth_token}
if [[ -z ${RAY_AUTH_MODE:-} && (-n ${RAY_AUTH_TOKEN:-} || -s $token) ]]; then
  export RAY_AUTH_MODE=token
fi

pids=()
# shellcheck disable=SC2317,SC2329 # called by the trap
clean_up() {
  status=$?
  trap - EXIT INT TERM
  if ((${#pids[@]})); then
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
  fi
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start() { # start NODES SRUN_ARGUMENT... -- RAY_ARGUMENT...
  local count=$1 where=()
  shift
  while [[ $1 != -- ]]; do where+=("$1"); shift; done
  shift
  srun --overlap --nodes="$count" --ntasks="$count" --ntasks-per-node=1 --cpus-per-task="$cpus" \
    --cpu-bind=none "${where[@]}" \
    ray start --block --num-cpus="$cpus" --num-gpus="$gpus" "$@" &
  pids+=("$!")
}

joined() { { ray list nodes --address "$server" --filter state=ALIVE --limit 1000 --format json 2>/dev/null || true; } \
  | { grep -o '"node_id"' || true; } | wc -l; }

wait_for() { # wait_for NODES
  local deadline=$((SECONDS + start_limit)) pid
  until (($(joined) >= $1)); do
    for pid in "${pids[@]}"; do
      kill -0 "$pid" 2>/dev/null || { echo "Ray ended while the cluster was being started" >&2; exit 1; }
    done
    if ((SECONDS > deadline)); then
      echo "$(joined) of $1 nodes have joined within $start_limit s" >&2
      exit 1
    fi
    sleep 2 &
    wait "$!"
  done
}

start 1 --nodelist="$head" -- --head --node-ip-address="$head_ip" --port="$port" \
  --dashboard-host=127.0.0.1 --dashboard-port="${server##*:}"
wait_for 1
if ((${#nodes[@]} > 1)); then
  start $((${#nodes[@]} - 1)) --exclude="$head" -- --address="$head_ip:$port"
  wait_for "${#nodes[@]}"
fi

# In the background: bash runs a trap only when it is not waiting for a command.
"${command[@]}" --address "$server" &
job=$!
pids+=("$job")
status=0
wait "$job" || status=$?
exit "$status"
"""

START_LIMIT_S = 600


def render(job: Job, request: Request, options: Sequence[str] = (), cpus: int | None = None) -> str:
    """The script.

    Ray runs on every node under ``srun`` and ends with the script, however that ends. The job's exit code is the
    script's. Two minutes before the time limit Slurm's signal ends the script in order.

    Args:
        job: what `prepare` made of the request.
        request: what was asked for; the script asks for the same on the cluster.
        options: further lines for sbatch, for instance ``--partition=gpu``.
        cpus: CPUs of a node; all of them by default.
    """
    directives = [
        f"--job-name={_one_word(job.name)}",
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={job.gpus}",
        "--exclusive",
        "--mem=0",
        "--signal=B:TERM@120",
        "--output=%x-%j.log",
        *([f"--cpus-per-task={cpus}"] if cpus else []),
        *map(quoted, options),
    ]
    head = ["#!/bin/bash", *(f"#SBATCH {directive}" for directive in directives), "set -euo pipefail", ""]
    needed = [name for name, sign, _ in (item.partition("=") for item in request.env) if not sign]
    wanted = [f': "${{{name}:?is named with --env and is not set}}"' for name in needed]
    settings = [
        f"command=({shlex.join(command(job, request))})",
        f"gpus={job.gpus}",
        f"cpus={cpus}" if cpus else "cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}",
        f"start_limit={START_LIMIT_S}",
    ]
    return "\n".join([*head, *wanted, *settings]) + "\n" + _BODY


def command(job: Job, request: Request) -> list[str]:
    """`verl-ext submit` for the cluster that the script starts, without the address."""
    words = ["verl-ext", "submit", *request.arguments, "--name", job.name]
    if request.max_restarts:
        words += ["--max-restarts", str(request.max_restarts)]
    for item in request.env:
        words += ["--env", item]
    return [*words, *(["--code", str(job.package.folder)] if job.package else ["--no-code"])]


def quoted(option: str) -> str:
    """An option of sbatch as one directive; sbatch reads quotes in a directive as a shell does.

    Example:
        >>> quoted("--comment=hello world"), quoted("--time=2-0"), quoted("-p gpu")
        ("--comment='hello world'", '--time=2-0', '-p gpu')
    """
    name, sign, value = re.fullmatch(r"(-[^=\s]*)([=\s]?)(.*)", option, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{name}{sign}{shlex.quote(value)}" if value else name


def option_faults(options: Sequence[str]) -> list[str]:
    """What no directive can hold."""
    found = [f"--sbatch {option!r}: an option of sbatch begins with -" for option in options if option[:1] != "-"]
    return found + [f"--sbatch {option!r}: a directive is one line" for option in options if "\n" in option]


def written_secrets(request: Request) -> list[str]:
    """Values that would stand in a file for everybody to read."""
    return [
        f"--env {name}=...: the value would be written into the file; give --env {name} alone"
        for name, sign, _ in (item.partition("=") for item in request.env)
        if sign and secret(name)
    ]


def _one_word(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text)
