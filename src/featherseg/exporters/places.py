"""Where exported files go, and how they get there: drafted elsewhere, moved in whole."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from featherseg.core.errors import ExportError
from featherseg.core.files import check_writable, remove_tree, temporary_beside, write_together
from featherseg.exporters.targets import EXPORTERS
from featherseg.inference.runtimes import FILE_RUNTIMES
from featherseg.runs import EXPORTS


def destinations(folder: Path | None, targets: Sequence[str], path: str | Path | None) -> dict[str, Path]:
    """Where the file (or folder) of each target goes: into `path`, by default into `folder`/export.

    One target may also be given its file's name: a path that ends as its files do. Raises ExportError where no place is
    named, FeathersegError where nothing can be written there.
    """
    if path is None:
        if folder is None:
            raise ExportError("a model without a run has no folder of its own: name the file, path='model.onnx'.")
        path = folder / EXPORTS
    path = Path(path)
    if not path.is_dir() and path.suffix:
        places = {_one(targets, path): path}
    else:
        places = {target: path / EXPORTERS[target].main for target in targets}
    for place in places.values():
        check_writable(place if _ending(place.name) else place / "index.html")  # a folder may be there before
    return places


def move(draft: Path, main: str, place: Path) -> int:
    """Move what an exporter wrote into `draft` to where `place` is to be; -> its size in bytes.

    Files replace old ones when all are written, `main` the last; a folder replaces a folder. The files of other targets
    stay. Files called like `main` ("model.bin" beside "model.xml") take the name of `place`. Raises FeathersegError
    where the disk refuses; what was there is there still.
    """
    size = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
    if (draft / main).is_dir():
        _replace_folder(draft / main, place)
        return size
    stem, new_stem = _stem(main), place.name.removesuffix(_ending(main))
    writes = {}
    for file in sorted(draft.iterdir(), key=lambda file: file.name == main):
        name = new_stem + file.name.removeprefix(stem) if file.name.startswith(stem) else file.name
        writes[place.with_name(name)] = partial(_copy, file)
    write_together(writes)
    return size


def _one(targets: Sequence[str], path: Path) -> str:
    """The target whose file `path` names. Raises ExportError where there are several, or the name does not fit."""
    if len(targets) > 1:
        raise ExportError(f"{path} names one file, but {len(targets)} are to be written. Name a folder with -o.")
    ending = _ending(EXPORTERS[targets[0]].main)
    if not ending or not path.name.endswith(ending):
        expected = f"a name that ends in {ending}, or a folder" if ending else "a folder"
        raise ExportError(f"{path} was named for {targets[0]}. Expected {expected}.")
    return targets[0]


def _stem(main: str) -> str:
    """ "model.int8.onnx" -> "model.int8", "model.ncnn.param" -> "model": what the files of a target share."""
    return main.removesuffix(_ending(main))


def _ending(main: str) -> str:
    """ "model.int8.onnx" -> ".onnx", "model.ncnn.param" -> ".ncnn.param", "web" -> "": what `open_file` knows it by."""
    return next((ending for ending in FILE_RUNTIMES if main.endswith(ending)), Path(main).suffix)


def _replace_folder(source: Path, place: Path) -> None:
    """Put a copy of a folder where an older one may be, with the shortest time in which neither is there."""
    place.parent.mkdir(parents=True, exist_ok=True)
    new, old = temporary_beside(place), temporary_beside(place)
    try:
        new.mkdir()
        for item in sorted(source.rglob("*")):
            copy = new / item.relative_to(source)
            copy.mkdir() if item.is_dir() else shutil.copyfile(item, copy)
        if os.path.lexists(place):
            place.rename(old)
        new.rename(place)
    except OSError as error:
        if not os.path.lexists(place) and os.path.lexists(old):
            old.rename(place)
        raise ExportError(f"cannot write {place}: {error.strerror or error}. What was there is unchanged.") from error
    finally:
        remove_tree(new)
        remove_tree(old)


def _copy(source: Path, target: BinaryIO) -> None:
    with open(source, "rb") as file:
        shutil.copyfileobj(file, target)
