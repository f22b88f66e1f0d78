"""Downloads are whole or absent, and continue after a break; the server is on loopback."""

import hashlib
import http.client
import os
from pathlib import Path

import pytest
from support.servers.file_server import Behaviour, serving

from featherseg.core import download as module
from featherseg.core.download import DownloadError, check_address, download
from featherseg.core.errors import FeathersegError, WeightsError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def fetch(behaviour: Behaviour, path: Path, **options) -> str:
    with serving(behaviour) as address:
        return download(
            f"{address}/a.pth", path, **{"most": 10**6, "loopback": True, "pause": 0.0, **options}
        )


def test_a_whole_file_arrives_and_nothing_stays_beside_it(tmp_path):
    seen = []
    digest = fetch(
        Behaviour(CONTENT),
        tmp_path / "new" / "a.pth",
        sha256=SHA256,
        progress=lambda *s: seen.append(s),
    )
    assert (tmp_path / "new" / "a.pth").read_bytes() == CONTENT
    assert digest == SHA256
    assert os.listdir(tmp_path / "new") == ["a.pth"]
    assert seen[-1] == ("a.pth", len(CONTENT), len(CONTENT))


def test_a_broken_connection_is_made_anew_from_where_it_broke(tmp_path):
    server = Behaviour(CONTENT, cut=[3000, 3000, None])
    fetch(server, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=3000-", "bytes=6000-"]


def test_a_host_that_cannot_be_reached_in_the_midst_is_a_broken_connection(tmp_path, monkeypatch):
    read, asked = http.client.HTTPResponse.read, []

    def breaking(answer: http.client.HTTPResponse, most: int) -> bytes:
        asked.append(most)
        if len(asked) == 2:
            raise OSError(113, "No route to host")
        return read(answer, most)

    monkeypatch.setattr(module, "PIECE", 3000)
    monkeypatch.setattr(http.client.HTTPResponse, "read", breaking)
    server = Behaviour(CONTENT)
    fetch(server, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert [asked.get("Range") for asked in server.asked] == [None, "bytes=3000-"]


def test_what_came_before_a_break_is_kept_for_the_next_command(tmp_path):
    with pytest.raises(
        DownloadError, match=r"3,000 bytes are kept; the same command goes on from there"
    ):
        fetch(Behaviour(CONTENT, cut=[3000, 0]), tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()
    part, note = (tmp_path / f".a.pth.{end}" for end in ("part", "part.json"))
    kept = part.read_bytes(), note.read_text()
    server = Behaviour(CONTENT)
    with serving(server) as address:  # at the same address, as another day
        part.write_bytes(kept[0])
        note.write_text(kept[1].replace(kept[1].split('"')[3], f"{address}/a.pth"))
        download(f"{address}/a.pth", tmp_path / "a.pth", most=10**6, loopback=True)
    assert server.asked[0]["Range"] == "bytes=3000-"
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "change",
    [{"ranges": False}, {"etag": '"2"'}, {"etag": ""}, {"etag": 'W/"1"'}, {"shift": 7}],
    ids=[
        "ignores Range",
        "another file by now",
        "no validator",
        "a weak validator",
        "another part",
    ],
)
def test_a_server_that_does_not_continue_the_file_sends_it_anew(tmp_path, change):
    """Never a mixture of two files."""
    server = Behaviour(CONTENT, cut=[3000, None])
    with serving(server) as address:
        address += "/a.pth"
        note = f'{{"address": "{address}", "size": {len(CONTENT)}, "version": "\\"1\\""}}'
        (tmp_path / ".a.pth.part").write_bytes(
            b"x" * 2000 if "shift" not in change else CONTENT[:2000]
        )
        (tmp_path / ".a.pth.part.json").write_text(note)
        for name, value in change.items():
            setattr(server, name, value)
        if change.get("etag") == "":
            (tmp_path / ".a.pth.part.json").unlink()
        if "shift" in change:
            server.cut = [0, None]
        download(address, tmp_path / "a.pth", most=10**6, loopback=True, pause=0.0)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


def test_a_file_that_had_come_whole_is_not_fetched_again(tmp_path):
    server = Behaviour(CONTENT)
    with serving(server) as address:
        (tmp_path / ".a.pth.part").write_bytes(CONTENT)
        note = f'{{"address": "{address}/a.pth", "size": {len(CONTENT)}, "version": "\\"1\\""}}'
        (tmp_path / ".a.pth.part.json").write_text(note)
        download(f"{address}/a.pth", tmp_path / "a.pth", most=10**6, loopback=True)
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
    assert server.asked == []


def test_a_file_of_another_size_than_its_beginning_told_is_not_mixed(tmp_path):
    longer = CONTENT + b"more"
    with serving(Behaviour(longer)) as address:
        (tmp_path / ".a.pth.part").write_bytes(b"x" * 2000)
        note = f'{{"address": "{address}/a.pth", "size": {len(CONTENT)}, "version": "\\"1\\""}}'
        (tmp_path / ".a.pth.part.json").write_text(note)
        download(f"{address}/a.pth", tmp_path / "a.pth", most=10**6, loopback=True, pause=0.0)
    assert (tmp_path / "a.pth").read_bytes() == longer


def test_a_server_that_promises_more_than_it_has_ends_in_a_sentence(tmp_path):
    server = Behaviour(CONTENT, size=len(CONTENT) + 10)
    with pytest.raises(DownloadError, match=r"ended after 10,240 of 10,250 bytes"):
        fetch(server, tmp_path / "a.pth")
    assert len(server.asked) < 10
    assert not (tmp_path / "a.pth").exists()


def test_a_server_that_breaks_and_lies_in_turn_is_not_asked_for_ever(tmp_path):
    server = Behaviour(CONTENT, cut=[100], shift=3)
    with pytest.raises(DownloadError, match="could not be fetched"):
        fetch(server, tmp_path / "a.pth")
    assert len(server.asked) <= 2 * module.TRIES


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"size": 10**6 + 1}, r"1,000,001 bytes, and at most 1,000,000 are taken"),
        ({"size": -1}, "does not say how large the file is"),
        ({"status": 404}, "the server answered 404"),
        ({"status": 503}, "the server answered 503"),
        ({"location": "http://example.com/a.pth"}, "only addresses that begin with https"),
        ({"location": "ftp://127.0.0.1/a.pth"}, "only addresses that begin with https"),
        ({"location": "file:///etc/hostname"}, "is not allowed"),
    ],
    ids=str,
)
def test_what_a_server_may_not_do_leaves_no_file(tmp_path, change, told):
    with pytest.raises(DownloadError, match=told):
        fetch(Behaviour(CONTENT, **change), tmp_path / "a.pth")
    assert not list(tmp_path.glob("*.pth"))


def test_a_redirect_to_another_port_of_this_machine_is_followed(tmp_path):
    with serving(Behaviour(CONTENT)) as there:
        fetch(Behaviour(b"", location=f"{there}/b.pth"), tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "address", ["http://example.com/a", "http://127.0.0.1/a", "https:///a", "file:///a", "a"]
)
def test_only_https_is_fetched(address):
    with pytest.raises(DownloadError, match="https"):
        check_address(address)
    check_address("https://another.example/a")
    with pytest.raises(DownloadError):
        check_address("http://127.0.0.1.example.com/a", loopback=True)


def test_a_wrong_checksum_leaves_no_file(tmp_path):
    with pytest.raises(
        DownloadError, match=f"its sha256 is {SHA256}, expected one that begins with 0676ba61"
    ):
        fetch(Behaviour(CONTENT), tmp_path / "a.pth", sha256="0676ba61")
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".pth", ".part"))]


def test_a_file_that_its_check_refuses_does_not_take_its_name(tmp_path):
    def refuse(part):
        assert part.read_bytes() == CONTENT
        raise WeightsError("not weights")

    with pytest.raises(WeightsError, match="not weights"):
        fetch(Behaviour(CONTENT), tmp_path / "a.pth", check=refuse)
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".pth", ".part"))]


def test_nothing_is_written_through_a_link(tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / ".a.pth.part").symlink_to(other)
    with pytest.raises(FeathersegError, match="symbolic link"):
        fetch(Behaviour(CONTENT), tmp_path / "a.pth")
    assert other.read_bytes() == b"mine"


def test_a_disk_without_room_is_said_before_a_byte_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 5}))
    with pytest.raises(DownloadError, match=r"no room for a\.pth: 10,240 bytes, 5 are free"):
        fetch(Behaviour(CONTENT), tmp_path / "a.pth")


def test_a_file_where_the_folder_should_be_is_a_sentence(tmp_path):
    (tmp_path / "home").write_text("")
    with pytest.raises(
        FeathersegError, match=r"nothing can be written to .*home/weights: .*home is not a folder"
    ):
        fetch(Behaviour(CONTENT), tmp_path / "home" / "weights" / "a.pth")


def test_no_connection_is_a_sentence_with_the_way_by_hand(tmp_path):
    with serving(Behaviour(CONTENT)) as address:
        pass
    with pytest.raises(DownloadError, match=f"bring the file here as {tmp_path / 'a.pth'}"):
        download(f"{address}/a.pth", tmp_path / "a.pth", most=10**6, loopback=True, pause=0.0)
