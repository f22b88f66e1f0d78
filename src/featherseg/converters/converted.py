"""What an annotation tool exported, where a dataset is expected: converted once, and kept.

The copies lie in $FEATHERSEG_HOME/converted. Their names follow from the export's path and files:
a training that is resumed finds its copy, and an export that changed is converted again.
"""

import hashlib
import logging
import os
import re
import shlex
from pathlib import Path

from featherseg.converters import FORMATS, OF_TOOLS, convert, tool_formats
from featherseg.converters.dataset import Conversion
from featherseg.converters.source import ARCHIVES, open_source
from featherseg.core.errors import AmbiguousData, DataError, DataNotFound, FeathersegError
from featherseg.core.files import home_folder
from featherseg.core.types import Progress
from featherseg.core.wording import counted
from featherseg.data import DATASETS
from featherseg.data.discovery.layouts import find_readings
from featherseg.data.discovery.masks_yaml import read_masks_yaml

OF_MASKS = {"voc", "roboflow"}
"""Formats with masks beside images: a folder of them is a dataset as it is."""

TOML, RESOLVED, YAML = "dataset.toml", "resolved.json", (".yaml", ".yml")

_log = logging.getLogger("featherseg")


def as_dataset(
    data: str | Path, progress: Progress | None = None, *, prefers_masks: bool = False
) -> str:
    """Return the path of the dataset.toml made of a tool's export; `data` itself if it is none.

    Args:
        data: What a user calls a dataset. Exports are a folder, a zip, a data.yaml of Ultralytics,
            and a JSON or XML file.
        progress: Called with (current activity, images done, total images).
        prefers_masks: Whether a folder that has masks too is taken as it is.

    Raises:
        AmbiguousData: It has annotations of two tools, or masks too. `readings` contains a command
            for each.
        DataNotFound, DataError: It has no known annotations, or broken ones.
    """
    path = Path(data)
    if not _is_export(data, path, prefers_masks):
        return str(data)
    place = Path(os.path.abspath(path))
    name = re.sub(r"[^\w.-]+", "_", place.stem if path.is_file() else place.name)
    out = home_folder() / "converted" / f"{name}-{_digest(place)}"
    toml = out / TOML
    if toml.is_file():
        _log.info(f"{data}: its conversion is {out}")
        return str(toml)
    try:
        _tell(data, convert(path, out, progress=progress))
    except FeathersegError:
        if not toml.is_file():  # else another process was faster
            raise
    return str(toml)


def _is_export(data: str | Path, path: Path, prefers_masks: bool) -> bool:
    """Return whether data is a tool's export. Raises AmbiguousData, or how to mend a data.yaml."""
    is_folder, ending = os.path.isdir(path), path.suffix.lower()
    if is_folder:
        if str(data) in DATASETS or any((path / name).is_file() for name in (TOML, RESOLVED)):
            return False
    elif not os.path.isfile(path) or ending not in (*ARCHIVES, *OF_TOOLS):
        return False
    elif ending in ARCHIVES:
        return True
    elif ending in YAML and read_masks_yaml(path):
        return False
    with open_source(path, path) as source:
        names = tool_formats(source)
    if not names and not is_folder and ending in YAML:
        raise DataNotFound(
            f"{data} has no labels of YOLO in its folder or below. Copy it into the folder that "
            "contains images/ and labels/, and name that folder."
        )
    if not is_folder or not names or not _has_masks(path):
        return bool(names)
    shapes = [name for name in names if name not in OF_MASKS]
    if prefers_masks or not shapes:
        return False
    quoted = shlex.quote(str(path))
    each = [(FORMATS[name].title, f"featherseg convert {quoted} --from {name}") for name in shapes]
    raise AmbiguousData(
        f"{path} has masks and annotations of {' and '.join(title for title, _ in each)}. Which "
        "should a model learn?",
        [
            ("the masks", f"featherseg check {quoted} --write"),
            *((f"the annotations of {title}", f"{command} --out OUT") for title, command in each),
        ],
    )


def _has_masks(folder: Path) -> bool:
    """Return whether images in a folder have masks."""
    try:
        find_readings(folder)
    except DataError:
        return False
    return True


def _digest(place: Path) -> str:
    """Return 12 hex digits that change with the path of an export, or with one of its files."""
    if place.is_file() and place.suffix.lower() in ARCHIVES:
        files = [place]
    else:
        with open_source(place, place) as source:
            files = source.files
    digest = hashlib.sha256(os.fsencode(place))
    for path in sorted(files):
        status = path.stat()
        digest.update(os.fsencode(path) + f"\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]


def _tell(data: str | Path, conversion: Conversion) -> None:
    """Log what was converted, where it lies, and what was left out of it."""
    images = counted(sum(conversion.images.values()), "image")
    classes = ", ".join(conversion.classes)
    _log.info(f"{data} ({conversion.format}: {images} of {classes}) is converted: {conversion.out}")
    for line in (*conversion.left_lines(), *conversion.notes):
        _log.warning(line)
