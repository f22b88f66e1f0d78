"""What a verb leaves in a new HOME and TMPDIR (SECURITY.md says where), and no calls of anybody."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.fit_plans import begin_planned, write_yard
from support.models.small_onnx import write_onnx
from support.models.small_training import Tiny, TinyConfig
from support.processes.verbs_alone import run_verbs, without_network

from featherseg.cli import VERBS

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="processes are watched as Linux lets it"
)
ROOT = Path(__file__).parents[1]
DOCUMENTED = {
    "home/.cache/featherseg/*": "`~/.cache/featherseg`",
    "home/.cache/fontconfig/*": "`~/.cache/fontconfig`",
    "home/.cache/huggingface/*": "`~/.cache/huggingface`",
    "home/.cache/matplotlib/*": "`~/.cache/matplotlib`",
    "home/.config/matplotlib": "`~/.config/matplotlib`",
    "tmp/torchinductor_*": "`torchinductor_USER`",
}
"""Pattern of what may be left -> the words of SECURITY.md about it."""

SET = (
    "--set model.pretrained=false --set data.workers=0 --set augment.crop=[64,96] "
    "--set train.epochs=1 "
    "--set train.batch_size=4 --data yard"
)
TRAIN = f"frm-lite0 --set model.name=tiny {SET} -o run"
FILE = "run/export/model.onnx"
QUICK = {
    "models": [""],
    "weights": [""],
    "check": ["yard"],
    "convert": ["yard --to coco -o coco"],
    "prepare": ["yard"],
    "train": [TRAIN],
    "import": ["weights.pth --model tiny --data yard --image-size 64x96 --licence MIT -o bought"],
    "export": ["run --format onnx"],
    "evaluate": ["run", f"{FILE} --data yard"],
    "predict": [
        "run yard/images -o masks",
        f"{FILE} yard/images -o masks-2",
    ],
    "report": ["run"],
    "push": ["run hf://meadow/lawn"],
    "serve": [f"{FILE} --port 0"],
}
SLOW = {
    "demo": ["-o demo"],
    "doctor": ["--try-extras"],
    "train": [TRAIN],
    "export": ["run --format onnx,openvino,onnx-int8,openvino-int8,torch-export,ncnn"],
    "predict": ["run/export/model.xml yard/images -o masks-3"],
    "sweep": [f"frm-lite0 {SET} --models tiny --seeds 0,1 --no-costs -o sweep"],
    "compare": [f"run {FILE} --no-costs -o compare.html"],
    "audit": ["field --run run --minutes 1 -o audit.html"],
    "paper": ["rsp"],
    "cost": ["frm-lite0 --image-size 64x64 --classes 2"],
    "benchmark": ["efficientvit-seg-b0-shapes --rounds 4 --threads 1"],
    "fit": ["--resume -o fit"],
}
"""Verb -> the words of its command lines, in order: later ones take what earlier ones wrote."""


@pytest.fixture
def folder(tmp_path_factory):
    """A folder whose work/ has two datasets, weights and a fit that is planned.

    Its path is short, so that the sockets of a loader's workers lie below it and not in /tmp.
    """
    place = tmp_path_factory.mktemp("v")
    work = place / "work"
    for name in ("yard", "field"):
        write_yard(work / name, images=20, splits="train = 0.6\nval = 0.2\ntest = 0.2")
    for path in (work / "field" / "images").iterdir():  # the model of yard has seen none of these
        Image.fromarray(255 - np.array(Image.open(path))).save(path)
    torch.save(Tiny(TinyConfig(), 2).state_dict(), work / "weights.pth")
    begin_planned(
        work / "yard" / "dataset.toml",
        work / "fit",
        max_ms=1000.0,
        rungs=((1, 1),),
        final=2,
        decay=1,
    )
    return place


def test_every_verb_has_a_case():
    assert QUICK.keys() | SLOW.keys() == VERBS.keys()


@pytest.mark.seconds
@pytest.mark.parametrize(
    "cases", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_verbs_call_nobody_and_leave_files_only_where_it_is_documented(folder, cases):
    report = run_verbs(folder, cases, tuple(DOCUMENTED))
    assert (report.failed, report.files, report.network) == ([], [], [])


@pytest.mark.seconds
def test_a_file_and_a_look_up_are_seen(folder):
    if not without_network():
        pytest.skip(
            "this user may not run a process without a network, and the look-up would be a real one"
        )
    write_onnx(folder / "work" / "net.onnx")
    cases = {"predict": ["net.onnx yard/images/000x.png -o masks"], "weights": ["get resnet-18"]}
    report = run_verbs(folder, cases, tuple(DOCUMENTED), ORT_DISABLE_TELEMETRY="0")
    assert [words for _, words, *_ in report.failed] == ["get resnet-18"]
    assert "predict/home/.cache/Microsoft/DeveloperTools/.onnxruntime/deviceid" in report.files
    assert report.network


def test_what_may_be_left_is_documented():
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert [words for words in DOCUMENTED.values() if words not in security] == []
