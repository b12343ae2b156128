#!/usr/bin/env bash
# Builds the image lookbook:VERSION with podman, which needs no daemon, as root on Debian or Ubuntu. It installs
# podman, and makes the base image from Debian's packages if no registry answers. Elsewhere: docker build.
# usage: image.sh [OPTIONS OF podman build]
set -euo pipefail
cd "$(dirname "$0")/.."
base=docker.io/library/python:3.11-slim
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
if ! command -v podman >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq install --yes --no-install-recommends podman runc catatonit netavark aardvark-dns iptables ca-certificates
fi
podman image exists "$base" || podman pull --quiet "$base" 2>/dev/null || scripts/base_image.sh "$base"
podman build --target=runtime --tag="lookbook:$version" --build-arg=COMMIT="$(git rev-parse HEAD || echo unknown)" "$@" .
podman image inspect --format='{{index .RepoTags 0}}: {{.Size}} bytes' "lookbook:$version"
