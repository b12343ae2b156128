#!/usr/bin/env bash
# Makes a stand-in for python:3.11-slim from Debian's packages, for machines that reach a Debian mirror but no registry.
# Besides Debian's certificates it trusts this machine's own, which pip may need to get past a proxy.
# usage: base_image.sh NAME
set -euo pipefail
command -v debootstrap >/dev/null || apt-get -qq install --yes --no-install-recommends debootstrap
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,netbase,python3,python3-venv,tzdata bookworm "$root" >"$root.log" ||
  { cat "$root.log" >&2; exit 1; }
cp --recursive /usr/local/share/ca-certificates "$root/usr/local/share/"
chroot "$root" update-ca-certificates >/dev/null
printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,locale,man}/* "$root.log"
tar --directory="$root" --create . | podman import --change=CMD=python3 - "$1"
