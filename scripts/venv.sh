#!/usr/bin/env bash
# Makes the virtual environment .venv with exactly what LOCK pins, and this project in it as it stands.
# usage: venv.sh PYTHON LOCK
set -euo pipefail
python=$1 lock=$2
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
  echo "venv.sh: $("$python" --version 2>&1 || true): Lookbook needs Python 3.11 to 3.13; name one with make PYTHON=..." >&2
  exit 1
}
if "$python" -c 'import ensurepip' 2>/dev/null; then
  "$python" -m venv .venv
else # Debian keeps pip in a package of its own
  scripts/debian_packages.sh .cache/debian python3-pip-whl
  "$python" -m venv --without-pip .venv
  wheel=$(echo .cache/debian/root/usr/share/python-wheels/pip-*.whl)
  .venv/bin/python "$wheel/pip" install --quiet --no-index "$wheel"
fi
.venv/bin/python -m pip install --quiet --require-hashes --requirement "$lock"
.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
