"""Read and write the files of annotation tools: `FORMATS` is the catalogue, `convert` the entry.

To add a format: a file with TITLE, `find` and `read`, a row in FORMATS, and a test. A file with
TITLE and `write` is a row in WRITERS.
"""

import shlex
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from featherseg.converters import (
    areas,
    coco,
    coco_panoptic,
    cvat,
    geojson,
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
from featherseg.converters.masks import MaskedImage, Masks, masks_of, open_masks, predicted_masks
from featherseg.converters.source import ARCHIVES, Source, open_source, read_json
from featherseg.core.errors import AmbiguousData, ConfigError, DataError, DataNotFound, unknown
from featherseg.core.files import new_folder
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import Progress, SegmentationData
from featherseg.data.discovery.layouts import find_readings


class Reader(Protocol):
    """The file that reads a format; `find` returns the files of a source that belong to it.

    `find` looks at file names and at the first and last bytes of JSON and XML files; a JSON file
    without a known key there is recognised by all its keys.
    """

    TITLE: str

    def find(self, source: Source) -> list[Path]: ...
    def read(self, source: Source, files: list[Path]) -> Annotations: ...


class Writer(Protocol):
    """The file that writes masks in a format into a folder; the last argument copies images."""

    TITLE: str

    def write(self, folder: Path, masks: Masks, copy: bool, /) -> None: ...


@dataclass(frozen=True)
class AnnotationFormat:
    """One format that is read. keyed: `find` looks at keys of JSON files."""

    reader: Reader
    keyed: bool = False

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.reader.TITLE


FORMATS = {
    "coco": AnnotationFormat(coco, keyed=True),
    "coco-panoptic": AnnotationFormat(coco_panoptic, keyed=True),
    "labelme": AnnotationFormat(labelme, keyed=True),
    "cvat": AnnotationFormat(cvat),
    "yolo": AnnotationFormat(yolo),
    "label-studio": AnnotationFormat(label_studio, keyed=True),
    "supervisely": AnnotationFormat(supervisely, keyed=True),
    "voc": AnnotationFormat(voc),
    "roboflow": AnnotationFormat(roboflow),
    "rgb-masks": AnnotationFormat(rgb_masks),
}
"""Name for `--from` -> format."""

WRITERS: dict[str, Writer] = {
    "coco": coco,
    "yolo": yolo,
    "labelme": labelme,
    "cvat": cvat,
    "geojson": geojson,
    "csv": areas,
}
"""Name for `--to` -> format."""

RELEASE = "cityscapes-panoptic"
"""The release of a dataset that `--from` accepts besides the formats of annotation tools."""

OF_TOOLS = (".json", ".xml", ".yaml", ".yml")
"""Endings of single files that annotation tools write."""

UNREAD = {
    '"_via_img_metadata"': ("VGG Image Annotator", "its annotations in COCO format"),
    '"shape_attributes"': ("VGG Image Annotator", "its annotations in COCO format"),
    '"dm_format_version"': ("Datumaro", "COCO or YOLO"),
    '"annotation_id"': ("Label Studio in JSON-MIN", "JSON"),
}
"""A key of a tool's JSON file that cannot be read -> the tool, and the export that can be read."""


def convert(
    src: str | Path,
    out: str | Path,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    images: str | Path | None = None,
    copy: bool = False,
    train_ids: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Convert an annotation tool's export to a dataset folder, or a dataset to a tool's format.

    A dataset folder contains images/, masks/, instances/ and dataset.toml. If shapes overlap, the
    later one is on top. The folder appears only when all of it is written.

        featherseg.convert("export.zip", "photos")
        featherseg.convert("photos", "for-cvat", to_format="cvat")

    Args:
        src: A folder, a file of annotations, or the zip of an export. With `to_format`: a
            dataset.toml, its folder, a folder of images and masks, or of predicted masks.
        out: A new folder.
        from_format: The format of `src`, a name of FORMATS, or "cityscapes-panoptic" to write the
            panoptic masks of that release. Default: it is detected.
        to_format: The format to write instead of a dataset, a name of WRITERS.
        images: The folder of the images if they are not in `src`: for annotations exported without
            images, and for predicted masks.
        copy: Copy the images. Default: hard links, if the file system supports them.
        train_ids: For cityscapes-panoptic: write train ids as categories, not label ids.
        progress: Called with (current activity, images done, total images). Default: a bar in a
            notebook.

    Returns:
        Conversion: images by split, the classes, and what was skipped and why.

    Raises:
        UnknownName: No format has that name.
        ConfigError: `from_format` and `to_format` are both given, or `images` for a dataset (its
            dataset.toml names the images).
        DataNotFound: There are no annotations, or none of a known tool.
        AmbiguousData: The annotations are of two tools.
        DataError: The annotations are broken.
        FeathersegError: `out` is in use, or cannot be written.
    """
    src, out, progress = Path(src), Path(out), progress_or_bar(progress)
    images = None if images is None else Path(images)
    if from_format is not None and from_format not in (*FORMATS, RELEASE):
        raise unknown("format", from_format, (*FORMATS, RELEASE))
    if train_ids and from_format != RELEASE:
        raise ConfigError(f"--train-ids is for --from {RELEASE} alone. Leave it out.")
    if from_format == RELEASE:
        options = {"--to": to_format, "--images": images, "--copy": copy}
        if unfit := [option for option, value in options.items() if value]:
            raise ConfigError(f"{', '.join(unfit)} cannot go with --from {RELEASE}. Leave it out.")
        return _convert_release(src, out, train_ids, progress)
    if to_format is not None:
        if from_format is not None:
            raise ConfigError(
                "--from and --to exclude each other: convert to a dataset first, then back."
            )
        return _convert_back(src, out, to_format, images, copy, progress)
    if from_format is None and (src / "dataset.toml").is_file():
        raise DataError(
            f"{src} is a dataset already. To write it for a tool, name the tool: --to coco, "
            "labelme, ..."
        )
    with new_folder(out) as folder, open_source(src, folder, images) as source:
        _find_keys(source)
        format = FORMATS[from_format or detect(source)]
        files = format.reader.find(source)
        if not files:
            _refuse_unread(source)
            raise DataNotFound(
                f"{source.name} contains no annotations of {format.title}. Without --from, the "
                f"format is detected.{source.passed_over}"
            )
        annotations = format.reader.read(source, files)
        return write_dataset(annotations, source, folder, out, format.title, copy, progress)


def _convert_release(root: Path, out: Path, train_ids: bool, progress: Progress) -> Conversion:
    """Write the panoptic masks of Cityscapes; `out` may exist, and finished PNGs are kept."""
    from featherseg.data.datasets.cityscapes_convert import convert_cityscapes
    from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES

    splits = convert_cityscapes(root, out, train_ids=train_ids, progress=progress)
    notes = [
        f"{split.json} is written"
        + (f", {split.kept} of its masks were already there" if split.kept else "")
        for split in splits
    ]
    images = {split.name: split.images for split in splits}
    return Conversion(
        "Cityscapes", out, images, [row.name for row in CITYSCAPES_CLASSES], notes=notes
    )


def _convert_back(
    src: Path, out: Path, format: str, images: Path | None, copy: bool, progress: Progress | None
) -> Conversion:
    writer_of(format)
    with new_folder(out) as folder:
        return _write(open_masks(src, images), format, folder, out, copy, progress)


def write_samples(
    data: SegmentationData, numbers: Sequence[int], format: str, out: Path, progress: Progress
) -> Conversion:
    """Write some samples of a dataset with their masks to a new folder in a tool's format.

    Raises the same errors as `convert`.
    """
    writer_of(format)
    with new_folder(out) as folder:
        return _write(masks_of(data, numbers), format, folder, out, False, progress)


def write_predicted(
    masks: Sequence[Path],
    images: Mapping[str, Path],
    format: str,
    out: Path,
    tolerance: float,
    progress: Progress,
) -> Conversion:
    """Write masks of `predict` to a new folder in a tool's format, with hard links to the images.

    Raises the same errors as `convert`.

    Args:
        masks: Paths of NAME_mask.png, all in one folder.
        images: NAME -> its image.
        format: A name of WRITERS.
        out: The new folder.
        tolerance: Pixels by which polygons may be off the outlines of the masks.
        progress: Called with (current activity, images done, total images).
    """
    with new_folder(out) as folder:
        opened = predicted_masks(masks[0].parent, masks, images, [], tolerance)
        return _write(opened, format, folder, out, False, progress)


def writer_of(format: str) -> Writer:
    """Return what writes masks in a format. Raises UnknownName if `--to` has none."""
    if format not in WRITERS:
        raise unknown("format", format, WRITERS)
    return WRITERS[format]


def _write(
    masks: Masks, format: str, folder: Path, out: Path, copy: bool, progress: Progress | None
) -> Conversion:
    counts = Counter[str]()

    def counted(given: Iterator[MaskedImage]) -> Iterator[MaskedImage]:
        for image in given:
            yield image
            counts[image.split or "all"] += 1
            if progress is not None:
                progress("converting", counts.total(), masks.total)

    masks.images = counted(masks.images)
    writer = writer_of(format)
    writer.write(folder, masks, copy)
    return Conversion(writer.TITLE, out, dict(counts), list(masks.colors()), notes=masks.notes)


def detect(source: Source) -> str:
    """Return the name of the format whose files are in the source.

    Raises DataError if there are files of two formats, DataNotFound if there are none.
    """
    files_by_format = _formats_in(source)
    if len(files_by_format) == 1:
        return next(iter(files_by_format))
    if files_by_format:
        each = " and ".join(
            f"{FORMATS[name].title} ({source.relative(files[0])})"
            for name, files in files_by_format.items()
        )
        command = f"featherseg convert {shlex.quote(source.name)} --out OUT --from"
        raise AmbiguousData(
            f"{source.name} contains annotations of {len(files_by_format)} tools: {each}. Which "
            "should be converted?",
            [(f"those of {FORMATS[name].title}", f"{command} {name}") for name in files_by_format],
        )
    _refuse_unread(source)
    for path in source.ending(".json")[:1]:
        read_json(path)  # raises the clearer error if the file is broken
    titles = ", ".join(format.title for format in FORMATS.values())
    raise DataNotFound(
        f"{source.name} contains no known annotations. Expected those of "
        f"{titles}.{_masks_hint(source)}{source.passed_over}"
    )


def next_step(place: Path) -> str:
    """Return how to make a dataset of a file or folder that is none, with a leading blank.

    The text is the command that converts its annotations, or what to export from the tool instead.
    It is empty if the annotations are not recognised.
    """
    if zipfile.is_zipfile(place):  # unpacking it only for a hint would take too long
        return (
            f" If a tool exported it:\n    featherseg convert {shlex.quote(str(place))} --out OUT"
        )
    if not place.is_dir() and place.suffix.lower() not in (*ARCHIVES, *OF_TOOLS):
        return ""
    try:
        with open_source(place, place) as source:
            names = tool_formats(source)
            if not names:
                _refuse_unread(source)
    except DataError as error:
        return f" {error}"
    if not names:
        return ""
    titles = " and ".join(FORMATS[name].title for name in names)
    command = f"featherseg convert {shlex.quote(str(place))} --out OUT"
    return f" It contains annotations of {titles}:\n    {command}"


def tool_formats(source: Source) -> list[str]:
    """Return the formats that are in the source, except for colour masks alone."""
    _find_keys(source)
    return [name for name in _formats_in(source) if name != "rgb-masks"]


def _formats_in(source: Source) -> dict[str, list[Path]]:
    """Return format -> its files, for the formats that are in the source."""
    files_by_format = {
        name: files for name, format in FORMATS.items() if (files := format.reader.find(source))
    }
    if len(files_by_format) > 1:  # the folder of masks may belong to another format, such as VOC
        files_by_format.pop("rgb-masks", None)
    return files_by_format


def _find_keys(source: Source) -> None:
    """Read all keys of the JSON files that no format recognises by their first and last bytes."""
    keyed = [format.reader for format in FORMATS.values() if format.keyed]
    source.find_keys({path for reader in keyed for path in reader.find(source)})


def _masks_hint(source: Source) -> str:
    """Return the command for a source of images with masks, with a leading blank; else ""."""
    try:
        find_readings(source.root)
    except DataError:
        return ""
    packed = zipfile.is_zipfile(source.name)
    command = f"featherseg check {'FOLDER' if packed else shlex.quote(str(source.root))} --write"
    unpack = ": unpack it" if packed else ""
    return f" Its images have masks, which need no conversion{unpack}:\n    {command}"


def _refuse_unread(source: Source) -> None:
    """Raise DataNotFound for files of a known tool that cannot be read or lack another file."""
    for path, ends in source.jsons:
        for key, (tool, instead) in UNREAD.items():
            if key in ends:
                raise DataNotFound(
                    f"{path} is a file of {tool}, which cannot be read. Export {instead} from "
                    "there."
                )
    if label := yolo.nameless_label(source):
        raise DataNotFound(
            f"{source.relative(label)} is a label of YOLO, but no data.yaml and no classes.txt "
            f"names the classes. Put a data.yaml into {source.name} with the line names: [CLASS, "
            "CLASS], in the order of their numbers."
        )
