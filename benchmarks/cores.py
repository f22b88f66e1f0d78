"""One core for each training that is timed: no two of these programs share one, and none outlives its program."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

_held: list[IO[Any]] = []
"""Locks of the cores that this program took; they go with it."""

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


def take_cores(jobs: int) -> list[int]:
    """So many cores of those that this process may use and no other program of benchmarks/ has taken; else it ends."""
    if LIBC is None:
        return list(range(jobs))
    import fcntl

    found: list[int] = []
    for core in sorted(os.sched_getaffinity(0)):
        if len(found) == jobs:
            break
        file = open(Path(tempfile.gettempdir()) / f"featherseg-core-{core}.lock", "a")  # noqa: SIM115 (held on purpose)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _held.append(file)
        found.append(core)
    if len(found) < jobs:
        sys.exit(
            f"--jobs {jobs}: {len(found)} cores are free for this process, and each training gets one."
        )
    return found


def pin(core: int) -> None:
    """This thread, and the processes that it starts, stay on one core."""
    if LIBC is not None:
        os.sched_setaffinity(0, {core})


def run(
    command: Sequence[str | Path],
    environment: Mapping[str, str],
    log: IO[Any],
    *,
    gpus: bool = False,
) -> tuple[int, float]:
    """A process with one thread, without GPUs unless asked, on this thread's core; -> exit code, seconds of it."""
    own = {**environment, "OMP_NUM_THREADS": "1", **({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})}
    die = None if LIBC is None else _die_with_parent
    process = subprocess.Popen(
        command, env=own, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def _die_with_parent() -> None:
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
