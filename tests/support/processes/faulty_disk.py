"""A disk that fails, or a process that dies, at the k-th file operation of a save."""

import builtins
import os

from featherseg.core import files


class Crash(BaseException):
    """The process dies here: nothing after it runs, not even a clean-up."""


class FaultyDisk:
    """Count the file operations of `core.files` and fail the k-th, or crash after it."""

    def __init__(self, monkeypatch, k, fault):
        self.count, self.k, self.fault = 0, k, fault
        for module, name in ((os, "fsync"), (os, "replace"), (os, "open")):
            monkeypatch.setattr(module, name, self._wrapped(getattr(module, name)))
        monkeypatch.setattr(files, "open", self._open, raising=False)

    def _wrapped(self, function):
        def call(*args, **kwargs):
            self._before()
            result = function(*args, **kwargs)
            self._after()
            return result

        return call

    def _before(self):
        self.count += 1
        if self.count == self.k and isinstance(self.fault, OSError):
            raise self.fault

    def _after(self):
        if self.count == self.k and self.fault is Crash:
            raise Crash

    def _open(self, *args, **kwargs):
        self._before()
        file, disk = builtins.open(*args, **kwargs), self  # noqa: SIM115
        try:
            self._after()
        except Crash:
            file.close()  # as the kernel does for a dead process
            raise

        class Counted:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def __getattr__(self, name):
                value = getattr(file, name)
                return disk._wrapped(value) if name in ("write", "flush") else value

        return Counted()


FAULTS = [OSError(28, "No space left on device"), OSError(5, "Input/output error"), Crash]
