#!/usr/bin/env bash
# Builds an image with docker or buildah and runs doctor and the first steps of the demo inside it.
set -euo pipefail

usage() {
  cat <<'TEXT'
docker/build.sh [OPTIONS] [-- OPTIONS OF THE ENGINE'S BUILD]

  --stack cpu|gpu     which Dockerfile (cpu)
  --tag NAME          the image's name (verl-ext:<version>-<stack>)
  --engine NAME       docker or buildah; by default docker if its daemon answers, else buildah
  --base IMAGE        another base image, by tag alone or with @sha256:...
  --debootstrap       make the base, Debian bookworm, with debootstrap: for where no image registry can be reached
  --steps N           steps of the demo inside the CPU image; 0 for none (2)
  --release           refuse a work tree with changes and a base without a digest
TEXT
}

fail() {
  printf 'build.sh: %s\n' "$*" >&2
  exit 2
}

cd "$(dirname "$0")/.."
stack=cpu tag='' engine='' base='' debootstrap='' steps=2 release=''
while [ $# -gt 0 ]; do
  case "$1" in
    --stack) stack=${2:?}; shift 2 ;;
    --tag) tag=${2:?}; shift 2 ;;
    --engine) engine=${2:?}; shift 2 ;;
    --base) base=${2:?}; shift 2 ;;
    --steps) steps=${2:?}; shift 2 ;;
    --debootstrap) debootstrap=yes; shift ;;
    --release) release=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
done

case "$stack" in
  cpu) file=docker/Dockerfile.cpu ;;
  gpu) file=docker/Dockerfile ;;
  *) fail "--stack $stack: cpu or gpu" ;;
esac
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
tag=${tag:-verl-ext:$version-$stack}

if [ -z "$engine" ]; then
  if docker info >/dev/null 2>&1; then engine=docker
  elif command -v buildah >/dev/null; then engine=buildah
  else fail "neither a docker daemon nor buildah is here; install one (Debian: apt-get install buildah)"
  fi
fi

if [ -n "$debootstrap" ]; then
  [ "$stack" = cpu ] || fail "--debootstrap makes a Debian base; the GPU image wants CUDA's"
  [ "$engine" = buildah ] || fail "--debootstrap wants --engine buildah"
  base=localhost/verl-ext-base:bookworm
  docker/debian-base.sh "$base"
fi

revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
changes=$(git status --porcelain 2>/dev/null || true)
if [ -n "$release" ]; then
  [ -z "$changes" ] || fail "--release: the work tree has changes; commit them first"
  [ -z "$base" ] || [[ "$base" == *@sha256:* ]] || fail "--release: give the base with its digest, --base NAME:TAG@sha256:..."
fi
[ -z "$changes" ] || revision=$revision-dirty

arguments=(--file "$file" --tag "$tag"
  --build-arg "VERSION=$version" --build-arg "REVISION=$revision"
  --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)")
if [ -n "$base" ]; then
  arguments+=(--build-arg "BASE_IMAGE=$base" --build-arg "BASE_DIGEST=")
fi

# buildah's own format has no HEALTHCHECK; docker's has.
printf 'building %s with %s ...\n' "$tag" "$engine"
if [ "$engine" = docker ]; then
  docker build "${arguments[@]}" "$@" .
  run_inside() { docker run --rm --shm-size=4g "$tag" "$@"; }
else
  buildah bud --format docker "${arguments[@]}" "$@" .
  container=$(buildah from --pull-never "$tag")
  trap 'buildah rm "$container" >/dev/null' EXIT
  run_inside() { buildah run "$container" -- /usr/bin/tini -s -g -- /opt/verl-ext/docker/entrypoint.sh "$@"; }
fi

printf 'inside %s: doctor\n' "$tag"
run_inside doctor
if [ "$stack" = cpu ] && [ "$steps" -gt 0 ]; then
  printf 'inside %s: the first %s steps of the demo\n' "$tag" "$steps"
  run_inside demo --steps "$steps"
fi
printf '%s is built and works\n' "$tag"
