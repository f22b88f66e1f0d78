"""A bucket that is a dict {key: content}; it counts requests, and some can fail."""

import hashlib
import io
from collections import Counter
from pathlib import Path

from featherseg.core import storage
from featherseg.data.cache import mirror


class FakeBucket:
    """What storage.py asks of fsspec's file systems; `objects` is "BUCKET/KEY" -> bytes."""

    def __init__(self):
        self.objects = {}
        self.asked = Counter()
        self.faults = {}  # address -> error raised when it is read or written

    def invalidate_cache(self):
        pass

    def find(self, place, detail):
        self.asked["find"] += 1
        name = place.split("://")[1]
        return self._facts(key for key in self.objects if key == name or key.startswith(f"{name}/"))

    def ls(self, place, detail):
        self.asked["ls"] += 1
        name = place.split("://")[1]
        found = self._facts(
            key for key in self.objects if key == name or key.rpartition("/")[0] == name
        )
        if not found:
            raise FileNotFoundError(name)
        return list(found.values())

    def cat_file(self, place):
        self.asked["read"] += 1
        self._fail(place)
        return self.objects[place.split("://")[1]]

    def open(self, place, mode):
        if place.split("://")[1] not in self.objects:
            raise FileNotFoundError(place)
        return io.BytesIO(self.cat_file(place))

    def put_file(self, file, place):
        self.pipe_file(place, Path(file).read_bytes())

    def pipe_file(self, place, content):
        self.asked["write"] += 1
        self._fail(place)
        self.objects[place.split("://")[1]] = content

    def _fail(self, place):
        if place in self.faults:
            raise self.faults[place]

    def _facts(self, keys):
        return {key: self._facts_of(key, self.objects[key]) for key in keys}

    def _facts_of(self, key, content):
        return {
            "name": key,
            "type": "file",
            "size": len(content),
            "ETag": f'"{hashlib.md5(content).hexdigest()}"',
        }


def install(monkeypatch, home):
    """-> buckets that lie in memory; what is copied from them goes to `home`."""
    bucket = FakeBucket()
    monkeypatch.setattr(storage, "_storage", lambda place: bucket)
    monkeypatch.setenv("FEATHERSEG_HOME", str(home))
    mirror.local_dataset.cache_clear()
    mirror.local_folder.cache_clear()
    return bucket
