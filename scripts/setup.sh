#!/usr/bin/env bash
# Make .venv with the first Python >= 3.12 that runs and install the project into it, editable.
#
#   bash scripts/setup.sh EXTRA      (dev, demo, docs, ...; $PYTHON names a Python to try first)
#
# Paths are relative throughout, so the folder may have spaces in its name.
set -euo pipefail
cd "$(dirname "$0")/.."
extra=$1
python=.venv/bin/python

usable() { # It must run (a pyenv shim may exist and fail), be recent enough and be able to make environments.
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 12))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.13 python3.12 python3.14 python3 \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1*/bin/python; do
        if [ -n "$candidate" ] && usable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    echo "setup: no working Python >= 3.12 found; install one or name it: make PYTHON=/path/to/python" >&2
    return 1
}

if ! usable "$python"; then
    found=$(find_python)
    echo "setup: new environment in .venv with $found"
    "$found" -m venv --clear .venv
fi

# uv installs several times faster than pip; without it pip does the same.
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
[ -x .venv/bin/uv ] || pip install --quiet uv || echo "setup: no uv, using pip"
echo "setup: installing smcssm[$extra]"
if ! { [ -x .venv/bin/uv ] && .venv/bin/uv pip install --quiet --python "$python" -e ".[$extra]"; }; then
    pip install --quiet -e ".[$extra]"
fi
touch ".venv/.installed-$extra"
