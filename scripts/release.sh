#!/usr/bin/env bash
# dist/: the sdist, and from it a compiled wheel (stable ABI: one for every Python from 3.11 on), on Linux on x86-64 one for
# ARM too, and a pure one; checked, and used in environments that have neither compiler nor checkout (`make test-aarch64`
# uses the one for ARM). Run through `make release`. Nothing is uploaded: `twine upload dist/*` does that. BARE names the
# Pythons that the wheels are used under, "none" for none.
set -euo pipefail
cd "$(dirname "$0")/.."
BARE=${BARE:-python3}

say() { echo "release: $*"; }
fail() { echo "release: $*" >&2; exit 1; }

# What is released is what is committed, and the changelog knows its version.
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' src/featherseg/_version.py)
[ -z "$(git status --porcelain)" ] || fail "there are changes that are not committed. Commit or stash them."
if [[ $version == *dev* ]]; then
    say "$version is a version of development: a trial. To release, set it in src/featherseg/_version.py and head its" \
        "changes in CHANGELOG.md with ## [VERSION] - YYYY-MM-DD"
elif ! grep -qE "^## \[${version//./\\.}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md; then
    fail "CHANGELOG.md has no line '## [$version] - YYYY-MM-DD'. Move what is under Unreleased there."
fi

# The wheels are built from the sdist, so that it is complete. The same commit gives the same bytes.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
rm -rf dist build/release
python -m build --sdist >/dev/null 2>&1
LDFLAGS=-s python -m pip wheel -q --no-deps -w build/release dist/*.tar.gz
[ "$(uname -sm)" != "Linux x86_64" ] || scripts/wheel_aarch64.sh dist/*.tar.gz build/release
[[ $(echo build/release/*) != *none-any* ]] || fail "no C compiler worked, so there is no compiled wheel. Install gcc or clang."
for compiled in build/release/*.whl; do
    if [ "$(uname)" = Linux ]; then # the registry takes only wheels that say which systems they run on
        auditwheel repair -w dist "$compiled" >/dev/null
    else
        cp "$compiled" dist
    fi
done
CC=/bin/false python -m pip wheel -q --no-deps -w dist dist/*.tar.gz
ls dist/*-py3-none-any.whl >/dev/null || fail "the pure wheel was compiled all the same: CC does not choose the compiler here."
twine check --strict dist/*

for python in ${BARE/none/}; do
    for wheel in dist/*-{none-any,*"$(uname -m)"}.whl; do
        scripts/bare.sh "$wheel" "$python"
    done
done
ls -l dist
say "$version is in dist; to publish it: git tag v$version && twine upload dist/*"
