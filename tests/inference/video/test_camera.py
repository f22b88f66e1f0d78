"""A camera is recorded without falling behind. FFmpeg's own test image stands in for one."""

import threading
import time

import pytest
import torch
from support.data.small_video import read_video

from featherseg import Predictor
from featherseg.core.errors import DeviceError, RunError
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.video import camera as video_camera
from featherseg.inference.video.camera import CAPTURE, record
from featherseg.inference.video.parts import parts_folder


@pytest.fixture
def predictor(make_runtime):
    return Predictor(make_runtime())


def change_weights(predictor):
    with torch.no_grad():
        next(predictor.runtime.model.parameters()).add_(1)


@pytest.fixture(autouse=True)
def test_image(monkeypatch):
    """`camera:FRAMES` is a camera that ends after this many frames, drawn at full speed."""
    source = ("lavfi", "testsrc=size=64x48:rate=25,trim=end_frame={}")
    monkeypatch.setattr(
        video_camera, "CAMERAS", dict.fromkeys(("linux", "darwin", "win32"), source)
    )
    monkeypatch.setattr(video_camera, "SEGMENT_FRAMES", 5)


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_every_frame_is_written_or_counted_and_times_go_on(predictor, tmp_path, ending):
    target = tmp_path / f"out{ending}"
    recording = record(predictor, "300", target, threading.Event())
    frames, times = read_video(target)
    assert recording.frames == len(frames)
    assert recording.frames + recording.dropped == 300
    assert (recording.size, frames[0].shape) == ((48, 64), (48, 64, 3))
    assert times == sorted(set(times))
    assert times[0] == 0
    assert not parts_folder(target).exists()


def test_a_slow_model_leaves_frames_out_and_does_not_fall_behind(predictor, tmp_path):
    forward = predictor.runtime.model.forward

    def busy_until_all_have_come(images):
        while any(thread.name == CAPTURE for thread in threading.enumerate()):
            time.sleep(0.001)
        return forward(images)

    predictor.runtime.model.forward = busy_until_all_have_come
    recording = record(predictor, "40", tmp_path / "out.mp4", threading.Event())
    assert recording.frames <= 3  # the first two, one of them taken ahead, and the newest
    assert recording.dropped == 40 - recording.frames


def test_asked_to_stop_it_closes_the_file(predictor, tmp_path):
    stop, target = threading.Event(), tmp_path / "out.mp4"
    record(predictor, "1000000", target, stop, lambda what, done, total: done == 7 and stop.set())
    assert len(read_video(target)[0]) in (7, 8)  # one is taken ahead


class Killed(Exception):
    """The process ends here."""


def test_a_recording_that_was_killed_is_gone_on_with(predictor, tmp_path):
    target = tmp_path / "out.mp4"

    def kill(what, done, total):
        if done == 8:
            raise Killed

    with pytest.raises(Killed):
        record(predictor, "1000000", target, threading.Event(), kill)
    assert not target.exists()
    stop = threading.Event()
    recording = record(
        predictor, "1000000", target, stop, lambda what, done, total: done == 9 and stop.set()
    )
    times = read_video(target)[1]
    assert recording.frames == len(times)
    assert len(times) in (
        9,
        10,
    )  # five of the first, four of the second, and one that was taken ahead
    assert times == sorted(set(times))


@pytest.mark.parametrize("change", ["model", "settings"])
def test_a_recording_is_not_gone_on_with_by_another_model_or_other_settings(
    predictor, tmp_path, change
):
    target = tmp_path / "out.mp4"

    def kill(what, done, total):
        if done == 8:
            raise Killed

    with pytest.raises(Killed):
        record(predictor, "1000000", target, threading.Event(), kill)
    before = {file: file.read_bytes() for file in parts_folder(target).iterdir()}
    if change == "settings":
        predictor.inference = InferenceSettings(flip=True)
    else:
        change_weights(predictor)
    with pytest.raises(RunError, match="was started with other settings"):
        record(predictor, "40", target, threading.Event())
    assert {file: file.read_bytes() for file in parts_folder(target).iterdir()} == before


def test_without_a_camera_a_sentence_says_so(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(
        video_camera, "CAMERAS", {"linux": ("video4linux2", str(tmp_path / "video{}"))}
    )
    with pytest.raises(DeviceError, match=r"camera '3' cannot be opened .*video3: No such file"):
        record(predictor, "3", tmp_path / "out.mp4", threading.Event())
    assert not list(tmp_path.iterdir())
