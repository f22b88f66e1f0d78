#!/usr/bin/env bash
# Cross-compiles the wheel of the last commit for Linux on ARM, and tests it on a Raspberry Pi 5
# that QEMU emulates. Run through `make test-aarch64`, as root, on Linux on x86-64 with Python 3.11.
# Masks must equal this machine's; times mean nothing. The first run fetches about 5 GB (PyPI's
# torch brings CUDA; UV_TORCH_BACKEND=cpu takes the CPU build, where PyTorch's index is reachable)
# and takes 12 GB in build/aarch64.
# Every stage leaves a log in build/aarch64/COMMIT; another run at that commit continues after the
# stages that passed. LIMIT: seconds for the tests of layers and models (default 3600); the test
# file in progress is finished.
set -euo pipefail
cd "$(dirname "$0")/.."
# Mounts end with the script
[ -n "${APART:-}" ] || APART=1 exec unshare --mount --propagation private "$0" "$@"

WORK=$PWD/build/aarch64 ROOT=$PWD/build/aarch64/root
MODEL=efficientvit-seg-b0-shapes LIMIT=${LIMIT:-3600}
RUN=$WORK/$(git rev-parse --short HEAD)
export OMP_NUM_THREADS=1

say() { echo "aarch64: $*"; }
fail() { echo "aarch64: $*" >&2; exit 1; }
[[ $(python --version) = *" 3.11."* ]] || fail "the emulated Python is 3.11, that of .venv is not."
for tool in debootstrap qemu-aarch64-static; do
    command -v $tool >/dev/null ||
        fail "$tool is missing. On Debian: apt-get install qemu-user-static debootstrap"
done

# stage FOLDER NAME FUNCTION: run a stage once, with its log in FOLDER; if it fails, go on
status=0
stage() {
    local log=$1/$2.log
    shift 2
    [ ! -e "$log" ] || return 0
    mkdir -p "$(dirname "$log")"
    set +e # in a condition, bash would go on after a command of the stage that fails
    (set -e; "$@") >"$log.part" 2>&1
    local code=$?
    set -e
    if [ $code = 0 ]; then
        mv "$log.part" "$log"
        say "${log#"$WORK/"}: passed"
    else
        status=1
        say "${log#"$WORK/"}.part: FAILED"
    fi
}

# --- the emulated machine ---

# debootstrap's second stage takes 20 minutes emulated; unpacking the packages is enough
make_root() {
    rm -rf "$ROOT"
    debootstrap --arch=arm64 --foreign --variant=minbase \
        --include=python3,python3-dev,python3-venv,gcc,libc6-dev,libgomp1 bookworm "$ROOT"
    for package in "$ROOT"/var/cache/apt/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$ROOT" --keep-directory-symlink
    done
    rm -rf "$ROOT"/{proc,debootstrap,var/cache/apt/archives} # in a container, proc is a link
    mkdir "$ROOT/proc"
    ln -s gcc "$ROOT/usr/bin/cc"
    echo root:x:0:0:root:/root:/bin/sh >"$ROOT/etc/passwd"
    echo root:x:0: >"$ROOT/etc/group"
}

# What the tests need, resolved and unpacked outside, and compiled by the same version of Python
install_packages() {
    grep -vE '^(#|$)' constraints.txt >"$WORK/constraints.txt"
    uv pip install -q --python-platform aarch64-manylinux_2_36 --python-version 3.11 \
        --only-binary :all: --target "$ROOT/opt/site" -c "$WORK/constraints.txt" \
        -r pyproject.toml --extra train --extra export --extra ncnn pytest hypothesis setuptools
    python -m compileall -q -x /py312_ "$ROOT/opt/site" # a test of torch's has the syntax of 3.12
}

# torch's cpuinfo and oneDNN read these, and crash on those of an x86-64 machine
make_board() {
    local cpus=$ROOT/sys/devices/system/cpu n
    local features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm"
    : >"$ROOT/cpuinfo"
    for n in 0 1; do
        mkdir -p "$cpus/cpu$n"/{topology,regs/identification,cpufreq}
        printf '%s\n' "processor : $n" "BogoMIPS : 108.00" \
            "Features : $features lrcpc dcpop asimddp" "CPU implementer : 0x41" \
            "CPU architecture: 8" "CPU variant : 0x4" "CPU part : 0xd0b" "CPU revision : 1" "" \
            >>"$ROOT/cpuinfo"
        echo 0x00000000414fd0b1 >"$cpus/cpu$n/regs/identification/midr_el1"
        echo "$n" | tee "$cpus/cpu$n/topology"/{core_id,{thread_siblings,core_cpus}_list} >/dev/null
        echo 0 >"$cpus/cpu$n/topology/physical_package_id"
        echo 0-1 >"$cpus/cpu$n/topology/core_siblings_list"
        echo 2400000 >"$cpus/cpu$n/cpufreq/cpuinfo_max_freq"
        echo 1500000 >"$cpus/cpu$n/cpufreq/cpuinfo_min_freq"
    done
    echo 0-1 | tee "$cpus/"{possible,present,online} >/dev/null
    mount -t proc proc "$ROOT/proc"
    mount --bind "$ROOT/cpuinfo" "$ROOT/proc/cpuinfo"
    mount --rbind /dev "$ROOT/dev"
    local formats=/proc/sys/fs/binfmt_misc
    mountpoint -q $formats || mount -t binfmt_misc binfmt_misc $formats
    [ -e $formats/qemu-aarch64 ] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >$formats/register
}

inside() {
    chroot "$ROOT" /usr/bin/env -i -C /opt/work HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 \
        QEMU_CPU=cortex-a76 OMP_NUM_THREADS=1 PYTHONPATH="${SOURCE:-/opt/wheel}:/opt/site" "$@"
}
featherseg_inside() { inside python3.11 -m featherseg "$@"; }

# --- the stages ---

# The wheel; and the checkout with the wheel's loops, for the tests
make_wheel() {
    rm -rf "$ROOT"/opt/{wheel,checkout,work} "$RUN/wheels"
    mkdir -p "$ROOT"/opt/{wheel,checkout,work}
    git archive HEAD | tar -x -C "$ROOT/opt/checkout"
    scripts/wheel_aarch64.sh "$ROOT/opt/checkout" "$RUN/wheels"
    auditwheel repair -w "$RUN/wheels" "$RUN"/wheels/*-linux_aarch64.whl
    python -m zipfile -e "$RUN"/wheels/*manylinux*.whl "$ROOT/opt/wheel"
    local kernels=featherseg/kernels
    cp "$ROOT/opt/wheel/$kernels/_native.abi3.so" "$ROOT/opt/checkout/src/$kernels"
    python -m compileall -q "$ROOT"/opt/{wheel,checkout/src}
}

# Scenes, and the shipped model as files of this machine
make_files() {
    rm -rf "$RUN/native"
    mkdir -p "$RUN/native/scenes"
    python - "$RUN/native" $MODEL <<'PYTHON'
import sys
from pathlib import Path

from PIL import Image

from featherseg.data import open_dataset
from featherseg.exporters.pipeline import describe
from featherseg.fitting.bundle import BundleItem, write_bundle
from featherseg.runs.run import load_run

folder, run = Path(sys.argv[1]), load_run(sys.argv[2])
images = [open_dataset("shapes", "test")[i].image for i in range(3)]
for i, image in enumerate(images):
    Image.fromarray(image).save(folder / "scenes" / f"{i}.png")
facts = describe(run.model, run, None)
items = [BundleItem(run.model, "shipped", facts, {1.0: None}, form) for form in ("onnx", "ncnn")]
assert write_bundle(folder / "bundle.zip", items, images[0]) == []
PYTHON
    python -m zipfile -e "$RUN/native/bundle.zip" "$RUN/native/bundle"
    # that of the bundle returns masks, and `predict` needs logits
    featherseg export $MODEL --format onnx -o "$RUN/native/model.onnx"
    cp -r "$RUN"/native/{scenes,bundle,model.onnx} "$ROOT/opt/work"
}

# What the emulated machine must equal
make_native() {
    cd "$RUN/native"
    rm -rf masks run
    for runtime in torch onnx ncnn; do predict_by $runtime; done
    train_two
    train_on
}

# predict_by TORCH|ONNX|NCNN [COMMAND]: masks of the scenes in masks/
predict_by() {
    local -A files=([torch]=$MODEL [onnx]=model.onnx [ncnn]=bundle/shipped-at-1.ncnn.param)
    "${2:-featherseg}" predict "${files[$1]}" scenes -o "masks/$1" --masks
}
predict_equal() {
    predict_by "$1" featherseg_inside
    python - "$RUN/native/masks/$1" "$ROOT/opt/work/masks/$1" <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
from PIL import Image

here, there = (sorted(Path(folder).glob("*_mask.png")) for folder in sys.argv[1:])
pairs = [[np.asarray(Image.open(path)) for path in pair] for pair in zip(here, there, strict=True)]
equal, pixels = sum((a == b).sum() for a, b in pairs), sum(a.size for a, _ in pairs)
print(f"{len(pairs)} masks: {equal} of {pixels} pixels equal")
assert pairs
assert equal == pixels
PYTHON
}

SMALL=(model.pretrained=false data.train_size=8 data.val_size=2 data.workers=0
    "augment.crop=[64, 96]" train.batch_size=4 train.precision=fp32 train.schedule=stable)
train_two() {
    "${1:-featherseg}" train efficientvit-seg-b0 --no-report --out run --set train.steps=2 \
        "${SMALL[@]/#/--set=}"
}
train_inside() {
    inside rm -rf run
    train_two featherseg_inside
}
train_on() { "${1:-featherseg}" train --resume --no-report --out run --set train.steps=4; }
train_close() {
    train_on featherseg_inside
    python - "$RUN/native/run" "$ROOT/opt/work/run" <<'PYTHON'
import json
import sys
from pathlib import Path

runs = [[json.loads(line) for line in (Path(run) / "metrics.jsonl").open()] for run in sys.argv[1:]]
assert any("resumed_from" in row for row in runs[1])
losses = [{row["step"]: row["loss"] for row in rows if "loss" in row} for rows in runs]
print("losses by step, here and emulated:", *losses)
assert losses[0].keys() == losses[1].keys()
assert losses[0]
assert all(abs(losses[1][step] / loss - 1) < 1e-3 for step, loss in losses[0].items())
PYTHON
}

measure() {
    inside python3.11 bundle/measure.py
    inside python3.11 -c 'import json; print(json.load(open("bundle/latency.json"))["device"])'
}

run_tests() {
    SOURCE=/opt/checkout/src inside env -C /opt/checkout python3.11 -m pytest -q \
        -p no:cacheprovider -m "not seconds and not slow and not gpu" "$1" ||
        [ $? = 5 ] # pytest's code for no test: all of the file are slow ones
}

stage "$WORK" root make_root
stage "$WORK" packages install_packages
make_board
stage "$RUN" wheel make_wheel
stage "$RUN" files make_files
stage "$RUN" native make_native
[ $status = 0 ] || exit 1
stage "$RUN" import inside python3.11 -c \
    'import featherseg.kernels as k; print("loops:", k.native()); assert k.native() == "baseline"'
stage "$RUN" predict-torch predict_equal torch
stage "$RUN" predict-onnx predict_equal onnx
stage "$RUN" predict-ncnn predict_equal ncnn
stage "$RUN" doctor featherseg_inside doctor
stage "$RUN" check featherseg_inside check shapes
stage "$RUN" train-two-steps train_inside
stage "$RUN" resume train_close
stage "$RUN" measure measure
for file in tests/kernels/test_*.py; do stage "$RUN" "$file" run_tests "$file"; done
SECONDS=0
contract=tests/models/test_contract.py # the longest: the last one
for file in tests/layers/test_*.py $(ls tests/models/test_*.py | grep -vx $contract) $contract; do
    if [ $SECONDS -ge "$LIMIT" ]; then
        say "LIMIT, $LIMIT s, is over: $file and later ones were not run"
        break
    fi
    stage "$RUN" "$file" run_tests "$file"
done
exit $status
