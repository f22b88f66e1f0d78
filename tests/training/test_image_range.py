"""16-bit images with a partial range: the run keeps the range and every use applies it."""

import json
import logging
import shutil

import numpy as np
import pytest
from PIL import Image, ImageDraw
from support.models.small_training import SMALL, Killed, KilledAt, Silent

import featherseg
from featherseg.data import open_dataset
from featherseg.evaluation.scoring import evaluate
from featherseg.exporters import export
from featherseg.exporters.parity import verify
from featherseg.inference.runtimes import open_runtime
from featherseg.runs.run import open_run
from featherseg.training import Request, train

pytestmark = pytest.mark.usefixtures("tiny")

STEPS = ("train.epochs=1", "train.batch_size=2", "augment.brightness=0", "augment.contrast=0",
         "augment.saturation=0", "augment.photometric=false", "augment.blur=0",
         "augment.scale=[1.0, 1.0]", "augment.flip=0.5",
         "augment.cutmix=0", "augment.copy_paste=0", "augment.crop=[48, 48]")  # fmt: skip


def write_set(folder, scale, images=8):
    """Grey discs in noise; scale(8-bit values) -> what is stored."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for i in range(images):
        mask = Image.new("L", (48, 48))
        x, y = rng.integers(0, 26, 2)
        ImageDraw.Draw(mask).ellipse([x, y, x + 21, y + 21], fill=1)
        disc = np.array(mask).astype(int)
        grey = np.clip(60 + 70 * disc + rng.integers(-25, 25, disc.shape), 0, 255)
        Image.fromarray(scale(grey)).save(folder / f"images/p{i}.png")
        mask.save(folder / f"masks/p{i}.png")
    names = [f"p{i}" for i in range(images)]
    (folder / "train.txt").write_text("\n".join(names[:-3]))
    (folder / "val.txt").write_text("\n".join(names[-3:]))
    (folder / "dataset.toml").write_text(
        'name = "t"\nimages = "images"\nmasks = "masks"\nclasses = ["a", "b"]\n'
        '[splits]\ntrain = "train.txt"\nval = "val.txt"\n[map]\n0 = "a"\n1 = "b"\n'
    )
    return folder


def eight(grey):
    return grey.astype(np.uint8)


def twelve(grey):
    return grey.astype(np.uint16) * 16


def asked(data, *overrides):
    sizes = [text for text in SMALL if not text.startswith(("data.train_size", "data.val_size"))]
    return Request(
        "frm-lite0", str(data), overrides=("model.name=tiny", *sizes, *STEPS, *overrides)
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{8: an 8-bit set, 12: its copy of 12 bits in 16}; each (run, folder, messages)."""
    root, found = tmp_path_factory.mktemp("ranges"), {}
    for bits, scale in ((8, eight), (12, twelve)):
        data, said = write_set(root / f"bits{bits}", scale), Silent()
        run = train(asked(data), root / f"run{bits}", said)
        found[bits] = (open_run(run.path), data, said.messages)
    return found


def test_a_12_bit_copy_of_an_8_bit_set_trains_to_the_same_bits(runs):
    (first, *_), (second, *_) = runs[8], runs[12]
    assert (first.info.image_range, second.info.image_range) == (None, 4096)
    rows = [
        [(r["loss"], r.get("val_miou")) for r in run.metrics().values()] for run in (first, second)
    ]
    assert rows[0] == rows[1]
    assert any("below 4,096 of 65,536" in text for text in runs[12][2])
    assert not any("65,536" in text for text in runs[8][2])


def test_predict_and_evaluate_apply_the_range_of_the_run(runs, caplog):
    (first, data8, _), (second, data12, _) = runs[8], runs[12]
    file = "images/p7.png"
    with caplog.at_level(logging.WARNING):
        masks = [
            featherseg.Predictor(run)(data / file)
            for run, data in ((first, data8), (second, data12))
        ]
    assert not caplog.records
    assert np.array_equal(masks[0].probabilities(), masks[1].probabilities())
    assert np.array_equal(
        *(np.asarray(mask.overlay(0)) for mask in masks)
    )  # a view of 12 bits is not black
    scores = [
        evaluate(open_runtime(run), open_dataset(str(data), "val"))
        for run, data, _ in runs.values()
    ]
    assert scores[0].miou == scores[1].miou


def test_an_image_of_another_range_is_named_once(runs, caplog):
    predictor = featherseg.Predictor(runs[12][0])
    with caplog.at_level(logging.WARNING):
        predictor([runs[8][1] / f"images/p{i}.png" for i in range(3)])
        evaluate(predictor.runtime, open_dataset(str(runs[8][1]), "val"))
    assert [record.getMessage() for record in caplog.records] == [
        "p0 has 8 bits, but the model was trained on 16-bit images with values below 4,096: "
        "0 to 255 is taken for that "
        "range (said once)"
    ]


@pytest.mark.seconds
@pytest.mark.parametrize(("format", "file"), [("onnx", "a.onnx"), ("torch-export", "a.pt2")])
def test_an_exported_file_tells_the_range_and_applies_it(runs, tmp_path, format, file):
    run, data, _ = runs[12]
    report = export(run, format, tmp_path / file)
    runtime = open_runtime(report.path, "cpu", trust=True)
    assert runtime.image_range == 4096
    expected = featherseg.Predictor(run)(data / "images/p7.png").mask
    assert (featherseg.Predictor(runtime)(data / "images/p7.png").mask == expected).mean() > 0.999
    run.model.image_range = 65536
    try:
        assert verify(run.model, report.path).first_difference == "metadata: image_range"
    finally:
        run.model.image_range = 4096


@pytest.mark.seconds
def test_a_resumed_run_goes_on_with_its_range(runs, tmp_path):
    run, data, _ = runs[12]
    with pytest.raises(Killed):
        train(asked(data, "train.checkpoint_seconds=1e-9"), tmp_path / "run", KilledAt(2))
    resumed = train(Request(None), tmp_path / "run", Silent(), resume=True)
    losses = [[row["loss"] for row in found.metrics().values()] for found in (run, resumed)]
    assert losses[0] == losses[1]


def test_a_run_without_the_key_takes_16_bits_as_full(runs, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(runs[12][0].path, folder)
    values = json.loads((folder / "resolved.json").read_text())
    del values["image_range"]
    (folder / "resolved.json").write_text(json.dumps(values))
    assert open_run(folder).model.image_range == 65536


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_12_bit_copy_scores_within_two_points_with_the_augmentation_of_the_recipe(tmp_path, seed):
    best = []
    for name, scale in (("eight", eight), ("twelve", twelve)):
        data = write_set(tmp_path / name, scale, images=12)
        overrides = (
            "train.steps=40",
            f"train.seed={seed}",
            "data.workers=0",
            "train.precision=fp32",
        )
        run = train(
            Request("frm-lite0-light", str(data), overrides=overrides),
            tmp_path / f"{name}-run",
            Silent(),
        )
        best.append(
            max(
                row["val_miou"] for row in run.metrics().values() if row.get("val_miou") is not None
            )
        )
    assert min(best) > 0.85
    assert abs(best[0] - best[1]) < 0.02
