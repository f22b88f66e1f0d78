"""Masks to write for an annotation tool: of a dataset, or predicted by `featherseg predict`.

A mask is split into parts: one part per object if there are objects, else per connected piece of a
class.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from featherseg.converters.outlines import Outline, simplified_outline, without_corners
from featherseg.converters.pixel_rules import pillow_polygon
from featherseg.converters.regions import Ring, boxes, filled, label, rings
from featherseg.converters.source import place_image
from featherseg.core.errors import ConfigError, DataError, DataNotFound, NoDataset
from featherseg.core.files import numbered, unique_names
from featherseg.core.types import IGNORE, ClassInfo, Color, SegmentationData, Size
from featherseg.core.wording import counted, size_text
from featherseg.data import own_config
from featherseg.data.cache.fingerprint import files_of
from featherseg.data.datasets.dataset_toml import DatasetToml
from featherseg.data.datasets.folder import list_folder, read_instances
from featherseg.data.images.decoding import image_size, read_mask
from featherseg.data.images.georeference import DESCRIPTION, TIFF_SUFFIXES, Georeference
from featherseg.data.images.listing import IMAGE_SUFFIXES, images_in
from featherseg.data.images.pairs import complete, plain_key, read_label
from featherseg.data.images.palettes import CLASSES_KEY, class_colors, is_background
from featherseg.data.images.unused_parts import unused_parts
from featherseg.data.panoptic.files import read_ids, read_panoptic_json

PREDICTED = ("_mask.png", "_mask.tif")
"""Endings of the masks written by `featherseg predict`."""

UNEQUAL = 0.0009
"""Share of an image's pixels that may change when outlines are simplified."""

STEPS = (1.5, 1.0, 0.75, 0.5, 0.35)
"""Tolerances in pixels for dropping corners of an outline, tried from coarse to fine."""

IGNORE_CLASS, IGNORE_COLOR = "ignore", (224, 224, 192)
"""The class of ignored pixels, for tools without an ignore value."""


@dataclass(frozen=True)
class MaskedImage:
    """An image with its mask, class ids (H, W) uint8, 255 = ignore; and objects or None.

    Objects are (H, W) int32, 0 = none. `name` is the path to write, "a/01.jpg"; `image` is None if
    only the mask exists. `georeference` is the place of a GeoTIFF.
    """

    name: str
    image: Path | None
    mask: np.ndarray
    objects: np.ndarray | None
    split: str = ""
    georeference: Georeference | None = None


@dataclass(frozen=True)
class Part:
    """A part of a mask: its class, and its pixels in a box with the upper left corner (top, left).

    `inside` is (h, w) bool. `number` is the number of its object, 0 for none. A crowd is a region
    of things that were not separated.
    """

    class_id: int
    name: str
    top: int
    left: int
    inside: np.ndarray
    number: int = 0
    crowd: bool = False

    def whole(self, size: Size) -> np.ndarray:
        """Return the part as a mask (H, W) bool of the image."""
        mask = np.zeros(size, bool)
        height, width = self.inside.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.inside
        return mask

    def outlines(self, tolerance: float = 0.0) -> list[Outline]:
        """Return the outline of each connected piece at pixel corners, in image coordinates.

        Corners within `tolerance` pixels of the outline are dropped; 0: the exact outline.
        """
        exteriors, holes = rings(self.inside)
        if len(exteriors) > 1:
            return [outline for piece in pieces(self) for outline in piece.outlines(tolerance)]
        outline = self._moved(exteriors[0]), [self._moved(hole) for hole in holes]
        return [simplified_outline(outline, tolerance) if tolerance else outline]

    def _moved(self, ring: Ring) -> Ring:
        return [[x + self.left, y + self.top] for x, y in ring]


@dataclass
class Masks:
    """The masks to write: the classes in order, the images one by one, notes for the user.

    tolerance: Pixels by which polygons may be off the outlines of the mask; 0: exact.
    """

    classes: tuple[ClassInfo, ...]
    images: Iterator[MaskedImage]
    total: int
    notes: list[str] = field(default_factory=list)
    has_ignored: bool = False
    tolerance: float = 0.0

    @property
    def background(self) -> int | None:
        """The id of the background class, which tools do not annotate; None without one."""
        return next((i for i, info in enumerate(self.classes) if is_background(info.name)), None)

    def colors(self) -> dict[str, Color]:
        """Return class -> colour without background; adds IGNORE_CLASS if pixels are ignored."""
        named = {
            info.name: info.color for i, info in enumerate(self.classes) if i != self.background
        }
        return named | ({IGNORE_CLASS: IGNORE_COLOR} if self.has_ignored else {})

    def number_of(self, part: Part) -> int:
        """Return the index of a part's class in `colors`."""
        ids = [i for i in range(len(self.classes)) if i != self.background]
        return len(ids) if part.class_id == IGNORE else ids.index(part.class_id)


def place(image: MaskedImage, folder: Path, copy: bool) -> None:
    """Place an image in a folder under its name, if its file exists."""
    if image.image is not None:
        place_image(image.image, folder / image.name, copy)


def open_masks(src: Path, images: Path | None) -> Masks:
    """Open the masks of a folder of predictions, a dataset.toml or a dataset folder.

    `images` is the folder of the predicted images. Raises DataNotFound if `src` is none of these,
    ConfigError if `images` is given for a dataset, and the errors of opening a dataset.
    """
    toml = src.suffix == ".toml" or (src / "dataset.toml").is_file()
    predicted = (
        sorted(path for path in src.glob("*_mask.*") if path.name.endswith(PREDICTED))
        if src.is_dir()
        else []
    )
    if predicted and not toml:
        return _predictions(src, predicted, images)
    neither = DataNotFound(
        f"{src} contains neither images with masks nor predicted masks. Expected a dataset, or "
        f"NAME{PREDICTED[0]} as written by `featherseg predict`."
    )
    if not toml and not src.is_dir():
        raise neither
    try:
        config = own_config(str(src))
    except NoDataset:
        raise neither from None
    if images is not None:
        raise ConfigError(
            f"--images is for predicted masks, but {src} is a dataset with images. Leave it out."
        )
    return _dataset(config, src if src.is_dir() else src.parent)


def masks_of(data: SegmentationData, numbers: Sequence[int]) -> Masks:
    """Return the masks of these samples of a dataset, in this order.

    Raises DataError if its images are not files, or do not have three channels: annotation tools
    show only such images.
    """
    files = files_of(data)
    if files is None:
        raise DataError(
            f"{data.name} is generated: it has no image files that an annotation tool could show."
        )
    _refuse_channels(data.name, data.channels)
    things = any(info.thing for info in data.classes)

    def images() -> Iterator[MaskedImage]:
        names = numbered((plain_key(data.keys[number]) for number in numbers), set())
        for number, name in zip(numbers, names, strict=True):
            image, objects = (
                files.pairs[number].files[0],
                data[number].instances if things else None,
            )
            if objects is not None:
                objects = np.maximum(objects, 0)  # crowds are below 0 in panoptic datasets
            yield MaskedImage(name + image.suffix, image, data.label(number), objects)

    return Masks(data.classes, images(), len(numbers))


def _refuse_channels(name: str, channels: int) -> None:
    if channels != 3:
        raise DataError(
            f"{name} has images of {channels} channels, which annotation tools do not show."
        )


def _dataset(config: DatasetToml, base: Path) -> Masks:
    listing = list_folder(config, base)
    _refuse_channels(str(base), listing.channels)
    # Splits by fractions are ours, so the tool gets its images undivided. Images that the fractions
    # skipped go with the split that they were cut from
    splits, unlisted = dict(listing.base_splits), set(listing.unlisted)
    if not config.shares:
        splits = {
            split: pairs
            + [pair for pair in listing.base_splits.get(split, ()) if pair.key in unlisted]
            for split, pairs in listing.splits.items()
        }
    alone = unlisted - {pair.key for pairs in splits.values() for pair in pairs}
    left = [f"{counted(len(alone), 'image')} in no split left out"] if alone else []

    def images() -> Iterator[MaskedImage]:
        for split, pairs in splits.items():
            plain_keys = (plain_key(pair.key.removeprefix(f"{split}/")) for pair in pairs)
            names = numbered(plain_keys, set())
            for pair, name in zip(complete(f"{listing.name} {split}", pairs), names, strict=True):
                image, mask = pair.files[0], read_label(listing.masks_of(pair))
                objects = listing.instances_of(pair)
                numbers = (
                    None if objects is None else read_instances(objects, mask, listing.classes)
                )
                yield MaskedImage(name + image.suffix, image, mask, numbers, split)

    return Masks(listing.classes, images(), sum(map(len, splits.values())), left)


def _predictions(src: Path, mask_paths: list[Path], folder: Path | None) -> Masks:
    notes = (
        []
        if folder
        else ["the images are not in the folder of predictions: add them with --images FOLDER"]
    )
    paths = images_in(folder) if folder else []
    images = dict(zip(unique_names(paths), paths, strict=True))  # as `predict` names them
    if folder and (alone := [path for path in mask_paths if _image_name(path) not in images]):
        notes.append(f"{counted(len(alone), 'mask')} without an image in {folder}: {alone[0].name}")
    return predicted_masks(src, mask_paths, images, notes)


def predicted_masks(
    src: Path,
    mask_paths: Sequence[Path],
    images: Mapping[str, Path],
    notes: list[str],
    tolerance: float = 0.0,
) -> Masks:
    """Return masks that `predict` wrote into a folder.

    Args:
        src: The folder, which may contain panoptic.json.
        mask_paths: The masks, at least one.
        images: NAME of NAME_mask.png -> its image, which need not exist.
        notes: For the user.
        tolerance: Pixels by which polygons may be off the outlines.
    """
    classes = _classes_of(mask_paths)
    segments: dict[str, Any] = {}
    if (src / "panoptic.json").is_file():
        content = read_panoptic_json(src / "panoptic.json")
        segments = {
            Path(annotation.file_name).stem: annotation for annotation in content.annotations
        }
        if content.categories:
            named = {
                str(row.get("name")): bool(row.get("isthing"))
                for row in content.categories.values()
            }
            classes = tuple(
                ClassInfo(info.name, info.color, named.get(info.name, False)) for info in classes
            )

    def read() -> Iterator[MaskedImage]:
        for path in mask_paths:
            stem = _image_name(path)
            mask = read_mask(path)
            if mask.ndim != 2 or mask.dtype != np.uint8:
                raise DataError(
                    f"{path} is no mask of `featherseg predict`: expected one channel of 8 bits."
                )
            if unknown := set(np.unique(mask).tolist()) - {*range(len(classes)), IGNORE}:
                raise DataError(
                    f"{path} contains the value {min(unknown)}, but there are {len(classes)} "
                    "classes."
                )
            objects = None
            if stem in segments:
                objects = read_ids(src / "panoptic" / segments[stem].file_name)
                objects = np.where(
                    np.isin(mask, [i for i, info in enumerate(classes) if info.thing]), objects, 0
                )
            listed = images.get(stem)
            image = listed if listed and listed.is_file() else None
            if image and (size := image_size(image)) != mask.shape:
                raise DataError(
                    f"{path} is {size_text(mask.shape)} (height x width), but {image} is "
                    f"{size_text(size)}: it is of another image. Name the folder that was "
                    "predicted, or predict it anew."
                )
            name = f"{stem}{listed.suffix if listed else IMAGE_SUFFIXES[0]}"
            place = unused_parts(path, 1)[0] if path.suffix in TIFF_SUFFIXES else None
            yield MaskedImage(name, image, mask, objects, georeference=place)

    return Masks(classes, read(), len(mask_paths), notes, tolerance=tolerance)


def _image_name(mask: Path) -> str:
    return mask.stem.removesuffix("_mask")


def _classes_of(mask_paths: Sequence[Path]) -> tuple[ClassInfo, ...]:
    """Return the classes named in the first mask; class_0, class_1, ... for older masks."""
    with Image.open(mask_paths[0], formats=("PNG", "TIFF")) as image:
        text, palette = image.info.get(CLASSES_KEY), image.getpalette() or []
        described = getattr(image, "tag_v2", {}).get(DESCRIPTION)
    try:
        names = (
            json.loads(text) if isinstance(text, str) else json.loads(str(described))[CLASSES_KEY]
        )
    except (ValueError, TypeError, KeyError):
        names = None
    if (
        not isinstance(names, list)
        or not 0 < len(names) <= IGNORE
        or not all(isinstance(n, str) and n for n in names)
    ):
        highest = max(
            int(read_mask(path)[read_mask(path) < IGNORE].max(initial=0)) for path in mask_paths
        )
        names = [f"class_{index}" for index in range(highest + 1)]
    spare = class_colors(names)
    own = [tuple(palette[3 * i : 3 * i + 3]) for i in range(len(names))]
    return tuple(
        ClassInfo(name, color if len(color) == 3 else spare[name])
        for name, color in zip(names, own, strict=True)
    )


def parts_of(image: MaskedImage, masks: Masks) -> Iterator[Part]:
    """Yield the parts of a mask without background: objects, crowds, else connected pieces."""
    for part in _regions(image, masks):
        if part.class_id == masks.background:
            continue
        if part.number or part.crowd:
            yield part
        else:
            yield from pieces(part)


def regions_of(image: MaskedImage, masks: Masks) -> Iterator[Part]:
    """Yield objects, crowds and classes as a whole, without background and ignored pixels."""
    for part in _regions(image, masks):
        if part.class_id not in (masks.background, IGNORE):
            yield part


def stacked_parts(image: MaskedImage, masks: Masks) -> list[tuple[Part, Ring]]:
    """Return connected pieces, largest first, with polygons through the centres of outline pixels.

    Filled in this order they give the mask: of the filled pieces around a pixel, which are nested,
    the smallest is the pixel's own. The background is a piece only where it may lie in a hole, that
    is, if it does not touch the image's border.
    """
    height, width = image.mask.shape
    by_area: list[tuple[int, Part, Ring]] = []
    for part in (piece for region in _regions(image, masks) for piece in pieces(region)):
        bottom, right = part.top + part.inside.shape[0], part.left + part.inside.shape[1]
        at_border = part.top == 0 or part.left == 0 or bottom == height or right == width
        if part.class_id != masks.background or not at_border:
            by_area.append((int(filled(part.inside).sum()), part, _middles(part)))
    by_area.sort(key=lambda row: -row[0])
    return [(part, outline) for _, part, outline in by_area]


def simplified(parts: list[tuple[Part, Ring]], size: Size) -> list[tuple[Part, Ring]]:
    """Return the parts with fewer corners, so that a person can edit them.

    At most the share UNEQUAL of the image's pixels changes. Each outline gets a share of these
    pixels by its length, and uses the coarsest tolerance that stays within it.
    """
    corners = sum(len(outline) for _, outline in parts)
    coarser = []
    for part, outline in parts:
        share = UNEQUAL * size[0] * size[1] * len(outline) / corners
        coarser.append(
            (
                part,
                next(
                    filter(None, (_coarser(part, outline, step, share) for step in STEPS)), outline
                ),
            )
        )
    return coarser


def _coarser(part: Part, outline: Ring, step: float, share: float) -> Ring | None:
    """Drop the corners within `step` pixels of the outline; None if over `share` pixels change."""
    if len(outline) < 5 or share < 1:
        return None
    kept = without_corners(outline, step)
    height, width = part.inside.shape
    moved = np.array(kept, float) - (part.left - 1, part.top - 1)
    top, left, inside = pillow_polygon(moved, (height + 2, width + 2))
    changed = np.pad(filled(part.inside), 1)
    changed[top : top + inside.shape[0], left : left + inside.shape[1]] ^= inside
    return kept if changed.sum() <= share else None


def _regions(image: MaskedImage, masks: Masks) -> Iterator[Part]:
    """Yield the regions of one class and one object, ordered by class, then by object number."""
    objects = np.zeros(image.mask.shape, np.int32) if image.objects is None else image.objects
    joined, codes = np.unique(image.mask.astype(np.int64) << 32 | objects, return_inverse=True)
    codes = codes.reshape(image.mask.shape).astype(np.int32)
    for code, box in boxes(codes).items():
        class_id, number = int(joined[code]) >> 32, int(joined[code]) & 0xFFFFFFFF
        masks.has_ignored |= class_id == IGNORE
        thing = class_id != IGNORE and masks.classes[class_id].thing
        name = IGNORE_CLASS if class_id == IGNORE else masks.classes[class_id].name
        crowd = thing and image.objects is not None and not number
        yield Part(
            class_id,
            name,
            box[0].start,
            box[1].start,
            codes[box] == code,
            number if thing else 0,
            crowd,
        )


def pieces(part: Part) -> Iterator[Part]:
    """Yield the connected pieces of a part."""
    numbers, _ = label(part.inside)
    for number, box in boxes(numbers).items():
        if number:
            top, left = part.top + box[0].start, part.left + box[1].start
            yield replace(part, top=top, left=left, inside=numbers[box] == number)


def _middles(part: Part) -> Ring:
    """Return the outline of a connected part through the centres of its pixels.

    Each edge runs from its first to its last pixel. Edges go clockwise, so that the inside is on
    their right.
    """
    (exterior,), _ = rings(part.inside)
    outline: Ring = []
    for (x, y), (to_x, to_y) in zip(exterior, exterior[1:] + exterior[:1], strict=True):
        if to_x > x:
            ends = [x, y], [to_x - 1, y]
        elif to_x < x:
            ends = [x - 1, y - 1], [to_x, y - 1]
        elif to_y > y:
            ends = [x - 1, y], [x - 1, to_y - 1]
        else:
            ends = [x, y - 1], [x, to_y]
        outline += [[column + part.left, row + part.top] for column, row in ends]
    return [point for place, point in enumerate(outline) if point != outline[place - 1]] or outline[
        :1
    ]
