"""The machine record: what times depend on is in it, what concerns nobody is not."""

import getpass
import json
import socket
from importlib.metadata import version

import pytest
import torch

from featherseg.core.errors import DeviceError
from featherseg.core.machine import (
    cgroup_cores,
    default_threads,
    load_average,
    machine,
    machine_text,
    pick_device,
    torch_threads,
    usable_cores,
)


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


@pytest.mark.parametrize(
    "name", ["cuda:63", "gpu", "mps" if not torch.backends.mps.is_available() else "cuda:63"]
)
def test_a_device_that_is_not_there_gets_a_sentence_with_a_way_out(name):
    with pytest.raises(DeviceError, match=name) as error:
        pick_device(name)
    assert "cpu" in str(error.value)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, None),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        (
            {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "300000 100000"},
            3,
        ),  # of the group above
        (
            {"proc/self/cgroup": "0::/../x", "sys/fs/cgroup/cpu.max": "5000 100000"},
            1,
        ),  # as a container sees it
        (
            {
                "proc/self/cgroup": "5:memory:/d\n4:cpu,cpuacct:/d\n0::/",
                "sys/fs/cgroup/cpu/d/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu/d/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/d",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        ({"proc/self/cgroup": "no colons", "sys/fs/cgroup/cpu.max": "100000 100000"}, None),
    ],
)
def test_the_quota_of_a_container_bounds_the_cores(tmp_path, files, cores):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert cgroup_cores(tmp_path) == cores


def test_torch_gets_as_many_threads_as_asked_and_never_more_than_cores_unasked(monkeypatch):
    before = torch.get_num_threads()
    with torch_threads(3):
        assert torch.get_num_threads() == 3
        monkeypatch.setattr("featherseg.core.machine.usable_cores", lambda: 2)
        assert default_threads() == 2
        with torch_threads():
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
