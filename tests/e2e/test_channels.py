"""Images that are not RGB, from training to prediction: one 16-bit channel, five TIFF pages."""

import numpy as np
import pytest
from PIL import Image
from support.models.small_training import Silent

from featherseg.inference.predictor import Predictor
from featherseg.training import Request, train

TOML = """
name = "field"
images = "images"
masks = "masks"
channels = {channels}
classes = ["low", "high"]
[splits]
train = 0.7
val = 0.3
[map]
0 = "low"
1 = "high"
"""


def write_field(root, channels, dtype):
    """Twelve images whose bright half is the second class."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    (root / "masks").mkdir()
    top = np.iinfo(dtype).max
    for index in range(12):
        mask = np.zeros((64, 96), np.uint8)
        mask[:, rng.integers(30, 60) :] = 1
        planes = rng.integers(0, top // 4, (channels, 64, 96)) + mask.astype(np.int64) * (top // 2)
        pages = [Image.fromarray(plane.astype(dtype)) for plane in planes]
        pages[0].save(root / "images" / f"{index:02d}.tif", save_all=True, append_images=pages[1:])
        Image.fromarray(mask).save(root / "masks" / f"{index:02d}.png")
    (root / "dataset.toml").write_text(TOML.format(channels=channels))
    return root / "dataset.toml"


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "dtype"), [(5, np.uint16), (1, np.uint16), (5, np.uint8)])
def test_other_channels_learn_from_the_averaged_imagenet_weights(tmp_path, channels, dtype):
    toml = write_field(tmp_path, channels, dtype)
    settings = (
        "train.steps=32",
        "train.batch_size=4",
        "train.precision=fp32",
        "data.workers=0",
        "augment.brightness=0.2",
    )
    reporter = Silent()
    run = train(
        Request("frm-lite0", data=str(toml), overrides=settings), tmp_path / "run", reporter
    )
    assert any(f"averaged to {channels} channels" in message for message in reporter.messages)
    assert run.info.channels == channels == len(run.model.mean)
    assert max(r["val_miou"] for r in run.metrics().values() if r.get("val_miou") is not None) > 0.9
    prediction = Predictor(run)(tmp_path / "images" / "00.tif")
    label = np.array(Image.open(tmp_path / "masks" / "00.png"))
    assert (prediction.mask == label).mean() > 0.9
    assert prediction.overlay().mode == "RGB"
