"""A video whose process is killed by SIGKILL again and again: every frame is there and right."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support.data.small_video import distance, moving_images, read_video, write_video
from support.models.small_run import small_info
from typer.testing import CliRunner

from featherseg import Predictor, models
from featherseg.cli import build_app
from featherseg.core.types import ClassInfo
from featherseg.inference.video.segmentation import VideoJob, segment_video
from featherseg.runs.run import save_weights, write_info

SIZE = (48, 64)
LOSS = 10.0
"""Levels of 255 that encoding may cost on average."""


@pytest.fixture
def lawn_run(tmp_path):
    """A run of two classes, untrained."""
    path = tmp_path / "run"
    path.mkdir()
    torch.manual_seed(0)
    save_weights(path, models.build("frm-lite0", 2).state_dict())
    write_info(
        path,
        small_info(
            (ClassInfo("grass", (0, 160, 0)), ClassInfo("path", (160, 160, 160))), image_size=SIZE
        ),
    )
    return path


def command(run, clip, out):
    return [sys.executable, "-m", "featherseg", "predict", str(run), str(clip), "-o", str(out)]


def kill_after(segments, run, clip, out):
    """Start the command and SIGKILL it in the middle of the segment behind so many."""
    parts = out.with_name(out.name + ".parts")
    process = subprocess.Popen(command(run, clip, out), stdout=subprocess.DEVNULL)
    try:
        while len(list(parts.glob("*.nut"))) < segments or not list(parts.glob(".*.nut.*.tmp")):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "count", "kills"),
    [(".mp4", 110, (1,)), (".mp4", 300, (1, 4)), (".webm", 300, (1, 4))],
)
def test_a_killed_video_resumes_and_has_all_frames_each_as_in_one_go(
    lawn_run, tmp_path, ending, count, kills
):
    """Each kill comes when so many segments, of 50 frames, are finished."""
    clip = write_video(tmp_path / "clip.mp4", moving_images(count, SIZE))
    whole, out = tmp_path / f"whole{ending}", tmp_path / f"out{ending}"
    predictor = Predictor(lawn_run)
    segment_video(predictor, VideoJob(clip, whole))
    for segments in kills:
        kill_after(segments, lawn_run, clip, out)
    done = CliRunner().invoke(build_app(), command(lawn_run, clip, out)[3:], catch_exceptions=False)
    assert f"{count} frames" in done.stdout
    assert "were there already" in done.stdout
    frames, times = read_video(out)
    expected, expected_times = read_video(whole)
    images, source_times = read_video(clip)
    assert len(frames) == len(expected) == count
    assert times == expected_times == source_times
    for frame, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(frame, other)
    for number in range(0, count, 25):  # and they are those of their images
        assert distance(frames[number], np.array(predictor(images[number]).overlay())) < LOSS
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["run", "clip.mp4", whole.name, out.name]
    )
