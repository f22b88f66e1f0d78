"""Which images of a folder are still to be predicted, and what became of each: in files, however many there are.

Ten million names would take gigabytes as Python objects. They go through two SQLite files of one command, which nobody
needs after it: what lies in the output folder is the truth, and the next command looks there again.
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
"""What became of an image: its mask is there; it could not be read; nothing can be written, and all must stop."""

MASK, PLACED_MASK, MANIFEST = "_mask.png", "_mask.tif", "predictions.jsonl"
"""Ends of the files of a mask, and of one of a GeoTIFF, behind the name of the image; the record of all."""


PANOPTIC = "panoptic"
"""The folder of the maps of a panoptic model's objects."""


class Listed(NamedTuple):
    """A file that was found; size in bytes, 0 where it was not told."""

    file: str
    size: int


class Image(NamedTuple):
    """An image to be predicted: its `file` in the folder; its mask, NAME_mask.png or .tif, may be there already."""

    id: int
    file: str
    size: int
    name: str
    there: bool


class Record(NamedTuple):
    """What became of the image `id`: its mask's `sha256`, or the `reason` why there is none."""

    id: int
    status: str
    sha256: str | None = None
    reason: str | None = None


class Manifest:
    """The images of a folder, by name, in the files plan.db and results.db of a folder of this command.

    `Manifest.plan` makes it; then it can be opened where that folder is seen, to be read: `recording` is for the one
    process that keeps the results.
    """

    def __init__(self, folder: Path, *, recording: bool = False) -> None:
        self._db = sqlite3.connect(folder / "plan.db", check_same_thread=False)
        if recording:
            self._db.execute("ATTACH ? AS results", (str(folder / "results.db"),))
            self._db.execute("PRAGMA results.journal_mode = OFF")
            self._db.execute("PRAGMA results.synchronous = OFF")
            self._db.execute(
                "CREATE TABLE results.result (id INTEGER PRIMARY KEY, status TEXT, sha256 TEXT, reason TEXT)"
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
        """Of the images in `files`, in any order, those wait whose mask is not there, or whose sha256 is not known.

        masks: names (NAME of NAME_mask.png) that are there; known: (name, sha256) of an earlier manifest. Each is gone
        through once. An image gets the name that `unique_names` gives it among all, as `predict` on one machine does.
        """
        with closing(sqlite3.connect(folder / "plan.db")) as db:
            db.executescript(
                """PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;
                CREATE TABLE found (file BLOB, size INTEGER);
                CREATE TABLE mask (name BLOB PRIMARY KEY) WITHOUT ROWID;
                CREATE TABLE known (name BLOB PRIMARY KEY, sha256 TEXT) WITHOUT ROWID;
                CREATE TABLE taken (name BLOB PRIMARY KEY) WITHOUT ROWID;
                CREATE TABLE image (id INTEGER PRIMARY KEY, file BLOB, size INTEGER, name BLOB, sha256 TEXT);"""
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
            found = db.execute("SELECT file, size FROM found ORDER BY file")
            rows = (
                (*row, os.fsencode(name))
                for row, name in zip(found, numbered(stems, _Taken(db)), strict=True)
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
        """Share `number`, from 0, of those that wait, `size` in each."""
        rows = self._db.execute(
            """SELECT image.id, file, size, name, EXISTS (SELECT 1 FROM mask WHERE mask.name = image.name)
            FROM work JOIN image ON image.id = work.id WHERE work.rowid > ? AND work.rowid <= ? ORDER BY work.rowid""",
            (number * size, (number + 1) * size),
        )
        return [
            Image(key, os.fsdecode(file), length, os.fsdecode(name), bool(there))
            for key, file, length, name, there in rows
        ]

    def record(self, records: Iterable[Record]) -> None:
        """Keep what became of images. One that is told twice counts once: a worker that was lost told it before."""
        self._db.executemany("INSERT OR REPLACE INTO results.result VALUES (?, ?, ?, ?)", records)

    def count(self, status: str) -> int:
        """How many of those that waited have it."""
        found: int = self._db.execute(
            "SELECT count(*) FROM results.result WHERE status = ?", (status,)
        ).fetchone()[0]
        return found

    def lines(self) -> Iterator[bytes]:
        """The manifest, a line of JSON an image in their order; images that nobody came to yet are not in it."""
        rows = self._db.execute(
            """SELECT file, name, coalesce(result.status, 'done'), coalesce(result.sha256, image.sha256), reason
            FROM image LEFT JOIN results.result ON result.id = image.id
            WHERE image.sha256 IS NOT NULL OR result.status IS NOT NULL ORDER BY image.id"""
        )
        for file, name, status, digest, reason in rows:
            about = {"name": os.fsdecode(name), "image": os.fsdecode(file), "status": status}
            yield json.dumps(about | {"sha256": digest, "reason": reason}).encode() + b"\n"


class _Taken:
    """The names that are given already, as `numbered` asks."""

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
    """(name, sha256) of the masks in a manifest; lines that are torn or no record of ours are passed over."""
    for line in lines:
        try:
            found = parse_json(line[:MOST_TEXT].decode())
            if found["status"] == DONE:
                yield str(found["name"]), str(found["sha256"])
        except (ValueError, TypeError, KeyError):
            continue
