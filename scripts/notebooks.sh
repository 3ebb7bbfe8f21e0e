#!/usr/bin/env bash
# Run every notebook (a jupytext script or an .ipynb without outputs) in a scratch folder; sizes are shrunk by
# SMCSSM_FAST=1 unless it is set otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
out=build/notebooks
export SMCSSM_FAST="${SMCSSM_FAST:-1}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.pytest_cache/jax}"

rm -rf "$out"
mkdir -p "$out"
for source in notebooks/*.py notebooks/*.ipynb; do
    target="$out/$(basename "${source%.*}").ipynb"
    if [ -e "$source" ] && [ ! -e "$target" ]; then
        "$python" -m jupytext --quiet --to ipynb --output "$target" "$source"
    fi
done
"$python" -m pytest --nbmake --nbmake-timeout=900 --durations=0 -n logical --maxprocesses 4 -W default "$out"
