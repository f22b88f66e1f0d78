"""Start the process of worker.py, send it commands, end it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from featherseg.core.errors import RunError
from featherseg.core.types import Progress
from featherseg.costs.latency import exit_reason

COMMAND = (sys.executable, "-P", "-m", "featherseg.comparison.worker")
"""-P: a file random.py in the working directory is not imported."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

END_SECONDS = 5.0
"""Time that a process has to end by itself."""


class VariantError(RunError):
    """A variant cannot be opened or run, or its process died; the other variants go on."""


class Process:
    """A worker's process; leaving the `with` ends it.

    It is not in the terminal's process group, so Ctrl-C reaches only the parent, which ends it.
    """

    def __init__(self, name: str, threads: int, command: Sequence[str] = COMMAND) -> None:
        self.name = name
        self._messages = tempfile.TemporaryFile(  # noqa: SIM115 - `close` closes it
            "w+", encoding="utf-8", errors="replace"
        )
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            encoding="utf-8",
            env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))},
            start_new_session=hasattr(os, "setsid"),
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, do: str, **values: Any) -> None:
        """Send a command; do not wait for its answer."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            raise VariantError(self._last_line()) from None

    def receive(self, progress: Progress | None = None) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            VariantError: with the worker's message, or the last line of a process that died.
        """
        assert self._child.stdout is not None
        for line in self._child.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise VariantError(answer["error"])
            if "done" not in answer:
                return answer
            if progress:
                progress(answer["doing"], answer["done"], answer["of"])
        raise VariantError(self._last_line())

    def request(self, do: str, progress: Progress | None = None, **values: Any) -> dict[str, Any]:
        """Send a command and return its answer; raises as `receive`."""
        self.send(do, **values)
        return self.receive(progress)

    def close(self) -> None:
        """End the process: its input ends; after END_SECONDS it is killed."""
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
        try:
            self._child.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._messages.close()

    def _last_line(self) -> str:
        """Return why the process has ended."""
        status = self._child.wait()
        self._messages.seek(0)
        return exit_reason(status, self._messages.read())
