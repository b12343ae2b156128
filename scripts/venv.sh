#!/usr/bin/env bash
# Makes the virtual environment .venv with exactly what LOCK pins, and this project, editable. An unfinished one, or one
# of another lock or Python, is replaced.
# usage: venv.sh PYTHON LOCK
set -euo pipefail
python=$1 lock=$2
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || {
  echo "venv.sh: $("$python" --version 2>&1 || true): Lookbook needs Python 3.11 to 3.13; name one with make PYTHON=..." >&2
  exit 1
}
parts=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)' && sha256sum "$lock")
if [ "$parts" != "$(cat .venv/parts 2>/dev/null)" ]; then
  if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv --clear .venv
  else # Debian keeps pip in a package of its own
    scripts/debian_packages.sh .cache/debian python3-pip-whl
    "$python" -m venv --clear --without-pip .venv
    wheel=$(echo .cache/debian/root/usr/share/python-wheels/pip-*.whl)
    .venv/bin/python "$wheel/pip" install --quiet --no-index "$wheel"
  fi
fi
scripts/install.sh .venv/bin/python "$lock" .
echo "$parts" >.venv/parts
