"""Masks that a tool drew itself: which colours or values stand for which class, and the image that each belongs to."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featherseg.converters.annotations import Raster, UnusableShape
from featherseg.converters.source import Source, name_form
from featherseg.core.files import composed
from featherseg.core.types import Color
from featherseg.data.discovery.color_lists import find_color_list, read_color_list
from featherseg.data.images.decoding import IMAGE_SUFFIXES, read_mask
from featherseg.data.images.palettes import color_text


def color_codes(path: Path) -> np.ndarray:
    """A mask as one number a pixel, 0xRRGGBB, (H, W) int32; of a palette the colours, not the indices."""
    colors = read_mask(path, colors=True).astype(np.int32)
    return colors[:, :, 0] << 16 | colors[:, :, 1] << 8 | colors[:, :, 2]


def code_of(color: Color) -> int:
    """(255, 0, 0) -> 0xff0000."""
    return color[0] << 16 | color[1] << 8 | color[2]


def raster_of(raw: np.ndarray, values: Mapping[int, int]) -> Raster:
    """Raw numbers (H, W) -> the values of our masks. Raises UnusableShape for a number that stands for nothing."""
    present, places = np.unique(raw, return_inverse=True)
    strangers = [int(number) for number in present if int(number) not in values]
    if strangers:
        shown = color_text(_color(strangers[0])) if strangers[0] > 255 else str(strangers[0])
        raise UnusableShape(f"masks with a value or a colour that stands for no class, such as {shown}")
    table = np.array([values[int(number)] for number in present], np.uint8)
    return Raster(table[places].reshape(raw.shape))


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def numbered(codes: np.ndarray, none: tuple[int, ...]) -> np.ndarray:
    """Any numbers of objects (H, W) -> 1, 2, ... int32; 0 where they are one of `none`."""
    present, places = np.unique(codes, return_inverse=True)
    table = np.cumsum(~np.isin(present, none)).astype(np.int32)
    table[np.isin(present, none)] = 0
    return table[places].reshape(codes.shape)


def listed_colors(source: Source) -> dict[str, list[Color]] | None:
    """The classes that a list beside the masks names, with all colours of each; None without one. Raises DataError."""
    path = find_color_list(reversed(source.files))
    return None if path is None else read_color_list(path)


class Stems:
    """The images of a source by stem, without masks."""

    def __init__(self, source: Source, masks: set[Path]) -> None:
        self._source = source
        self._found: dict[str, list[Path]] = {}
        self._by_folder: dict[tuple[str, str], dict[tuple[int, str], list[Path]]] = {}
        """Stem and split of masks -> place and name of a folder in a path -> the images that have it there."""
        for path in source.images:
            if path not in masks:
                self._found.setdefault(name_form(path.stem), []).append(path)

    def image_of(self, mask: Path, *suffixes: str) -> Path:
        """The image of a mask, whose stem may end in one of the suffixes: of several the nearest; of none a guess.

        None of another split than the mask's is its image, and of two as near neither is.
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
        """The images of the stem, and not of another split, that share the most folders with a mask; all, or two."""
        if (stem, split) not in self._by_folder:
            images = [p for p in self._found.get(stem, []) if not split or self._source.split(p) in ("", split)]
            if len(images) < 2:
                return images
            by_folder = self._by_folder[stem, split] = {}
            for path in images:
                for folder in _folders(path):
                    by_folder.setdefault(folder, []).append(path)
        by_folder, ours = self._by_folder[stem, split], _folders(mask)
        # The rarest folders first: an image in none of those that were looked at shares no more than are left
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
    """The folders of a path, each with its place from the root and from the end; and one that all paths have."""
    parts = composed(path.parent.as_posix()).split("/")
    return {(0, "/"), *enumerate(parts), *((~i, part) for i, part in enumerate(reversed(parts)))}
