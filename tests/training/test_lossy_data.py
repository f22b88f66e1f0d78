"""A training on images that were prepared with loss says so in its run folder."""

import json
from pathlib import Path

import pytest
from PIL import Image
from support.models.small_training import Silent, request

from featherseg.data import open_dataset
from featherseg.data.cache.prepared import RAW, Storage
from featherseg.data.cache.prepared_writer import prepare_data
from featherseg.data.shapes import CLASSES
from featherseg.training import train

pytestmark = pytest.mark.usefixtures("tiny")

SETTINGS = ("train.epochs=1", "data.val_size=1", "data.train_size=4")


@pytest.fixture
def streets(tmp_path: Path) -> str:
    """Four drawn scenes for training and one for validation, as files."""
    folder = tmp_path / "streets"
    for split, count in (("train", 4), ("val", 1)):
        scenes = open_dataset("shapes", split, size=count)
        for number in range(count):
            sample = scenes[number]
            for kind, pixels in (("images", sample.image), ("masks", sample.label)):
                file = folder / kind / split / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(file)
    names = ", ".join(f'"{info.name}"' for info in CLASSES)
    values = "\n".join(f'{value} = "{info.name}"' for value, info in enumerate(CLASSES))
    head = f'name = "streets"\nimages = "images"\nmasks = "masks"\nclasses = [{names}]\n'
    splits = '[splits]\ntrain = "train"\nval = "val"\n'
    (folder / "dataset.toml").write_text(f'{head}{splits}[map]\n{values}\n255 = "ignore"\n')
    return str(folder / "dataset.toml")


@pytest.mark.parametrize("storage", [RAW, Storage(80)])
def test_a_run_says_that_its_images_were_jpegs_and_nothing_of_lossless_ones(
    streets, tmp_path, monkeypatch, storage
):
    monkeypatch.delenv("FEATHERSEG_CACHE", raising=False)
    for split in ("train", "val"):
        prepare_data(streets, split, storage=storage)
    reporter = Silent()
    run = train(request(*SETTINGS, data=streets), tmp_path / "run", reporter)
    environment, card = (
        json.loads((run.path / "environment.json").read_text()),
        (run.path / "card.md").read_text(),
    )
    if storage == RAW:
        assert "prepared_data" not in environment
        assert "JPEG" not in card
        return
    said = environment["prepared_data"]
    assert said.startswith(
        "4 of 4 images as JPEG of quality 80, whose values differ from the source by "
    )
    assert f"- Prepared data: trained on {said}" in card
    assert f"prepared data: {said}" in reporter.messages
    assert {"torch", "command"} <= environment.keys()
