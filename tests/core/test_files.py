"""A save that fails or is cut off at any file operation leaves the old file or the new one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Timer

import pytest
from filelock import FileLock
from support.processes.faulty_disk import FAULTS, Crash, FaultyDisk

from featherseg.core import files
from featherseg.core.errors import FeathersegError, RunError
from featherseg.core.files import (
    append_line,
    check_writable,
    is_held,
    locked,
    read_lines,
    refuse_links,
    temporary_path,
    write_atomic,
    write_bytes,
    write_json,
    write_text,
)


def save_in_three_writes(path):
    def write(file):
        for part in (b"new ", b"content, ", b"longer than the old"):
            file.write(part)

    write_atomic(path, write)


@pytest.mark.parametrize("fault", FAULTS, ids=["full disk", "I/O error", "crash"])
@pytest.mark.parametrize("k", range(1, 12))
def test_the_old_or_the_new_content_is_there_whatever_operation_fails(
    tmp_path, monkeypatch, k, fault
):
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with monkeypatch.context() as patched:
        disk = FaultyDisk(patched, k, fault)
        try:
            save_in_three_writes(path)
            outcome = "saved"
        except (FeathersegError, Crash) as error:
            outcome = error
    if disk.count < k:
        assert outcome == "saved"
    elif fault is not Crash:
        assert isinstance(outcome, FeathersegError)
        assert str(path) in str(outcome)
    assert path.read_bytes() in (b"old", b"new content, longer than the old")
    save_in_three_writes(path)  # what the failure left behind is in nobody's way
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_torn_last_line_spoils_no_other_record(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, {"step": 1})
    with open(path, "ab") as file:
        file.write(b'{"step": 2, "lo')  # a kill in the middle of a write
    append_line(path, {"step": 2})
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    assert read_lines(tmp_path / "missing.jsonl") == []


def test_what_killed_processes_left_goes_and_what_others_write_stays(tmp_path):
    here = temporary_path(tmp_path / "none" / "file").name.split("-")[1][:4]  # of this machine
    gone, own = (
        f".file.999999999-{here}456789abcdef.tmp",
        f".file.{os.getpid()}-{here}456789abcdef.tmp",
    )
    running = f".file.{os.getppid()}-{here}456789abcdef.tmp"
    # of a machine that shares the folder
    elsewhere = f".file.999999999-{int(here, 16) ^ 1:04x}456789abcdef.tmp"
    others = "note.tmp"
    for name in (gone, own, running, elsewhere, others):
        (tmp_path / name).touch()
    folder = tmp_path / f".web.999999998-{here}456789abcdef.tmp"  # of an exported page
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "note.tmp")
    write_bytes(tmp_path / "file", b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [running, elsewhere, "file", others]
    )


@pytest.mark.parametrize("link", [".file.tmp", "file.tmp", "file"])
def test_a_link_at_the_target_or_a_temporary_name_is_not_written_through(tmp_path, link):
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("precious")
    folder.mkdir()
    (folder / link).symlink_to(victim)
    write_text(folder / "file", "new")
    assert victim.read_text() == "precious"
    assert (folder / "file").read_text() == "new"
    assert not (folder / "file").is_symlink()


def test_appends_and_locks_do_not_follow_links(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "folder/log.jsonl"
    victim.write_text("precious\n")
    link.parent.mkdir()
    link.symlink_to(victim)
    with pytest.raises(FeathersegError, match=r"folder/log\.jsonl is a symbolic link"):
        append_line(link, {"step": 1})
    with (
        pytest.raises(FeathersegError, match=r"folder/log\.jsonl is a symbolic link"),
        locked(link, RunError("taken")),
    ):
        pass
    assert victim.read_text() == "precious\n"


def test_links_anywhere_in_a_folder_are_refused_but_not_the_way_to_it(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "images/inner").mkdir(parents=True)
    link.symlink_to(real)
    refuse_links(link, "images", "missing")
    (real / "images/inner/one").symlink_to("nowhere")
    with pytest.raises(FeathersegError, match="link/images/inner/one is a symbolic link"):
        refuse_links(link, "images")
    refuse_links(link, "images", below=1)
    (real / "images/other").symlink_to("inner")
    with pytest.raises(FeathersegError, match="link/images/other is a symbolic link"):
        refuse_links(link, "images", below=1)


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="this system has no /proc")
@pytest.mark.parametrize(
    "place", ["/proc/report.html", "/proc/new/report.html", "/dev/null", "/dev/new", "file/x"]
)
def test_a_place_that_takes_no_file_is_refused_before_the_work(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        FeathersegError, match=r"nothing can be written|a folder or a device, not a file"
    ):
        check_writable(Path(place))
    with pytest.raises(FeathersegError, match=r"cannot write|a folder or a device, not a file"):
        write_text(Path(place), "x")


def test_a_place_that_takes_files_stays_as_it_is(tmp_path):
    check_writable(tmp_path / "new/folder/file")
    assert list(tmp_path.iterdir()) == []


def test_a_system_that_syncs_no_folders_writes_all_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY")  # Windows
    monkeypatch.setattr(os, "open", None)
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_asking_whether_a_lock_is_held_neither_makes_nor_takes_it(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    assert not is_held(path)
    assert not path.exists()
    with locked(path, FeathersegError("taken")):
        assert is_held(path)
        with pytest.raises(FeathersegError, match="taken"), locked(path, FeathersegError("taken")):
            pass
    path.touch()
    assert not is_held(path)

    # Whoever takes it while it is asked for waits for that instant
    monkeypatch.setattr(files, "LOOKED", 60.0)
    asked = FileLock(path, timeout=0, thread_local=False)
    asked.acquire()
    Timer(0.01, asked.release).start()
    with locked(path, FeathersegError("taken")):
        assert is_held(path)


def test_a_lock_ends_with_its_process_though_its_workers_live_on(tmp_path):
    """A killed training's loader workers live on for seconds; a new one starts at once anyway."""
    hold = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from featherseg.core.errors import RunError\n"
        "from featherseg.core.files import locked\n"
        "with locked(Path(sys.argv[1]), RunError('taken')):\n"
        "    if os.fork() == 0:\n"
        "        # the worker itself: by now it has closed its copy of the lock\n"
        "        print(os.getpid(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    path = tmp_path / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        worker = int(process.stdout.readline())
        try:
            with pytest.raises(RunError, match="taken"), locked(path, RunError("taken")):
                pass
            process.kill()
            process.wait()
            os.kill(worker, 0)  # it lives
            with locked(path, RunError("taken")):
                pass
        finally:
            os.kill(worker, 9)
    assert list(tmp_path.iterdir()) == []


def test_files_of_json_hold_nothing_that_other_readers_refuse(tmp_path):
    write_json(tmp_path / "a.json", {"miou": float("nan")})
    append_line(tmp_path / "a.jsonl", {"miou": float("inf")})
    assert (tmp_path / "a.json").read_text() == '{\n  "miou": null\n}\n'
    assert (tmp_path / "a.jsonl").read_text() == '{"miou": null}\n'


def test_a_name_that_is_no_utf8_is_written_and_read_again(tmp_path):
    content = {"image": "street\udcff.png", "of": "Straße"}
    write_json(tmp_path / "a.json", content)
    append_line(tmp_path / "a.jsonl", content)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content
    assert read_lines(tmp_path / "a.jsonl") == [content]
    assert b"Stra\xc3\x9fe" in (tmp_path / "a.json").read_bytes()


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    synced, sync, replace = set(), os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.add(os.fstat(descriptor).st_ino), sync(descriptor))
    )
    named = []
    monkeypatch.setattr(
        os,
        "replace",
        lambda old, new: (named.append(os.stat(old).st_ino in synced), replace(old, new)),
    )
    write_bytes(tmp_path / "a", b"content")
    write_json(tmp_path / "b", {})
    assert named == [True, True]
    assert tmp_path.stat().st_ino in synced  # and so is the name
