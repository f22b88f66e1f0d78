"""Run verbs one after another, each command in a process with its own HOME and TMPDIR: run_verbs.

As a script, python verbs_alone.py FOLDER, it is the parent of these forks: it has imported what is
slow to import, and no package that reports its usage. FOLDER/cases.json has {verb: [words, ...]};
FOLDER/report.json gets [verb, words, exit code, output] of each. The verbs work in FOLDER/work.
"""

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

FONTS = "/var/cache/fontconfig/"
"""Refreshed by matplotlib for root: SECURITY.md."""

SECONDS = 1800
"""After which a verb is ended."""

Cases = Mapping[str, Sequence[str]]

CREATING = (
    "?open,openat,?creat,?mkdir,mkdirat,?rename,?renameat,renameat2,?link,linkat,?symlink,symlinkat"
)
STRACE = [
    "strace",
    "-f",
    "-qq",
    "-y",
    "--seccomp-bpf",
    "-e",
    f"trace=?connect,sendto,sendmsg,sendmmsg,{CREATING}",
]
GUARD = """
import os, sys
def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg") and isinstance(
        arguments[1], tuple
    ):
        host = arguments[1][0]
    else:
        return
    if host is not None and not str(host).startswith(("127.", "localhost", "::1")):
        with open(os.environ["GUARD"], "a") as file:
            print(event, host, file=file)
sys.addaudithook(note)
"""
"""A sitecustomize, which each Python runs where there is no strace. It does not see native code."""


@dataclass(frozen=True)
class Report:
    """failed: [verb, words, exit code, output]; files: left outside; network: external calls."""

    failed: list[list[object]]
    files: list[str]
    network: list[str]


def run_verbs(folder: Path, cases: Cases, allowed: Sequence[str] = (), **variables: str) -> Report:
    """Run all command lines of `cases` in `folder`/work, without a network if this user may.

    allowed: patterns of paths below home/ or tmp/ that may be left there. variables: environment
    variables; no others that a package could read are set.
    """
    (folder / "cases.json").write_text(json.dumps(cases))
    given = set(os.listdir(folder / "work"))
    paths = [str(folder / "guard"), str(Path(__file__).parent), *filter(None, sys.path)]
    environment = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "GUARD": str(folder / "calls"),
        **variables,
    }
    environment |= _own_folders(folder / "homes" / "start")
    trace = folder / "trace"
    command = [*without_network(), sys.executable, __file__, str(folder)]
    if _works(STRACE):
        command = [*STRACE, "-o", str(trace), *command]
    else:
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    done = subprocess.run(
        command, env=environment, cwd=folder / "work", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    calls = list(_whole_lines(trace)) if trace.is_file() else []
    noted = (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []
    results = json.loads((folder / "report.json").read_text())
    files = [
        *_left(folder / "homes", allowed),
        *(_unasked(folder / "work", cases) - given),
        *_created_outside(calls, folder),
    ]
    return Report(
        [result for result in results if result[2] != 0], files, [*filter(_leaves, calls), *noted]
    )


def without_network() -> list[str]:
    """Return a command prefix that disables the network; [] if this user may not do that."""
    return next(filter(_works, (["unshare", "-n"], ["unshare", "-rn"])), [])


def _works(command: list[str]) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0


def _own_folders(place: Path) -> dict[str, str]:
    """HOME and TMPDIR below `place`, which exist then."""
    folders = {"HOME": place / "home", "TMPDIR": place / "tmp"}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return {name: str(path) for name, path in folders.items()}


def _whole_lines(trace: Path) -> Iterator[str]:
    """The calls that strace wrote, with those that another process interrupted put together."""
    begun: dict[str, str] = {}
    for line in trace.read_text(errors="replace").splitlines():
        process, call = line.split(maxsplit=1)
        if call.endswith("<unfinished ...>"):
            begun[process] = call.removesuffix("<unfinished ...>")
            continue
        yield re.sub(
            r"^<\.\.\. \w+ resumed>", lambda _, process=process: begun.pop(process, ""), call
        )


def _leaves(call: str) -> bool:
    """Whether a call looks up a name (by port 53 wherever), or is addressed to another computer."""
    address = re.search(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', call)
    here = address is None or (address[1] or address[2]).startswith(
        ("127.", "0.0.0.0", "::1", "::ffff:127.")
    )
    return not here or "htons(53)" in call


def _left(homes: Path, allowed: Sequence[str]) -> list[str]:
    """Files and empty folders below every verb's home/ and tmp/, but those of the patterns."""
    found = [
        path
        for path in sorted(homes.glob("*/*/**/*"))
        if not path.is_dir() or not any(path.iterdir())
    ]
    names = [str(path.relative_to(homes)) for path in found]
    return [
        name
        for name in names
        if not any(fnmatch(name.partition("/")[2], pattern) for pattern in allowed)
    ]


def _unasked(work: Path, cases: Cases) -> set[str]:
    """Return entries of the working folder that no command names, not even with another suffix."""
    words = {word for lines in cases.values() for line in lines for word in line.split()}
    named = {Path(word).parts[0].partition(".")[0] for word in words if Path(word).parts}
    return {name for name in os.listdir(work) if name.partition(".")[0] not in named}


def _created_outside(calls: Sequence[str], folder: Path) -> Iterator[str]:
    """What was made elsewhere on the disk and is still there."""
    for call in calls:
        if call.startswith(("open", "creat")):
            found = (
                re.search(r"= \d+<(/[^>]*)>", call)
                if "O_CREAT" in call or call.startswith("creat")
                else None
            )
        else:
            found = (
                re.search(r'.*"(/[^"]*)".*= 0', call)
                if re.match("mkdir|rename|link|symlink", call)
                else None
            )
        if (
            found
            and not found[1].startswith((f"{folder}/", "/dev/", "/proc/", FONTS))
            and os.path.exists(found[1])
        ):
            yield found[1]


def main() -> None:
    """Run the cases of the folder that the command line names."""
    from support.models.small_training import TINY
    from support.servers.hub_server import TOKEN, Hub, running_hub

    from featherseg.models import MODELS

    folder = Path(sys.argv[1])
    for name, entry in TINY.items():
        MODELS[name] = entry
    bring_loopback_up()
    with running_hub(Hub()) as address:
        os.environ |= {"HF_ENDPOINT": address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        report = []
        for verb, lines in json.loads((folder / "cases.json").read_text()).items():
            for number, words in enumerate(lines):
                place = folder / "homes" / verb
                _own_folders(place)
                log = folder / f"{verb}-{number}.txt"
                log.touch()
                child = begin([verb, *words.split()], place, log)
                if verb == "serve":
                    try:
                        ask(log)
                    finally:
                        os.kill(child, signal.SIGTERM)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                report.append([verb, words, code, log.read_text(errors="replace")])
    (folder / "report.json").write_text(json.dumps(report))


def bring_loopback_up() -> None:
    """Let 127.0.0.1 be reached in a new network namespace; elsewhere it is."""
    import fcntl

    up, get_flags, set_flags = 1, 0x8913, 0x8914
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = struct.unpack(
            "16sh14x", fcntl.ioctl(any_socket, get_flags, struct.pack("16sh14x", b"lo", 0))
        )[1]
        if not flags & up:
            fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", flags | up))


def begin(words: list[str], place: Path, log: Path) -> int:
    """Fork a process that runs one command line and prints into `log`; -> its id."""
    from featherseg.cli import main

    if child := os.fork():
        return child
    signal.alarm(SECONDS)
    code = 70
    try:
        os.environ |= _own_folders(place)
        tempfile.tempdir = None
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["featherseg", *words]
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ask(log: Path) -> None:
    """Send an image to the service when it has printed its address, and read the answer."""
    while not (address := re.search(r"^http://.*/(?=\n)", log.read_text(), re.MULTILINE)):
        time.sleep(0.05)
    image = Path("yard/images/000x.png").read_bytes()
    body = (
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        + image
        + b"\r\n--b--\r\n"
    )
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    urllib.request.urlopen(urllib.request.Request(f"{address[0]}v1/segment", body, head)).read()


if __name__ == "__main__":
    main()
