"""Write a dataset folder from annotations: images/, masks/, instances/ and dataset.toml."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from featherseg.converters.annotations import (
    BACKGROUND,
    MOST_SHAPES,
    AnnotatedImage,
    Annotations,
    Canvas,
    EmptyShape,
    SkippedItems,
    UnusableShape,
    class_values,
    unusable,
)
from featherseg.converters.source import (
    KEPT_IN,
    LEADS_OUT,
    NOT_THERE,
    Source,
    name_form,
    place_image,
)
from featherseg.core.errors import DataError
from featherseg.core.files import composed
from featherseg.core.notebook import html_table
from featherseg.core.types import IGNORE, Color, Progress, Size
from featherseg.core.wording import brief, counted
from featherseg.data.datasets.dataset_toml import (
    IGNORE_NAME,
    MOST_NAME,
    DatasetToml,
    ThingsTable,
    toml_text,
)
from featherseg.data.datasets.folder import MAX_OBJECT
from featherseg.data.images.decoding import EncodedImage, exif_turn, image_size
from featherseg.data.images.palettes import BLACK, class_colors, color_text, is_background

SHARES = {"train": 0.8, "val": 0.2}
"""The splits of a source without splits."""

IMAGE_NOTE = (
    "images that keep their size when EXIF turns them: "
    "their annotations were taken to be of the upright image"
)

_ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


@dataclass(frozen=True)
class Conversion:
    """The result of `convert`: images by split, classes, notes for the user, and what was skipped.

    `left_out` maps a reason to how often it occurred and where first.
    """

    format: str
    out: Path
    images: dict[str, int]
    classes: list[str]
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        left_out = {
            reason: {"times": times, "first": first}
            for reason, (times, first) in self.left_out.items()
        }
        return {
            "format": self.format,
            "out": str(self.out),
            "images": self.images,
            "classes": self.classes,
            "left_out": left_out,
            "notes": self.notes,
        }

    def left_lines(self) -> list[str]:
        """Return one line per reason for skipping."""
        return [
            f"left out: {reason} ({times}; first: {first})"
            for reason, (times, first) in self.left_out.items()
        ]

    def __repr__(self) -> str:
        images = counted(sum(self.images.values()), "image")
        return brief(self, self.format, images, counted(len(self.classes), "class"), self.out)

    def _repr_html_(self) -> str:
        title = f"{self.format}: {', '.join(self.classes)}"
        return html_table(
            title, ("split", "images"), self.images.items(), [*self.left_lines(), *self.notes]
        )


@dataclass(frozen=True)
class _LocatedImage:
    """An annotated image with its file; `path` is None if the image is stored in its annotation."""

    annotated: AnnotatedImage
    path: Path | None

    def file(self) -> Path | EncodedImage:
        """Return the image file, or the content stored in the annotation. Raises UnusableShape."""
        if self.path is not None:
            return self.path
        assert self.annotated.content is not None
        return EncodedImage(self.annotated.content.read(), self.annotated.name)


def write_dataset(
    annotations: Annotations,
    source: Source,
    folder: Path,
    out: Path,
    title: str,
    copy: bool,
    progress: Progress | None,
) -> Conversion:
    """Draw the masks of every image into `folder`, which later becomes `out`.

    An image with uncertain pixels (a broken shape, another size) is skipped, because its mask would
    be wrong. Raises DataError if no image can be used, or if there are annotations and none can be
    used.
    """
    values, skipped = class_values(annotations.classes), annotations.skipped
    splits = _located(annotations, source)
    keys = {split: _keys(images, source) for split, images in splits.items()}
    pixels: Counter[int] = Counter()
    written: dict[str, list[str]] = {split: [] for split in splits}
    done, total, without, drawn = 0, sum(map(len, splits.values())), 0, 0
    for split, images in splits.items():
        for image, key in zip(images, keys[split], strict=True):
            stem = f"{split}/{key}" if split else key
            where = source.relative(image.path) if image.path else image.annotated.name
            try:
                file = image.file()
                canvas = _drawn(image.annotated, file, annotations, values)
                _write(canvas, file, folder, stem, _palette(values, annotations), copy)
            except (UnusableShape, DataError) as error:
                skipped.add(_reason(error), where)
                continue
            finally:
                done += 1
                if progress is not None:
                    progress("converting", done, total)
            present, counts = np.unique(canvas.values, return_counts=True)
            pixels.update(dict(zip(present.tolist(), counts.tolist(), strict=True)))
            without += not image.annotated.shapes and image.annotated.raster is None
            drawn += canvas.drawn + (image.annotated.raster is not None)
            written[split].append(stem)
    if source.links_out:
        skipped.add(
            "links that lead out of the folder",
            source.relative(source.links_out[0]),
            len(source.links_out),
        )
    written = {split: stems for split, stems in written.items() if stems}
    annotated = skipped.shapes or any(image.shapes for image in annotations.images)
    if not written or (annotated and not drawn):
        what = (
            f"annotation can be used, and every mask would be {BACKGROUND}"
            if written
            else "image can be used"
        )
        message = f"{source.name}: no {what}. {'. '.join(_lines(skipped))}. Nothing was written."
        if any(reason.startswith((NOT_THERE, LEADS_OUT)) for reason in skipped.reasons):
            message += " Name the folder of the images with --images."
            if source.roots[1:]:
                searched = counted(len(source.images), "image")
                example = f", such as {source.relative(source.images[-1])}" if source.images else ""
                message += f" {source.roots[1]} was looked through: {searched}{example}."
        raise DataError(message)
    if not pixels[0] and all(value == IGNORE for value in values.values()):
        void = ", ".join(map(repr, values)) or "ignored"
        raise DataError(
            f"{source.name}: no pixel has a class: all are {void}, neither trained on nor scored. "
            "Expected a class beside it, or pixels without a shape. If it is a class, such as a "
            "kind of defect, give it another name in the annotations. Nothing was written."
        )
    notes = list(annotations.notes)
    if ignored := [
        name
        for name, value in values.items()
        if value == IGNORE and IGNORE_NAME not in name.lower()
    ]:
        notes.append(
            f"{', '.join(map(repr, ignored))}: neither trained on nor scored. If that is a class, "
            "such as a kind of defect, give it another name in the annotations"
        )
    located = {image.path for images in splits.values() for image in images}
    unnamed = [
        path for path in source.images if path not in located and path not in annotations.masks
    ]
    if source.only:  # other files around a single annotation file are not part of the export
        folders = {path.parent for path in located if path}
        unnamed = [path for path in unnamed if path.parent in folders]
    if unnamed:
        skipped.add("images that no annotation names", source.relative(unnamed[0]), len(unnamed))
    if without:
        notes.append(f"{counted(without, 'image')} without any annotation: all {BACKGROUND}")
    config = _config(annotations, values, pixels, written, out.absolute().name)
    if "train" not in config.splits:
        notes.append(
            "no image is in train: by files or folders of that name, all are in "
            f"{' and '.join(written)}. To train on them, replace the entries under [splits] in "
            f"{out / 'dataset.toml'} by train = 0.8 and val = 0.2"
        )
    (folder / "dataset.toml").write_text(toml_text(config), encoding="utf-8")
    return Conversion(
        title,
        out,
        {split or "all": len(stems) for split, stems in written.items()},
        list(config.classes),
        dict(skipped.reasons),
        notes,
    )


def _tail(name: str, path: Path) -> int:
    """Return how many parts at the end of an image's name equal those of the file's path."""
    ours, theirs = (name_form(text).split("/")[::-1] for text in (name, path.as_posix()))
    alike = [a == b for a, b in zip(ours, theirs, strict=False)]
    return (*alike, False).index(False)


def _located(annotations: Annotations, source: Source) -> dict[str, list[_LocatedImage]]:
    """Return the images with a file, by split; duplicates are joined or stay in one split."""
    skipped, by_file, elsewhere = annotations.skipped, dict[object, _LocatedImage](), list[str]()
    for annotated in annotations.images:
        # An image stored in the annotation is not a file elsewhere that only shares its name
        inside = annotated.content
        path, why = source.find_image(
            annotated.name, annotated.near, annotated.split, 2 if inside else 1
        )
        if path is None and inside is None:
            skipped.add(why, annotated.name)
            continue
        if path is not None:
            annotated = replace(annotated, split=annotated.split or source.split(path))
            elsewhere += [f"{annotated.name} is {source.relative(path)}"] if why else []
        key = path or (annotated.near, annotated.name, inside and inside.digest)
        before = by_file.setdefault(key, _LocatedImage(annotated, path))
        if before.annotated is annotated:
            continue
        # One of the two names matches this file better: the other one's image is missing
        if path and _tail(annotated.name, path) != _tail(before.annotated.name, path):
            better = max(before.annotated, annotated, key=lambda image: _tail(image.name, path))
            by_file[key] = _LocatedImage(better, path)
            worse = before.annotated if better is annotated else annotated
            skipped.add(NOT_THERE, worse.name)
            continue
        if before.annotated.split == annotated.split:
            by_file[key] = _LocatedImage(_joined(before.annotated, annotated, skipped), path)
        else:
            kept = min(
                (before.annotated, annotated),
                key=lambda image: [*KEPT_IN, image.split].index(image.split),
            )
            by_file[key] = _LocatedImage(kept, path)
            skipped.add(f"images of two splits (kept in {kept.split})", annotated.name)
    if elsewhere:
        annotations.notes.append(
            f"{counted(len(elsewhere), 'image')} found by the end of the path alone, first: "
            f"{elsewhere[0]}"
        )
    splits: dict[str, list[_LocatedImage]] = {}
    for image in by_file.values():
        splits.setdefault(image.annotated.split, []).append(image)
    if "" in splits and len(splits) > 1:
        splits.setdefault("train", []).extend(splits.pop(""))
        if len(splits) > 1:
            annotations.notes.append("images that are in no split of the source are in train")
    if len(splits) == 1 and "train" in splits:
        splits = {"": splits["train"]}
    return splits


def _joined(
    before: AnnotatedImage, further: AnnotatedImage, skipped: SkippedItems
) -> AnnotatedImage:
    """Return an image that is listed twice, with the shapes of both entries.

    If they cannot be joined, its pixels are unknown.
    """
    reason = ""
    if before.raster or further.raster:
        reason = "images with several masks: expected one for each image"
    elif before.size and further.size and before.size != further.size:
        reason = "images that are listed twice, in two sizes"
    if reason:
        return replace(before, raster=partial(unusable, reason))
    entry = len(before.shapes)  # keeps apart groups with the same number in the two entries
    before.shapes.extend(
        shape if shape.object_id is None else replace(shape, object_id=(entry, shape.object_id))
        for shape in list(further.shapes)
    )
    skipped.add(
        "further entries of an image that is listed twice (their shapes were joined)", further.name
    )
    return replace(before, size=before.size or further.size)


def _keys(images: Sequence[_LocatedImage], source: Source) -> list[str]:
    """Return a unique name per image: its path below their common folder, without the ending.

    Images stored in annotations that share a name get the name of the annotation's file.
    """
    inside = Counter(_plain(image.annotated.name) for image in images if image.path is None)
    paths = []
    for image in images:
        name, content = _plain(image.annotated.name), image.annotated.content
        name = _plain(content.file.name) if content and inside[name] > 1 else name
        paths.append(PurePosixPath(source.relative(image.path) if image.path else name))
    common = os.path.commonpath([path.parent for path in paths]) if paths else ""
    keys, used_keys = [], set[str]()
    for path in paths:
        stem = path.relative_to(common).with_suffix("").as_posix()
        key, number = stem, 1
        while composed(key.lower()) in used_keys:  # to some file systems a.png is A.png
            number += 1
            key = f"{stem}-{number}"
        used_keys.add(composed(key.lower()))
        keys.append(key)
    return keys


def _plain(name: str) -> str:
    """Return the last part of a tool's name for an image, as a valid file name."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return (
        "".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in last).strip(". ")
        or "image"
    )


def _drawn(
    annotated: AnnotatedImage,
    file: Path | EncodedImage,
    annotations: Annotations,
    values: Mapping[str, int],
) -> Canvas:
    """Return the masks of one image in upright orientation, the way images are read."""
    skipped = annotations.skipped
    if len(annotated.shapes) > MOST_SHAPES:
        raise UnusableShape(f"images of more than {MOST_SHAPES:,} shapes")
    upright, turn = image_size(file), exif_turn(file)
    raster = annotated.raster() if annotated.raster else None
    size: Size = raster.values.shape if raster else annotated.size or upright
    stored = upright[::-1] if turn is not None and turn not in _SAME_SIZE else upright
    if size not in (upright, stored):
        raise UnusableShape("images of another size than their annotation says")
    canvas = Canvas(size, annotations.with_objects)
    if raster:
        canvas.values[:] = raster.values
        canvas.objects = raster.objects if annotations.with_objects else None
    for shape in annotated.shapes:
        try:
            canvas.draw(shape, values.get(shape.name, 0))
        except EmptyShape as error:
            skipped.add(str(error), annotated.name)
    if turn is not None and size != upright:  # annotated on the stored image, before EXIF turned it
        canvas.values = np.array(Image.fromarray(canvas.values).transpose(turn))
        if canvas.objects is not None:
            canvas.objects = np.array(Image.fromarray(canvas.objects).transpose(turn))
    elif turn is not None and stored == upright and IMAGE_NOTE not in annotations.notes:
        annotations.notes.append(IMAGE_NOTE)
    if canvas.objects is not None and canvas.objects.max(initial=0) > MAX_OBJECT:
        raise UnusableShape(f"images of more than {MAX_OBJECT:,} objects")
    return canvas


_SAME_SIZE = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
)


def _write(
    canvas: Canvas, file: Path | EncodedImage, folder: Path, stem: str, palette: bytes, copy: bool
) -> None:
    """Write one image with its mask and its objects."""
    mask = Image.fromarray(canvas.values)
    mask.putpalette(palette)
    instances = canvas.objects
    ending = _ending(file)
    names = {"images": f"{stem}{ending}", "masks": f"{stem}.png"}
    names |= {"instances": f"{stem}.png"} if instances is not None else {}
    targets = {kind: folder / kind / name for kind, name in names.items()}
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    mask.save(targets["masks"])
    if instances is not None:
        Image.fromarray(instances.astype(np.uint16)).save(targets["instances"])
    if isinstance(file, EncodedImage):
        targets["images"].write_bytes(file.content)
    else:
        place_image(file, targets["images"], copy)


def _ending(file: Path | EncodedImage) -> str:
    if isinstance(file, Path):
        return file.suffix
    with Image.open(BytesIO(file.content), formats=tuple(_ENDINGS)) as image:
        return _ENDINGS.get(
            image.format or "PNG", ".jpg"
        )  # Pillow calls a JPEG of several images MPO


def _config(
    annotations: Annotations,
    values: Mapping[str, int],
    pixels: Counter[int],
    written: Mapping[str, Sequence[str]],
    name: str,
) -> DatasetToml:
    background = next((name for name in values if is_background(name)), BACKGROUND)
    named = {0: background} if pixels[0] or background in values else {}
    named |= {value: name for name, value in values.items() if 0 < value < IGNORE}
    colors = _colors(annotations, values)
    images = sum(map(len, written.values()))
    splits: dict[str, Any] = {split: split for split in written if split}
    if not splits:
        splits = dict(SHARES) if images > 1 else {"train": 1.0}
    elif "train" in splits and "val" not in splits:
        splits["val"] = "10% of train"
    with_objects = named.values() if annotations.things is None else annotations.things
    things = [name for value, name in named.items() if value and name in with_objects]
    meaning = {str(value): name for value, name in named.items()}
    meaning |= {str(IGNORE): IGNORE_NAME} if pixels[IGNORE] else {}
    return DatasetToml(
        name=name[:MOST_NAME],
        images="images",
        masks="masks",
        licence=annotations.licence,
        splits=splits,
        classes={name: color_text(colors[value]) for value, name in named.items()},
        map=meaning,
        things=ThingsTable(classes=things, instances="instances")
        if annotations.with_objects and things
        else None,
    )


def _colors(annotations: Annotations, values: Mapping[str, int]) -> dict[int, Color]:
    """Return value -> colour: the source's if no other class has it; black for background."""
    named = {name: value for name, value in values.items() if 0 < value < IGNORE}
    colors = class_colors(list(named), annotations.classes)
    return {0: BLACK} | {named[name]: color for name, color in colors.items()}


def _palette(values: Mapping[str, int], annotations: Annotations) -> bytes:
    palette = np.zeros(
        (IGNORE + 1, 3), np.uint8
    )  # all 256: with fewer, Pillow packs the values into fewer bits
    for value, color in _colors(annotations, values).items():
        palette[value] = color
    return palette.tobytes()


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UnusableShape) else "images that cannot be read"


def _lines(skipped: SkippedItems) -> list[str]:
    return [
        f"{reason[:1].upper()}{reason[1:]}: {times}, first {where}"
        for reason, (times, where) in skipped.reasons.items()
    ]
