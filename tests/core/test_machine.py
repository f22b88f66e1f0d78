"""The machine record: what times depend on is in it, what concerns nobody is not."""

import getpass
import json
import socket
from importlib.metadata import version

import pytest
import torch

from featherseg.core.errors import DeviceError
from featherseg.core.machine import load_average, machine, machine_text, pick_device, usable_cores


def test_the_record_is_plain_values_with_processor_versions_and_load():
    found = json.loads(json.dumps(machine()))
    assert found["processor"]
    assert found["versions"]["torch"] == version("torch")
    assert found["usable_cores"] == usable_cores() >= 1
    assert found["load_average"] is None or found["load_average"] >= 0
    assert (load_average() is None) == (found["load_average"] is None)
    assert found["processor"] in machine_text(found)


def test_variables_that_change_times_are_in_it_and_no_others(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("FEATHERSEG_HOME", "/home/someone")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    found = machine()
    assert found["variables"]["OMP_WAIT_POLICY"] == "passive"
    assert "someone" not in json.dumps(found)
    assert "secret" not in json.dumps(found)


def test_neither_host_nor_user_is_named():
    words = json.dumps(machine()).split('"')
    assert socket.gethostname() not in words
    assert getpass.getuser() not in words


def test_auto_is_a_gpu_where_there_is_one():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:63", "gpu", "mps" if not torch.backends.mps.is_available() else "cuda:63"])
def test_a_device_that_is_not_there_gets_a_sentence_with_a_way_out(name):
    with pytest.raises(DeviceError, match=name) as error:
        pick_device(name)
    assert "cpu" in str(error.value)
