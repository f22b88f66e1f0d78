"""Large images wait for small ones, run singly, stop without a client, and match `predict`."""

import gc
import platform
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Future
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import torch
from support.models.color_model import CLASSES, Slow, answer_of, image, large_image, mask_in, until
from support.models.file_metadata import ChannelsFile
from support.servers.running_service import connected, form, posted, running

from featherseg import models
from featherseg.core.errors import ConfigError
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.tiling import process_bytes
from featherseg.serving import lanes
from featherseg.serving.encode import mask_png
from featherseg.serving.lanes import LargeLane
from featherseg.serving.models import Served
from featherseg.serving.service import TURN_PIXELS


@pytest.fixture
def slow():
    """A runtime that works on large images until its gate is opened."""
    runtime = Slow()
    yield runtime
    runtime.gate.set()


@pytest.mark.seconds
def test_small_images_are_answered_while_a_large_one_is_under_way(start, slow):
    client = start(Served("color", Predictor(slow)))
    large = client.begin("POST", "/v1/segment", files=form(large_image()))
    until(lambda: slow.running)
    for seed in range(3):
        small = client.begin("POST", "/v1/segment", files=form(image(seed))).result(20)
        np.testing.assert_array_equal(mask_in(small.content), answer_of(image(seed)))
    assert slow.running == 1
    slow.gate.set()
    np.testing.assert_array_equal(mask_in(large.result(60).content), answer_of(large_image()))


@pytest.mark.seconds
def test_the_work_on_a_large_image_that_was_answered_504_ends(start, slow):
    client = start(Served("color", Predictor(slow)), limits={"seconds": 0.5})
    for _ in range(2):
        assert client.post("/v1/segment", files=form(large_image())).status_code == 504
        until(lambda: not slow.running)
        assert client.app.state.service.slots.in_use == client.app.state.service._large.in_use == 0


@pytest.mark.seconds
def test_the_work_on_a_large_image_whose_sender_left_ends(slow):
    with running(Served("color", Predictor(slow))) as (address, server):
        with connected(address, posted(address, large_image())):
            until(lambda: slow.running)
        until(lambda: not slow.running and server.service.slots.in_use == 0)
        slow.gate.set()
        answer = httpx.post(f"{address}/v1/segment", files=form(large_image()), timeout=60)
        np.testing.assert_array_equal(mask_in(answer.content), answer_of(large_image()))


class Held:
    """What a job holds."""


@pytest.mark.seconds
def test_a_job_that_is_given_up_while_it_waits_never_runs_and_holds_nothing():
    lane, gate, ran = LargeLane(), threading.Event(), []
    first = lane.submit(lambda stop: gate.wait(20), 0)
    held = Held()
    known = weakref.ref(held)
    given_up = lane.submit(lambda stop, held=held: ran.append(held), 0)
    last = lane.submit(lambda stop: ran.append("last"), 0)
    del held
    assert given_up.cancel()
    gc.collect()
    assert known() is None
    gate.set()
    assert first.result(20)
    last.result(20)
    assert ran == ["last"]
    lane.close(20)
    assert not lane.alive


def test_smaller_ones_go_first_but_the_largest_has_its_turn(monkeypatch):
    now = 100.0
    monkeypatch.setattr(lanes, "time", SimpleNamespace(monotonic=lambda: now))
    lane, gate, order, answers = LargeLane(), threading.Event(), [], []
    lane.submit(lambda stop: gate.wait(20), 0)
    for seconds, megapixels in [(0, 32), (1, 8), (2, 4), (30, 1), (31, 4)]:
        now = 100.0 + seconds
        answers.append(
            lane.submit(lambda stop, size=megapixels: order.append(size), megapixels * 1_000_000)
        )
    gate.set()
    for answer in answers:
        answer.result(20)
    assert order == [
        4,
        8,
        1,
        32,
        4,
    ]  # one of 4 megapixels that comes 31 s later goes after the largest
    lane.close(20)


def test_a_job_that_fails_tells_why_and_the_next_is_done():
    lane = LargeLane()
    with pytest.raises(ZeroDivisionError):
        lane.submit(lambda stop: 1 / 0, 0).result(20)
    assert lane.submit(lambda stop: "next", 0).result(20) == "next"
    lane.close(20)


def test_a_job_that_is_cancelled_while_it_fails_does_not_end_the_lane(monkeypatch):
    class Racing(Future):
        def set_exception(self, error):
            self.cancel()
            super().set_exception(error)

    monkeypatch.setattr(lanes, "Future", Racing)
    lane = LargeLane()
    failed = lane.submit(lambda stop: 1 / 0, 0)
    until(failed.cancelled)
    assert lane.submit(lambda stop: "next", 0).result(20) == "next"
    lane.close(20)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_large_blocks_of_a_large_image_go_back_and_others_are_kept_again_behind_it():
    """Otherwise the shared heap fragments; slow tests of test_process.py see it in the service."""
    script = """
import ctypes, resource
from featherseg.core.allocator import keep_freed_memory
from featherseg.serving.lanes import LargeLane
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def faulted(stop=None, size=48 << 20):
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = libc.malloc(size)
        ctypes.memset(block, 1, size)
        libc.free(block)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
keep_freed_memory(one_heap=True)
lane = LargeLane()
print(lane.submit(faulted, 1).result(60))
lane.close(60)
print(faulted())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    within, behind = map(int, done.stdout.split())
    assert within > 40 << 20
    assert behind < 1 << 20


def test_what_is_given_up_ends_at_the_next_operation_of_torch():
    lane, began, ended = LargeLane(), threading.Event(), threading.Event()

    def endless(stop):
        began.set()
        try:
            while True:
                torch.ones(2) + 1
        finally:
            ended.set()

    answer = lane.submit(endless, 0)
    assert began.wait(20)
    assert answer.cancel()
    assert ended.wait(20)
    lane.close(20)
    assert not lane.alive


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["frm-lite0", "segformer-b0"])
def test_a_large_mask_is_that_of_predict_with_the_memory_of_the_lane(start, name):
    """docs/formats.md: serve at M GB tiles a large image as predict at 0.6 M + 0.24 (CPU torch)."""
    torch.manual_seed(0)
    runtime = TorchRuntime(models.build(name, len(CLASSES)).eval(), CLASSES, device="cpu")
    own = process_bytes() / 1e9
    memory_gb = own + 1.5 * runtime.peak_bytes_per_pixel * 416 * 640 / 1e9
    pixels = image(3, (416, 640))
    expected = Predictor(runtime, memory_gb=0.6 * memory_gb + 0.4 * own)(pixels)
    assert "tiles" in expected.how
    client = start(Served("net", Predictor(runtime, memory_gb=memory_gb)))
    assert client.post("/v1/segment", files=form(pixels)).content == mask_png(expected)
    whole = Predictor(runtime, memory_gb=4.0)(pixels)
    assert whole.how == "whole"
    client = start(
        Served("net", Predictor(runtime, memory_gb=4.0))
    )  # it is small there, and goes whole
    assert client.post("/v1/segment", files=form(pixels)).content == mask_png(whole)


@pytest.mark.seconds
def test_where_passes_take_turns_a_large_image_is_seen_in_short_ones(start):
    runtime, size = (
        ChannelsFile(peak_bytes_per_pixel=40.0),
        (1100, 2000),
    )  # as of OpenVINO: passes take turns
    client = start(Served("file", Predictor(runtime)))
    answer = client.post("/v1/segment", files=form(large_image(size)))
    np.testing.assert_array_equal(mask_in(answer.content), answer_of(large_image(size)))
    assert len(runtime.seen) > 1
    assert max(height * width for height, width in runtime.seen) <= TURN_PIXELS


def test_images_that_a_file_of_one_size_does_not_take_are_refused(start):
    client = start(Served("file", Predictor(ChannelsFile(fixed_size=(40, 48)))))
    for size in ((48, 40), (1100, 2000)):
        answer = client.post("/v1/segment", files=form(large_image(size)))
        assert answer.status_code == 400
        assert "takes images of 40x48" in answer.text


def test_a_file_of_one_size_sees_a_large_image_whole(start):
    runtime = ChannelsFile(fixed_size=(1100, 2000), peak_bytes_per_pixel=40.0)
    client = start(Served("file", Predictor(runtime)))
    answer = client.post("/v1/segment", files=form(large_image(runtime.fixed_size)))
    assert answer.status_code == 200
    assert runtime.seen == [runtime.fixed_size]


def test_a_file_for_another_size_than_the_training_images_is_served(start):
    client = start(
        Served("file", Predictor(ChannelsFile(fixed_size=(40, 48), image_size=(64, 96))))
    )
    answer = client.post("/v1/segment", files=form(image(0, (40, 48))))
    np.testing.assert_array_equal(mask_in(answer.content), answer_of(image(0, (40, 48))))


def test_too_little_memory_for_the_one_size_of_a_file_is_said_before_anybody_sends(start):
    runtime = ChannelsFile(fixed_size=(1100, 2000), peak_bytes_per_pixel=1000.0)
    with pytest.raises(
        ConfigError, match=r"GB of memory is too little for an image of 1100x2000.*with file\.xml"
    ):
        start(Served("file", Predictor(runtime, memory_gb=process_bytes() / 1e9 + 1)))
