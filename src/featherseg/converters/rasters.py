"""Masks drawn by a tool: the class of each colour or value, and the image of each mask."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featherseg.converters.annotations import Raster, UnusableShape
from featherseg.converters.source import Source, name_form
from featherseg.core.files import composed
from featherseg.core.types import Color
from featherseg.data.discovery.color_lists import find_color_list, read_color_list
from featherseg.data.images.decoding import read_mask
from featherseg.data.images.listing import IMAGE_SUFFIXES
from featherseg.data.images.palettes import color_numbers, color_text


def color_codes(path: Path) -> np.ndarray:
    """Return a mask as one number 0xRRGGBB per pixel, (H, W) int32; palettes are resolved."""
    return color_numbers(read_mask(path, colors=True))


def code_of(color: Color) -> int:
    """Return a colour as a number: (255, 0, 0) -> 0xff0000."""
    return color[0] << 16 | color[1] << 8 | color[2]


def raster_of(raw: np.ndarray, values: Mapping[int, int]) -> Raster:
    """Map raw numbers (H, W) to mask values. Raises UnusableShape for a number without a class."""
    present, places = np.unique(raw, return_inverse=True)
    unmapped = [int(number) for number in present if int(number) not in values]
    if unmapped:
        shown = color_text(_color(unmapped[0])) if unmapped[0] > 255 else str(unmapped[0])
        raise UnusableShape(f"masks with a value or a colour without a class, such as {shown}")
    table = np.array([values[int(number)] for number in present], np.uint8)
    return Raster(table[places].reshape(raw.shape))


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def numbered(codes: np.ndarray, none: tuple[int, ...]) -> np.ndarray:
    """Renumber objects (H, W) as 1, 2, ... int32; numbers in `none` become 0."""
    present, places = np.unique(codes, return_inverse=True)
    table = np.cumsum(~np.isin(present, none)).astype(np.int32)
    table[np.isin(present, none)] = 0
    return table[places].reshape(codes.shape)


def listed_colors(source: Source) -> dict[str, list[Color]] | None:
    """Return class -> its colours, by a list beside the masks; None without one.

    Raises DataError.
    """
    path = find_color_list(reversed(source.files))
    return None if path is None else read_color_list(path)


class Stems:
    """Finds the image of a mask by its stem."""

    def __init__(self, source: Source, masks: set[Path]) -> None:
        self._source = source
        self._found: dict[str, list[Path]] = {}
        self._by_folder: dict[tuple[str, str], dict[tuple[int, str], list[Path]]] = {}
        """Stem and split of a mask -> position and name of a folder -> images below such a folder.
        """
        for path in source.images:
            if path not in masks:
                self._found.setdefault(name_form(path.stem), []).append(path)

    def image_of(self, mask: Path, *suffixes: str) -> Path:
        """Return the image of a mask; the mask's stem may end in one of the suffixes.

        Of several images the nearest counts: the one sharing most folders. Images of another split
        do not count, nor do two equally near ones. Without an image, a guess of its name is
        returned.
        """
        stem, split = mask.stem, self._source.split(mask)
        for suffix in suffixes:
            stem = stem.removesuffix(suffix)
            nearest = self._nearest(mask, name_form(stem), split)
            if len(nearest) == 1:
                return nearest[0]
        if ending := self._source.unread.get(name_form(stem)):
            return mask.with_name(f"{stem}{ending}")
        return mask.with_name(f"{mask.stem}{IMAGE_SUFFIXES[0]}")

    def _nearest(self, mask: Path, stem: str, split: str) -> list[Path]:
        """Return the images of a stem that share the most folders with a mask; several are a tie.

        Images of another split are ignored.
        """
        if (stem, split) not in self._by_folder:
            images = [
                p
                for p in self._found.get(stem, [])
                if not split or self._source.split(p) in ("", split)
            ]
            if len(images) < 2:
                return images
            by_folder = self._by_folder[stem, split] = {}
            for path in images:
                for folder in _folders(path):
                    by_folder.setdefault(folder, []).append(path)
        by_folder, ours = self._by_folder[stem, split], _folders(mask)
        # Rarest folders first: an image not seen so far shares at most the remaining folders
        sharing = sorted((by_folder[folder] for folder in ours if folder in by_folder), key=len)
        most, nearest, seen = 0, list[Path](), set[Path]()
        for left, paths in zip(range(len(sharing), 0, -1), sharing, strict=True):
            for path in paths:
                if most > left or (most == left and len(nearest) > 1):
                    return nearest
                if path not in seen:
                    seen.add(path)
                    shared = len(ours & _folders(path))
                    nearest = [path] if shared > most else nearest + [path] * (shared == most)
                    most = max(most, shared)
        return nearest


def _folders(path: Path) -> set[tuple[int, str]]:
    """Return (position, name) of a path's folders, from both ends, and one that all paths have."""
    parts = composed(path.parent.as_posix()).split("/")
    return {(0, "/"), *enumerate(parts), *((~i, part) for i, part in enumerate(reversed(parts)))}
