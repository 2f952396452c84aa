#!/usr/bin/env bash
# docker/debian-base.sh IMAGE: Debian bookworm as a local image, made by debootstrap from this machine's own mirror.
# For building where no image registry can be reached. Needs root, buildah and debootstrap, and a Debian machine.
set -euo pipefail

image=${1:?usage: docker/debian-base.sh IMAGE}
suite=bookworm

for tool in buildah debootstrap; do
  command -v "$tool" >/dev/null || { echo "debian-base.sh: $tool is missing (apt-get install $tool)" >&2; exit 2; }
done
if buildah inspect --type image "$image" >/dev/null 2>&1; then
  echo "$image is there already (buildah rmi $image to make it anew)"
  exit 0
fi

# shellcheck disable=SC2016 # apt fills the name in
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" | head -n 1)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
debootstrap --variant=minbase --include=ca-certificates "$suite" "$tree" "${mirror:-http://deb.debian.org/debian}"
# bootstrap.log names this machine's folders.
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb \
  "$tree"/var/log/bootstrap.log

container=$(buildah from scratch)
trap 'rm -rf "$tree"; buildah rm "$container" >/dev/null' EXIT
buildah add --quiet "$container" "$tree" / >/dev/null
buildah config --cmd bash "$container"
buildah commit --quiet --format docker "$container" "$image" >/dev/null
echo "$image is made"
