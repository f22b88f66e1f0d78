"""The files to convert: a folder, one file of annotations, or the zip that a tool exports.

All of it is untrusted: a zip is unpacked within bounds, links out of the folder are not followed,
and names in annotations are only looked up among the listed files.
"""

import lzma
import os
import re
import shutil
import sys
import zipfile
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.parsers import expat

from featherseg.core.errors import DataError, DataNotFound, near_path
from featherseg.core.files import composed, parse_json, read_bounded, remove_tree, temporary_path
from featherseg.core.wording import counted
from featherseg.data.images.listing import is_image
from featherseg.data.images.unread import REMEDY, UNREAD_SUFFIXES, unread_note

MOST_FILES = 2_000_000
"""Most files of a folder or a zip; Open Images has 1.9 million."""

MOST_BYTES = 2**30
"""Most bytes of one file of annotations: COCO's file for 118,287 images has 470 MB."""

MOST_UNPACKED = 2**40
"""Most bytes of all files of a zip."""

RATIO, SMALL = 200, 2**26
"""A zip over SMALL bytes may unpack to RATIO times its size.

Images hardly compress, JSON compresses to a tenth; a zip bomb has a ratio of 1,000 or more.
"""

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Endings of archives; only zips are read."""

ENDS = 8192
"""Bytes read from each end of a JSON or XML file to recognise its tool."""

_KEY = re.compile(rb'"([A-Za-z_]{1,20})"\s*:')
"""A key of a JSON object that may identify its tool."""

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""A tool's name for a split -> its name here."""


AMBIGUOUS, LEADS_OUT = (
    "images whose name several files have",
    "images whose name leads out of the folder",
)

NOT_THERE = "images that are not there"

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""


KEPT_IN = ("test", "val", "train")
"""An image listed in several splits stays in the first of these."""


_PACKERS = zlib.error, lzma.LZMAError
"""Errors that the decoders of a zip raise."""


def _unread(files: Iterable[Path]) -> dict[str, str]:
    names = (os.path.splitext(name_form(path.name)) for path in files)
    return {stem: ending for stem, ending in names if ending in UNREAD_SUFFIXES}


def name_form(name: str) -> str:
    """Return a path in the one form in which names of all tools are compared.

    Lower case, "/" between folders, composed Unicode, and "%20" decoded: tools and file systems
    differ in all four.
    """
    return composed(unquote(name).replace("\\", "/").lower())


class Source:
    """The files below a folder, without hidden files, nested datasets and links that lead out.

    With `only`, the source is that one file; its siblings are listed too. `beside` is a further
    folder, of images that the export lacks. `name` is the source's name in messages.
    """

    def __init__(
        self, root: Path, only: Path | None = None, name: str = "", beside: Path | None = None
    ) -> None:
        self.root, self.only, self.name = root, only, name or str(only or root)
        self.links_out: list[Path] = []
        self.files = self._listed(root)
        self.roots = [root] if beside is None else [root, beside]
        self.images = [path for path in self.files if is_image(path)]
        self.unread = _unread(self.files)
        """Stem -> ending of the images in unsupported formats, in the form of `name_form`."""
        self._paths = {str(path): path for path in self.images}
        """Path -> image; an image of `root` that `beside` contains again has both paths."""
        if beside is not None:
            by_target = {path.resolve(): path for path in self.images}
            further = self._listed(beside)
            self.unread |= _unread(further)
            for path in filter(is_image, further):
                image = self._paths[str(path)] = by_target.setdefault(path.resolve(), path)
                if image is path:
                    self.images.append(path)

    def _listed(self, root: Path) -> list[Path]:
        files: list[Path] = []
        inside = root.resolve()
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
            if "dataset.toml" in names and Path(folder) != root:  # written by an earlier conversion
                folders[:] = []
                continue
            for entry in (*folders, *sorted(names)):
                path = Path(folder, entry)
                if entry.startswith("."):
                    continue
                if path.is_symlink() and not path.resolve().is_relative_to(inside):
                    self.links_out.append(path)
                elif path.is_file():
                    files.append(path)
            if len(files) > MOST_FILES:
                raise DataError(
                    f"{root} contains over {MOST_FILES:,} files, the limit. Name the folder of one "
                    "export."
                )
        return files

    @property
    def passed_over(self) -> str:
        """Return a note on unsupported formats and links that lead out, after a blank; else ""."""
        unread = f" {unread_note(Counter(self.unread.values()))}." if self.unread else ""
        if not self.links_out:
            return unread
        links = counted(len(self.links_out), "link")
        links += f" out of it, first {self.relative(self.links_out[0])}"
        return f"{unread} Not followed: {links}. Put the files themselves there."

    def ending(self, *endings: str) -> list[Path]:
        """Return the files with these lower-case endings; only the named file, if one was named."""
        files = self.files if self.only is None else [self.only]
        return [path for path in files if path.name.lower().endswith(endings)]

    @cached_property
    def jsons(self) -> list[tuple[Path, str]]:
        """The JSON files with their first and last bytes; with their keys after `find_keys`."""
        return [(path, _ends(path)) for path in self.ending(".json")]

    def find_keys(self, known: Collection[Path]) -> None:
        """Replace the first and last bytes in `jsons` by the file's keys, except for known files.

        Files are read to the end for this.
        """
        self.jsons = [(path, ends if path in known else _keys(path)) for path, ends in self.jsons]

    @cached_property
    def xmls(self) -> list[tuple[Path, str]]:
        """The XML files with their first and last bytes."""
        return [(path, _ends(path)) for path in self.ending(".xml")]

    @cached_property
    def _composed(self) -> dict[str, Path]:
        return {composed(path): image for path, image in reversed(self._paths.items())}

    @cached_property
    def _in_order(self) -> list[tuple[str, Path]]:
        """The images sorted by path, in the form of `name_form`."""
        return sorted((name_form(path.as_posix()), path) for path in self.images)

    @cached_property
    def _by_end(self) -> list[tuple[str, Path]]:
        """The images sorted by split, then by the parts of their paths from the last one on."""
        return sorted((_from_end(path.as_posix(), self.split(path)), path) for path in self.images)

    def _lies_at(self, name: str, *folders: Path) -> Path | None:
        for folder in folders:
            path = os.path.normpath(os.path.join(folder, name)) if "\0" not in name else ""
            if image := self._paths.get(path) or self._composed.get(composed(path)):
                return image
        return None

    def _below(self, near: Path, parts: list[str]) -> list[Path]:
        """Return the images below a folder of the source whose paths end in all the parts."""
        if near == self.root or not parts:
            return []
        ending_text = name_form("/" + "/".join(parts))
        below = _beginning(self._in_order, name_form(near.as_posix()) + "/")
        ending = [
            _beginning(self._by_end, _from_end("/".join(parts), split)) for split in ("", *KEPT_IN)
        ]
        if len(below) <= sum(map(len, ending)):
            return [
                path
                for name, path in map(self._in_order.__getitem__, below)
                if name.endswith(ending_text)
            ]
        return [
            path
            for matches in ending
            for i in matches
            if (path := self._by_end[i][1]).is_relative_to(near)
        ]

    def _ending(self, parts: list[str]) -> list[Path]:
        """Return the images whose paths end in the parts, at most two of each split.

        Two are enough to see that a name is ambiguous.
        """
        starts = (_from_end("/".join(parts), split) for split in ("", *KEPT_IN))
        return [self._by_end[i][1] for start in starts for i in _beginning(self._by_end, start)[:2]]

    def find_image(
        self, name: str, near: Path, split: str = "", least: int = 1
    ) -> tuple[Path | None, str]:
        """Return the image that annotations in `near` call `name`, or None and the reason.

        Looked up in this order: beside the annotations, below them, below the source. Tools also
        write paths of the machine they ran on: then the only file counts whose path ends like the
        name, in at least `least` parts, and of several the one in a folder of `split`. At last, the
        file that Label Studio renamed on upload. The second value is then "by the end of its path",
        if parts were dropped. Names are only compared with listed files and lead nowhere else.
        """
        clean = name.replace("\\", "/")
        parts = [part for part in unquote(clean).split("/") if part not in ("", ".", "..")]
        if image := self._lies_at(clean, near, near / "images"):
            return image, ""
        below = self._below(near, parts)
        if not below and (
            image := self._lies_at(clean, *self.roots, *(up / "images" for up in self.roots))
        ):
            return image, ""
        lengths = range(len(parts), least - 1, -1)
        for length in lengths[:1] if below else lengths:
            lies_in = {path: self.split(path) for path in below or self._ending(parts[-length:])}
            of_split = [path for path in lies_in if lies_in[path] == split]
            matching = [path for path in lies_in if not split or lies_in[path] in ("", split)]
            if len(matching) == 1 or len(of_split) == 1:
                return (of_split or matching)[0], "" if length == len(
                    parts
                ) else "by the end of its path"
            if matching:
                return None, AMBIGUOUS
        upload = _UPLOADED.match(parts[-1]) if parts and least == 1 else None
        alike = self._uploaded.get(composed(parts[-1][upload.end() :]), []) if upload else []
        alike = [path for path in alike if path.is_relative_to(near)] or alike
        alike = [path for path in alike if not split or self.split(path) in ("", split)]
        if alike:
            return (alike[0], "by the end of its path") if len(alike) == 1 else (None, AMBIGUOUS)
        stem, ending = os.path.splitext(name_form(parts[-1] if parts else ""))
        if self.unread.get(stem) == ending:
            return None, f"images in the unsupported format {ending}: convert them {REMEDY}"
        return None, LEADS_OUT if ".." in clean.split("/") else NOT_THERE

    @cached_property
    def _uploaded(self) -> dict[str, list[Path]]:
        """The images by the names that Django, below Label Studio, gives to uploaded files."""
        by_name: dict[str, list[Path]] = {}
        for path in self.images:
            by_name.setdefault(
                re.sub(r"[^-\w.]", "", composed(path.name).replace(" ", "_")), []
            ).append(path)
        return by_name

    def relative(self, path: Path) -> str:
        """Return the path below the folder it lies in."""
        root = next((root for root in self.roots if path.is_relative_to(root)), None)
        return str(path) if root is None else path.relative_to(root).as_posix()

    def split(self, path: Path) -> str:
        """Return the split named by the folders of the path; "" without one."""
        return split_of(*self.relative(path).split("/")[:-1])


@contextmanager
def open_source(src: Path, out: Path, images: Path | None = None) -> Iterator[Source]:
    """Open the files of `src`, and the images of a further folder.

    A zip is unpacked beside `out` while the block runs. Raises DataNotFound if there is nothing,
    DataError for other archives and for a zip that is damaged, too large or leads out of its
    folder.
    """
    if not os.path.exists(src):
        raise DataNotFound(
            f"{src} does not exist.{near_path(src)} Expected a folder, a file of annotations, or "
            "the .zip of an export."
        )
    if images is not None and not images.is_dir():
        raise DataNotFound(
            f"{images} is not a folder.{near_path(images)} Expected the folder of the images."
        )
    if src.is_dir():
        yield Source(src, beside=images)
    elif zipfile.is_zipfile(src):
        folder = temporary_path(out)
        try:
            _unpack(src, folder)
            yield Source(folder, name=str(src), beside=images)
        finally:
            remove_tree(folder)
    elif src.suffix.lower() in ARCHIVES:
        raise DataError(
            f"{src} is a damaged zip or another kind of archive, which cannot be read. Export or "
            "download it again, or unpack it and name the folder."
        )
    else:
        # Images lie beside "annotations/instances_val.json" in the folder above
        above = src.absolute().parent
        root = (
            above.parent
            if above.name.lower() in ("annotations", "annotation", "labels", "ann")
            else above
        )
        yield Source(root, only=src.absolute(), name=str(src), beside=images)


def _unpack(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            total, packed = sum(member.file_size for member in members), path.stat().st_size
            if len(members) > MOST_FILES:
                raise DataError(
                    f"{path} contains {len(members):,} files, the limit is {MOST_FILES:,}."
                )
            if total > MOST_UNPACKED or (total > SMALL and total > RATIO * packed):
                raise DataError(
                    f"{path} has {packed:,} bytes and would unpack to {total:,}: this is no export "
                    "of images. Unpack it yourself if you trust it, and name the folder."
                )
            if total > (free := shutil.disk_usage(folder.parent).free):
                raise DataError(
                    f"{path} unpacks to {total:,} bytes, but {folder.parent} has only {free:,} "
                    "free."
                )
            for member in members:
                name = member.filename
                if not member.flag_bits & 0x800:  # not marked as UTF-8, but zips of macOS are
                    with suppress(UnicodeError):
                        name = name.encode("cp437").decode()
                target = folder / _safe(name, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed_file, open(target, "xb") as file:
                    shutil.copyfileobj(packed_file, file)  # zipfile stops at the stated size
    except (
        zipfile.BadZipFile,
        EOFError,
        RuntimeError,
        NotImplementedError,
        ValueError,
        *_PACKERS,
    ) as error:
        raise DataError(
            f"{path} cannot be unpacked: {error}. Export it again, without a password."
        ) from error
    except FileExistsError as error:
        raise DataError(
            f"{path} contains two files of one name ({Path(error.filename).name}). Export it again."
        ) from None


def _safe(name: str, path: Path) -> PurePosixPath:
    """Return the name of a member, below the folder. Raises DataError if it leads out of it."""
    clean = PurePosixPath(name.replace("\\", "/"))
    if (
        clean.is_absolute()
        or ".." in clean.parts
        or not clean.name
        or ":" in clean.parts[0]
        or "\0" in name
    ):
        raise DataError(
            f"{path} contains a file named {name!r}, which leads out of its folder. It was not "
            "unpacked."
        )
    return clean


def place_image(path: Path, target: Path, copy: bool) -> None:
    """Make a hard link to an image; a copy if asked, or if the file system has no links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if copy:
            raise OSError("a copy was requested")
        os.link(path.resolve(), target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(path, target)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises DataError if it is broken or too large."""
    try:
        return parse_json(read_bounded(path, MOST_BYTES).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Export it again.") from error


def read_xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file.

    Raises DataError if it is broken, too large, or has a DOCTYPE. Entities, which can grow without
    bounds or name other files, can only be declared there, and no tool writes one.
    """
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise DataError(f"{path} has a DOCTYPE, which no annotation tool writes. Export it again.")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_bounded(path, MOST_BYTES), True)
        return builder.close()
    except (OSError, ValueError, expat.ExpatError, AssertionError) as error:
        raise DataError(f"{path} cannot be read as XML: {error}. Export it again.") from error


def read_text(path: Path) -> str:
    """Return a text file. Raises DataError if it cannot be read."""
    try:
        return read_bounded(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _from_end(path: str, split: str) -> str:
    """Return a split and the parts of a path, last first, in the form of `name_form`."""
    return "/".join((split, *reversed(name_form(path).split("/")), ""))


def _beginning(named: list[tuple[str, Path]], start: str) -> range:
    """Return the range of entries in a sorted list that begin with `start`."""
    first = bisect_left(named, start, key=itemgetter(0))
    return range(first, bisect_left(named, start + chr(sys.maxunicode), first, key=itemgetter(0)))


def split_of(*names: str) -> str:
    """Return the split in one of the names, "instances_val2017" -> "val"; "" without one."""
    for name in names:
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in SPLITS:
                return SPLITS[word]
    return ""


def _ends(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            head = file.read(ENDS)
            file.seek(max(len(head), file.seek(0, os.SEEK_END) - ENDS))
            return (head + file.read()).decode(errors="replace")
    except OSError:
        return ""


def _keys(path: Path) -> str:
    """Return the keys of a JSON file's objects, each in quotes."""
    keys, overlap = set[bytes](), b""
    try:
        with open(path, "rb") as file:
            while (chunk := file.read(2**20)) and file.tell() <= MOST_BYTES:
                keys.update(_KEY.findall(overlap + chunk))
                overlap = chunk[-64:]  # a key may cross the chunks' border
    except OSError:
        return ""
    return " ".join(f'"{key.decode()}"' for key in keys)


def nothing_readable(source: Source, what: str) -> DataNotFound:
    """Return the error for a source without any `what`."""
    searched = f"{counted(len(source.files), 'file')} looked through"
    return DataNotFound(f"{source.name} contains no {what} ({searched}).{source.passed_over}")
