"""Files of the real tools (files/README.md) against masks of independent rasterisers."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import featherseg
from featherseg.data import open_dataset

FILES = Path(__file__).parent / "files"

NAMES = {  # format -> what the values of expected/ mean, and whether objects are told apart
    "coco": ("coco", ["background", "road", "car", "tree"]),
    "coco-datumaro": ("coco", ["background", "car", "road", "tree"]),
    "labelme": ("labelme", ["background", "car", "road", "tree"]),
    "cvat": ("cvat", ["background", "car", "road", "tree"]),
    "cvat-docs": ("cvat", ["background", "car", "plate"]),
    "yolo": ("yolo", ["background", "car", "road", "tree"]),
    "voc": ("voc", ["background", "car", "road", "tree"]),
    "label-studio": ("label-studio", ["background", "car", "road", "tree"]),
    "supervisely": ("supervisely", ["background", "car", "tree", "road"]),
    "roboflow": ("roboflow", ["background", "car", "road", "tree"]),
    "rgb-masks": ("rgb-masks", ["background", "car", "road", "tree"]),
}
EXACT = {"voc", "roboflow", "rgb-masks"}


def tool_files(name: str, folder: Path) -> Path:
    """A copy of what a tool wrote, without what we expect of it."""
    shutil.copytree(FILES / name, folder, ignore=shutil.ignore_patterns("expected"))
    return folder


def named_masks(folder: Path) -> dict[str, np.ndarray]:
    """Return {stem: names of classes (H, W)} of a dataset, by our own reading of dataset.toml."""
    import tomllib

    toml = tomllib.loads((folder / "dataset.toml").read_text(encoding="utf-8"))
    names = np.full(256, "?", dtype=object)
    for value, name in toml["map"].items():
        names[int(value)] = name
    found = {}
    for path in sorted((folder / "masks").rglob("*.png")):
        mask = Image.open(path)
        assert mask.mode in ("L", "P")
        found[path.stem] = names[np.array(mask)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_those_of_an_independent_rasteriser(name, tmp_path):
    form, names = NAMES[name]
    done = featherseg.convert(tool_files(name, tmp_path / "src"), tmp_path / "out")
    found = named_masks(tmp_path / "out")
    expected = [
        path for path in (FILES / name / "expected").glob("*.png") if "_objects" not in path.name
    ]
    assert sorted(found) == sorted(path.stem for path in expected)
    for path in expected:
        wanted = np.array(names, dtype=object)[np.array(Image.open(path))]
        assert found[path.stem].shape == wanted.shape
        assert (found[path.stem] == wanted).mean() >= (1 if name in EXACT else 0.999), path.stem
    again = featherseg.convert(tmp_path / "src", tmp_path / "again", from_format=form)
    assert again.images == done.images
    for split in ("train", "val") if len(found) > 1 else ("train",):
        assert len(open_dataset(str(tmp_path / "out/dataset.toml"), split)[0].image)


def test_splits_of_the_source_are_kept(tmp_path):
    for name in ("cvat", "coco-datumaro"):
        featherseg.convert(tool_files(name, tmp_path / name), tmp_path / f"{name}-out")
        assert (tmp_path / f"{name}-out/images/train/a.png").is_file()
        assert (tmp_path / f"{name}-out/masks/val/b.png").is_file()
        assert open_dataset(str(tmp_path / f"{name}-out/dataset.toml"), "val").keys == ["val/b"]


def test_objects_are_those_of_labelme(tmp_path):
    featherseg.convert(tool_files("labelme", tmp_path / "src"), tmp_path / "out")
    for stem in ("a", "b", "turned"):
        ours = np.array(Image.open(tmp_path / f"out/instances/{stem}.png")).astype(int)
        theirs = np.array(Image.open(FILES / f"labelme/expected/{stem}_objects.png")).astype(int)
        pairs = set(zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # one to one


def test_what_covers_no_area_in_cvat_is_named(tmp_path):
    done = featherseg.convert(tool_files("cvat-docs", tmp_path / "src"), tmp_path / "out")
    kinds = ("polyline", "points", "tag", "skeleton")
    wanted = {
        f"shapes of the type {kind!r}, which cover no area": 1 + (kind == "polyline")
        for kind in kinds
    }
    assert {reason: times for reason, (times, _) in done.left_out.items()} == wanted
    assert done.classes == ["background", "car", "traffic_line", "wheel", "plate"]


def test_crowds_of_coco_have_no_object(tmp_path):
    featherseg.convert(tool_files("coco", tmp_path / "src"), tmp_path / "out")
    objects = np.array(Image.open(tmp_path / "out/instances/b.png"))
    cars = named_masks(tmp_path / "out")["b"] == "car"
    assert cars.any()
    assert not objects[cars].any()
    assert objects[named_masks(tmp_path / "out")["b"] == "tree"].all()


def test_a_zip_and_a_single_file_are_read_like_the_folder(tmp_path):
    folder = tool_files("coco", tmp_path / "src")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, Path("export") / path.relative_to(folder))
    featherseg.convert(folder, tmp_path / "a")
    featherseg.convert(tmp_path / "export.zip", tmp_path / "b")
    featherseg.convert(folder / "annotations/instances.json", tmp_path / "c")
    for other in ("b", "c"):
        for stem, names in named_masks(tmp_path / "a").items():
            assert (named_masks(tmp_path / other)[stem] == names).all()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_images_are_links_or_copies(tmp_path):
    folder = tool_files("coco", tmp_path / "src")
    featherseg.convert(folder, tmp_path / "linked")
    featherseg.convert(folder, tmp_path / "copied", copy=True)
    assert (tmp_path / "linked/images/a.png").samefile(folder / "images/a.png")
    assert not (tmp_path / "copied/images/a.png").samefile(folder / "images/a.png")
    assert (tmp_path / "copied/images/a.png").read_bytes() == (folder / "images/a.png").read_bytes()
