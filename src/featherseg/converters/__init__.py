"""Annotation tools in and out. `FORMATS` is the catalogue, one line each; `convert` is the way in.

To add a format: its file with TITLE, `find` and `read`, its line here, and its test.
"""

import shlex
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from featherseg.converters import (
    coco,
    coco_panoptic,
    cvat,
    label_studio,
    labelme,
    rgb_masks,
    roboflow,
    supervisely,
    voc,
    yolo,
)
from featherseg.converters.annotations import Annotations
from featherseg.converters.dataset import Conversion, write_dataset
from featherseg.converters.masks import MaskedImage, Masks, masks_of, open_masks
from featherseg.converters.source import ARCHIVES, Source, open_source, read_json
from featherseg.core.errors import ConfigError, DataError, DataNotFound, unknown
from featherseg.core.files import new_folder
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import Progress, SegmentationData
from featherseg.data.discovery.layouts import find_readings


class AnnotationFormat(Protocol):
    """The files of one tool. `find` names those of a source that are its own, from names and ends of files.

    JSON files whose ends are those of no tool are told by their keys.
    """

    TITLE: str

    def find(self, source: Source) -> list[Path]: ...
    def read(self, source: Source, files: list[Path]) -> Annotations: ...


FORMATS: dict[str, AnnotationFormat] = {
    "coco": coco,
    "coco-panoptic": coco_panoptic,
    "labelme": labelme,
    "cvat": cvat,
    "yolo": yolo,
    "label-studio": label_studio,
    "supervisely": supervisely,
    "voc": voc,
    "roboflow": roboflow,
    "rgb-masks": rgb_masks,
}
"""Name -> module, as `--from` takes it."""

WRITERS = {"coco": coco.write, "yolo": yolo.write, "labelme": labelme.write, "cvat": cvat.write}
"""Name -> what writes masks in that format, as `--to` takes it."""


OF_TOOLS = (".json", ".xml", ".yaml", ".yml")
"""Endings of single files that annotation tools write."""

UNREAD = {
    '"_via_img_metadata"': ("VGG Image Annotator", "its annotations in COCO format"),
    '"shape_attributes"': ("VGG Image Annotator", "its annotations in COCO format"),
    '"dm_format_version"': ("Datumaro", "COCO or YOLO"),
    '"annotation_id"': ("Label Studio in JSON-MIN", "JSON"),
}
"""A key that tells a JSON file of a tool that is not read -> the tool, and what it can export that is."""


def convert(
    src: str | Path,
    out: str | Path,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    images: str | Path | None = None,
    copy: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write what an annotation tool exported as a dataset: images/, masks/, instances/ and dataset.toml. And back.

    Of shapes that overlap the later one lies on top. The folder appears when all of it is written.

    Args:
        src: A folder, a file of annotations, or the zip of an export; with `to_format` a dataset.toml, its folder, a
            folder of images and masks, or a folder of predicted masks.
        out: A new folder.
        from_format: What `src` holds, a name of FORMATS. Default: it is detected.
        to_format: What to write instead of a dataset: coco, yolo, labelme or cvat.
        images: The folder of the images, where they are not in `src`: exports of annotations alone, predicted masks.
        copy: Copy the images. Default: hard links, where the file system has them.
        progress: Called with (what is being done, images done, images in all). Default: a bar in a notebook.

    Returns:
        Conversion: images by split, the classes, and what was left out and why.

    Raises:
        UnknownName: No format has that name.
        ConfigError: `from_format` and `to_format` are both given, or `images` for a dataset, which names its own.
        DataNotFound: There are no annotations, or of no tool that is known.
        DataError: They are broken, or of two tools.
        FeathersegError: `out` is in use, or cannot be written.
    """
    src, out, progress = Path(src), Path(out), progress_or_bar(progress)
    images = None if images is None else Path(images)
    if to_format is not None:
        if from_format is not None:
            raise ConfigError("--from and --to exclude each other: convert to a dataset first, then back.")
        return _convert_back(src, out, to_format, images, copy, progress)
    if from_format is None and (src / "dataset.toml").is_file():
        raise DataError(f"{src} is a dataset already. To write it for a tool, name the tool: --to coco, labelme, ...")
    if from_format is not None and from_format not in FORMATS:
        raise unknown("format", from_format, FORMATS)
    with new_folder(out) as folder, open_source(src, folder, images) as source:
        source.find_keys(
            {
                path
                for module in (coco, coco_panoptic, labelme, label_studio, supervisely)
                for path in module.find(source)
            }
        )
        name = from_format or detect(source)
        files = FORMATS[name].find(source)
        if not files:
            _refuse_unread(source)
            raise DataNotFound(
                f"{source.name} holds no annotations of {FORMATS[name].TITLE}. Without --from, the format is detected."
                f"{source.passed_over}"
            )
        annotations = FORMATS[name].read(source, files)
        return write_dataset(annotations, source, folder, out, FORMATS[name].TITLE, copy, progress)


def _convert_back(
    src: Path, out: Path, format: str, images: Path | None, copy: bool, progress: Progress | None
) -> Conversion:
    check_writer(format)
    with new_folder(out) as folder:
        return _write(open_masks(src, images), format, folder, out, copy, progress)


def write_samples(
    data: SegmentationData, numbers: Sequence[int], format: str, out: Path, progress: Progress
) -> Conversion:
    """Some samples of a dataset for a tool, with their masks, into a new folder. Raises as `convert`."""
    check_writer(format)
    with new_folder(out) as folder:
        return _write(masks_of(data, numbers), format, folder, out, False, progress)


def check_writer(format: str) -> None:
    """Raises UnknownName where `--to` knows no tool of that name."""
    if format not in WRITERS:
        raise unknown("format", format, WRITERS)


def _write(masks: Masks, format: str, folder: Path, out: Path, copy: bool, progress: Progress | None) -> Conversion:
    counts = Counter[str]()

    def counted(given: Iterator[MaskedImage]) -> Iterator[MaskedImage]:
        for image in given:
            yield image
            counts[image.split or "all"] += 1
            if progress is not None:
                progress("converting", counts.total(), masks.total)

    masks.images = counted(masks.images)
    WRITERS[format](folder, masks, copy)
    return Conversion(FORMATS[format].TITLE, out, dict(counts), list(masks.colors()), notes=masks.notes)


def detect(source: Source) -> str:
    """The name of the format whose files are in the source. Raises DataError for two of them, DataNotFound for none."""
    found = _formats_in(source)
    if len(found) == 1:
        return next(iter(found))
    if found:
        each = " and ".join(f"{FORMATS[name].TITLE} ({source.relative(files[0])})" for name, files in found.items())
        choices = " or ".join(f"--from {name}" for name in found)
        raise DataError(f"{source.name} holds annotations of {len(found)} tools: {each}. Choose one with {choices}.")
    _refuse_unread(source)
    for path in source.ending(".json")[:1]:
        read_json(path)  # of a broken one it says so
    titles = ", ".join(module.TITLE for module in FORMATS.values())
    raise DataNotFound(
        f"{source.name} holds no annotations that are known: expected those of {titles}.{_masks_hint(source)}"
        f"{source.passed_over}"
    )


def next_step(place: Path) -> str:
    """How a dataset is made of a file or a folder that is none, with a blank before it; empty if it is not known.

    The command that converts its annotations, or what its tool has to export instead.
    """
    if zipfile.is_zipfile(place):  # not unpacked for this
        return f" If a tool exported it:\n    featherseg convert {shlex.quote(str(place))} --out OUT"
    if not place.is_dir() and place.suffix.lower() not in (*ARCHIVES, *OF_TOOLS):
        return ""
    try:
        with open_source(place, place) as source:
            source.find_keys(_known_jsons(source))
            found = [name for name in _formats_in(source) if name != "rgb-masks"]
            if not found:
                _refuse_unread(source)
    except DataError as error:
        return f" {error}"
    if not found:
        return ""
    titles = " and ".join(FORMATS[name].TITLE for name in found)
    return f" It holds annotations of {titles}:\n    featherseg convert {shlex.quote(str(place))} --out OUT"


def _formats_in(source: Source) -> dict[str, list[Path]]:
    """Format -> its files, of the formats that are in the source."""
    found = {name: files for name, module in FORMATS.items() if (files := module.find(source))}
    if len(found) > 1:  # a folder of masks may be what another format names
        found.pop("rgb-masks", None)
    return found


def _known_jsons(source: Source) -> set[Path]:
    """The JSON files whose ends tell their tool."""
    with_jsons = (coco, coco_panoptic, labelme, label_studio, supervisely)
    return {path for module in with_jsons for path in module.find(source)}


def _masks_hint(source: Source) -> str:
    """The verb that reads the source where its images have masks, with a blank before it; else empty."""
    try:
        find_readings(source.root)
    except DataError:
        return ""
    packed = zipfile.is_zipfile(source.name)
    command = f"featherseg check {'FOLDER' if packed else shlex.quote(str(source.root))} --write"
    return f" Its images have masks, which need no conversion{': unpack it' if packed else ''}:\n    {command}"


def _refuse_unread(source: Source) -> None:
    """Raises DataNotFound where there is a file of a tool that is known, but not read, or lacks another one."""
    for path, ends in source.jsons:
        for key, (tool, instead) in UNREAD.items():
            if key in ends:
                raise DataNotFound(f"{path} is a file of {tool}, which is not read. Export {instead} from there.")
    if label := yolo.nameless_label(source):
        raise DataNotFound(
            f"{source.relative(label)} is a label of YOLO, but no data.yaml and no classes.txt names the classes. Put "
            f"a data.yaml into {source.name} with the line names: [CLASS, CLASS], in the order of their numbers."
        )
