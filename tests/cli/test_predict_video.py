import os
import signal
from pathlib import Path

import pytest
from PIL import Image
from support.data.small_video import moving_images, read_video, write_video
from support.processes.command import command

from featherseg.cli.predict import predict
from featherseg.core.errors import ConfigError, DataError, FeathersegError, RunError
from featherseg.inference.video import camera as video_camera
from featherseg.inference.video.inputs import camera_name, find_videos
from featherseg.inference.video.parts import Parts
from featherseg.inference.video.segmentation import SEGMENT_FRAMES
from featherseg.inference.video.write import SEGMENT_SUFFIX

run = command(predict)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "clip.mp4", moving_images(6), sound=True)


def test_one_video_becomes_the_file_that_is_named(lawn_run, clip, tmp_path):
    out = tmp_path / "clip_seg.webm"
    result = run(lawn_run, clip, "-o", out, "--masks")
    assert result.exit_code == 0
    assert f"{out}: 6 frames, 48x64, 25 frames/s, whole; its sound is left out" in result.stdout
    assert len(read_video(out)[0]) == 6
    assert sorted(file.name for file in (tmp_path / "clip_seg_masks").iterdir()) == [
        f"{n:06d}.png" for n in range(6)
    ]


def test_videos_and_images_go_into_one_folder(lawn_run, clip, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (70, 64), (9, 90, 9)).save(photos / "a.png")
    write_video(photos / "b.mp4", moving_images(2))  # in a folder: not named, not taken
    for name in ("day", ".thumbs"):
        (photos / name).mkdir()
        Image.new("RGB", (70, 64), (9, 90, 9)).save(
            photos / name / "c.png"
        )  # in a folder of the folder: as little
    other = tmp_path / "other"
    other.mkdir()
    write_video(other / "clip.mp4", moving_images(2))
    result = run(lawn_run, photos, clip, other / "clip.mp4", "-o", photos / "out")
    assert result.exit_code == 0
    assert (
        f"{photos}: only images are predicted, not 1 video; name videos as files" in result.stdout
    )
    left = f"{photos}: images in 1 folder in it (day) are not predicted; name each folder of images"
    assert left in result.stdout
    assert (
        left in run(lawn_run, photos, "-o", photos / "out", "--overwrite").stdout
    )  # results are no images to name
    names = ["a_color.png", "a_mask.png", "a_overlay.png", "clip-2_overlay.mp4", "clip_overlay.mp4"]
    assert sorted(file.name for file in (photos / "out").iterdir()) == sorted(
        [*names, "predictions.jsonl"]
    )


def test_a_video_is_written_though_the_one_image_beside_it_cannot_be_read(lawn_run, clip, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 cut short")
    result = run(lawn_run, tmp_path / "a.jpg", clip, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "a.jpg cannot be read" in result.stdout
    assert len(read_video(tmp_path / "out" / "clip_overlay.mp4")[0]) == 6


def test_a_damaged_video_is_written_and_the_exit_code_says_so(lawn_run, tmp_path):
    clip = write_video(tmp_path / "a.avi", moving_images(20))
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 6 // 10])
    result = run(lawn_run, clip, "-o", tmp_path / "out.mp4")
    assert result.exit_code == 1
    frames = len(read_video(tmp_path / "out.mp4")[0])
    assert f"{20 - frames} frames could not be read" in result.stdout


def test_one_bad_video_is_an_error_and_of_several_it_is_left_out(lawn_run, clip, tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_text("no video")
    assert isinstance(run(lawn_run, bad, "-o", tmp_path / "out.mp4").exception, DataError)
    result = run(lawn_run, bad, clip, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "left out" in result.stdout
    assert "bad.mp4 cannot be read as a video" in result.stdout
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["clip_overlay.mp4"]


def test_what_is_wrong_with_one_of_several_videos_does_not_end_the_others(lawn_run, clip, tmp_path):
    parts = tmp_path / "out" / "clip_overlay.mp4.parts"
    parts.mkdir(parents=True)
    (parts / f"000000{SEGMENT_SUFFIX}").write_bytes(b"of another command")
    other = write_video(tmp_path / "other.mp4", moving_images(2))
    result = run(lawn_run, clip, other, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "left out" in result.stdout
    assert "lacks a readable parts.json" in result.stdout
    assert (tmp_path / "out" / "other_overlay.mp4").is_file()
    assert isinstance(run(lawn_run, clip, "-o", tmp_path / "out").exception, RunError)
    large = run(lawn_run, other, clip, "-o", tmp_path / "out2", "--memory-gb", "0.1")
    assert large.stdout.count("left out") == 2
    assert large.stdout.count("is too little for an image") == 2


def test_a_video_is_never_replaced_by_its_own_result(lawn_run, clip):
    before = clip.read_bytes()
    result = run(lawn_run, clip, "-o", clip, "--overwrite")
    assert "is one of the videos itself" in str(result.exception)
    assert clip.read_bytes() == before


def test_results_that_are_there_are_not_replaced_unasked(lawn_run, clip, tmp_path):
    out = tmp_path / "out.mp4"
    out.write_bytes(b"mine")
    result = run(lawn_run, clip, "-o", out)
    assert isinstance(result.exception, ConfigError)
    assert "out.mp4 exists" in str(result.exception)
    assert out.read_bytes() == b"mine"
    assert run(lawn_run, clip, "-o", out, "--overwrite").exit_code == 0
    assert len(read_video(out)[0]) == 6
    masks = tmp_path / "new_masks"
    masks.mkdir()
    (masks / "000000.png").write_bytes(b"mine")
    result = run(lawn_run, clip, "-o", tmp_path / "new.mp4", "--masks")
    assert "new_masks holds files" in str(result.exception)


@pytest.mark.parametrize(
    ("paths", "output", "submission", "named"),
    [
        (["clip.mp4", "b.mp4"], "out.mp4", None, "names a video"),
        (["a.png"], "out.mp4", None, "names a video"),
        (["clip.mp4"], "out.mkv", None, r"written as \.mp4 or \.webm"),
        (["camera"], "out", None, "-o camera.mp4"),
        (["camera", "clip.mp4"], "out.mp4", None, "recorded by itself"),
        (["clip.mp4"], "out", "cityscapes", "--submission cityscapes takes images"),
    ],
)
def test_what_does_not_go_together_is_refused_before_work(paths, output, submission, named):
    with pytest.raises(ConfigError, match=named):
        find_videos([Path(path) for path in paths], Path(output), submission)


def test_cameras_are_told_from_files():
    assert [camera_name(text) for text in ("camera", "camera:2", "camera:Front View")] == [
        "0",
        "2",
        "Front View",
    ]
    assert [camera_name(text) for text in ("./camera", "camera.mp4", "my camera")] == [None] * 3


def test_a_folder_that_is_called_camera_is_a_folder(lawn_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camera").mkdir()
    Image.new("RGB", (70, 64), (9, 90, 9)).save(tmp_path / "camera" / "a.png")
    assert run(lawn_run, "./camera", "-o", "out", "--masks").exit_code == 0
    assert sorted(os.listdir("out")) == ["a_mask.png", "predictions.jsonl"]
    assert [camera_name(text) for text in ("camera", "camera:0")] == [None, "0"]


def test_a_camera_is_recorded_and_says_what_it_left_out(lawn_run, tmp_path, monkeypatch):
    source = (
        "lavfi",
        "testsrc=size=64x48:rate=25,trim=end_frame=1{}",
    )  # 10 frames, as fast as they are drawn
    monkeypatch.setattr(
        video_camera, "CAMERAS", dict.fromkeys(("linux", "darwin", "win32"), source)
    )
    before = signal.getsignal(signal.SIGINT)
    result = run(lawn_run, "camera", "-o", tmp_path / "out.mp4")
    assert result.exit_code == 0
    frames = len(read_video(tmp_path / "out.mp4")[0])
    assert f"out.mp4: {frames} frame" in result.stdout
    assert (f"{10 - frames} frame" in result.stdout) == (frames < 10)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(lawn_run, tmp_path, monkeypatch):
    clip = write_video(tmp_path / "long.mp4", moving_images(SEGMENT_FRAMES + 9))
    out = tmp_path / "out.mp4"
    write = Parts.add

    def write_one(parts, frames):
        write(parts, frames)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "add", write_one)
        stopped = run(lawn_run, clip, "-o", out)
    assert stopped.exit_code != 0
    assert "the same command goes on where it was stopped" in stopped.stdout
    assert not out.exists()
    again = run(lawn_run, clip, "-o", out)
    assert again.exit_code == 0
    assert f"the first {SEGMENT_FRAMES} were there already" in " ".join(again.stdout.split())
    assert len(read_video(out)[0]) == SEGMENT_FRAMES + 9


@pytest.mark.parametrize("folder", ["clip_overlay_masks", "clip_overlay.mp4.parts"])
def test_a_video_is_not_written_through_a_linked_folder(
    lawn_run, clip, tmp_path, tmp_path_factory, folder
):
    elsewhere, out = tmp_path_factory.mktemp("elsewhere"), tmp_path / "out"
    (elsewhere / "000009.png").touch()
    out.mkdir()
    (out / folder).symlink_to(elsewhere)
    result = run(lawn_run, clip, "-o", out, "--masks", "--overwrite")
    assert isinstance(result.exception, FeathersegError)
    assert f"{folder} is a symbolic link" in str(result.exception)
    assert os.listdir(elsewhere) == ["000009.png"]
    assert os.listdir(out) == [folder]
