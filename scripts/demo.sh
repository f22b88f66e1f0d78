#!/usr/bin/env bash
# The whole job on drawn street scenes, by the commands a user would type. Run through `make demo`; output in demo/.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}

step() {
    printf '\n== %s\n' "$1"
    shift
    printf '$'
    printf ' %q' "$@"
    printf '\n'
    "$@"
}

rm -rf demo
step "Train (about two minutes on 2 cores)" \
    featherseg train frm-lite0 --data shapes --set train.epochs=4 --set data.train_size=300 --set data.val_size=30 \
    --out demo/run
step "Score on scenes it has not seen" featherseg evaluate demo/run --split test
step "Draw some scenes it has not seen" python examples/write_scenes.py demo/scenes 4
step "Predict them" featherseg predict demo/run demo/scenes -o demo/predictions
step "Export, and compare the file with the model" featherseg export demo/run --format onnx -o demo/run.onnx
step "Predict with the exported file" featherseg predict demo/run.onnx demo/scenes -o demo/predictions-onnx
step "Count" featherseg cost frm-lite0 --size 256x512 --classes 8
step "Report" featherseg report demo/run

printf '\nDone in %d s. Open demo/run/report.html; the predicted images are in demo/predictions.\n' "$SECONDS"
