import csv
import io
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import chromium
from color_model import CLASSES as COLOR_CLASSES
from color_model import ColorModel
from lawn import TOML
from PIL import Image
from small_run import small_info
from small_training import Tiny, TinyConfig
from typer.testing import CliRunner

from featherseg import cli
from featherseg.converters import convert
from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, RunError, UnknownName
from featherseg.core.types import ClassInfo
from featherseg.data import open_dataset
from featherseg.data.fingerprint import Fingerprint
from featherseg.data.images import read_image
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.settings import InferenceSettings
from featherseg.ranking import measurer, session
from featherseg.ranking.measures import measure
from featherseg.ranking.session import COLUMNS, RankedImages, rank
from featherseg.runs import open_run, save_weights, write_info

CLASSES = (ClassInfo("grass", (0, 160, 0)), ClassInfo("path", (160, 160, 160)))


def draw(path: Path, seed: int) -> None:
    """Smooth noise, 64 x 72."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize((72, 64), Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Path:
    """lawn/, a dataset of 4 + 1 images; run/, of an untrained model on it; wild/, 12 images of two clips and alone."""
    folder = tmp_path_factory.mktemp("ranking")
    for split, count in (("train", 4), ("val", 1)):
        for number in range(count):
            draw(folder / f"lawn/images/{split}/{number}.png", 10 * len(split) + number)
            mask = folder / f"lawn/masks/{split}/{number}.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((64, 72), np.uint8)).save(mask)
    (folder / "lawn/dataset.toml").write_text(TOML)
    run, name = folder / "run", str(folder / "lawn" / "dataset.toml")
    run.mkdir()
    torch.manual_seed(0)
    save_weights(run, Tiny(TinyConfig(channels=24), 2).state_dict())
    write_info(run, small_info(CLASSES, model="efficientvit-seg-b0", data={"name": name}, image_size=(64, 72)))
    Fingerprint.of({split: open_dataset(name, split) for split in ("train", "val")}).save(run / "data.json")
    for number in range(5):
        draw(folder / f"wild/north_{number:02}.png", 100 + number)
        draw(folder / f"wild/below/south_{number:02}.png", 200 + number)
    draw(folder / "wild/alone.jpg", 300)
    draw(folder / "wild/odd, name.png", 301)
    return folder


@pytest.fixture
def yard(ready: Path, tmp_path: Path, monkeypatch, light_models) -> Path:
    """A copy to spoil, worked in."""
    shutil.copytree(ready, tmp_path / "yard")
    name = str(tmp_path / "yard" / "lawn" / "dataset.toml")
    info = small_info(CLASSES, model="efficientvit-seg-b0", data={"name": name}, image_size=(64, 72))
    write_info(tmp_path / "yard" / "run", info)
    monkeypatch.chdir(tmp_path / "yard")
    return tmp_path / "yard"


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_list_reads_back_and_a_second_call_writes_the_same_bytes(yard):
    found = rank("run", "wild", "list.csv", top=5)
    rows = rows_of(found.out)
    assert tuple(rows[0]) == COLUMNS
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [row["image"] for row in rows] == [row.image for row in found.images]
    assert all(Path(row["image"]).is_file() for row in rows)
    for row in rows:
        parts = float(row["uncertainty"]) * float(row["distance"])
        assert float(row["score"]) == pytest.approx(parts, abs=2e-6)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert {row["sequence"] for row in rows} <= {"north", "below/south", "alone", "odd, name"}
    before, page = found.out.read_bytes(), found.page.read_bytes()
    rank("run", "wild", "list.csv", top=5)
    rank("run", "wild", "anew/list.csv", top=5)
    assert found.out.read_bytes() == Path("anew/list.csv").read_bytes() == before
    assert found.page.read_bytes() == page
    assert page.count(b"<figure") == 5


def test_uncertainty_is_what_is_measured_and_distance_that_to_training_images(yard):
    found = rank("run", "wild", top=12, by="diversity")
    runtime = TorchRuntime(open_run(Path("run")).model, CLASSES, device="cpu")
    looks = {row.image: measure(runtime, read_image(Path(row.image)), InferenceSettings()) for row in found.images}
    assert len(looks) == 12
    train = [measure(runtime, image.image, InferenceSettings()).feature for image in open_dataset("lawn", "train")]
    for row in found.images:
        assert row.uncertainty == pytest.approx(looks[row.image].uncertainty, rel=1e-5)
        feature = looks[row.image].feature / np.linalg.norm(looks[row.image].feature)
        nearest = min(np.linalg.norm(feature - other / np.linalg.norm(other)) for other in train)
        assert row.score == pytest.approx(row.distance)
        assert row.distance == pytest.approx(nearest, abs=1e-4)  # to those that are labelled ...
        train.append(looks[row.image].feature)  # ... or taken already


def test_a_stopped_ranking_goes_on_where_it_was(yard, monkeypatch):
    whole, seen, limit = rank("run", "wild", "whole.csv", top=6), [], [9]

    def counting(*given):
        seen.append(given)
        if len(seen) > limit[0]:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(measurer, "measure", counting)
    with pytest.raises(KeyboardInterrupt):
        rank("run", "wild", "list.csv", top=6)
    assert not Path("list.csv").exists()
    for kept in Path("list.rank").glob("images-*"):  # as a kill tears it
        kept.write_bytes(kept.read_bytes() + b"torn")
    limit[0] = 100
    assert rank("run", "wild", "list.csv", top=6).images == whole.images
    assert len(seen) == 10 + 1 + 12 - 4  # each time one blank image; 4 labelled and 4 others were there
    draw(Path("wild/new.png"), 7)
    rank("run", "wild", "list.csv", top=6)
    assert len(seen) == 19 + 1 + 13  # other images, the same labelled ones


def test_images_that_are_labelled_are_left_out_whatever_their_names(yard):
    shutil.copy("lawn/images/train/2.png", "wild/copy.png")
    shutil.copy("lawn/images/val/0.png", "wild/below/other.png")
    found = rank("run", "wild", top=50)
    assert len(found.images) == 12
    assert not {Path(row.image).name for row in found.images} & {"copy.png", "other.png"}
    assert "2 images left out, labelled already: 1 of train, 1 of val" in found.notes
    assert "12 images can be ranked, fewer than 50: all are listed" in found.notes
    with pytest.raises(DataError, match=r"all images of .* are labelled"):
        rank("run", "lawn/images")


def test_images_that_cannot_be_read_are_named_each_time(yard):
    Path("wild/broken.png").write_bytes(Path("wild/north_00.png").read_bytes()[:60])
    for _ in range(2):
        found = rank("run", "wild", top=20)
        assert len(found.images) == 12
        (message,) = found.left_out
        assert message.startswith(f"{Path('wild/broken.png')} cannot be read")
    for path in Path("wild").rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image of wild can be used, first: .*alone\.jpg"):
        rank("run", "wild")


def test_an_image_that_failed_once_is_ranked_once_it_can_be(yard, monkeypatch):
    def failing(runtime, image, settings):
        found = measure(runtime, image, settings)
        return replace(found, entropy=np.full_like(found.entropy, np.nan)) if (image != 0).any() else found

    monkeypatch.setattr(measurer, "measure", failing)
    with pytest.raises(DataError, match=r"no image of wild .*alone\.jpg: the model's output is not finite"):
        rank("run", "wild")
    monkeypatch.setattr(measurer, "measure", measure)
    again = rank("run", "wild", top=3)
    assert (again.left_out, again.notes) == ((), ())
    assert again.images == rank("run", "wild", "anew.csv", top=3).images


def test_without_the_labelled_images_the_list_is_diverse_in_itself_and_says_so(yard):
    shutil.move("lawn", "moved")
    found = rank("run", "wild", top=3)
    assert len(found.images) == 3
    assert any("labelled images cannot be read" in note and "--data-root" in note for note in found.notes)
    with pytest.raises(FeathersegError):
        rank("run", "wild", data_root="nowhere")
    info = open_run(Path("run")).info
    write_info(Path("run"), info.model_copy(update={"objects": ("data",)}))
    assert any("dataset of one's own" in note for note in rank("run", "wild", top=3).notes)


@pytest.fixture
def colors(monkeypatch) -> None:
    """What stands in for an exported file: a model that names no backbone, and sees what is plain."""
    runtime = TorchRuntime(ColorModel().eval(), COLOR_CLASSES, name="colors.onnx", device="cpu")
    monkeypatch.setattr(session, "open_runtime", lambda run, device: runtime)


def colored(folder: Path, count: int = 3) -> None:
    """Images of a red wall, green grass below, and blue balls."""
    folder.mkdir()
    for number in range(count):
        rng = np.random.default_rng(number)
        pixels = np.full((40, 56, 3), (230, 0, 0), np.uint8)
        pixels[rng.integers(16, 26) :] = (0, 230, 0)
        y, x = rng.integers(0, 30, 2)
        pixels[y : y + 9, x : x + 11] = (0, 0, 230)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_an_exported_file_ranks_by_uncertainty_and_says_so(yard, colors):
    found = rank("colors.onnx", "wild", top=3)
    assert found.by == "uncertainty"
    assert [row.distance for row in found.images] == [None] * 3
    assert [row["distance"] for row in rows_of(found.out)] == [""] * 3
    assert "colors.onnx gives no features: ranked by uncertainty alone" in found.notes
    with pytest.raises(ConfigError, match="gives no features to rank by diversity"):
        rank("colors.onnx", "wild", by="diversity")


@pytest.mark.parametrize("tool", ["labelme", "cvat"])
def test_masks_to_correct_are_what_the_model_predicts(tool, yard, colors):
    colored(Path("plain"))
    found = rank("colors.onnx", "plain", top=2, to_format=tool)
    assert found.to == Path(f"to_label.{tool}")
    done = convert(found.to, "again")
    assert sum(done.images.values()) == 2
    names = {"background": "background"} | {info.name: info.name for info in COLOR_CLASSES}
    data = open_dataset("again", "train+val")
    assert sorted(data.keys) == sorted(Path(row.image).stem for row in found.images)
    for sample in data:
        image = read_image(Path(f"plain/{sample.key}.png"))
        wanted = np.array([info.name for info in COLOR_CLASSES])[image.argmax(axis=2)]
        drawn = np.array([names[info.name] for info in data.classes])[sample.label]
        assert (wanted == drawn).mean() >= 0.999
    with pytest.raises(FeathersegError, match="What is corrected there"):  # somebody may have corrected them
        rank("colors.onnx", "plain", top=2, to_format=tool)


@pytest.mark.parametrize(("tool", "files"), [("labelme", "*.json"), ("yolo", "labels/train/*.txt")])
def test_images_of_one_name_keep_their_own_masks(tool, files, yard, colors):
    colored(Path("plain"))
    first = sorted(Path("plain").glob("*.png"))[0]
    Image.open(first).save(first.with_suffix(".bmp"))
    count = len(list(Path("plain").iterdir()))
    found = rank("colors.onnx", "plain", top=count, to_format=tool)
    assert len(found.images) == len(list(found.to.glob(files))) == count


def run_cli(*words: object):
    return CliRunner().invoke(cli.build_app(), ["rank", *map(str, words)])


def test_the_verb_prints_the_list_and_what_was_left_out(yard):
    Path("wild/broken.png").write_bytes(b"no image")
    result = run_cli("run", "wild", "--top", 2, "-o", "list.csv", "--to", "labelme")
    assert result.exit_code == 0, result.exception
    first, second, left_out, listed, page, masks = result.stdout.splitlines()
    assert [line.split("  ")[1] for line in (first, second)] == [row["image"] for row in rows_of(Path("list.csv"))]
    assert re.match(r"left out: .*broken\.png", left_out)
    assert (listed, page) == ("2 images in list.csv", "the page is list.html")
    assert masks == "masks to correct are in list.labelme"
    assert len(list(Path("list.labelme").rglob("*.json"))) == 2


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("run", "wild", "--top", "0"), ConfigError, "top = 0: expected at least 1 image"),
        (("run", "wild", "--by", "divercity"), UnknownName, "Did you mean 'diversity'?"),
        (("run", "wild", "-o", "list.txt"), ConfigError, "does not end in .csv"),
        (("run", "wild", "-o", "lawn/dataset.toml/list.csv"), FeathersegError, "nothing can be written"),
        (("run", "wyld"), DataNotFound, "Did you mean 'wild'?"),
        (("run", "wild/alone.jpg"), DataNotFound, "is no folder"),
        (("run", "empty"), DataNotFound, "has no images"),
        (("run", "lawn"), DataError, "is a dataset"),
        (("rn", "wild"), RunError, "Did you mean 'run'?"),
        (("run", "wild", "--to", ""), UnknownName, "unknown format"),
        (("run", "wild", "--to", "labelmee"), UnknownName, "Did you mean 'labelme'?"),
        (("run", "wild", "--to", "cvat", "-o", "wild/list.csv"), ConfigError, "lies in wild"),
        (("run", "wild", "--to", "cvat", "-o", "used.csv"), FeathersegError, "What is corrected there"),
        (("run", "wild", "--device", "cudo"), FeathersegError, "cudo"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_slips_are_told_before_anything_is_written(words, kind, message, yard):
    Path("empty").mkdir()
    Path("used.cvat").mkdir()
    Path("used.cvat/annotations.xml").touch()
    before = sorted(yard.rglob("*"))
    found = run_cli(*words).exception
    assert isinstance(found, kind)
    assert message in str(found)
    assert sorted(yard.rglob("*")) == before


def test_a_run_of_other_channels_writes_no_masks_for_a_tool(yard, monkeypatch):
    runtime = TorchRuntime(ColorModel().eval(), COLOR_CLASSES, name="five", device="cpu")
    runtime.channels = 5
    monkeypatch.setattr(session, "open_runtime", lambda run, device: runtime)
    with pytest.raises(ConfigError, match="5 channels: no annotation tool"):
        rank("five.onnx", "wild", to_format="labelme")


def test_two_processes_do_not_write_one_list(yard):
    from filelock import FileLock

    Path("list.rank").mkdir()
    with FileLock("list.rank/.lock"), pytest.raises(RunError, match="another process is ranking"):
        rank("run", "wild", "list.csv")


def test_what_is_found_is_plain_and_shows_itself(yard):
    import json

    found = rank("run", "wild", top=2)
    assert isinstance(found, RankedImages)
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert [row["rank"] for row in told["images"]] == [1, 2]
    assert told["images"][0]["image"] in found._repr_html_()
    assert io.StringIO(found.out.read_text()).readline().strip() == ",".join(COLUMNS)


@pytest.mark.slow
def test_the_page_opens_without_an_error_and_fits_a_phone(yard):
    page = rank("run", "wild", top=3).page.resolve()
    with chromium() as browser:
        for width in (390, 1200):
            opened, errors = browser.new_page(viewport={"width": width, "height": 800}), []
            opened.on("console", lambda message, errors=errors: errors.append(message.text))
            opened.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            opened.goto(page.as_uri())
            assert opened.locator("figure").count() == 3
            assert opened.evaluate("[...document.images].every(image => image.decode && image.naturalWidth > 0)")
            assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert errors == []
