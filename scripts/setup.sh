#!/usr/bin/env bash
# Makes .venv with the package and every extra that the tests use. Run through `make setup`; a second run takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found. On Debian 12: apt-get install python3 python3-venv." \
        "Or name one: make setup PYTHON=/path/to/python3"
}

# What the environment is made from. Where this is unchanged there is nothing to do.
fingerprint() { { pwd; echo "CPU=${CPU:-}"; cat pyproject.toml constraints.txt setup.py \
    src/featherseg/kernels/*.[ch] scripts/setup.sh; } | sha256sum; }

stamp=.venv/.made-from
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ] && .venv/bin/python -c "" 2>/dev/null; then
    exit 0
fi

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    say "making .venv with $("$python" --version) (1 of 2)"
    "$python" -m venv --clear .venv ||
        fail "$python cannot make a virtual environment. On Debian: apt-get install python3-venv. Then run this again."
fi

options=(-qq --disable-pip-version-check -c constraints.txt)
if [ -n "${CPU:-}" ]; then
    options+=(--extra-index-url https://download.pytorch.org/whl/cpu)
fi
say "installing featherseg, its dependencies and the test tools into .venv (2 of 2; minutes the first time)"
.venv/bin/python -m pip install "${options[@]}" -e '.[dev]' ||
    fail "the installation failed (see above). Nothing outside .venv was touched; run it again with: make setup"
fingerprint >"$stamp"
say "done: .venv/bin/featherseg --help"
