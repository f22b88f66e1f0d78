#!/usr/bin/env bash
# Runs the kernels' tests on a build with the address and undefined-behaviour sanitizers: scripts/sanitize_kernels.sh
# Builds in a folder of its own; the installed package stays as it is. Needs gcc with libasan. PYTHON names the Python.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cp -r src tests setup.py pyproject.toml README.md LICENSE "$folder"
find "$folder/src" -name '_native*.so' -delete
python=$(realpath --no-symlinks "$python")
cd "$folder"
CFLAGS="-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
    LDFLAGS="-fsanitize=address,undefined" \
    "$python" setup.py -q build_ext --inplace

# Leaks are not looked for: the interpreter keeps until its end what it holds.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
    PYTHONPATH="$folder/src" "$python" -m pytest -s -p no:cacheprovider tests/kernels -m "not gpu and not slow"
