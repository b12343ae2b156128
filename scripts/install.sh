#!/usr/bin/env bash
# Installs what LOCK pins, by hash, for PYTHON; then PROJECT, editable, if one is given. Nothing is resolved: pip older
# than 24 resolves name[extra] separately from the pinned name, and fails if there is a release newer than the pinned
# one, because the lock has no hash for it (https://github.com/pypa/pip/issues/9644).
# usage: install.sh PYTHON LOCK [PROJECT]
set -euo pipefail
python=$1 lock=$2 project=${3:-}
install=("$python" -m pip install --quiet --no-deps)
# Some packages exist as source only. What builds them is locked too, and comes first: a build environment of pip's own
# would hold the newest.
"${install[@]}" --require-hashes --only-binary=:all: \
  --requirement=<(sed -n '/^\(packaging\|setuptools\|wheel\)==/,/[^\\]$/p' "$lock")
"${install[@]}" --require-hashes --no-build-isolation --requirement="$lock"
if [ -n "$project" ]; then
  "${install[@]}" --no-build-isolation --editable="$project"
fi
missing=$("$python" -m pip check) || {
  missing=${missing%.}
  echo "install.sh: $lock is not complete: ${missing//.$'\n'/; }: make lock writes it again" >&2
  exit 1
}
