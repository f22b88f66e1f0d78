"""YOLO segmentation: data.yaml, and labels/NAME.txt beside images/NAME.

Each line is a class and a polygon, with corners as fractions of the image, drawn by COCO's rule.
Format: docs.ultralytics.com/datasets/segment.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from featherseg.converters.annotations import (
    AnnotatedImage,
    Annotations,
    Region,
    Shape,
    SkippedItems,
    UnusableShape,
    draw_box,
)
from featherseg.converters.masks import Masks, parts_of, place
from featherseg.converters.pixel_rules import coco_polygons, points_of
from featherseg.converters.source import (
    SPLITS,
    Source,
    name_form,
    nothing_readable,
    read_text,
    split_of,
)
from featherseg.core.errors import DataError
from featherseg.core.files import composed, parse_yaml
from featherseg.core.types import Size
from featherseg.core.wording import counted

TITLE = "YOLO segmentation"

CLASSES = "classes.txt"
"""One name per line; some tools write it instead of data.yaml."""

MOST_LABEL = 1 << 20
"""Most bytes of a text file that is opened to see whether it is a label."""

BEYOND = 0.01
"""How far a corner may lie outside its image, as a fraction; Ultralytics skips such images too."""


def find(source: Source) -> list[Path]:
    """Return the YAML files that name classes, else classes.txt; nothing if there are no labels."""
    files = [
        path
        for path in source.ending(".yaml", ".yml")
        if re.search(r"(?m)^names\s*:", read_text(path))
    ]
    files = files or [path for path in source.ending(CLASSES) if path.name == CLASSES]
    return (
        files if any(_in_folder("labels", _place(source, path)) for path in _texts(source)) else []
    )


def nameless_label(source: Source) -> Path | None:
    """Return a label without a file that names its classes; None if there is no label.

    Its first line must be a number and a polygon.
    """
    texts = (path for path in _texts(source) if path.stat().st_size < MOST_LABEL)
    labels = (path for path in texts if _in_folder("labels", _place(source, path)))
    line = re.compile(r"\s*\d{1,6}(\.0*)?(\s+[-+.\de]{1,30}){6,}\s*?(\n|$)")
    return next((path for path in labels if line.match(read_text(path))), None)


def read(source: Source, files: list[Path]) -> Annotations:
    """Return the annotations of all images. Raises DataError, DataNotFound.

    An image without a label is background, unless there are labels without an image: one of them
    may be its label under another name, so such images are skipped.
    """
    skipped, facts = SkippedItems(), read_yaml(files[0])
    names = _names(files)
    splits = {split: entries for key, split in SPLITS.items() if (entries := facts.get(key))}
    listed = {split: _listed(source, entries, skipped) for split, entries in splits.items()}
    of_folder = _of_folder(source, splits, skipped)
    labels = _labels(source)
    used = set(labels.values())
    unused = [
        path
        for path in _texts(source)
        if _in_folder("labels", _place(source, path)) and path.name != CLASSES and path not in used
    ]
    images, bare = [], list[str]()
    for image in source.images:
        place, label = Path(composed(source.relative(image))), labels.get(image)
        if label is None:
            if not _in_folder("images", name_form(place.as_posix())):
                continue
            bare.append(place.as_posix())
            if unused:
                continue
        shapes = [] if label is None else _shapes(label, names)
        folder = of_folder.get(place.parent.as_posix())
        named = (split for split in splits if split == folder or place in listed[split])
        split = next(named, split_of(*place.parts[:-1]))
        images.append(AnnotatedImage(image.name, image.parent, shapes, split=split))
    notes = []
    if unused:
        skipped.add("labels without an image", source.relative(unused[0]), len(unused))
    if bare and unused:
        notes.append(
            f"{counted(len(bare), 'image')} without a label skipped, first {bare[0]}: the labels "
            "without an image may be theirs. Rename these to match, or remove them if images "
            "without a label are background"
        )
    elif bare:
        notes.append(
            f"images without a label are all background, as in YOLO: {len(bare)}, first {bare[0]}"
        )
    if not images:
        raise nothing_readable(source, "image beside labels of YOLO")
    return Annotations(dict.fromkeys(names), images, notes=notes, skipped=skipped)


def _texts(source: Source) -> list[Path]:
    """Return the text files, among them the labels."""
    return [path for path in source.files if path.suffix.lower() == ".txt"]


def _place(source: Source, path: Path) -> str:
    """Return the path below the source without its ending, in the form of `name_form`."""
    return name_form(source.relative(path).rpartition(".")[0])


def _in_folder(name: str, place: str) -> bool:
    """Return whether a path below the source lies in a folder of that name."""
    return name in place.split("/")[:-1]


def _labels(source: Source) -> dict[Path, Path]:
    """Return image -> its label: the one with exactly its name, else the only one that is alike."""
    texts = {
        composed(str(file.relative_to(source.root).with_suffix(""))): file
        for file in _texts(source)
    }
    of_stem = _of_stem(source, texts)
    label_of: dict[Path, Path] = {}
    for image in source.images:
        place = Path(composed(source.relative(image)))
        label = next(
            (texts[at] for at in _label_places(place.with_suffix("").as_posix()) if at in texts),
            None,
        )
        if label is None and not image.is_relative_to(source.root):
            label = texts.get(str("labels" / place.with_suffix(""))) or of_stem.get(
                name_form(place.stem)
            )
        if label is not None:
            label_of[image] = label

    # Match the rest by names that differ only in case, percent-encoding or slashes
    used = set(label_of.values())
    labels_at, images_at = dict[str, list[Path]](), dict[str, list[Path]]()
    for label in texts.values():
        if label not in used:
            labels_at.setdefault(_place(source, label), []).append(label)
    for image in source.images if labels_at else ():
        places = _label_places(_place(source, image)) if image not in label_of else ()
        if at := next((place for place in places if place in labels_at), None):
            images_at.setdefault(at, []).append(image)
    return label_of | {
        images[0]: labels_at[at][0]
        for at, images in images_at.items()
        if len(images) == len(labels_at[at]) == 1
    }


def _label_places(image: str) -> Iterator[str]:
    """Yield where the label of an image may be: "images" in its path becomes "labels"; beside it.

    The last "images" is replaced first.
    """
    parts = image.split("/")
    for at in range(len(parts) - 2, -1, -1):
        if parts[at] == "images":
            yield "/".join([*parts[:at], "labels", *parts[at + 1 :]])
    yield image


def _names(files: list[Path]) -> list[str]:
    """Return the longest list of classes. Raises DataError if two lists disagree."""
    lists: dict[Path, list[str]] = {}
    for path in files:
        facts = read_yaml(path)
        if "kpt_shape" in facts:
            raise DataError(
                f"{path} has kpt_shape: its labels are key points, and no outlines. Export "
                "segmentations."
            )
        names = lists[path] = [name.strip() for name in facts.get("names", ())]
        if not all(names) or len(set(names)) < len(names):
            raise DataError(
                f"{path} names the classes {names}: expected a name each, and no name twice."
            )
    longest = max(lists, key=lambda path: len(lists[path]))
    for path, names in lists.items():
        for number, (name, other) in enumerate(zip(names, lists[longest], strict=False)):
            if name != other:
                raise DataError(
                    f"{path} calls class {number} {name!r}, but {longest} calls it {other!r}: "
                    "expected one order. Convert the file that is right in place of the folder, "
                    "or remove the other."
                )
    return lists[longest]


def _of_stem(source: Source, texts: dict[str, Path]) -> dict[str, Path]:
    """Return stem -> label in a folder labels/, for stems with one label and one image."""
    stems = Counter(name_form(image.stem) for image in source.images)
    labels = [
        (name_form(Path(place).name), file)
        for place, file in texts.items()
        if _in_folder("labels", name_form(place))
    ]
    times = Counter(stem for stem, _ in labels)
    return {stem: file for stem, file in labels if stems[stem] == times[stem] == 1}


def _listed(source: Source, entries: list[str], skipped: SkippedItems) -> set[Path]:
    """Return the images in the list files of a split, by as much of their paths as is listed."""
    of_name: dict[str, list[tuple[Path, str]]] = {}
    for image in source.images:
        place = source.relative(image)
        form = f"/{name_form(place)}"
        of_name.setdefault(form.rpartition("/")[2], []).append((Path(composed(place)), form))
    listed = set[Path]()
    for entry in (entry for entry in entries if entry.endswith(".txt")):
        name = PurePosixPath(entry.replace("\\", "/")).name
        files = [file for file in source.files if file.name == name]
        if len(files) != 1:
            skipped.add("lists of images that are missing, or whose name several files have", entry)
            continue
        for line in filter(None, map(str.strip, read_text(files[0]).splitlines())):
            path = "/" + name_form(line).removeprefix("./").lstrip("/")
            alike = of_name.get(path.rpartition("/")[2], [])
            named = {place for place, form in alike if path.endswith(form) or form.endswith(path)}
            if not named:
                skipped.add(f"names in {entry} without an image", line)
            listed |= named
    return listed


def _of_folder(
    source: Source, splits: dict[str, list[str]], skipped: SkippedItems
) -> dict[str, str]:
    """Return folder of images -> its split, by entries such as Roboflow's "../train/images".

    An entry that matches no folder may be a path of another machine: then its longest end counts
    with which a folder begins.
    """
    folders = {Path(composed(source.relative(image))).parent.as_posix() for image in source.images}
    by_path, by_end, named = dict[str, str](), dict[str, str](), dict[tuple[str, str], set[str]]()
    for split, entry in ((split, entry) for split, entries in splits.items() for entry in entries):
        path = PurePosixPath(composed(entry).replace("\\", "/"))
        parts = [part for part in path.parts if part not in ("..", ".", "/")]
        if not parts or entry.endswith(".txt"):
            continue
        ends = ["/".join(parts[first:]) for first in range(len(parts))]
        matching = {folder for folder in folders if f"/{ends[0]}/" in f"/{folder}/"}
        by_path = dict.fromkeys(matching, split) | by_path
        for end in ends[1:]:
            matching = matching or {
                folder for folder in folders if f"{folder}/".startswith(f"{end}/")
            }
        by_end = dict.fromkeys(matching, split) | by_end
        named[split, entry] = matching
    of_folder = by_end | by_path
    for (_, entry), matching in named.items():  # train and val may share one folder
        alike = [other for other, same in named if same == entry]
        if not set(alike) & set(map(of_folder.get, matching)):
            skipped.add(
                "folders of splits that are not there, or are those of another split", entry
            )
    return of_folder


def _shapes(label: Path, names: list[str]) -> list[Shape]:
    shapes = []
    for number, line in enumerate(read_text(label).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if not re.fullmatch(r"\d{1,6}(\.0*)?", words[0]) or int(float(words[0])) >= len(names):
            raise DataError(
                f"{label}, line {number}: class {words[0][:40]!r}, but there are {len(names)} "
                f"names. Expected 0 to {len(names) - 1}."
            )
        if len(words) == 5:
            shapes.append(Shape(names[int(float(words[0]))], draw_box))
            continue
        try:
            values = [float(word) for word in words[1:]]
        except ValueError:
            values = [np.nan, np.nan]
        shapes.append(Shape(names[int(float(words[0]))], partial(_draw, values)))
    return shapes


def _draw(values: list[float], size: Size) -> Region:
    if len(values) % 2:
        raise UnusableShape("polygons with half a corner")
    corners = points_of(values)
    if corners.min() < -BEYOND or corners.max() > 1 + BEYOND:
        raise UnusableShape(
            "corners that are no fractions of the image, 0 to 1 (pixels, or key points?)"
        )
    return coco_polygons([corners * (size[1], size[0])], size)


def read_yaml(path: Path) -> dict[str, list[str]]:
    """Return the keys of a data.yaml whose values are texts or names by number, as lists.

    classes.txt becomes {"names": [...]}. Raises DataError.
    """
    if path.name == CLASSES:
        return {"names": read_text(path).splitlines()}
    try:
        content = parse_yaml(read_text(path))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is no table. Expected names: [a, b] or a list.")
    facts: dict[str, list[str]] = {}
    for key, value in content.items():
        if key == "names" and isinstance(value, dict):
            if sorted(map(str, value)) != sorted(map(str, range(len(value)))):
                raise DataError(
                    f"{path} numbers {key} {[*value][:20]}: expected 0, 1, 2, ... without a gap."
                )
            value = [value[number] for number in sorted(value, key=int)]
        if isinstance(value, (str, list)):
            facts[str(key)] = [str(item) for item in ([value] if isinstance(value, str) else value)]
    return facts


def write(folder: Path, masks: Masks, copy: bool) -> None:
    """Write data.yaml, images/SPLIT and labels/SPLIT.

    There is one line for every connected piece, with its holes connected by a seam.
    """
    splits: dict[str, None] = {}
    for image in masks.images:
        split = image.split or "train"
        splits[split] = None
        height, width = image.mask.shape
        lines = []
        for part in parts_of(image, masks):
            for exterior, holes in part.outlines(masks.tolerance):
                ring = [*exterior, exterior[0]]
                for hole in holes:
                    ring += [*hole, hole[0], exterior[0]]
                numbers = (np.array(ring) / (width, height)).ravel()
                lines.append(
                    " ".join([str(masks.number_of(part)), *(f"{number:.7g}" for number in numbers)])
                )
        target = folder / "labels" / split / f"{image.name.rpartition('.')[0]}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        place(image, folder / "images" / split, copy)
    first, names = next(iter(splits), "train"), list(masks.colors())
    places = {split: f"images/{split}" for split in splits} | (
        {} if "val" in splits else {"val": f"images/{first}"}
    )
    lines = [f"{split}: {below}" for split, below in places.items()]
    lines += [
        f"nc: {len(names)}",
        "names:",
        *(f"  {number}: {json.dumps(name)}" for number, name in enumerate(names)),
    ]
    (folder / "data.yaml").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
