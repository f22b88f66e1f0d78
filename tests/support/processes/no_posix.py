"""featherseg without POSIX: train, kill, resume, predict, evaluate, export in a folder.

`python no_posix.py FOLDER FORM`. What Windows lacks is hidden from featherseg's own modules, by the
importing module; packages below them may use it (psutil imports `resource` on Linux). Spawned
workers import this file too and are blocked as well.
"""

import builtins
import multiprocessing
import os
import subprocess
import sys
import types
from contextlib import suppress
from math import isnan
from pathlib import Path

from PIL import Image

MODULES = {"fcntl", "resource", "termios", "pwd", "grp"}
OF_OS = {
    *(
        "fork",
        "forkpty",
        "register_at_fork",
        "sysconf",
        "confstr",
        "setsid",
        "getsid",
        "killpg",
        "getpgid",
        "setpgid",
    ),
    *(
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "getgroups",
        "chown",
        "mkfifo",
        "statvfs",
        "uname",
        "getloadavg",
    ),
    *(
        "O_DIRECTORY",
        "O_NOFOLLOW",
        "O_CLOEXEC",
        "sched_getaffinity",
        "setpriority",
        "PRIO_PROCESS",
        "nice",
    ),
    *(
        "pread",
        "pwrite",
        "posix_fadvise",
        "sendfile",
        "memfd_create",
        "pidfd_open",
        "sync",
        "fchmod",
        "fchown",
    ),
}
"""Of `os`, what Windows does not have."""

real_import, real_popen = builtins.__import__, subprocess.Popen


class Windows(types.ModuleType):
    """`os` as featherseg's modules see it."""

    name = "nt"

    def __getattr__(self, attribute):
        if attribute in OF_OS:
            raise AttributeError(f"module 'os' has no attribute {attribute!r}")
        return getattr(os, attribute)

    def open(self, path, flags, *mode, **options):
        """A folder cannot be opened."""
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return os.open(path, flags, *mode, **options)


class Popen(real_popen):
    """A process, without what subprocess does by fork alone."""

    def __init__(self, *arguments, **options):
        if ours(sys._getframe(1)):
            taken = {
                "start_new_session",
                "preexec_fn",
                "process_group",
                "pass_fds",
                "user",
                "group",
                "umask",
            }
            assert not [name for name in taken if options.get(name)]
        super().__init__(*arguments, **options)


def ours(frame):
    """Return whether the nearest module but Python's for files and processes is featherseg's."""
    while frame and frame.f_globals.get("__name__") in (
        "io",
        "os",
        "pathlib",
        "codecs",
        "subprocess",
        __name__,
    ):
        frame = frame.f_back
    return (
        frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "featherseg"
    )


def blocking_import(name, globals=None, locals=None, fromlist=(), level=0):
    """`import` for everyone, of which featherseg's modules get what Windows has."""
    if level == 0 and globals and str(globals.get("__name__")).partition(".")[0] == "featherseg":
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name == "os":
            return Windows("os")
    return real_import(name, globals, locals, fromlist, level)


def refuse_proc(event, arguments):
    """An audit hook: neither /proc nor /sys is there for featherseg's modules."""
    if event not in ("open", "os.listdir", "os.scandir") or not str(arguments[0]).startswith(
        ("/proc", "/sys")
    ):
        return
    if ours(sys._getframe(1)):
        raise FileNotFoundError(2, "No such file or directory", str(arguments[0]))


builtins.__import__ = blocking_import
subprocess.Popen = Popen
sys.addaudithook(refuse_proc)


def work(folder, form=""):
    """Run six steps with a kill after four, then other verbs; stop at the first exit code but 0."""
    multiprocessing.set_start_method("spawn")
    from support.models.small_training import Killed, KilledAt, trained

    from featherseg import cli
    from featherseg.comparison.worker_process import Process, VariantError
    from featherseg.core.machine import machine
    from featherseg.costs.latency import peak_memory, run_queue_ms
    from featherseg.data.shapes import Shapes

    run, image = folder / "run", folder / "image.png"
    Image.fromarray(Shapes("val", 1)[0].image).save(image)
    settings = (
        "train.epochs=3",
        "train.batch_size=4",
        "train.checkpoint_seconds=1e-9",
        "data.workers=1",
    )
    # ncnn lacks layers of the model that is quick to train
    settings += ("model.name=frm-lite0" if form else "model.name=efficientvit-seg-b0",)
    with suppress(Killed):
        trained(run, *settings, reporter=KilledAt(4))
    for verb in (
        f"train --resume --out {run} --set data.workers=0",
        f"predict {run} {image} -o {folder / 'predictions'}",
        f"evaluate {run}",
        *([f"export {run} --format {form}"] if form else []),
        f"report {run}",
    ):
        sys.argv = ["featherseg", *verb.split(" ")]
        try:
            cli.main()
        except SystemExit as finished:
            if finished.code != 0:
                raise

    # what a benchmark asks of the system: a process of its own group, its memory and its waiting
    with (
        Process("nothing", 1, (sys.executable, "-c", "print(1 / 0)")) as process,
        suppress(VariantError),
    ):
        process.receive()
    assert isnan(run_queue_ms())
    assert (peak_memory() or 1) > 0  # of psutil, which tells it on some systems
    assert machine()["memory_gib"] > 0


if __name__ == "__main__":
    work(Path(sys.argv[1]), *sys.argv[2:])
