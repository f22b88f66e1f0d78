"""What a user hands over: a folder, one file of annotations, or the zip that a tool exports.

All of it comes from others: a zip is unpacked within bounds, links out of the folder are passed over, and names in
annotations are only ever looked up among the files that were found.
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
from featherseg.data.images.decoding import is_image
from featherseg.data.images.unread import REMEDY, UNREAD_SUFFIXES, unread_note

MOST_FILES = 2_000_000
"""Files of a folder or a zip; Open Images has 1.9 million."""

MOST_BYTES = 2**30
"""Of one file of annotations: that of COCO's 118,287 images has 470 MB."""

MOST_UNPACKED = 2**40
"""Bytes of all files of a zip."""

RATIO, SMALL = 200, 2**26
"""How many times its packed size a zip may unpack to, where it is more than SMALL bytes. Images are packed already, and
JSON packs to a tenth; a bomb has 1,000 or more."""

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
"""Endings of files that hold others; only zips are read."""

ENDS = 8192
"""Bytes from the head and the tail of a JSON or XML file by which its tool is told."""

_KEY = re.compile(rb'"([A-Za-z_]{1,20})"\s*:')
"""A key of a JSON object that may tell its tool."""

SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What tools call a split -> its name here."""


AMBIGUOUS, LEADS_OUT = "images whose name several files have", "images whose name leads out of the folder"

NOT_THERE = "images that are not there"

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that was uploaded."""


KEPT_IN = ("test", "val", "train")
"""An image that several splits list stays in the first of these."""


_PACKERS = zlib.error, lzma.LZMAError
"""What the decoders of a zip raise."""


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
    """The files below a folder, without hidden ones, datasets and links that lead out; of one file its siblings, too.

    `beside` is a further folder, of images that the export lacks. `name` is what messages call the source.
    """

    def __init__(self, root: Path, only: Path | None = None, name: str = "", beside: Path | None = None) -> None:
        self.root, self.only, self.name = root, only, name or str(only or root)
        self.links_out: list[Path] = []
        self.files = self._listed(root)
        self.roots = [root] if beside is None else [root, beside]
        self.images = [path for path in self.files if is_image(path)]
        self.unread = _unread(self.files)
        """Stem -> ending of the images whose format is not read, in the form of `name_form`."""
        """The images, folder by folder and by name."""
        self._paths = {str(path): path for path in self.images}
        """What may be called each image: its path, also below `beside` where that holds images of `root` once more."""
        if beside is not None:
            there = {path.resolve(): path for path in self.images}
            further = self._listed(beside)
            self.unread |= _unread(further)
            for path in filter(is_image, further):
                image = self._paths[str(path)] = there.setdefault(path.resolve(), path)
                if image is path:
                    self.images.append(path)

    def _listed(self, root: Path) -> list[Path]:
        found: list[Path] = []
        inside = root.resolve()
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
            if "dataset.toml" in names and Path(folder) != root:  # what an earlier conversion wrote in here
                folders[:] = []
                continue
            for entry in (*folders, *sorted(names)):
                path = Path(folder, entry)
                if entry.startswith("."):
                    continue
                if path.is_symlink() and not path.resolve().is_relative_to(inside):
                    self.links_out.append(path)
                elif path.is_file():
                    found.append(path)
            if len(found) > MOST_FILES:
                raise DataError(f"{root} holds over {MOST_FILES:,} files, the limit. Name the folder of one export.")
        return found

    @property
    def passed_over(self) -> str:
        """What is said of unread formats and of links that lead out, a blank before each; empty where there is none."""
        unread = f" {unread_note(Counter(self.unread.values()))}." if self.unread else ""
        if not self.links_out:
            return unread
        links = f"{counted(len(self.links_out), 'link')} out of it, first {self.relative(self.links_out[0])}"
        return f"{unread} Not followed: {links}. Put the files themselves there."

    def ending(self, *endings: str) -> list[Path]:
        """The files whose names end so, in lower case; where one file was named, it alone."""
        files = self.files if self.only is None else [self.only]
        return [path for path in files if path.name.lower().endswith(endings)]

    @cached_property
    def jsons(self) -> list[tuple[Path, str]]:
        """The JSON files, each with its head and its tail, or with its keys where these were looked for."""
        return [(path, _ends(path)) for path in self.ending(".json")]

    def find_keys(self, known: Collection[Path]) -> None:
        """Put their keys in place of the ends of all JSON files but the known ones: these are read from end to end."""
        self.jsons = [(path, ends if path in known else _keys(path)) for path, ends in self.jsons]

    @cached_property
    def xmls(self) -> list[tuple[Path, str]]:
        """The XML files, each with its head and its tail."""
        return [(path, _ends(path)) for path in self.ending(".xml")]

    @cached_property
    def _composed(self) -> dict[str, Path]:
        return {composed(path): image for path, image in reversed(self._paths.items())}

    @cached_property
    def _in_order(self) -> list[tuple[str, Path]]:
        """The images by their paths, in the form in which names are compared."""
        return sorted((name_form(path.as_posix()), path) for path in self.images)

    @cached_property
    def _by_end(self) -> list[tuple[str, Path]]:
        """The images by their splits, and then by the parts of their paths from the last one on."""
        return sorted((_from_end(path.as_posix(), self.split(path)), path) for path in self.images)

    def _lies_at(self, name: str, *folders: Path) -> Path | None:
        for folder in folders:
            path = os.path.normpath(os.path.join(folder, name)) if "\0" not in name else ""
            if image := self._paths.get(path) or self._composed.get(composed(path)):
                return image
        return None

    def _below(self, near: Path, parts: list[str]) -> list[Path]:
        """The images below a folder of the source whose paths end in all the parts."""
        if near == self.root or not parts:
            return []
        whole = name_form("/" + "/".join(parts))
        below = _beginning(self._in_order, name_form(near.as_posix()) + "/")
        ending = [_beginning(self._by_end, _from_end("/".join(parts), split)) for split in ("", *KEPT_IN)]
        if len(below) <= sum(map(len, ending)):
            return [path for name, path in map(self._in_order.__getitem__, below) if name.endswith(whole)]
        return [path for found in ending for i in found if (path := self._by_end[i][1]).is_relative_to(near)]

    def _ending(self, parts: list[str]) -> list[Path]:
        """The images whose paths end in the parts, of each split no more than two: more say no more."""
        starts = (_from_end("/".join(parts), split) for split in ("", *KEPT_IN))
        return [self._by_end[i][1] for start in starts for i in _beginning(self._by_end, start)[:2]]

    def find_image(self, name: str, near: Path, split: str = "", least: int = 1) -> tuple[Path | None, str]:
        """The image that annotations in the folder `near` call `name`, or None and why there is none.

        Beside the annotations, below them, below the source, or, as tools write paths of the machine that they ran on,
        the one file whose path ends like the name, in at least `least` of its parts; of several the one in a folder of
        `split`; or the one that Label Studio calls so where it was uploaded. Where folders of the name were left out,
        that is told too. Names are compared with the files that are there, and lead nowhere else.
        """
        clean = name.replace("\\", "/")
        parts = [part for part in unquote(clean).split("/") if part not in ("", ".", "..")]
        if image := self._lies_at(clean, near, near / "images"):
            return image, ""
        below = self._below(near, parts)
        if not below and (image := self._lies_at(clean, *self.roots, *(up / "images" for up in self.roots))):
            return image, ""
        lengths = range(len(parts), least - 1, -1)
        for length in lengths[:1] if below else lengths:
            lies_in = {path: self.split(path) for path in below or self._ending(parts[-length:])}
            of_split = [path for path in lies_in if lies_in[path] == split]
            matching = [path for path in lies_in if not split or lies_in[path] in ("", split)]  # of another it is none
            if len(matching) == 1 or len(of_split) == 1:
                return (of_split or matching)[0], "" if length == len(parts) else "by the end of its path"
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
            return None, f"images of which {ending} is not read: convert them {REMEDY}"
        return None, LEADS_OUT if ".." in clean.split("/") else NOT_THERE

    @cached_property
    def _uploaded(self) -> dict[str, list[Path]]:
        """The images by the names that Django, which Label Studio is built on, gives to files that are uploaded."""
        found: dict[str, list[Path]] = {}
        for path in self.images:
            found.setdefault(re.sub(r"[^-\w.]", "", composed(path.name).replace(" ", "_")), []).append(path)
        return found

    def relative(self, path: Path) -> str:
        """The path below the folder that it lies in."""
        root = next((root for root in self.roots if path.is_relative_to(root)), None)
        return str(path) if root is None else path.relative_to(root).as_posix()

    def split(self, path: Path) -> str:
        """The split that the folders of the path speak of."""
        return split_of(*self.relative(path).split("/")[:-1])


@contextmanager
def open_source(src: Path, out: Path, images: Path | None = None) -> Iterator[Source]:
    """The files of `src`, and images of a further folder; a zip is unpacked beside `out`, for as long as the block.

    Raises DataNotFound where there is nothing, DataError for a zip that is damaged, too large or leads out of it, and
    for other archives.
    """
    if not os.path.exists(src):
        raise DataNotFound(
            f"{src} does not exist.{near_path(src)} Expected a folder, a file of annotations, or the .zip of an export."
        )
    if images is not None and not images.is_dir():
        raise DataNotFound(f"{images} is not a folder.{near_path(images)} Expected the folder of the images.")
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
            f"{src} is a damaged zip or an archive of another kind, which is not read. Export or download it again, or "
            "unpack it and name the folder."
        )
    else:
        # Images lie beside "annotations/instances_val.json" in the folder above
        above = src.absolute().parent
        root = above.parent if above.name.lower() in ("annotations", "annotation", "labels", "ann") else above
        yield Source(root, only=src.absolute(), name=str(src), beside=images)


def _unpack(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            total, packed = sum(member.file_size for member in members), path.stat().st_size
            if len(members) > MOST_FILES:
                raise DataError(f"{path} holds {len(members):,} files, the limit is {MOST_FILES:,}.")
            if total > MOST_UNPACKED or (total > SMALL and total > RATIO * packed):
                raise DataError(
                    f"{path} has {packed:,} bytes and would unpack to {total:,}: that is no export of images. Unpack "
                    "it yourself if you trust it, and name the folder."
                )
            if total > (free := shutil.disk_usage(folder.parent).free):
                raise DataError(f"{path} unpacks to {total:,} bytes, but {folder.parent} has only {free:,} free.")
            for member in members:
                name = member.filename
                if not member.flag_bits & 0x800:  # not said to be UTF-8, which zips of macOS are all the same
                    with suppress(UnicodeError):
                        name = name.encode("cp437").decode()
                target = folder / _safe(name, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed_file, open(target, "xb") as file:
                    shutil.copyfileobj(packed_file, file)  # no more than the size that it states
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, ValueError, *_PACKERS) as error:
        raise DataError(f"{path} cannot be unpacked: {error}. Export it again, without a password.") from error
    except FileExistsError as error:
        raise DataError(f"{path} holds two files of one name ({Path(error.filename).name}). Export it again.") from None


def _safe(name: str, path: Path) -> PurePosixPath:
    """The name of a member, below the folder. Raises DataError for one that leads out of it."""
    clean = PurePosixPath(name.replace("\\", "/"))
    if clean.is_absolute() or ".." in clean.parts or not clean.name or ":" in clean.parts[0] or "\0" in name:
        raise DataError(f"{path} holds a file named {name!r}, which leads out of its folder. It was not unpacked.")
    return clean


def place_image(path: Path, target: Path, copy: bool) -> None:
    """A hard link to an image, or a copy where that is asked for or the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if copy:
            raise OSError("as was asked for")
        os.link(path.resolve(), target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(path, target)


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DataError, naming it, for one that is broken or too large."""
    try:
        return parse_json(read_bounded(path, MOST_BYTES).decode("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Export it again.") from error


def read_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file. Raises DataError, naming it, for one that is broken, too large, or has a DOCTYPE.

    Only there entities can be declared, which grow without bounds or name other files; no tool writes one.
    """
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise DataError(f"{path} has a DOCTYPE, which no annotation tool writes, and is not read. Export it again.")

    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(read_bounded(path, MOST_BYTES), True)
        return builder.close()
    except (OSError, ValueError, expat.ExpatError, AssertionError) as error:
        raise DataError(f"{path} cannot be read as XML: {error}. Export it again.") from error


def read_text(path: Path) -> str:
    """A text file. Raises DataError for one that cannot be read."""
    try:
        return read_bounded(path, MOST_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _from_end(path: str, split: str) -> str:
    """A split and the parts of a path, the last first, in the form in which names are compared."""
    return "/".join((split, *reversed(name_form(path).split("/")), ""))


def _beginning(named: list[tuple[str, Path]], start: str) -> range:
    """Which entries of a sorted list begin so."""
    first = bisect_left(named, start, key=itemgetter(0))
    return range(first, bisect_left(named, start + chr(sys.maxunicode), first, key=itemgetter(0)))


def split_of(*names: str) -> str:
    """The split that one of the names speaks of, "instances_val2017" -> "val"; empty where none does."""
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
    """The keys of a JSON file's objects, as they stand there."""
    found, rest = set[bytes](), b""
    try:
        with open(path, "rb") as file:
            while (chunk := file.read(2**20)) and file.tell() <= MOST_BYTES:
                found.update(_KEY.findall(rest + chunk))
                rest = chunk[-64:]  # a key may lie on both sides
    except OSError:
        return ""
    return " ".join(f'"{key.decode()}"' for key in found)


def nothing_readable(source: Source, what: str) -> DataNotFound:
    """The error for a source in which nothing of `what` was found."""
    seen = f"{counted(len(source.files), 'file')} looked through"
    return DataNotFound(f"{source.name} holds no {what} ({seen}).{source.passed_over}")
