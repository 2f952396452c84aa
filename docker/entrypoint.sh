#!/usr/bin/env bash
# What `docker run IMAGE ...` does; `docker run IMAGE help` lists it.
set -euo pipefail

stack=${VERL_EXT_STACK:-cpu}
source_folder=${VERL_EXT_SOURCE:-/opt/verl-ext}
role_file=${VERL_EXT_ROLE_FILE:-/tmp/verl-ext.role}
shm=${VERL_EXT_SHM:-/dev/shm}
ray_port=${RAY_PORT:-6379}
least_shm_mib=1024
least_disk_mib=512

usage() {
  cat <<'TEXT'
docker run [OPTIONS OF DOCKER] IMAGE COMMAND [ARGUMENTS]

  demo [--steps N]      train a tiny model with ESPO on this CPU (the CPU image)
  test [PYTEST ARGS]    the CPU image: tests that need no Ray; the GPU image: doctor, then conformance
  train ... tables ... data ... eval ... doctor ... losses ...
                        verl-ext's own commands; `verl-ext --help` lists them all
  head [RAY ARGS]       start the head of a Ray cluster
  worker [RAY ARGS]     join the head at RAY_HEAD=host:port, waiting up to RAY_WAIT seconds (120)
  exec COMMAND ...      any program of the image: exec bash
  health                what the image's HEALTHCHECK runs
  help                  this text

Runs write below /workspace/outputs. Give a run shared memory: --shm-size=8g, or --ipc=host.
TEXT
}

say() { printf 'verl-ext image: %s\n' "$*" >&2; }
fail() {
  say "$@"
  exit 2
}

free_mib() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

# With --user there may be no home folder and no name, which torch and Ray ask for.
settle_user() {
  if [ ! -w "${HOME:-/}" ]; then
    export HOME=${TMPDIR:-/tmp}/verl-home
    mkdir -p "$HOME"
  fi
  export USER="${USER:-verl}"
  export LOGNAME="${LOGNAME:-$USER}"
}

check_room() {
  local mib
  mib=$(df -Pm "$shm" | awk 'NR == 2 { print $2 }')
  if [ "$mib" -lt "$least_shm_mib" ]; then
    say "$shm has $mib MiB; vLLM, Ray and the weight sync want $least_shm_mib or more: run with --shm-size=8g"
  fi
}

check_writable() {
  local folder=$PWD
  if [ -e outputs ]; then folder=$PWD/outputs; fi
  if [ ! -w "$folder" ]; then
    fail "user $(id -u) may not write to $folder. Mount a folder of that user, or run with --user \"\$(id -u):\$(id -g)\""
  fi
}

run_tests() {
  if [ "$stack" = gpu ]; then
    verl-ext doctor
    exec verl-ext conformance "$@"
  fi
  cd "$source_folder"
  export OMP_NUM_THREADS=1 HYPOTHESIS_STORAGE_DIRECTORY="$HOME/.cache/hypothesis"
  exec python -m pytest -n auto --maxprocesses 8 -m "not ray and not slow" -o cache_dir="$HOME/.cache/pytest" "$@"
}

wait_for_head() {
  local host=${1%:*} port=${1##*:} until=$((SECONDS + ${RAY_WAIT:-120}))
  until (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; do
    if [ "$SECONDS" -ge "$until" ]; then
      fail "no Ray head answers at $1 after ${RAY_WAIT:-120} s. Is it running, is RAY_HEAD right, is the port open?"
    fi
    sleep 1
  done
}

start_head() {
  exec ray start --head --port="$ray_port" --dashboard-host=0.0.0.0 --disable-usage-stats --block "$@"
}

start_worker() {
  case "${RAY_HEAD:-}" in
    ?*:[0-9]*) ;;
    *) fail "worker: set RAY_HEAD to the head's host:port, for instance RAY_HEAD=head:6379 (it is '${RAY_HEAD:-}')" ;;
  esac
  wait_for_head "$RAY_HEAD"
  exec ray start --address="$RAY_HEAD" --disable-usage-stats --block "$@"
}

# A node of Ray is healthy if the head answers; its own raylet is watched by `ray start --block`, which ends with it.
# A run is healthy while it can write.
health() {
  local role
  [ -r "$role_file" ] || fail "unhealthy: the entry point has not run"
  role=$(cat "$role_file")
  case "$role" in
    head) exec ray health-check --address "127.0.0.1:$ray_port" ;;
    worker) exec ray health-check --address "$RAY_HEAD" ;;
    *)
      check_writable
      [ "$(free_mib "$PWD")" -ge "$least_disk_mib" ] || fail "unhealthy: less than $least_disk_mib MiB left in $PWD"
      ;;
  esac
}

command=${1:-help}
[ $# -eq 0 ] || shift
case "$command" in
  help | -h | --help)
    usage
    exit 0
    ;;
  health)
    (health) || exit 1 # engines know 0 and 1 only
    exit 0
    ;;
esac

settle_user
printf '%s\n' "$command" > "$role_file"
case "$command" in
  demo | train | tables | head | worker) check_room ;;
esac

case "$command" in
  demo)
    [ "$stack" = cpu ] || fail "demo trains on a CPU, with the CPU build of vLLM: use the image verl-ext:<version>-cpu"
    check_writable
    exec verl-ext demo "$@"
    ;;
  test) run_tests "$@" ;;
  head) start_head "$@" ;;
  worker) start_worker "$@" ;;
  exec)
    [ $# -gt 0 ] || fail "exec: which command? For instance: exec bash"
    exec "$@"
    ;;
  train | tables)
    check_writable
    exec verl-ext "$command" "$@"
    ;;
  *) exec verl-ext "$command" "$@" ;;
esac
