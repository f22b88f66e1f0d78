"""The raw values of a folder's masks, and what they may mean: classes, smoothed masks, segments."""

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

MAX_CLASSES = 64
"""Number of values up to which each is a class; more come from smoothing or compression, so that
only common values are classes.
"""

MOST_VALUES = 100_000
"""Number of different values, of all masks together, above which they are refused as classes."""

THRESHOLD = 128
"""Value that divides 0 and 255 in a smoothed mask."""

NEAR = 24
"""Distance from 0 or 255 of the values that JPEG and resizing leave near them."""

LEAST_IDS, LEAST_MASKS = 12, 3
"""Values in one mask each from which they may be ids of segments, and the masks needed to tell:
in fewer masks classes occur once, too.
"""

STRAY = 0.01
"""Pixels of other values, as a share of those of 255, up to which these values are strays."""

PATCH = 0.7
"""Share of a value's pixels with an equal right neighbour, above which they are patches of a class;
along smoothed edges it is lower.
"""

Place = tuple[int, str]
"""Where an image lies: the number of its pair of folders in the reading, and the folders in its
name ("" if there are none).
"""


@dataclass(frozen=True)
class MaskValues:
    """The raw values of masks, as text: "12" or "#40a0ff".

    Attributes:
        pixels: {value: number of pixels}.
        alike: {value: number of pixels whose right neighbour has the same value}.
        folders: {place: the values of its masks}.
        lossy: {value that only JPEG and lossy WebP have: number of pixels whose right and lower
            neighbours have the same value}.
        images: {place: number of images with a mask}, also masks that cannot be read.
        bare: {place: number of images without a mask}.
        masks: {value: number of masks that have it}.
    """

    pixels: dict[str, int]
    alike: dict[str, int]
    folders: dict[Place, set[str]]
    lossy: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[Place, int] = field(default_factory=dict)
    bare: Mapping[Place, int] = field(default_factory=dict)
    masks: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def total(self) -> int:
        """The number of pixels of all masks."""
        return sum(self.pixels.values())

    @property
    def colored(self) -> bool:
        """Whether the values are colours."""
        return any(value.startswith("#") for value in self.pixels)

    @property
    def smoothed(self) -> bool:
        """Whether these are 0 and 255 with values between them, as resizing and JPEG leave them.

        Values between them form no patches. They are few, near to 0 and 255, or numerous. So
        classes 0, 1, 2, ... with 255 for ignore are not smoothed: no value is near 255.
        """
        if self.colored or not {"0", "255"} <= self.pixels.keys():
            return False
        between = [int(value) for value in self.pixels if value not in ("0", "255")]
        if not between or max(between) > 255 or min(between) < 0:
            return False
        counts = {value: self.pixels[str(value)] for value in between}
        patches = {
            value
            for value, count in counts.items()
            if self.alike.get(str(value), 0) >= PATCH * count
        }
        if sum(counts.values()) < STRAY * self.pixels["255"]:
            return not patches
        if any(counts[value] >= COMMON * self.total for value in patches):
            return False
        near = all(value <= NEAR or value >= 255 - NEAR for value in between)
        return len(between) >= 2 and max(between) >= THRESHOLD and (len(between) >= 8 or near)

    @property
    def in_one_mask(self) -> int:
        """The number of colours (or values above 255) that occur in one mask each."""
        wide = (value for value in self.pixels if value.startswith("#") or int(value) > 255)
        return sum(self.masks.get(value) == 1 for value in wide)

    @property
    def segment_ids(self) -> bool:
        """Whether the values are ids of segments: dozens, most of which occur in one mask each."""
        enough_masks = sum(self.images.values()) >= LEAST_MASKS
        return enough_masks and self.in_one_mask >= max(LEAST_IDS, len(self.pixels) / 2)

    @cached_property
    def strays(self) -> Set[str]:
        """The values that lossy compression leaves along edges: few pixels, or not in patches.

        Empty if these would be all values but one.
        """
        strays = {
            value
            for value, flat in self.lossy.items()
            if self.pixels[value] < COMMON * self.total or flat < PATCH**2 * self.pixels[value]
        }
        return frozenset() if self.smoothed or len(self.pixels) - len(strays) < 2 else strays

    @property
    def inside(self) -> str | None:
        """The only value beside 0, if it is 1 or 255: it may stand for the class of a folder."""
        others = {"255"} if self.smoothed else self.pixels.keys() - {"0"}
        return next(iter(others)) if len(others) == 1 and others <= {"1", "255"} else None

    @property
    def foreground(self) -> Set[str]:
        """The values of binary masks that are not background."""
        high = {value for value in self.pixels if self.smoothed and int(value) >= THRESHOLD}
        return high | ({self.inside} if self.inside else set())

    @property
    def classes(self) -> int:
        """The number of classes that these values may be."""
        values = {value for value in self.pixels if not value.startswith("-")}
        if self.smoothed or values == {"0", "255"}:
            return 2
        return len(values - self.strays - {"255"})


def read_values(
    folder: Path, reading: Reading, progress: Progress | None, facts: FileFacts
) -> MaskValues:
    """Return the values of all readable masks of a reading: colours if one mask has colours.

    Raises DataError if no mask can be read, if there are too many values or folders, or if a mask
    needs its alpha channel to tell classes apart.
    """
    if len(reading.pairs) > MOST_SOURCES:
        raise DataError(
            f"{folder} has {len(reading.pairs):,} folders of images with masks, the limit is "
            f"{MOST_SOURCES:,}. Put the images into one folder, below which they may lie in "
            "folders of their own, and the masks into another: images/scene_1/01.png and "
            "masks/scene_1/01.png."
        )

    # List the masks
    files = list[tuple[Place, Path]]()
    images, bare = Counter[Place](), Counter[Place]()
    for number in range(len(reading.pairs)):
        for pair in _images_of(folder, reading, number):
            place = number, pair.key.rpartition("/")[0]
            files += [(place, path) for path in pair.mask_files]
            (images if pair.mask else bare)[place] += 1

    # Count their values: as numbers, and from the start as colours if a mask is not grey
    unread = ""
    for colors in (False, True):
        pixels, alike, flat, exact = Counter[int](), Counter[int](), Counter[int](), set[int]()
        folders, masks = dict[Place, set[int]](), Counter[int]()
        all_facts = facts.masks((path for _, path in files), colors)
        for done, ((place, path), mask) in enumerate(zip(files, all_facts, strict=True), start=1):
            if isinstance(mask, DataError):
                unread = unread or f" {mask}"
                continue
            if mask.veiled:
                raise DataError(
                    f"{path} has {color_text(mask.veiled)} both opaque and transparent, which is "
                    "one class without the alpha channel. Save it without transparency, with "
                    "another colour where it was transparent; if they are one class, write a "
                    "dataset.toml by hand."
                )
            if not colors and not mask.grey:
                break
            values = mask.values if colors or not mask.colored else mask.values & 255
            counts = dict(zip(values.tolist(), mask.pixels.tolist(), strict=True))
            pixels.update(counts)
            masks.update(counts.keys())
            alike.update(dict(zip(values.tolist(), mask.alike.tolist(), strict=True)))
            if mask.lossy:
                flat.update(dict(zip(values.tolist(), mask.flat.tolist(), strict=True)))
            else:
                exact.update(counts)
            folders.setdefault(place, set()).update(counts)
            if len(pixels) > MOST_VALUES:
                raise DataError(
                    f"{path.parent} has more than {MOST_VALUES:,} different values, too many for "
                    "classes. Were the masks saved as JPEG? Expected PNG."
                )
            if progress is not None:
                progress("reading masks", done, len(files))
        else:
            break
    if not pixels:
        raise DataError(f"{folder / reading.pairs[0].masks} has no readable mask.{unread}")

    # Raw values as text
    texts = {value: f"#{value:06x}" if colors else str(value) for value in sorted(pixels)}
    return MaskValues(
        pixels={text: pixels[value] for value, text in texts.items()},
        alike={text: alike[value] for value, text in texts.items()},
        folders={place: {texts[value] for value in held} for place, held in folders.items()},
        lossy={texts[value]: flat[value] for value in pixels.keys() - exact},
        images=images,
        bare=bare,
        masks={text: masks[value] for value, text in texts.items()},
    )


def _images_of(folder: Path, reading: Reading, number: int) -> list[Pair]:
    """Return the images of one pair of folders with their masks; keys start below the images."""
    pair = reading.pairs[number]
    settings: dict[str, Any] = {
        "name": "any",
        "splits": {"train": 1.0},
        "classes": ["any"],
        "map": {"0": "any"},
        "images": pair.images,
        "masks": pair.masks,
        **reading.affixes,
    }
    if pair.objects:
        affix = {end: settings.pop(f"mask_{end}") for end in ("prefix", "suffix")}
        settings["layer"] = [{"class": "any", **affix, "objects": True}]
    config = parse(DatasetToml, settings, f"the masks of {folder}")
    return [listed for listed in list_pairs(config, folder) if listed.image]
