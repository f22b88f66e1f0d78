"""What a candidate takes: the device in words, its process, what of it is believed."""

from types import SimpleNamespace

import torch

from featherseg.fitting.latency import here


def test_the_device_is_told_with_its_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = SimpleNamespace(name="NVIDIA H200", total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: gpu)
    device, threads = here()
    assert device.endswith("NVIDIA H200, NVIDIA H200")
    assert threads == torch.get_num_threads()
