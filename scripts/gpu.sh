#!/usr/bin/env bash
# What was never run on a GPU, in stages of at most 8 minutes, the most valuable first. scripts/gpu.sh STAGE [--dry]
#
#   tests     the tests that need a GPU
#   kernels   Triton's kernels beside torch's and beside those of the CPU
#   latency   `featherseg benchmark` of frm-van-s, 1024x2048: CUDA graphs, bf16, channels-last, torch.compile; exports
#             of the shipped model in ONNX Runtime and TensorRT where they are installed
#   training  images a second and the share of the time that the training waits for files, 360x480
#   papers    each paper recipe for 50 steps at its real crop and batch, on generated images
#   ddp       3 steps by DDP on one device
#
# A stage that was stopped goes on when the same command is given again. Its table is FOLDER/STAGE.md, what it said
# FOLDER/STAGE.log; FOLDER is build/gpu, or $GPU_FOLDER, and what a call wrote is copied to $OUT where that is set.
# Nothing is fetched: all data is generated, and Python (or $PYTHON) must have the packages. --dry: small, on a CPU, to
# see that every command works. NOT YET RUN ON A GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
stage=${1:?usage: scripts/gpu.sh STAGE [--dry]}
dry=${2:-}
[ -z "$dry" ] || [ "$dry" = --dry ] || { echo "gpu: $dry: expected --dry or nothing"; exit 2; }
python=${PYTHON:-python}
folder=${GPU_FOLDER:-build/gpu}
export PYTHONPATH=$PWD/src:$PWD/tests:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
[ -n "$dry" ] && folder+=-dry
mkdir -p "$folder"
log=$folder/$stage.log table=$folder/$stage.md done=$folder/$stage.done
touch "$done"
device=$([ -n "$dry" ] && echo cpu || echo cuda)
failed=0

# step NAME COMMAND...: once, within what is left of 8 minutes; what it prints goes into the log, and into $said
step() {
    local name=$1 left=$((470 - SECONDS))
    shift
    said=$folder/$stage-$name.txt
    grep -qx "$name" "$done" && return 1
    [ "$left" -gt 20 ] || { echo "gpu: 8 minutes are over before $name; the same command goes on"; failed=75; return 1; }
    echo "gpu: $name: $*" | tee -a "$log"
    if timeout "$left" "$@" >"$said" 2>>"$log"; then
        cat "$said" >>"$log"
        echo "$name" >>"$done"
    else
        local code=$?
        cat "$said" >>"$log"
        echo "gpu: $name ended with $code; see $log"
        failed=$code
        return 1
    fi
}
begin() { [ -s "$table" ] || printf '%s\n' "$@" >"$table"; }
featherseg() { "$python" -m featherseg "$@"; }
export -f featherseg

if [ -z "$dry" ] && ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu: torch sees no GPU here. --dry runs the same on the CPU, small."
    exit 2
fi
"$python" -c 'from featherseg.kernels import native; assert native()' 2>>"$log" ||
    "$python" setup.py -q build_ext --inplace >>"$log" 2>&1 || echo "gpu: no compiled kernels, so no C to compare with"

case $stage in
tests)
    mark=$([ -n "$dry" ] && echo "gpu and not gpu" || echo gpu)
    step pytest "$python" -m pytest -q -n 0 -p no:cacheprovider -rA -m "$mark" tests/kernels tests/benchmarking
    printf '%s\n' '| test | outcome |' '|---|---|' >"$table"
    sed -nE 's/^(PASSED|FAILED|SKIPPED|ERROR) (.*)/| \2 | \L\1 |/p' "$folder/tests-pytest.txt" >>"$table"
    [ -n "$dry" ] && failed=0 # pytest says 5: every test of these needs a GPU
    ;;
kernels)
    small=$([ -n "$dry" ] && echo "--rounds 2 --size 64 128")
    # shellcheck disable=SC2086
    step kernels "$python" benchmarks/gpu_kernels.py --device $device $small && cp "$said" "$table"
    ;;
latency)
    begin '| variant | size | batch | ms | images/s | over eager |' '|---|---|---|---|---|---|'
    rows='import json, sys
for table in json.load(sys.stdin)["tables"]:
    eager = table["rows"][0]["forward_ms"]["p50"]
    for row in table["rows"]:
        ms, size, batch = row["forward_ms"]["p50"], "x".join(map(str, table["size"])), table["batch"]
        print("|", row["variant"], "|", size, "|", batch, f"| {ms:.2f} | {1000 * batch / ms:.1f} | {eager / ms:.2f}x |")'
    models=${dry:+efficientvit-seg-b0} size=${dry:+64x96} batches="1 8" rounds=${dry:+4}
    for model in ${models:-frm-van-s frm-lite0 cgrseg-t rsp-lite0}; do
        for batch in $batches; do
            step "$model-$batch" "$python" -m featherseg benchmark "$model" --image-size "${size:-1024x2048}" --batch "$batch" \
                --device $device --rounds "${rounds:-30}" --json && "$python" -c "$rows" <"$said" >>"$table"
        done
    done
    ;;
training)
    steps=$([ -n "$dry" ] && echo "3 --batch 2" || echo "60 --batch 0")
    # shellcheck disable=SC2086
    step frm-lite0 "$python" benchmarks/paper_recipes.py frm-lite0_camvid --files --device $device --steps $steps \
        --out "$folder/training.jsonl" && cp "$said" "$table"
    ;;
papers)
    steps=$([ -n "$dry" ] && echo "1 --batch 1" || echo "50 --batch 0")
    for recipe in frm-van-s_cityscapes frm-van-s_bdd100k cgrseg-t_ade20k rsp-lite0_cityscapes rsp-lite0-panoptic_cityscapes; do
        [ -n "$dry" ] && [ $recipe != cgrseg-t_ade20k ] && continue
        # shellcheck disable=SC2086
        step $recipe "$python" benchmarks/paper_recipes.py $recipe --device $device --steps $steps --out "$folder/papers.jsonl"
        [ -s "$said" ] && cp "$said" "$table"
    done
    ;;
ddp)
    begin '| processes | steps | outcome |' '|---|---|---|'
    rm -rf "$folder/ddp"
    small=$([ -n "$dry" ] && echo "--set augment.crop=[32,32] --set train.device=cpu" || echo "--set train.device=cuda")
    # shellcheck disable=SC2086
    step torchrun "$python" -m torch.distributed.run --nproc-per-node=1 -m featherseg train efficientvit-seg-b0 --data shapes \
        --set train.steps=3 --set train.batch_size=2 --set data.train_size=6 --set data.val_size=1 --set model.pretrained=false \
        --set data.workers=0 $small --out "$folder/ddp" && echo "| 1, by torchrun | 3 | ended with 0 |" >>"$table"
    ;;
*)
    echo "gpu: no stage '$stage': tests, kernels, latency, training, papers, ddp"
    exit 2
    ;;
esac
[ -z "${OUT:-}" ] || cp "$table" "$log" "$done" "$folder/$stage".jsonl "$OUT" 2>/dev/null
[ "$failed" = 0 ] && echo "gpu: $stage is done: $table"
exit "$failed"
