"""Give each timed training its own core, and end every process with the program that started it."""

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
    """Return cores that this process may use and no other benchmark has taken; exit if too few."""
    if LIBC is None:
        return list(range(jobs))
    import fcntl

    free: list[int] = []
    for core in sorted(os.sched_getaffinity(0)):
        if len(free) == jobs:
            break
        # Kept open on purpose: closing the file would release the core.
        lock = Path(tempfile.gettempdir()) / f"featherseg-core-{core}.lock"
        file = open(lock, "a")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        _held.append(file)
        free.append(core)
    if len(free) < jobs:
        sys.exit(
            f"--jobs {jobs}: {len(free)} cores are free for this process, "
            "and each training needs one."
        )
    return free


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
    """Run a process on this thread's core, without GPUs unless asked; return exit code, seconds."""
    variables = {
        **environment,
        "OMP_NUM_THREADS": "1",
        **({} if gpus else {"CUDA_VISIBLE_DEVICES": ""}),
    }
    die = None if LIBC is None else _die_with_parent
    process = subprocess.Popen(
        command, env=variables, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_utime + usage.ru_stime


def _die_with_parent() -> None:
    assert LIBC is not None
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
