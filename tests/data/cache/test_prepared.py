"""Prepared data against their source files: the same samples, and never outdated ones."""

import io
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.data import open_dataset, open_files
from featherseg.data.cache import prepared, prepared_writer
from featherseg.data.cache.prepared import (
    RAW,
    PreparedData,
    Source,
    Storage,
    cache_folders,
    loss_of,
    read_cache,
)
from featherseg.data.cache.prepared_writer import prepare_data, splits_on_disk
from featherseg.data.panoptic.files import PanopticWriter
from featherseg.data.panoptic.segments import list_segments
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.loader import TrainingSamples
from featherseg.data.pipeline.sampling import ClassUniform, find_class_points

TOML = """
name = "yard"
images = "images"
masks = "masks"
channels = {channels}
classes = ["grass", "path"]
[splits]
train = "train"
val = "val"
[map]
0 = "{zero}"
1 = "{one}"
7 = "ignore"
"""
COUNTS = {"train": 6, "val": 2}
JPEG = Storage(90)


def write_toml(folder: Path, zero: str = "grass", one: str = "path", channels: int = 3) -> None:
    (folder / "dataset.toml").write_text(TOML.format(zero=zero, one=one, channels=channels))


def smooth(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """An image as JPEG likes them: (H, W, 3) uint8."""
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture
def yard(tmp_path: Path) -> str:
    """A dataset.toml of eight images, each of its own size."""
    folder, rng = tmp_path / "yard", np.random.default_rng(0)
    for split, count in COUNTS.items():
        for number in range(count):
            size = (40 + number, 61 - 2 * number)
            mask = rng.choice(np.array([0, 1, 7], np.uint8), size)
            for kind, pixels in (("images", smooth(rng, size)), ("masks", mask)):
                path = folder / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, compress_level=0)
    write_toml(folder)
    return str(folder / "dataset.toml")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch, tmp_path):
    """Hide the user's folders and settings, and trust files by their time stamps at once."""
    monkeypatch.delenv("FEATHERSEG_CACHE", raising=False)
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(prepared, "SETTLED_SECONDS", -1.0)


def image_of(yard: str, number: int = 0, split: str = "train") -> Path:
    return Path(yard).parent / f"images/{split}/{number}.png"


def mask_of(yard: str, number: int = 0) -> Path:
    return Path(yard).parent / f"masks/train/{number}.png"


def folder_of(yard: str, storage: str = "raw") -> Path:
    return Path(yard).parent / ".featherseg/yard" / storage


def assert_same(data, files) -> None:
    """Both give the same samples and labels."""
    assert data.keys == files.keys
    for index in range(len(files)):
        ours, theirs = data[index], files[index]
        assert ours.key == theirs.key
        assert ours.image.dtype == theirs.image.dtype
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.label, theirs.label)
        np.testing.assert_array_equal(data.label(index), theirs.label)
        assert (ours.instances is None) == (theirs.instances is None)
        if theirs.instances is not None:
            assert ours.instances.dtype == np.int32
            np.testing.assert_array_equal(ours.instances, theirs.instances)


def test_prepared_samples_are_those_of_the_files(yard):
    done = prepare_data(yard, "train")
    assert (done.images, done.kept) == (6, 0)
    data = open_dataset(yard, "train")
    assert isinstance(data, PreparedData)
    assert_same(data, open_files(yard, "train"))
    assert loss_of(data) is None
    assert (data.name, data.classes, data.channels, data.licence) == (
        *(
            getattr(open_files(yard, "train"), name)
            for name in ("name", "classes", "channels", "licence")
        ),
    )


def test_samples_come_from_the_prepared_data_and_not_from_the_files(yard, monkeypatch):
    prepare_data(yard, "train")
    data = open_dataset(yard, "train")
    monkeypatch.setattr(Image, "open", None)
    for index in range(len(data)):
        assert data[index].image.shape == (40 + index, 61 - 2 * index, 3)
        assert data.label(index).shape == (40 + index, 61 - 2 * index)


def test_splits_share_a_folder_and_a_part_of_a_split_needs_no_other(yard):
    assert splits_on_disk(yard) == ["train", "val"]
    for split in COUNTS:
        prepare_data(yard, split)
    for split in COUNTS:
        assert_same(open_dataset(yard, split), open_files(yard, split))
        assert_same(open_dataset(yard, split, size=2), open_files(yard, split, size=2))
    assert len(read_cache(folder_of(yard)).entries) == 8


@pytest.mark.parametrize("storage", [RAW, JPEG])
@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.uint8), (1, np.uint16), (3, np.uint16), (5, np.uint16)]
)
def test_deep_images_and_other_channels_keep_every_value(tmp_path, storage, channels, dtype):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind / "train").mkdir(parents=True)
    pages = [
        Image.fromarray(rng.integers(0, np.iinfo(dtype).max, (9, 7), dtype=dtype))
        for _ in range(channels)
    ]
    if channels == 3:  # of 16-bit colour Pillow writes none: grey is repeated
        pages = pages[:1]
    pages[0].save(tmp_path / "images/train/a.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "masks/train/a.png")
    write_toml(tmp_path, channels=channels)
    toml = str(tmp_path / "dataset.toml")
    prepare_data(toml, "train", storage=storage)
    data = open_dataset(toml, "train", exact=False)
    stored = data.caches[0].sample(data.caches[0].entries["train/a"]).image
    assert stored.dtype == dtype
    if dtype == np.uint16 or storage == RAW:
        np.testing.assert_array_equal(stored, open_files(toml, "train")[0].image)


def test_a_jpeg_cache_names_what_it_loses_and_is_for_training_alone(yard):
    prepare_data(yard, "train", storage=JPEG)
    files, lossy = open_files(yard, "train"), open_dataset(yard, "train", exact=False)
    differences = []
    for index in range(len(files)):
        content = io.BytesIO()
        Image.fromarray(files[index].image).save(content, "JPEG", quality=90, subsampling=0)
        np.testing.assert_array_equal(lossy[index].image, np.asarray(Image.open(content)))
        np.testing.assert_array_equal(lossy[index].label, files[index].label)
        differences.append(np.abs(lossy[index].image.astype(float) - files[index].image).mean())
    assert loss_of(lossy) == (
        "6 of 6 images as JPEG of quality 90, "
        f"whose values differ from the source by {np.mean(differences):.2f} of "
        f"255 on average"
    )
    exact = open_dataset(yard, "train")
    assert_same(exact, files)
    assert loss_of(exact) is None


def test_an_image_that_is_a_jpeg_already_loses_nothing_more(yard):
    file = image_of(yard)
    Image.open(file).save(file.with_suffix(".jpg"), quality=50)
    file.unlink()
    prepare_data(yard, "train", storage=JPEG)
    data, files = open_dataset(yard, "train", exact=False), open_files(yard, "train")
    np.testing.assert_array_equal(data[0].image, files[0].image)
    assert data.caches[0].entries["train/0"].jpeg == file.with_suffix(".jpg").stat().st_size
    assert "5 of 6 images" in loss_of(data)


def overwrite(path: Path) -> None:
    """Other pixels in a file of the same length and with the same time of change."""
    before, pixels = path.stat(), np.asarray(Image.open(path))
    Image.fromarray(np.flip(pixels, 0)).save(path, compress_level=0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize(
    "settled", [-1.0, 2.0]
)  # seconds; stamps of these files are trusted with the first alone
@pytest.mark.parametrize("of", [image_of, mask_of])
def test_a_changed_file_is_never_served_as_it_was(yard, monkeypatch, caplog, of, settled):
    monkeypatch.setattr(prepared, "SETTLED_SECONDS", settled)
    prepare_data(yard, "train")
    opened = open_dataset(yard, "train")
    before = opened[0]
    overwrite(of(yard))
    with caplog.at_level(logging.WARNING):
        assert_same(opened, open_files(yard, "train"))  # also where it was opened before the change
        assert_same(open_dataset(yard, "train"), open_files(yard, "train"))
    part = "image" if of is image_of else "label"
    assert not np.array_equal(getattr(opened[0], part), getattr(before, part))
    assert "has changed since it was prepared" in caplog.text
    assert prepare_data(yard, "train").kept == 5
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))


def test_a_file_that_was_only_touched_or_copied_is_compared_by_its_content(yard, monkeypatch):
    prepare_data(yard, "train")
    moved = Path(yard).parent.with_name("moved")
    shutil.copytree(Path(yard).parent, moved)  # other times, another folder
    toml = str(moved / "dataset.toml")
    data, read = open_dataset(toml, "train"), []
    assert isinstance(data, PreparedData)
    monkeypatch.setattr(Image, "open", None)
    digest = prepared.file_digest
    monkeypatch.setattr(prepared, "file_digest", lambda path: read.append(path) or digest(path))
    for _ in range(2):
        assert data[0].image.shape == (40, 61, 3)
    assert len(read) == 2  # image and mask, once
    monkeypatch.undo()


def test_preparing_again_learns_the_new_stamps(yard, monkeypatch):
    prepare_data(yard, "train")
    os.utime(image_of(yard))
    assert prepare_data(yard, "train").kept == 6
    data = open_dataset(yard, "train")
    monkeypatch.setattr(prepared, "file_digest", None)
    assert data[0].image.shape == (40, 61, 3)


def test_another_map_of_values_makes_other_labels(yard):
    prepare_data(yard, "train")
    write_toml(Path(yard).parent, zero="path", one="grass")
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))
    assert prepare_data(yard, "train").kept == 0


def test_a_missing_file_is_a_sentence_as_without_prepared_data(yard):
    prepare_data(yard, "train")
    data = open_dataset(yard, "train")
    image_of(yard).unlink()
    with pytest.raises(DataError, match=r"0\.png does not exist"):
        data[0]


def write_coco(root: Path, crowds: frozenset[int]) -> None:
    ids = np.array([[0, 70000, 70000, 3], [200, 200, 9, 3]])
    writer = PanopticWriter(root / "annotations/panoptic_val2017", [])
    writer.add(1, "1.jpg", "1.png", list_segments(ids, {70000: 1, 200: 1, 3: 200, 9: 90}, crowds))
    (root / "val2017").mkdir(exist_ok=True)
    Image.fromarray(np.full((2, 4, 3), 90, np.uint8)).save(root / "val2017/1.jpg")
    writer.finish()


def test_panoptic_samples_keep_their_instances_and_a_changed_annotation_counts(tmp_path):
    write_coco(tmp_path, frozenset([200]))
    prepare_data("coco-panoptic", "val", tmp_path)
    data, files = (
        opened("coco-panoptic", "val", tmp_path) for opened in (open_dataset, open_files)
    )
    assert isinstance(data, PreparedData)
    assert data[0].instances.tolist() == [[0, 70000, 70000, 0], [-200, -200, 9, 0]]
    assert_same(data, files)
    assert (data.categories, data.rule) == (files.categories, files.rule)
    assert data.panoptic(0)[1] == files.panoptic(0)[1]
    write_coco(tmp_path, frozenset())
    assert open_dataset("coco-panoptic", "val", tmp_path)[0].instances.tolist()[1] == [
        200,
        200,
        9,
        0,
    ]


def test_training_samples_are_the_same_to_the_bit_also_by_class(yard):
    files = open_files(yard, "train")
    prepare_data(yard, "train")
    data = open_dataset(yard, "train")
    points = find_class_points(data, 16)
    np.testing.assert_array_equal(points.rows, find_class_points(files, 16).rows)
    augment = Augment(crop=(24, 32), scale=(0.5, 2.0), flip=0.5, category_ratio=0.7, contrast=0.3)
    ours, theirs = (
        TrainingSamples(source, augment, 0, ClassUniform(0.5, points)) for source in (data, files)
    )
    for index in range(12):
        for a, b in zip(ours[0, index % 6], theirs[0, index % 6], strict=True):
            assert a.equal(b)


def test_what_is_written_to_a_sample_goes_nowhere(yard):
    prepare_data(yard, "train")
    data = open_dataset(yard, "train")
    sample = data[0]
    sample.image[:], sample.label[:] = 0, 9
    assert_same(data, open_files(yard, "train"))


def test_a_dataset_travels_to_another_process(yard):
    prepare_data(yard, "train")
    assert_same(pickle.loads(pickle.dumps(open_dataset(yard, "train"))), open_files(yard, "train"))


def test_an_interrupted_preparation_goes_on(yard, monkeypatch):
    monkeypatch.setattr(prepared_writer, "FLUSH_BYTES", 1)

    def stop(doing: str, done: int, total: int | None) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_data(yard, "train", progress=stop)
    assert_same(
        open_dataset(yard, "train"), open_files(yard, "train")
    )  # some from the cache, the others from files
    with open(next(folder_of(yard).glob("pixels-*")), "ab") as file:
        file.write(b"torn")
    with open(folder_of(yard) / "index.jsonl", "a") as file:
        file.write('{"key": "train/5", "off')
    seen = []
    assert prepare_data(yard, "train", progress=lambda *state: seen.append(state)).kept == 4
    assert seen == [("preparing", 5, 6), ("preparing", 6, 6)]
    whole = prepare_data(yard, "train", out=Path(yard).parent / "whole")
    assert prepare_data(yard, "train").folder_bytes == whole.folder_bytes
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))
    assert len(read_cache(folder_of(yard)).entries) == 6


@pytest.mark.parametrize("failing", range(1, 5))
def test_a_disk_that_fails_leaves_no_wrong_sample(yard, monkeypatch, failing):
    monkeypatch.setattr(prepared_writer, "FLUSH_BYTES", 1)
    sync, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(
            FeathersegError,
            match=r"cannot write .*: No space left on device\. .*Make room|make room",
        ):
            prepare_data(yard, "train")
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))
    prepare_data(yard, "train")
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))


def test_the_index_names_only_what_the_disk_has(yard, monkeypatch):
    monkeypatch.setattr(prepared_writer, "FLUSH_BYTES", 1)
    sync, append, synced, named = os.fsync, prepared_writer.append_line, [0], []

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    def append_line(path: Path, content: dict) -> None:
        append(path, content)
        ends = [entry.end for entry in read_cache(folder_of(yard)).entries.values()]
        named.append(max(ends) <= synced[-1])

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(prepared_writer, "append_line", append_line)
    prepare_data(yard, "train")
    assert named == [True] * 6


def test_a_file_that_has_just_been_written_is_not_trusted_by_its_stamp(yard, monkeypatch):
    """Clocks tick slowly: a second change may leave the same time."""
    monkeypatch.setattr(prepared, "SETTLED_SECONDS", 60.0)
    assert Source.of(image_of(yard)).stamp is None
    monkeypatch.setattr(prepared, "SETTLED_SECONDS", -1.0)
    assert Source.of(image_of(yard)).stamp[0] == image_of(yard).stat().st_size


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        '{"key": "train/0"}',
        '{"offset": -1}',
        '{"offset": 1e9}',
        '{"shape": [0, 5, 3]}',
        '{"shape": [1000000, 1000000, 3]}',
        '{"jpeg": "x"}',
        '{"sources": []}',
        '{"unknown": 1}',
    ],
)
def test_a_damaged_index_costs_time_and_nothing_else(yard, line):
    prepare_data(yard, "train")
    index = folder_of(yard) / "index.jsonl"
    head, first, *others = index.read_text().splitlines()
    damaged = json.loads(line)
    if isinstance(damaged, dict) and damaged and "key" not in damaged:
        damaged = {**json.loads(first), **damaged}
    index.write_text("\n".join([head, json.dumps(damaged), *others]) + "\n")
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))
    assert prepare_data(yard, "train").kept == 5


@pytest.mark.parametrize("head", ["", "{}", '{"format_version": 99}'])
def test_what_another_version_wrote_is_not_used_and_is_replaced(yard, head, caplog):
    prepare_data(yard, "train")
    (folder_of(yard) / "index.jsonl").write_text(head)
    assert not isinstance(open_dataset(yard, "train"), PreparedData)
    assert "prepare the data again" in caplog.text
    assert prepare_data(yard, "train").kept == 0
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))


def test_both_forms_lie_side_by_side_and_what_loses_nothing_is_preferred(yard):
    prepare_data(yard, "train", storage=JPEG)
    prepare_data(yard, "val")
    for exact in (True, False):
        assert_same(open_dataset(yard, "val", exact=exact), open_files(yard, "val"))
    assert loss_of(open_dataset(yard, "train", exact=False)).startswith("6 of 6")
    prepare_data(yard, "train")
    data = open_dataset(yard, "train", exact=False)
    assert_same(data, open_files(yard, "train"))
    assert loss_of(data) is None


def test_another_quality_replaces_what_is_there_and_open_readers_go_back_to_the_files(yard):
    prepare_data(yard, "train", storage=JPEG)
    reader = open_dataset(yard, "train", exact=False)
    assert prepare_data(yard, "train", storage=Storage(50)).kept == 0
    assert len(list(folder_of(yard, "jpeg").glob("pixels-*"))) == 1
    assert_same(reader, open_files(yard, "train"))


def test_a_disk_that_is_too_small_is_known_before_anything_is_written(yard, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000)
    )
    with pytest.raises(
        FeathersegError, match=r"6 images of yard need 0\.0 GB as raw, .* has 0\.0 GB free"
    ):
        prepare_data(yard, "train")
    assert next(folder_of(yard).glob("pixels-*")).stat().st_size == 0


def test_the_room_asked_for_is_the_room_taken(yard, monkeypatch):
    asked = []

    class Free:
        def __lt__(self, needed):
            asked.append(needed)
            return False

        __gt__ = __lt__

    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": Free()}))
    taken = prepare_data(yard, "train").folder_bytes
    assert asked[0] == pytest.approx(taken, rel=0.05)


def test_only_one_process_prepares_in_a_folder(yard):
    folder_of(yard).mkdir(parents=True)
    hold = "import filelock, sys; a = filelock.FileLock(sys.argv[1]); a.acquire(); "
    hold += "print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(folder_of(yard) / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(FeathersegError, match="another process is preparing data"):
            prepare_data(yard, "train")
        other.communicate(b"\n")
    assert prepare_data(yard, "train").images == 6


def test_a_faulty_image_ends_it_with_its_sentence_and_the_others_stay(yard, monkeypatch):
    monkeypatch.setattr(prepared_writer, "FLUSH_BYTES", 1)
    good = image_of(yard, 5).read_bytes()
    image_of(yard, 5).write_bytes(good[:200])
    monkeypatch.setattr(prepared_writer, "SAMPLED", 1)
    with pytest.raises(DataError, match=r"5\.png cannot be read"):
        prepare_data(yard, "train")
    image_of(yard, 5).write_bytes(good)
    assert prepare_data(yard, "train").kept == 5


def test_where_prepared_data_are_looked_for(yard, tmp_path, monkeypatch):
    out = tmp_path / "elsewhere"
    prepare_data(yard, "train", out=out)
    assert not isinstance(open_dataset(yard, "train"), PreparedData)
    monkeypatch.setenv("FEATHERSEG_CACHE", str(out))
    assert isinstance(open_dataset(yard, "train"), PreparedData)
    monkeypatch.setenv("FEATHERSEG_CACHE", "off")
    prepare_data(yard, "train", out=Path(yard).parent / ".featherseg")
    assert not isinstance(open_dataset(yard, "train"), PreparedData)
    with pytest.raises(ConfigError, match="FEATHERSEG_CACHE=off is set"):
        prepare_data(yard, "train")


def test_data_that_cannot_be_written_beside_are_prepared_in_a_folder_of_the_user(
    yard, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: tmp_path / "home" in Path(path).parents)
    folder = prepare_data(yard, "train").folder
    assert folder.parents[1] == cache_folders(Path(yard).parent)[1]
    assert tmp_path / "home" in folder.parents
    assert_same(open_dataset(yard, "train"), open_files(yard, "train"))
    assert isinstance(open_dataset(yard, "train"), PreparedData)


def test_synthetic_data_have_nothing_to_prepare():
    for call in (splits_on_disk, lambda name: prepare_data(name, "train")):
        with pytest.raises(ConfigError, match="shapes is generated"):
            call("shapes")
