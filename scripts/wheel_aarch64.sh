#!/usr/bin/env bash
# Cross-compiles the wheel for Linux on ARM: scripts/wheel_aarch64.sh SOURCE FOLDER [OPTIONS OF
# PIP]. SOURCE is the checkout or an sdist. zig, from [dev], is clang with glibc's headers; wheels
# for glibc 2.17 are manylinux2014.
set -euo pipefail
scripts=$(realpath "$(dirname "$0")")
headers=$(mktemp -d)
trap 'rm -rf "$headers"' EXIT

cp -rL "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/." "$headers"
cp "$scripts/pyconfig.h" "$headers"
# the program itself: pip hides the packages of .venv from a script that builds a wheel
zig=$(python -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__))')/zig
export CC="$zig cc -target aarch64-linux-gnu.2.17" CFLAGS=-I$headers LDFLAGS=-s
export _PYTHON_HOST_PLATFORM=linux-aarch64
LDSHARED="$CC -shared" python -m pip wheel -q --no-deps -w "$2" "$1" "${@:3}"
