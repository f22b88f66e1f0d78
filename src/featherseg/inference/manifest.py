"""Which images of a folder wait, and what became of each: in files, for any number of images.

Ten million names would take gigabytes as Python objects. They are kept in two SQLite files of one
command. The next command does not need them: it looks into the output folder.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path, PurePath
from typing import NamedTuple, Self

from featherseg.core.files import MOST_TEXT, numbered, parse_json

DONE, FAILED, STOPPED = "done", "failed", "stopped"
"""What became of an image: it has a mask; it could not be read; nothing can be written at all."""

MASK, PLACED_MASK, MANIFEST = "_mask.png", "_mask.tif", "predictions.jsonl"
"""Ends of the file of a mask, and of that of a GeoTIFF; the record of all images."""


PANOPTIC = "panoptic"
"""The folder of the maps of a panoptic model's objects."""


class Listed(NamedTuple):
    """A file of the folder; size in bytes, 0 if unknown."""

    file: str
    size: int


class Image(NamedTuple):
    """An image to predict: its `file` in the folder; there: whether a mask exists already."""

    id: int
    file: str
    size: int
    name: str
    there: bool


class Record(NamedTuple):
    """What became of the image `id`: the `sha256` of its mask, or the `reason` for none."""

    id: int
    status: str
    sha256: str | None = None
    reason: str | None = None


class Manifest:
    """The images of a folder, by name, in the files plan.db and results.db of one command.

    `Manifest.plan` creates it. Then it can be opened on every machine that sees that folder.

    Args:
        folder: The folder of the two files.
        recording: Whether this process, the only one, keeps the results.
    """

    def __init__(self, folder: Path, *, recording: bool = False) -> None:
        self._db = sqlite3.connect(folder / "plan.db", check_same_thread=False)
        if recording:
            self._db.execute("ATTACH ? AS results", (str(folder / "results.db"),))
            self._db.execute("PRAGMA results.journal_mode = OFF")
            self._db.execute("PRAGMA results.synchronous = OFF")
            self._db.execute(
                "CREATE TABLE results.result "
                "(id INTEGER PRIMARY KEY, status TEXT, sha256 TEXT, reason TEXT)"
            )
        self.total: int = self._db.execute("SELECT count(*) FROM image").fetchone()[0]
        self.waiting: int = self._db.execute("SELECT count(*) FROM work").fetchone()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    @classmethod
    def plan(
        cls,
        folder: Path,
        files: Iterable[Listed],
        masks: Iterable[str],
        known: Iterable[tuple[str, str]],
    ) -> "Manifest":
        """Create the files. Images wait if they have no mask, or if its sha256 is unknown.

        An image gets its name from `unique_names`, as in `predict` on one machine. Each argument is
        read once.

        Args:
            folder: The folder of the two files.
            files: The images, in any order.
            masks: Names (NAME of NAME_mask.png) of existing masks.
            known: (name, sha256) of an earlier manifest.
        """
        with closing(sqlite3.connect(folder / "plan.db")) as db:
            db.executescript(
                """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;
                CREATE TABLE found (file BLOB, size INTEGER);
                CREATE TABLE mask (name BLOB PRIMARY KEY) WITHOUT ROWID;
                CREATE TABLE known (name BLOB PRIMARY KEY, sha256 TEXT) WITHOUT ROWID;
                CREATE TABLE taken (name BLOB PRIMARY KEY) WITHOUT ROWID;
                CREATE TABLE image
                    (id INTEGER PRIMARY KEY, file BLOB, size INTEGER, name BLOB, sha256 TEXT);"""
            )
            db.executemany(
                "INSERT INTO found VALUES (?, ?)", ((os.fsencode(f.file), f.size) for f in files)
            )
            db.executemany(
                "INSERT OR IGNORE INTO mask VALUES (?)", ((os.fsencode(name),) for name in masks)
            )
            db.executemany(
                "INSERT OR REPLACE INTO known VALUES (?, ?)",
                ((os.fsencode(n), digest) for n, digest in known),
            )
            stems = (
                PurePath(os.fsdecode(file)).stem
                for (file,) in db.execute("SELECT file FROM found ORDER BY file")
            )
            listed = db.execute("SELECT file, size FROM found ORDER BY file")
            rows = (
                (*row, os.fsencode(name))
                for row, name in zip(listed, numbered(stems, _Taken(db)), strict=True)
            )
            db.executemany("INSERT INTO image (file, size, name) VALUES (?, ?, ?)", rows)
            db.executescript(
                """UPDATE image SET sha256 = known.sha256 FROM known, mask
                       WHERE known.name = image.name AND mask.name = image.name;
                CREATE TABLE work AS SELECT id FROM image WHERE sha256 IS NULL ORDER BY id;
                DROP TABLE found; DROP TABLE known; DROP TABLE taken;"""
            )
            db.commit()
        return cls(folder, recording=True)

    def share(self, number: int, size: int) -> list[Image]:
        """Return share `number`, from 0, of the waiting images, with `size` images in each."""
        rows = self._db.execute(
            """SELECT image.id, file, size, name,
                EXISTS (SELECT 1 FROM mask WHERE mask.name = image.name)
            FROM work JOIN image ON image.id = work.id
            WHERE work.rowid > ? AND work.rowid <= ? ORDER BY work.rowid""",
            (number * size, (number + 1) * size),
        )
        return [
            Image(key, os.fsdecode(file), length, os.fsdecode(name), bool(there))
            for key, file, length, name, there in rows
        ]

    def record(self, records: Iterable[Record]) -> None:
        """Keep what became of images; one that a lost worker reported before counts once."""
        self._db.executemany("INSERT OR REPLACE INTO results.result VALUES (?, ?, ?, ?)", records)

    def count(self, status: str) -> int:
        """Return how many of the images that waited have this status."""
        query = "SELECT count(*) FROM results.result WHERE status = ?"
        number: int = self._db.execute(query, (status,)).fetchone()[0]
        return number

    def lines(self) -> Iterator[bytes]:
        """Yield the manifest, a line of JSON per image in order, without images that still wait."""
        rows = self._db.execute(
            """SELECT file, name, coalesce(result.status, 'done'),
                coalesce(result.sha256, image.sha256), reason
            FROM image LEFT JOIN results.result ON result.id = image.id
            WHERE image.sha256 IS NOT NULL OR result.status IS NOT NULL ORDER BY image.id"""
        )
        for file, name, status, digest, reason in rows:
            about = {"name": os.fsdecode(name), "image": os.fsdecode(file), "status": status}
            yield json.dumps(about | {"sha256": digest, "reason": reason}).encode() + b"\n"


class _Taken:
    """The names in use, for `numbered`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __contains__(self, name: str) -> bool:
        return (
            self._db.execute("SELECT 1 FROM taken WHERE name = ?", (os.fsencode(name),)).fetchone()
            is not None
        )

    def add(self, name: str) -> None:
        self._db.execute("INSERT INTO taken VALUES (?)", (os.fsencode(name),))


def read_known(lines: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (name, sha256) of the masks in a manifest; torn and foreign lines are skipped."""
    for line in lines:
        try:
            row = parse_json(line[:MOST_TEXT].decode())
            if row["status"] == DONE:
                yield str(row["name"]), str(row["sha256"])
        except (ValueError, TypeError, KeyError):
            continue
