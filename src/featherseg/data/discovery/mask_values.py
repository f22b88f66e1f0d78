"""The raw values that the masks of a folder hold, and what they may mean: classes, or 0 and 255 that were smoothed."""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from featherseg.core.config import parse
from featherseg.core.errors import DataError
from featherseg.core.types import Progress
from featherseg.data.datasets.dataset_toml import MOST_SOURCES, DatasetToml
from featherseg.data.datasets.folder import list_pairs
from featherseg.data.discovery.file_facts import FileFacts
from featherseg.data.discovery.layouts import Reading
from featherseg.data.images.pairs import Pair
from featherseg.data.images.palettes import color_text

COMMON = 0.005
"""Share of all pixels from which a value counts as common."""

MOST_VALUES = 100_000
"""Different values of all masks together above which they are refused: they are no classes."""

THRESHOLD = 128
"""Between 0 and 255 of a smoothed mask."""

NEAR = 24
"""Values this near to 0 or 255 are what JPEG and resizing leave of them."""

LEAST_IDS, LEAST_MASKS = 12, 3
"""Values of one mask each from which they may be ids of segments; in fewer masks classes occur once as well."""

STRAY = 0.01
"""Pixels of other values, as a share of those of 255, up to which they are strays in a mask of 0 and 255."""

PATCH = 0.7
"""Share of a value's pixels whose right neighbour is alike, in patches of a class; along smoothed edges it is less."""


@dataclass(frozen=True)
class MaskValues:
    """The raw values of masks: pixels of each, how many of these have a right neighbour alike; those of each folder.

    A folder is a pair of folders of the reading (its place) and the folders in a name ("" where there are none);
    `images` counts the images with a mask in each, also those whose masks cannot be read, `bare` those without one;
    `masks` is value -> masks.
    `lossy`: value that occurs in JPEG and lossy WebP alone -> its pixels whose right and lower neighbours are alike.
    """

    pixels: dict[str, int]
    alike: dict[str, int]
    folders: dict[tuple[int, str], set[str]]
    lossy: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[tuple[int, str], int] = field(default_factory=dict)
    bare: Mapping[tuple[int, str], int] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def total(self) -> int:
        """Pixels of all masks."""
        return sum(self.pixels.values())

    @property
    def colored(self) -> bool:
        """Whether the values are colours."""
        return any(value.startswith("#") for value in self.pixels)

    @property
    def smoothed(self) -> bool:
        """Whether these are 0 and 255 with values between them along edges, as resizing and JPEG leave them.

        So are values near both ends, or many in between, or few pixels of any, none of them in patches. Classes 0, 1,
        2, ... beside 255 for ignore are none: no value stands near 255. Nor are greys that cover areas.
        """
        between = [
            int(value) for value in self.pixels if value not in ("0", "255") and not self.colored
        ]
        if (
            not between
            or not {"0", "255"} <= self.pixels.keys()
            or max(between) > 255
            or min(between) < 0
        ):
            return False
        shares = {
            value: self.alike.get(str(value), 0) / self.pixels[str(value)] for value in between
        }
        if sum(self.pixels[str(value)] for value in between) < STRAY * self.pixels["255"]:
            return all(share < PATCH for share in shares.values())
        if any(
            self.pixels[str(value)] >= COMMON * self.total and shares[value] >= PATCH
            for value in between
        ):
            return False
        near = all(value <= NEAR or value >= 255 - NEAR for value in between)
        return len(between) >= 2 and max(between) >= THRESHOLD and (len(between) >= 8 or near)

    @property
    def in_one_mask(self) -> int:
        """How many colours (or numbers above 255) occur in one mask each."""
        wide = (value for value in self.pixels if value.startswith("#") or int(value) > 255)
        return sum(self.masks.get(value) == 1 for value in wide)

    @property
    def segment_ids(self) -> bool:
        """Whether the values are ids of segments, no classes: dozens, most of which occur in one mask each."""
        several = sum(self.images.values()) >= LEAST_MASKS
        return several and self.in_one_mask >= max(LEAST_IDS, len(self.pixels) / 2)

    @cached_property
    def strays(self) -> Set[str]:
        """What JPEG leaves along edges: values of `lossy` that are few, or lie in no patches. None where all are."""
        least = COMMON * self.total
        found = {
            v
            for v, flat in self.lossy.items()
            if self.pixels[v] < least or flat < PATCH**2 * self.pixels[v]
        }
        return frozenset() if self.smoothed or len(self.pixels) - len(found) < 2 else found

    @property
    def inside(self) -> str | None:
        """The value beside 0 where there is but one, 1 or 255, which may stand for the class of a folder."""
        others = {"255"} if self.smoothed else self.pixels.keys() - {"0"}
        return next(iter(others)) if len(others) == 1 and others <= {"1", "255"} else None

    @property
    def foreground(self) -> Set[str]:
        """The values that are not background, of masks with `inside`."""
        high = {value for value in self.pixels if self.smoothed and int(value) >= THRESHOLD}
        return high | ({self.inside} if self.inside else set())

    @property
    def classes(self) -> int:
        """How many classes they may be."""
        values = {value for value in self.pixels if not value.startswith("-")}
        two = self.smoothed or values == {"0", "255"}
        return 2 if two else len(values - self.strays - {"255"})


def read_values(
    folder: Path, reading: Reading, progress: Progress | None, facts: FileFacts
) -> MaskValues:
    """The values of all masks of a reading that can be read; if one mask is a colour image, those of all are colours.

    Raises DataError where none can be read, where they are more than classes could be, where alpha tells apart what
    has one colour, and for too many folders.
    """
    if len(reading.pairs) > MOST_SOURCES:
        raise DataError(
            f"{folder} has {len(reading.pairs):,} folders of images with masks, the limit is {MOST_SOURCES:,}. Put the "
            "images into one folder, below which they may lie in folders of their own, and the masks into another: "
            "images/scene_1/01.png and masks/scene_1/01.png."
        )
    files, unread = [], ""
    images, bare = Counter[tuple[int, str]](), Counter[tuple[int, str]]()
    for number in range(len(reading.pairs)):
        for pair in _images_of(folder, reading, number):
            place = number, pair.key.rpartition("/")[0]
            files += [(place, path) for path in pair.mask_files]
            (images if pair.mask else bare)[place] += 1
    for colors in (False, True):
        pixels, alike, flat, exact = Counter[int](), Counter[int](), Counter[int](), set[int]()
        folders, masks = dict[tuple[int, str], set[int]](), Counter[int]()
        read = facts.masks((path for _, path in files), colors)
        for done, ((place, path), mask) in enumerate(zip(files, read, strict=True), start=1):
            if isinstance(mask, DataError):
                unread = unread or f" {mask}"
                continue
            if mask.veiled:
                raise DataError(
                    f"{path} has {color_text(mask.veiled)} both opaque and transparent; as alpha is not read, both "
                    "would be one class. Expected classes told by their colours: save it without transparency, what "
                    "was transparent painted in a colour of its own. If they are one class, write a dataset.toml by "
                    "hand."
                )
            if not colors and not mask.grey:
                break  # all again, as colours
            values = (
                mask.values.tolist() if colors or not mask.colored else (mask.values & 255).tolist()
            )
            seen = dict(zip(values, mask.pixels.tolist(), strict=True))
            pixels.update(seen)
            masks.update(seen.keys())
            alike.update(dict(zip(values, mask.alike.tolist(), strict=True)))
            if mask.lossy:
                flat.update(dict(zip(values, mask.flat.tolist(), strict=True)))
            else:
                exact.update(seen)
            folders.setdefault(place, set()).update(seen)
            if len(pixels) > MOST_VALUES:
                raise DataError(
                    f"{path.parent} holds more than {MOST_VALUES:,} different values: no classes. Were the masks "
                    "saved as JPEG? Expected PNG."
                )
            if progress is not None:
                progress("reading masks", done, len(files))
        else:
            break
    if not pixels:
        raise DataError(f"{folder / reading.pairs[0].masks} has no readable mask.{unread}")
    texts = {value: f"#{value:06x}" if colors else str(value) for value in sorted(pixels)}
    held = {place: {texts[value] for value in seen} for place, seen in folders.items()}
    counts, beside = (
        {text: counter[value] for value, text in texts.items()} for counter in (pixels, alike)
    )
    lossy = {texts[value]: flat[value] for value in pixels.keys() - exact}
    of_value = {text: masks[value] for value, text in texts.items()}
    return MaskValues(counts, beside, held, lossy, images, bare, of_value)


def _images_of(folder: Path, reading: Reading, number: int) -> list[Pair]:
    """The images of one pair of folders with their masks; keys are paths below the folder of images."""
    pair = reading.pairs[number]
    values: dict[str, Any] = {"images": pair.images, "masks": pair.masks, **reading.affixes}
    if pair.objects:
        layer = {
            "class": "any",
            "prefix": values.pop("mask_prefix"),
            "suffix": values.pop("mask_suffix"),
        }
        values["layer"] = [layer | {"objects": True}]
    values |= {"name": "any", "splits": {"train": 1.0}, "classes": ["any"], "map": {"0": "any"}}
    config = parse(DatasetToml, values, f"the masks of {folder}")
    return [one for one in list_pairs(config, folder) if one.image]
