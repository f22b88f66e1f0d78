#!/usr/bin/env bash
# A wheel as its user gets it: installed into a new environment away from the checkout, and used there with nothing but
# that environment on PATH, so that neither a compiler nor git is found. scripts/bare.sh WHEEL [PYTHON [EXTRAS]]
set -euo pipefail
wheel=$(realpath "$1")
python=${2:-python3}
extras=${3:-serve,torch}
scripts=$(realpath "$(dirname "$0")")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$python" -m venv bare
echo "bare: $(basename "$wheel") [$extras] with $(bare/bin/python --version)"
constraints=$scripts/../constraints.txt
source=$(bare/bin/python "$scripts/torch_source.py" "$(sed -n 's/^torch==//p' "$constraints")")
bare/bin/python -m pip install -q --disable-pip-version-check -c "$constraints" ${source:+"$source"} "$wheel[$extras]"

bare() { env -i PATH="$place/bare/bin" HOME="$place" LANG=C.UTF-8 "$@"; }
TIMEFORMAT='bare: that took %R s on the clock, %U s of a processor'
du -sh bare | sed 's/^/bare: the environment: /'
for verb in doctor models weights; do bare featherseg "$verb" >/dev/null; done
time bare featherseg demo
time bare featherseg predict efficientvit-seg-b0-shapes demo/scenes -o masks --masks
bare featherseg predict road "$scripts/../examples/photos/road-1.jpg" -o photos
time bare python "$scripts/ask_service.py" demo/scenes masks
