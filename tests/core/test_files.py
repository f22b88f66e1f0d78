"""A save that fails or is cut off at any file operation leaves the old file or the new one."""

import pytest
from faulty_disk import FAULTS, Crash, FaultyDisk

from featherseg.core.errors import FeathersegError
from featherseg.core.files import append_line, read_lines, write_atomic, write_bytes


def save_in_three_writes(path):
    def write(file):
        for part in (b"new ", b"content, ", b"longer than the old"):
            file.write(part)

    write_atomic(path, write)


@pytest.mark.parametrize("fault", FAULTS, ids=["full disk", "I/O error", "crash"])
@pytest.mark.parametrize("k", range(1, 12))
def test_the_old_or_the_new_content_is_there_whatever_operation_fails(tmp_path, monkeypatch, k, fault):
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
