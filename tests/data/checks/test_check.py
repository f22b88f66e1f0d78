"""Every fault planted in a tiny folder must be found, and must be gone in the fixed copy."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featherseg
from featherseg.core.errors import DataError, DataNotFound, FeathersegError, UnknownName
from featherseg.core.types import ClassInfo, Sample
from featherseg.data.checks import check as check_module
from featherseg.data.checks.check import check_data
from featherseg.data.checks.fixes import write_mended
from featherseg.data.checks.report import FAULTS, CheckReport
from featherseg.data.datasets.folder import FolderData
from featherseg.data.datasets.statistics import ClassStatistics, class_statistics, median_frequency

TOML = """
name = "yard"
images = "images"
masks = "masks"
[splits]
train = "train"
val = "val"
[classes]
grass = "#3a7d2c"
path = "#c8b496"
[map]
0 = "ignore"
4 = "grass"
9 = "path"
"""
RNG = np.random.default_rng(0)


def image(height: int = 4, width: int = 5) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask(height: int = 4, width: int = 5) -> np.ndarray:
    return RNG.choice(np.array([0, 4, 9], np.uint8), (height, width))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A clean folder: four images for training, two for validation."""
    folder = tmp_path / "yard"
    for key in ("train/a", "train/b", "train/c", "train/d", "val/e", "val/f"):
        save(folder / f"images/{key}.png", image())
        save(folder / f"masks/{key}.png", mask())
    (folder / "dataset.toml").write_text(TOML)
    return folder


def kinds(report: CheckReport) -> list[tuple[str, str]]:
    return [(fault.kind, fault.key) for fault in report.faults]


def plant_unpaired(folder: Path) -> None:
    (folder / "masks/train/a.png").unlink()


def plant_unreadable(folder: Path) -> None:
    path = folder / "images/train/a.png"
    path.write_bytes(path.read_bytes()[:50])


def plant_unreadable_mask(folder: Path) -> None:
    (folder / "masks/train/a.png").write_bytes(b"")


def plant_size(folder: Path) -> None:
    save(folder / "masks/train/a.png", mask(5, 4))


def plant_depth(folder: Path) -> None:
    save(folder / "images/train/a.png", image()[..., 0].astype(np.uint16) * 257)


def plant_values(folder: Path) -> None:
    pixels = mask()
    pixels[1, :3] = 78
    save(folder / "masks/train/a.png", pixels)


def plant_colors(folder: Path) -> None:
    save(folder / "masks/train/a.png", image())


def plant_duplicate(folder: Path) -> None:
    Image.open(folder / "images/train/b.png").save(
        folder / "images/val/f.bmp"
    )  # other bytes, same pixels
    (folder / "images/val/f.png").unlink()


def plant_twins(folder: Path) -> None:
    save(folder / "images/train/a.bmp", image())


def plant_empty(folder: Path) -> None:
    for path in [*folder.glob("*/val/*")]:
        path.unlink()


PLANTED = [
    (plant_unpaired, "unpaired", "train/a", "images/train/a.png has no mask", 5, 0),
    (plant_unreadable, "unreadable", "train/a", "images/train/a.png cannot be read", 5, 0),
    (plant_unreadable_mask, "unreadable", "train/a", "masks/train/a.png cannot be read", 5, 0),
    (plant_size, "size", "train/a", "masks/train/a.png is 5x4, but its image", 5, 0),
    (
        plant_depth,
        "depth",
        "train/a",
        "images/train/a.png has 16 bits a channel, most images of train 8",
        5,
        0,
    ),
    (
        plant_values,
        "values",
        "train/a",
        "masks/train/a.png holds value 78 (3 pixels), which is not in [map]",
        6,
        1,
    ),
    (plant_colors, "colors", "train/a", "masks/train/a.png", 5, 0),
    (
        plant_duplicate,
        "duplicate",
        "val/f",
        "images/val/f.bmp is the same image as train/b of train",
        5,
        0,
    ),
    (plant_twins, "twins", "train/a", "images/train/a.png has the same stem as another file", 5, 0),
    (plant_empty, "empty", "", "val has no images", 4, 0),
]


@pytest.mark.parametrize(("plant", "kind", "key", "text", "copied", "mended"), PLANTED)
def test_a_planted_fault_is_found_alone_and_gone_in_the_mended_copy(
    yard, tmp_path, plant, kind, key, text, copied, mended
):
    assert check_data(str(yard / "dataset.toml")).clean
    plant(yard)
    report = check_data(str(yard))
    assert kinds(report) == [(kind, key)]
    assert text in report.faults[0].text
    done = write_mended(report, tmp_path / "out")
    assert (done.copied, len(done.mended)) == (copied, mended)
    assert sum(done.left_out.values()) == 6 - copied - (2 if kind == "empty" else 0)
    again = check_data(str(tmp_path / "out/dataset.toml"))
    assert again.clean
    assert sum(split.images for split in again.splits.values()) == copied


def test_every_kind_of_fault_is_planted_above():
    assert {kind for _, kind, *_ in PLANTED} == set(FAULTS) - {"classes"}


@pytest.mark.parametrize(
    ("split", "others"), [("val", "4 images of train"), ("train", "2 images of val")]
)
def test_a_class_that_train_or_val_lacks_is_a_fault_and_no_image_is_left_out(
    yard, tmp_path, split, others
):
    for path in yard.glob(f"masks/{split}/*"):
        save(path, np.full((4, 5), 4, np.uint8))
    report = check_data(str(yard))
    assert kinds(report) == [("classes", "")]
    assert report.faults[0].text.startswith(
        f"{split} has no pixel of path, which is in {others}. Name images"
    )
    assert not report.notes
    assert write_mended(report, tmp_path / "out").copied == 6


def test_a_class_that_val_cannot_have_is_a_note(yard):
    for path in set(yard.glob("masks/*/*")) - {yard / "masks/train/a.png"}:
        save(path, np.full((4, 5), 4, np.uint8))
    report = check_data(str(yard))
    assert report.clean
    assert report.notes == ["val: no pixel of path"]


def test_a_mask_of_another_size_is_told_with_both_sizes(yard: Path):
    plant_size(yard)
    (fault,) = check_data(str(yard / "dataset.toml")).faults
    assert fault.text.endswith("is 4x5 (height x width)")


def test_colour_masks_are_named_each_and_the_remedy_is_said_once(yard: Path):
    for path in yard.glob("masks/*/*.png"):
        rgb = np.zeros((4, 5, 3), np.uint8)
        rgb[1:] = 255, 0, 16
        save(path, rgb)
    report = check_data(str(yard))
    names = sorted(str(path) for path in yard.glob("masks/*/*.png"))
    assert sorted(fault.text for fault in report.faults) == names
    (remedy,) = [note for note in report.notes if "colour image" in note]
    assert "the most frequent in this mask: #ff0010, #000000." in remedy


def test_photographs_in_the_place_of_masks_are_told_as_such(yard: Path):
    for path in yard.glob("masks/*/*.png"):
        save(path, np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    (remedy,) = [note for note in check_data(str(yard)).notes if "colour image" in note]
    assert (
        "are images and masks exchanged there? A mask is a PNG with one value or colour a class."
        in remedy
    )
    assert "most frequent" not in remedy


def test_a_value_that_marks_what_is_not_labelled_gets_its_line_of_the_map(yard: Path):
    for path in yard.glob("masks/*/*.png"):
        save(path, np.full((4, 5), 255, np.uint8))
    assert [note for note in check_data(str(yard)).notes if 'add to [map]: 255 = "ignore"' in note]
    with pytest.raises(DataError, match=r'add to \[map\]: 255 = "ignore"'):
        FolderData(yard / "dataset.toml", "train")[0]
    (yard / "dataset.toml").write_text(TOML + '255 = "ignore"\n')
    assert check_data(str(yard)).clean
    in_colours = TOML.replace('0 = "ignore"\n4', '"#000000"').replace("9 =", '"#000009" =')
    (yard / "dataset.toml").write_text(in_colours)
    assert [
        note for note in check_data(str(yard)).notes if 'add to [map]: "#ffffff" = "ignore"' in note
    ]


@pytest.mark.parametrize(
    ("form", "options", "lossy"),
    [("JPEG", {}, 1), ("WEBP", {}, 1), ("WEBP", {"lossless": True}, 0)],
)
def test_masks_saved_as_jpeg_are_said_to_be_smeared(
    yard: Path, form: str, options: dict, lossy: int
):
    path = yard / "masks/train/a.png"
    Image.open(path).convert("L").resize((40, 32)).save(
        path, form, **options
    )  # whatever its name ends in
    save(yard / "images/train/a.png", image(32, 40))
    notes = [note for note in check_data(str(yard)).notes if "write masks as PNG" in note]
    assert len(notes) == lossy
    if form == "JPEG":
        assert str(path) in notes[0]
        with pytest.raises(DataError, match=r"a\.png holds value .* The mask is JPEG"):
            FolderData(yard / "dataset.toml", "train")[0]


def test_images_that_exif_turns_are_told(yard: Path):
    exif = Image.Exif()
    exif[0x0112] = 3  # by half
    with Image.open(yard / "images/train/a.png") as shown:
        shown.save(yard / "images/train/a.png", exif=exif)
    report = check_data(str(yard))
    assert report.faults == []
    assert (
        "train: images that EXIF turns, whose masks must be of the upright image (1): train/a"
        in report.notes
    )


def test_many_faults_are_all_found_in_one_go(yard: Path):
    plant_size(yard)
    save(yard / "masks/train/b.png", np.full((4, 5), 200, np.uint8))
    (yard / "masks/train/c.png").unlink()
    (yard / "images/val/e.png").write_bytes(b"no image")
    assert kinds(check_data(str(yard))) == [
        ("size", "train/a"),
        ("values", "train/b"),
        ("unpaired", "train/c"),
        ("unreadable", "val/e"),
    ]


def test_a_copy_keeps_images_and_class_ids_and_turns_stray_values_into_ignore(
    yard: Path, tmp_path: Path
):
    plant_values(yard)
    stray = np.array(Image.open(yard / "masks/train/a.png")) == 78
    before = FolderData(yard / "dataset.toml", "train")
    write_mended(check_data(str(yard)), tmp_path / "out")
    after = FolderData(tmp_path / "out/dataset.toml", "train")
    assert (after.classes, after.licence) == (before.classes, before.licence)
    assert after.keys == before.keys
    for index in range(1, 4):
        np.testing.assert_array_equal(after[index].image, before[index].image)
        np.testing.assert_array_equal(after[index].label, before[index].label)
    assert (after[0].label[stray] == 255).all()
    with Image.open(tmp_path / "out/masks/train/a.png") as indexed:
        assert indexed.mode == "P"
        assert set(np.unique(np.array(indexed))) <= {0, 1, 255}


def clip(folder: Path, splits: str, more: str = "") -> Path:
    """Sixty frames of one clip below clip/, and an image of a name of its own."""
    rng = np.random.default_rng(0)
    for key in (*(f"clip/frame_{number:04d}" for number in range(60)), "alone"):
        for kind, pixels in (
            ("images", rng.integers(0, 255, (8, 8, 3))),
            ("masks", np.arange(64).reshape(8, 8) % 2),
        ):
            path = folder / kind / f"{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((pixels + (kind == "masks")).astype(np.uint8)).save(path)
    (folder / "dataset.toml").write_text(
        f'name = "clip"\nimages = "images"\nmasks = "masks"\nclasses = ["a", "b"]\n{more}'
        f"[splits]\n{splits}\n"
        '[map]\n1 = "a"\n2 = "b"\n'
    )
    return folder


@pytest.mark.seconds
def test_labelled_images_beside_a_cut_are_in_the_copy_and_go_to_the_tool(tmp_path: Path):
    """They are in no split: of sixty frames the copy, and the files for the tool, had fewer."""
    folder = clip(tmp_path / "ds", "train = 0.6\nval = 0.2\ntest = 0.2", 'groups = "^[a-z]+"\n')
    report = featherseg.check(folder, fix=tmp_path / "out")
    assert any(note.startswith("images in no split") for note in report.notes)
    assert (report.mended.copied, report.mended.left_out) == (61, {})
    first, copy = (check_data(str(place)).listing for place in (folder, tmp_path / "out"))
    assert {s: [pair.key for pair in p] for s, p in first.splits.items()} == {
        s: [pair.key for pair in p] for s, p in copy.splits.items()
    }
    for number, place in enumerate((folder, tmp_path / "out")):
        done = featherseg.convert(place, tmp_path / f"tool{number}", to_format="labelme")
        assert (done.images, done.notes) == ({"all": 61}, [])

    Image.new("L", (5, 9), 1).save(folder / f"masks/{first.unlisted[0]}.png")
    report = featherseg.check(folder, fix=tmp_path / "out-2")
    assert (report.mended.copied, report.mended.left_out) == (60, {"size": 1})


@pytest.mark.seconds
def test_images_beside_the_cut_of_a_part_are_kept_and_those_of_no_split_are_counted(tmp_path: Path):
    folder = clip(tmp_path / "ds", 'train = "clip"\nval = "20% of train"')
    report = featherseg.check(folder, fix=tmp_path / "out")
    assert (report.mended.copied, report.mended.left_out) == (60, {"in no split": 1})
    sizes = [
        {s: len(pairs) for s, pairs in r.listing.splits.items()}
        for r in (report, check_data(str(tmp_path / "out")))
    ]
    assert sizes[0] == sizes[1]
    assert sum(sizes[0].values()) < 60
    done = featherseg.convert(folder, tmp_path / "tool", to_format="coco")
    assert sum(done.images.values()) == 60
    assert done.notes == ["1 image in no split left out"]
    done = featherseg.convert(tmp_path / "out", tmp_path / "tool-2", to_format="coco")
    assert (sum(done.images.values()), done.notes) == (60, [])


@pytest.mark.seconds
def test_masks_of_the_shape_of_their_image_are_resized(tmp_path: Path):
    sizes = {
        "a": (433, 577),
        "b": (240, 320),
        "c": (960, 1281),
        "d": (480, 480),
        "e": (320, 240),
        "f": (480, 640),
    }
    for key, (height, width) in sizes.items():
        save(tmp_path / f"images/train/{key}.png", image(480, 640))
        save(tmp_path / f"masks/train/{key}.png", mask(height, width))
    save(
        tmp_path / "masks/train/b.png", np.where(mask(240, 320) == 0, 78, 4).astype(np.uint8)
    )  # and not in the map
    (tmp_path / "dataset.toml").write_text(TOML.replace('val = "val"', ""))
    report = featherseg.check(tmp_path, fix=tmp_path / "out")
    assert report.mended.copied == 4
    assert report.mended.left_out == {"size": 2}
    assert [Path(path).stem for path in report.mended.resized] == ["a", "b", "c"]
    for key in "abcf":
        raw = np.asarray(Image.open(tmp_path / f"masks/train/{key}.png"))
        full = np.asarray(Image.fromarray(raw).resize((640, 480), Image.Resampling.NEAREST))
        written = np.asarray(Image.open(tmp_path / f"out/masks/train/{key}.png"))
        assert (written == np.select([full == 4, full == 9], [0, 1], 255)).all()


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("groups", "kept"), [("frame_00[0-9]", True), ("^clip/frame_00[0-9]", False)]
)
def test_groups_that_tell_sequences_keep_them_in_the_copy(tmp_path: Path, groups: str, kept: bool):
    """Groups were lost if the copy's names begin with the split: neighbours in train and val."""
    folder = clip(tmp_path / "ds", 'train = "clip"\nval = "30% of train"', f"groups = {groups!r}\n")
    report = featherseg.check(folder, fix=tmp_path / "out")
    assert (
        f"groups = '{groups}'" in (tmp_path / "out/dataset.toml").read_text().replace('"', "'")
    ) == kept
    copy = check_data(str(tmp_path / "out")).listing
    tens = {split: {pair.key[-4:-1] for pair in pairs} for split, pairs in copy.splits.items()}
    assert not tens["train"] & tens["val"]
    if not kept:
        own = {
            split: [f"train/{pair.key}" for pair in pairs]
            for split, pairs in report.listing.splits.items()
        }
        assert {split: [pair.key for pair in pairs] for split, pairs in copy.splits.items()} == own


def test_a_copy_is_never_half_written_and_never_over_something(yard, tmp_path, monkeypatch):
    report = check_data(str(yard))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("x")
    with pytest.raises(DataError, match="out exists and is not empty"):
        write_mended(report, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(DataError, match=r"cannot write .*new: No space left on device"):
        write_mended(report, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "yard"]


def test_a_copy_fits_into_an_empty_folder(yard: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    write_mended(check_data(str(yard)), tmp_path / "out")
    assert check_data(str(tmp_path / "out")).clean
    assert os.listdir(tmp_path / "out") != []


def test_nothing_sound_gives_no_copy(yard: Path, tmp_path: Path):
    for path in yard.glob("masks/*/*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no valid sample"):
        write_mended(check_data(str(yard)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_counts_sizes_and_notes_equal_a_loop_over_the_masks(yard: Path):
    save(yard / "images/train/z.png", image(6, 7))
    save(yard / "masks/train/z.png", np.zeros((6, 7), np.uint8))
    save(yard / "images/val/a.png", image())  # the stem of train/a
    save(yard / "masks/val/a.png", np.full((4, 5), 4, np.uint8))
    save(yard / "images/spare/x.png", image())
    save(yard / "masks/spare/x.png", mask())
    report = check_data(str(yard))
    raw = [np.array(Image.open(path)) for path in sorted((yard / "masks/train").iterdir())]
    train = report.splits["train"]
    assert report.clean
    assert train.images == 5
    assert train.ignored == sum(int((pixels == 0).sum()) for pixels in raw)
    for index, value in enumerate((4, 9)):
        assert train.statistics.pixels[index] == sum(int((pixels == value).sum()) for pixels in raw)
        holding = [pixels for pixels in raw if (pixels == value).any()]
        assert train.statistics.images[index] == len(holding)
        assert train.statistics.image_pixels[index] == sum(pixels.size for pixels in holding)
    assert train.sizes == {"4x5": 4, "6x7": 1}
    assert report.notes == [
        "train: images with only ignored pixels (1): train/z",
        "stems that occur in more than one split (1): a",
        "images in no split (1): spare/x",
    ]


def test_a_class_that_never_occurs_is_noted_and_has_weight_zero(yard: Path):
    for path in yard.glob("masks/*/*"):
        save(path, np.full((4, 5), 4, np.uint8))
    report = check_data(str(yard))
    assert report.clean
    assert report.notes[:2] == ["train: no pixel of path", "val: no pixel of path"]
    assert report.weights == [1.0, 0.0]


def test_a_repeated_image_within_a_split_is_a_note(yard: Path):
    (yard / "images/train/b.png").write_bytes((yard / "images/train/a.png").read_bytes())
    report = check_data(str(yard))
    assert report.clean
    assert report.notes == ["train: duplicates of earlier images (1): train/b"]


def test_linked_folders_are_a_note_where_the_dataset_does_not_name_them(yard: Path, tmp_path: Path):
    for kind, pixels in (("images", image()), ("masks", mask())):
        save(tmp_path / f"elsewhere/{kind}/x.png", pixels)
        (yard / kind / "more").symlink_to(tmp_path / "elsewhere" / kind)
    report = check_data(str(yard))
    (note,) = [note for note in report.notes if "links to folders are not followed" in note]
    assert note.endswith(f"(2): {yard / 'images/more'}, {yard / 'masks/more'}")
    assert sum(split.images for split in report.splits.values()) == 6
    own = TOML.replace('images = "images"\nmasks = "masks"\n', "").replace(
        '"train"', '"images/train"'
    )
    own = own.replace('"val"', '"images/val"\ntest = "images/more"')
    tables = [
        f'[[source]]\nimages = "images{below}"\nmasks = "masks{below}"\n' for below in ("", "/more")
    ]
    (yard / "dataset.toml").write_text(own + "".join(tables))
    report = check_data(str(yard))
    assert not [note for note in report.notes if "links" in note]
    assert {name: split.images for name, split in report.splits.items()} == {
        "train": 4,
        "val": 2,
        "test": 1,
    }


def test_the_report_is_plain_json(yard: Path):
    plant_values(yard)
    report = json.loads(json.dumps(check_data(str(yard)).as_dict()))
    assert report["clean"] is False
    assert report["faults"][0]["kind"] == "values"
    assert report["splits"]["train"]["sizes"] == {"4x5": 4}


def test_progress_counts_every_sample(yard: Path):
    seen: list[tuple[int, int]] = []
    check_data(str(yard), progress=lambda doing, done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def plain(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    for key, pixels in masks.items():
        save(folder / f"images/{key}.png", image(*pixels.shape[:2]))
        save(folder / f"masks/{key}.png", pixels)
    return folder


def test_a_plain_folder_of_0_and_255_becomes_background_and_foreground(tmp_path: Path):
    masks = {f"{i}": RNG.choice(np.array([0, 255], np.uint8), (4, 5)) for i in range(20)}
    report = check_data(str(plain(tmp_path / "spots", masks)))
    assert report.clean
    assert report.proposal is not None
    assert report.proposal.pixels == {
        "0": sum(int((pixels == 0).sum()) for pixels in masks.values()),
        "255": sum(int((pixels == 255).sum()) for pixels in masks.values()),
    }
    assert [info.name for info in report.classes] == ["background", "foreground"]
    toml = tmp_path / "spots/dataset.toml"
    toml.write_text(report.proposal.text)
    np.testing.assert_array_equal(
        FolderData(toml, "train").label(0) * 255, masks[FolderData(toml, "train").keys[0]]
    )


def test_a_plain_folder_of_indices_keeps_255_for_ignore_and_finds_its_splits(tmp_path: Path):
    masks = {"val/b": np.array([[0, 3, 255]], np.uint8), "train/a": np.array([[1, 1, 0]], np.uint8)}
    report = check_data(str(plain(tmp_path, masks)))
    assert [info.name for info in report.classes] == ["class_0", "class_1", "class_3"]
    assert list(report.splits) == ["train", "val"]
    assert report.splits["val"].ignored == 1


def test_a_plain_folder_of_colours_is_mapped_by_colour(tmp_path: Path):
    pixels = np.array([[[255, 0, 0], [0, 0, 0]], [[0, 128, 0], [0, 0, 0]]], np.uint8)
    report = check_data(str(plain(tmp_path, {"a": pixels, "b": pixels})))
    assert [(info.name, info.color) for info in report.classes] == [
        ("class_000000", (0, 0, 0)),
        ("class_008000", (0, 128, 0)),
        ("class_ff0000", (255, 0, 0)),
    ]


def test_smoothed_masks_of_0_and_255_lose_no_pixel_and_the_seams_of_others_are_faults(
    tmp_path: Path,
):
    pixels = np.zeros((100, 200), np.uint8)
    pixels[:, 100:] = 255
    pixels[0, :100] = np.arange(100)  # a seam of many grey values
    report = check_data(str(plain(tmp_path / "a", {"x": pixels})))
    assert [info.name for info in report.classes] == ["background", "foreground"]
    assert report.clean
    write_mended(report, tmp_path / "out")
    assert check_data(str(tmp_path / "out")).splits["train"].ignored == 0

    red = np.dstack([pixels, np.zeros((100, 200, 2), np.uint8)])
    report = check_data(str(plain(tmp_path / "b", {"x": red})))
    assert [info.name for info in report.classes] == ["background", "foreground"]
    assert kinds(report) == [("values", "x")]
    write_mended(report, tmp_path / "out2")
    assert check_data(str(tmp_path / "out2")).splits["train"].ignored == 99


def test_masks_that_are_photographs_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="different values"):
        check_data(str(plain(tmp_path, {"a": image(64, 64)})))


def test_a_suffix_of_the_masks_is_found(tmp_path: Path):
    plain(tmp_path, {"a": np.array([[0, 1]], np.uint8)})
    (tmp_path / "masks/a.png").rename(tmp_path / "masks/a_mask.png")
    report = check_data(str(tmp_path))
    assert report.clean
    assert report.proposal is not None
    assert 'mask_suffix = "_mask"' in report.proposal.text


def test_what_is_no_dataset_is_named(tmp_path: Path, monkeypatch):
    with pytest.raises(UnknownName, match="Did you mean 'camvid'"):
        check_data("camvidd")
    with pytest.raises(DataNotFound, match=r"has no images \(files ending in "):
        check_data(str(tmp_path))
    with pytest.raises(DataNotFound, match="--data-root"):
        check_data("camvid")
    (tmp_path / "yard.tar.gz").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataNotFound, match=r"yard\.tar\.gz is a file that is no dataset\. Expected a folder"
    ):
        check_data("yard.tar.gz")


def test_a_synthetic_dataset_is_counted_and_cannot_be_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(check_module, "SYNTHETIC_SIZE", 2)
    report = check_data("shapes")
    assert report.clean
    assert {split.images for split in report.splits.values()} == {2}
    with pytest.raises(DataError, match="no files to fix"):
        write_mended(report, tmp_path / "out")


class Labels:
    """A dataset of given labels; images are never asked for."""

    name, channels, licence = "labels", 3, "none"
    classes = tuple(ClassInfo(name, (index, 0, 0)) for index, name in enumerate("abc"))

    def __init__(self, labels: list[np.ndarray]) -> None:
        self.labels, self.keys = labels, [str(index) for index in range(len(labels))]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("statistics read labels only")

    def label(self, index: int) -> np.ndarray:
        return self.labels[index]


def test_class_statistics_read_labels_only_and_ignore_no_size():
    statistics = class_statistics(
        Labels([np.array([[0, 0, 255]], np.uint8), np.array([[1, 0, 1, 1]], np.uint8)])
    )
    assert statistics == ClassStatistics(pixels=[3, 3, 0], image_pixels=[7, 4, 0], images=[2, 1, 0])
    assert median_frequency(statistics) == pytest.approx(
        [(3 / 7 + 3 / 4) / 2 / (3 / 7), (3 / 7 + 3 / 4) / 2 / (3 / 4), 0]
    )
    assert median_frequency(ClassStatistics.empty(2)) == [0.0, 0.0]


@pytest.mark.data
@pytest.mark.slow  # it reads 701 masks, several times
def test_camvid_is_clean_and_its_weights_are_the_published_ones(shared: Path):
    facts = json.loads((shared / "data/camvid/classes.json").read_text())
    report = check_data("camvid", shared / "data/camvid")
    assert report.clean
    assert report.notes == []
    assert np.round(report.weights, 4).tolist() == facts["train_median_frequency_weights"]
    for split, known in facts["splits"].items():
        entry = report.splits[split]
        assert (entry.images, [*entry.statistics.pixels, entry.ignored]) == (
            known["images"],
            known["pixels"],
        )
        assert entry.statistics.images == known["images_with_class"][:11]
        assert entry.sizes == {"360x480": known["images"]}


def test_of_many_classes_that_never_occur_ten_are_named(tmp_path):
    """A mask of wall, building, sky, tree, road, grass and plant alone."""
    for folder, suffix, pixels in (
        ("images", "jpg", image(1, 7)),
        ("annotations", "png", np.array([[1, 2, 3, 5, 7, 10, 18]], np.uint8)),
    ):
        (tmp_path / folder / "validation").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / folder / f"validation/ADE_val_00000001.{suffix}")
    (note,) = check_data("ade20k", tmp_path).notes
    assert note.startswith("val: no pixel of floor, ceiling, bed, ")
    assert (note.count(","), note.endswith(" and 133 more classes")) == (9, True)


def test_palettes_that_give_one_value_two_colours_are_a_note(yard: Path):
    def save_with_palette(key: str, *colors: tuple[int, int, int]) -> None:
        indexed = Image.fromarray(np.array([[0, 4, 9, 9, 4]] * 4, np.uint8))
        palette = np.zeros((256, 3), np.uint8)
        palette[[4, 9, 12]] = colors
        indexed.putpalette(palette.tobytes())
        indexed.save(yard / f"masks/{key}.png")

    save_with_palette("train/a", (9, 9, 9), (255, 0, 0), (1, 1, 1))
    save_with_palette("train/b", (9, 9, 9), (255, 0, 0), (2, 2, 2))  # differs where no pixel is
    assert not [note for note in check_data(str(yard)).notes if "palettes" in note]
    save_with_palette("val/f", (9, 9, 9), (0, 0, 255), (1, 1, 1))
    report = check_data(str(yard))
    (note,) = [note for note in report.notes if "palettes" in note]
    assert "9 is #ff0000 in" in note
    assert '("#0000ff" = "CLASS")' in note
    assert report.clean


def test_a_copy_may_have_a_long_name_and_no_place_under_the_feet_of_its_user(
    yard: Path, tmp_path: Path, monkeypatch
):
    write_mended(check_data(str(yard)), tmp_path / ("n" * 150))
    assert check_data(str(tmp_path / ("n" * 150))).clean
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(FeathersegError, match="is where this command runs"):
        write_mended(check_data(str(yard)), Path())
