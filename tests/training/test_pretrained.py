"""ImageNet weights listed and fetched; the server is on the loopback interface."""

import hashlib
import io
import json
from dataclasses import replace

import pytest
import torch
from support.servers.file_server import Behaviour, serving
from torch import nn

from featherseg.backbones import weights
from featherseg.backbones.weights import PRETRAINED, DownloadedFile, find_pretrained
from featherseg.core.errors import WeightsError
from featherseg.training import pretrained
from featherseg.training.pretrained import fetch_pretrained, pretrained_rows


class Small(nn.Module):
    """A backbone of one tensor."""

    absent = ()

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3))

    def rename_official(self, state):
        return {"weight": state.get("official.weight", torch.zeros(1))}, []


def content_of(state) -> bytes:
    file = io.BytesIO()
    torch.save({"state_dict": state}, file)
    return file.getvalue()


pytestmark = pytest.mark.usefixtures("safe_torch")

GOOD = content_of({"official.weight": torch.full((2, 3), 7.0)})


@pytest.fixture
def fetch(monkeypatch, tmp_path):
    """Fetch van-b1's weights, which a local server has, into an empty home."""
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(pretrained, "_build", lambda name: Small())

    def fetch(content, sha256=""):
        with serving(Behaviour(content)) as address:
            source = replace(
                PRETRAINED["van-b1"], address=f"{address}/van_small_811.pth.tar", sha256=sha256
            )
            monkeypatch.setitem(weights.PRETRAINED, "van-b1", source)
            return fetch_pretrained("van-b1", loopback=True)

    return fetch


def test_fetched_weights_are_found_and_their_checksum_is_recorded(fetch, tmp_path):
    path, digest = fetch(GOOD)
    assert path == tmp_path / "weights" / "van_small_811.pth.tar" == find_pretrained("van-b1")
    record = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert record["sha256"] == digest
    assert record["licence"] == PRETRAINED["van-b1"].licence
    path.write_bytes(GOOD + b"x")
    with pytest.raises(
        WeightsError, match=f"is not the fetched file: .* expected one that begins with {digest}"
    ):
        find_pretrained("van-b1")


def test_weights_that_this_torch_cannot_read_safely_are_not_fetched(fetch, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(WeightsError, match=r"van_small_811\.pth\.tar safely \(CVE-2026-24747\)"):
        fetch(GOOD)
    assert not list(tmp_path.iterdir())
    fetch(GOOD, hashlib.sha256(GOOD).hexdigest())


def test_weights_that_are_here_are_not_fetched_again(fetch):
    path, digest = fetch(GOOD)
    assert fetch(b"another") == (path, digest)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>Sign in</html>",
        content_of({"official.weight": torch.zeros(5)}),
        content_of({"other": torch.zeros(2)}),
    ],
    ids=["nothing", "a page", "another shape", "other keys"],
)
def test_a_file_that_is_no_such_weights_is_refused_and_gone(fetch, tmp_path, content):
    with pytest.raises(WeightsError, match="does not fit van-b1 and was removed"):
        fetch(content)
    assert not [
        path for path in (tmp_path / "weights").iterdir() if path.suffix in (".tar", ".part")
    ]


def test_weights_that_come_another_way_say_which(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"Download mscan_t\.pth from https://cloud"):
        fetch_pretrained("mscan-t")
    with pytest.raises(
        WeightsError, match="there are no pretrained weights for the backbone 'van-b9'"
    ):
        fetch_pretrained("van-b9")


def test_every_file_that_is_fetched_has_an_address_of_its_own():
    sources = [source for source in PRETRAINED.values() if isinstance(source, DownloadedFile)]
    fetched = {source.address for source in sources if source.fetched}
    assert len(fetched) == 16
    assert {source.file[:5].lower() for source in sources if not source.fetched} == {
        *("eform", "mscan", "ddrne", "pidne", "rtfor", "sct-s", "sct-b", "seafo")
    }


def test_a_row_says_terms_address_size_and_whether_it_is_here(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    names = ("van-b1", "mscan-t", "resnet-18")
    monkeypatch.setattr(pretrained, "PRETRAINED", {name: PRETRAINED[name] for name in names})
    file = tmp_path / "weights" / "mscan_t.pth"
    file.parent.mkdir()
    file.write_bytes(b"12345")
    van, mscan, resnet = pretrained_rows()
    # Published: VAN-B1 has 13.9 M parameters, 0.5 M in its classifier (arXiv:2202.09741, Table 3)
    assert van["bytes"] == pytest.approx(4 * 13.4e6, rel=0.01)
    assert (van["here"], mscan["here"], mscan["bytes"]) == (None, str(file), 5)
    assert resnet["address"].endswith("/resnet18-f37072fd.pth")
    assert resnet["licence"].startswith("BSD-3-Clause")


def test_a_backbone_that_only_models_have_is_built_too():
    assert pretrained._build("mscan-t").stage_channels
