"""Video in, video out: each frame equals its image's; a killed run resumes to the same bytes."""

import base64
import subprocess
import sys
from fractions import Fraction
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.data.small_video import distance, moving_images, read_video, write_video
from support.servers.chromium import chromium

from featherseg import Predictor
from featherseg.core.errors import (
    ConfigError,
    DataError,
    DataNotFound,
    FeathersegError,
    MissingExtra,
    RunError,
)
from featherseg.core.files import content_digest
from featherseg.inference.runtimes.file_check import model_files
from featherseg.inference.video import parts as video_parts
from featherseg.inference.video import read as video_read
from featherseg.inference.video import segmentation as video
from featherseg.inference.video import write as video_write
from featherseg.inference.video.parts import LOCK, parts_folder
from featherseg.inference.video.read import Frames, read_facts
from featherseg.inference.video.segmentation import VideoJob, is_video, segment_video

LOSS = 10.0
"""Mean loss by encoding in levels of 255: small images of hard colour edges at half resolution."""


@pytest.fixture
def predictor(make_runtime):
    return Predictor(make_runtime())


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 5)


FRAME_OF_VIDEO = """async ([kind, content, seconds]) => {
    const video = document.createElement("video");
    video.muted = true;
    const failed = () => video.error && video.error.message;
    const once = kind => new Promise(done => {
      video.addEventListener(kind, done); video.onerror = done;
    });
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    video.src = URL.createObjectURL(new Blob([bytes], {type: kind}));
    video.currentTime = seconds;
    await once("seeked");
    if (failed()) return {error: failed()};
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0);
    await video.play();
    await once("ended");
    const pixels = Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data);
    return {error: failed(), size: [canvas.height, canvas.width], pixels};
}"""


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mp4", moving_images(12), sound=True)


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_every_frame_is_its_image_under_the_colours_of_its_classes(
    predictor, clip, tmp_path, ending
):
    target = tmp_path / f"out{ending}"
    result = segment_video(predictor, VideoJob(clip, target))
    images, times = read_video(clip)
    frames, out_times = read_video(target)
    assert (result.frames, result.unreadable, result.damaged, result.resumed) == (12, 0, 0, 0)
    assert (result.facts.sound, result.how) == (True, "whole")
    assert len(frames) == 12
    assert out_times == times
    drawn = [np.array(predictor(image).overlay()) for image in images]
    for number, frame in enumerate(frames):
        distances = [distance(frame, other) for other in drawn]
        assert distances[number] < LOSS
        assert np.argmin(distances) == number  # it is no neighbour's
    assert not parts_folder(target).exists()


def test_colours_and_outlines_are_those_that_are_asked_for(predictor, clip, tmp_path):
    target, look = tmp_path / "out.mp4", {"alpha": 0.0, "contour": False}
    segment_video(predictor, VideoJob(clip, target, look=look))
    for frame, image in zip(read_video(target)[0], read_video(clip)[0], strict=True):
        assert distance(frame, image) < LOSS


def test_masks_are_those_of_the_images_without_loss(predictor, clip, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in (11, 12, 13):
        (masks / f"{number:06d}.png").write_bytes(b"of an older, longer video")
    segment_video(predictor, VideoJob(clip, tmp_path / "out.mp4", masks=masks))
    assert sorted(file.name for file in masks.iterdir()) == [
        f"{number:06d}.png" for number in range(12)
    ]
    for number, image in enumerate(read_video(clip)[0]):
        with Image.open(masks / f"{number:06d}.png") as mask:
            np.testing.assert_array_equal(np.array(mask), predictor(image).mask)


@pytest.mark.parametrize(("ending", "slack"), [(".mp4", 0), (".webm", Fraction(1, 1000))])
def test_uneven_times_are_kept(predictor, tmp_path, ending, slack):
    times = [
        900,
        3903,
        6906,
        16916,
        16999,
        30030,
        30031 + 3000,
        40000,
    ]  # 1/90000 s; the first is not 0
    images = moving_images(len(times))
    source = write_video(
        tmp_path / "a.mp4", images, codec="libx264", times=times, time_base=Fraction(1, 90000)
    )
    segment_video(predictor, VideoJob(source, tmp_path / f"out{ending}"))
    found = read_video(tmp_path / f"out{ending}")[1]
    for time, wanted in zip(found, times, strict=True):
        assert abs(time - Fraction(wanted - times[0], 90000)) <= slack


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), 120, Fraction(1, 2)])
@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_the_rate_is_kept(predictor, tmp_path, rate, ending):
    source = write_video(tmp_path / "a.mp4", moving_images(6), rate=rate)
    segment_video(predictor, VideoJob(source, tmp_path / f"out{ending}"))
    facts = read_facts(tmp_path / f"out{ending}")
    assert abs(float(facts.rate) / float(rate) - 1) < 0.01
    assert facts.frames == 6


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turned_and_mirrored_videos_come_upright_and_are_written_so(
    predictor, tmp_path, degrees, mirrored
):
    source = write_video(tmp_path / "a.mp4", moving_images(2), turn=(degrees, mirrored))
    stored = read_video(source)[0][0]
    upright = np.rot90(stored, degrees // 90)  # FFmpeg counts them counterclockwise
    if mirrored:
        upright = upright[:, ::-1]
    facts = read_facts(source)
    frame = next(Frames(source, facts).after(0)).pixels
    assert facts.size == upright.shape[:2]
    np.testing.assert_array_equal(frame, upright)
    segment_video(predictor, VideoJob(source, tmp_path / "out.mp4"))
    assert read_facts(tmp_path / "out.mp4").turn == video_read.UPRIGHT
    assert read_video(tmp_path / "out.mp4")[0][0].shape == upright.shape


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
@pytest.mark.parametrize("size", [(47, 65), (33, 33), (1, 1), (2, 90)])
def test_odd_sizes_are_kept(predictor, tmp_path, size, ending):
    source = write_video(tmp_path / "a.mkv", moving_images(2, size), codec="ffv1", pixels="bgr0")
    segment_video(predictor, VideoJob(source, tmp_path / f"out{ending}"))
    assert [frame.shape[:2] for frame in read_video(tmp_path / f"out{ending}")[0]] == [size, size]


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv420p10le"),
        ("a.mkv", "ffv1", "gray"),
        ("a.mkv", "ffv1", "gray16le"),
        ("a.mov", "prores_ks", "yuv422p10le"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mkv", "ffv1", "bgra"),
        ("a.webm", "libvpx-vp9", "yuv444p"),
    ],
)
def test_deep_grey_and_other_pixels_become_8_bit_rgb(tmp_path, name, codec, pixels):
    images = moving_images(3)
    source = write_video(tmp_path / name, images, codec=codec, pixels=pixels)
    found = list(Frames(source, read_facts(source)).after(0))
    assert len(found) == 3
    for frame, image in zip(found, images, strict=True):
        wanted = image
        if "gray" in pixels:
            wanted = np.array(Image.fromarray(image).convert("L").convert("RGB"))
        assert frame.pixels.dtype == np.uint8
        assert distance(frame.pixels, wanted) < LOSS


def test_pixels_that_are_not_square_become_square(tmp_path):
    source = write_video(tmp_path / "a.mp4", moving_images(2), pixel_shape=Fraction(3, 2))
    facts = read_facts(source)
    assert facts.size == (48, 96)
    assert next(Frames(source, facts).after(0)).pixels.shape == (48, 96, 3)


def test_colours_are_read_as_the_file_names_them(tmp_path):
    import av

    color = np.full((64, 64, 3), (200, 30, 60), dtype=np.uint8)
    path = tmp_path / "a.mp4"
    for space in (1, 5):  # BT.709 and BT.601, as ITU-T H.273 and swscale number them
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=25, options={"qmax": "2"})
            stream.width = stream.height = 64
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = space
            context.color_range = 1
            frame = av.VideoFrame.from_ndarray(color, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=space
            )
            container.mux([*stream.encode(frame), *stream.encode()])
        pixels = next(Frames(path, read_facts(path)).after(0)).pixels
        assert distance(pixels, color) < LOSS


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_colours_are_written_as_they_were_drawn(predictor, tmp_path, ending):
    color = np.full((64, 64, 3), (250, 10, 10), dtype=np.uint8)
    source = write_video(tmp_path / "a.mkv", [color, color], codec="ffv1", pixels="bgr0")
    segment_video(predictor, VideoJob(source, tmp_path / f"out{ending}"))
    drawn = np.array(predictor(color).overlay())[16:48, 16:48]
    assert distance(read_video(tmp_path / f"out{ending}")[0][1][16:48, 16:48], drawn) < 3


def test_a_model_of_grey_images_takes_a_video_and_one_of_five_channels_does_not(
    make_runtime, clip, tmp_path
):
    assert (
        segment_video(
            Predictor(make_runtime(channels=1)), VideoJob(clip, tmp_path / "out.mp4")
        ).frames
        == 12
    )
    with pytest.raises(ConfigError, match="takes images of 5 channels"):
        segment_video(Predictor(make_runtime(channels=5)), VideoJob(clip, tmp_path / "b.mp4"))


def spoil(path, begin, end):
    """Zeros in the file from one share of its length to another; end 1 cuts it short instead."""
    data = bytearray(path.read_bytes())
    first, last = round(begin * len(data)), round(end * len(data))
    path.write_bytes(data[:first] + bytes(last - first) + data[last:] if end < 1 else data[:first])
    return path


@pytest.mark.seconds
def test_what_can_be_read_of_a_damaged_video_is_written_and_the_rest_is_counted(
    predictor, tmp_path
):
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3)).astype(np.uint8)
    first = {"container_options": {"movflags": "faststart"}}  # its index stands before the images
    cases = {
        "cut.mp4": (spoil(write_video(tmp_path / "cut.mp4", noise, **first), 0.6, 1), 20),
        "holes.mp4": (spoil(write_video(tmp_path / "holes.mp4", noise, **first), 0.5, 0.6), 20),
        "cut.avi": (spoil(write_video(tmp_path / "cut.avi", noise), 0.6, 1), 20),
        "cut.webm": (
            spoil(write_video(tmp_path / "cut.webm", noise, codec="libvpx-vp9"), 0.6, 1),
            20,
        ),
    }
    for name, (source, frames) in cases.items():
        target = tmp_path / f"{name}.out.mp4"
        result = segment_video(predictor, VideoJob(source, target))
        assert result.frames >= 5, name
        assert result.frames < frames or (name == "holes.mp4" and result.damaged), name
        assert result.frames + result.unreadable == frames, name
        assert len(read_video(target)[0]) == result.frames, name


def test_what_is_no_video_is_refused_with_a_sentence(predictor, tmp_path, clip):
    text, playlist, empty = tmp_path / "text.mp4", tmp_path / "list.mp4", tmp_path / "empty.webm"
    text.write_text("no video\n" * 100)
    playlist.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip.as_uri()}\n#EXT-X-ENDLIST\n"
    )
    empty.touch()
    image = tmp_path / "image.mp4"
    Image.new("RGB", (64, 48)).save(image, format="PNG")
    cut = spoil(write_video(tmp_path / "cut.mp4", moving_images(12)), 0.5, 1)
    for source, named in (
        (text, "cannot be read as a video"),
        (playlist, "cannot be read as a video"),
        (empty, "cannot be read as a video"),
        (image, "cannot be read as a video"),
        (cut, "has no index"),
    ):
        with pytest.raises(DataError, match=named):
            segment_video(predictor, VideoJob(source, tmp_path / "out.mp4"))
    with pytest.raises(DataNotFound, match=r"does not exist.*Did you mean '.*clip\.mp4'"):
        segment_video(predictor, VideoJob(tmp_path / "clop.mp4", tmp_path / "out.mp4"))
    with pytest.raises(ConfigError, match=r"written as \.mp4 or \.webm"):
        segment_video(predictor, VideoJob(clip, tmp_path / "out.mkv"))
    assert not list(tmp_path.glob("out*"))


def test_a_title_that_is_not_utf_8_stops_nobody(tmp_path):
    import av

    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Gruen!"
        stream = container.add_stream("mpeg4", rate=25, width=64, height=48)
        frame = av.VideoFrame.from_ndarray(moving_images(1)[0], format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    path.write_bytes(path.read_bytes().replace(b"Gruen!", b"Gr\xfcn!!"))  # Latin-1
    assert read_facts(path).size == (48, 64)


def test_sound_alone_is_no_video(predictor, tmp_path):
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        tone = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        tone.sample_rate, tone.pts = 44100, 0
        container.mux([*stream.encode(tone), *stream.encode()])
    with pytest.raises(DataError, match="has no video stream"):
        segment_video(predictor, VideoJob(path, tmp_path / "out.mp4"))


def test_a_codec_that_ffmpeg_does_not_know_is_told(tmp_path):
    path = write_video(tmp_path / "a.webm", moving_images(3), codec="libvpx-vp9")
    path.write_bytes(path.read_bytes().replace(b"V_VP9", b"V_VPX"))
    with pytest.raises(DataError, match=r"a\.webm cannot be decoded: its codec is unknown here"):
        read_facts(path)


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(
    predictor, tmp_path, clip, monkeypatch
):
    monkeypatch.setattr(video_read, "MAX_PIXELS", 3000)
    with pytest.raises(DataError, match=r"48x64 .* 3,072 pixels; the limit is 3,000"):
        segment_video(predictor, VideoJob(clip, tmp_path / "out.mp4"))


@pytest.mark.seconds
@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_a_browser_plays_what_is_written_in_the_right_colours(predictor, clip, tmp_path, ending):
    with chromium() as browser:  # first: it skips where there is none
        target = tmp_path / f"out{ending}"
        segment_video(predictor, VideoJob(clip, target))
        page = browser.new_page()
        content = base64.b64encode(target.read_bytes()).decode()
        shown = page.evaluate(FRAME_OF_VIDEO, [f"video/{ending[1:]}", content, 0.3])
        page.close()
    assert (shown["error"], shown["size"]) == (None, [48, 64])
    expected = np.array(
        predictor(read_video(clip)[0][7]).overlay()
    )  # 25 frames/s: the one shown at 0.3 s
    assert (
        distance(np.array(shown["pixels"], np.uint8).reshape(48, 64, 4)[:, :, :3], expected) < LOSS
    )


def test_sides_that_vp9_does_not_know_are_refused(predictor, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(video_write, "LONGEST_SIDE", 63)
    with pytest.raises(DataError, match=r"sides have at most 63 pixels\."):
        segment_video(predictor, VideoJob(clip, tmp_path / "out.mp4"))


def test_without_pyav_a_sentence_says_what_to_install(predictor, clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"pip install 'featherseg\[video\]'"):
        segment_video(predictor, VideoJob(clip, tmp_path / "out.mp4"))


class Stop(Exception):
    """The process ends here."""


def stop_after(frames):
    def progress(doing, done, total):
        if done >= frames:
            raise Stop

    return progress


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_a_stopped_run_goes_on_to_the_same_bytes_and_predicts_nothing_twice(
    predictor, clip, tmp_path, ending
):
    whole, target = tmp_path / f"whole{ending}", tmp_path / f"out{ending}"
    segment_video(predictor, VideoJob(clip, whole))
    for frames in (7, 11):
        with pytest.raises(Stop):
            segment_video(predictor, VideoJob(clip, target), stop_after(frames))
        assert not target.exists()
    seen = []
    result = segment_video(
        predictor, VideoJob(clip, target), lambda doing, done, total: seen.append((done, total))
    )
    assert (result.frames, result.resumed) == (12, 10)
    assert seen == [(10, 12), (11, 12), (12, 12)]
    assert target.read_bytes() == whole.read_bytes()


def test_a_stopped_run_does_not_go_on_with_another_source_model_or_setting(
    predictor, make_runtime, clip, tmp_path
):
    target = tmp_path / "out.mp4"
    with pytest.raises(Stop):
        segment_video(predictor, VideoJob(clip, target), stop_after(7))
    shrunk = Predictor(make_runtime(), max_side=32)
    with pytest.raises(
        RunError,
        match=r"inference.resize was null, now \[32, 32\].*delete .*out.mp4.parts to start over",
    ):
        segment_video(shrunk, VideoJob(clip, target))
    other = Predictor(make_runtime())
    with torch.no_grad():
        next(other.runtime.model.parameters()).add_(1)
    with pytest.raises(RunError, match=r"model\.sha256 was"):
        segment_video(other, VideoJob(clip, target))
    write_video(clip, moving_images(13))
    with pytest.raises(RunError, match=r"source\.bytes was"):
        segment_video(predictor, VideoJob(clip, target))
    (parts_folder(target) / "parts.json").write_text("{")
    with pytest.raises(RunError, match="Delete it to start over"):
        segment_video(predictor, VideoJob(clip, target))


def test_a_segment_that_the_disk_lost_is_made_again_with_all_behind_it(predictor, clip, tmp_path):
    whole, target = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    segment_video(predictor, VideoJob(clip, whole))
    with pytest.raises(Stop):
        segment_video(predictor, VideoJob(clip, target), stop_after(11))
    (parts_folder(target) / "000000.nut").write_bytes(b"")
    assert segment_video(predictor, VideoJob(clip, target)).resumed == 0
    assert target.read_bytes() == whole.read_bytes()


def test_a_run_that_fails_before_its_first_segment_leaves_nothing(predictor, clip, tmp_path):
    with pytest.raises(Stop):
        segment_video(predictor, VideoJob(clip, tmp_path / "out.mp4"), stop_after(2))
    assert [file.name for file in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_stop_right_behind_a_segment_keeps_it(predictor, clip, tmp_path, monkeypatch):
    """As Ctrl-C may come: the segment has its name already, but is not counted yet."""
    target = tmp_path / "out.mp4"

    def stop(path):
        raise KeyboardInterrupt

    extent = video_parts.segment_extent
    monkeypatch.setattr(video_parts, "segment_extent", stop)
    with pytest.raises(KeyboardInterrupt):
        segment_video(predictor, VideoJob(clip, target))
    monkeypatch.setattr(video_parts, "segment_extent", extent)
    assert segment_video(predictor, VideoJob(clip, target)).resumed == 5


@pytest.mark.seconds
@pytest.mark.parametrize("full", [0, 2, 3], ids=["first segment", "last segment", "joined"])
@pytest.mark.parametrize("ending", [".mp4", pytest.param(".webm", marks=pytest.mark.slow)])
def test_a_full_disk_ends_a_video_in_a_message_and_loses_nothing(
    predictor, tmp_path, monkeypatch, ending, full
):
    noise = np.random.default_rng(0).integers(
        0, 256, (12, 180, 240, 3), np.uint8
    )  # PyAV writes it frame by frame
    clip = write_video(tmp_path / "clip.mp4", noise)
    target, whole = tmp_path / f"out{ending}", tmp_path / f"whole{ending}"
    segment_video(predictor, VideoJob(clip, whole))
    files, opened = count(), video_write._opened

    def disk(file, *options):
        if next(files) != full:
            return opened(file, *options)
        writes = count()

        def write(content):
            if next(writes):  # behind the header: what closing the file then raises is PyAV's own
                raise OSError(28, "No space left on device")
            return file.write(content)

        return opened(SimpleNamespace(write=write, seek=file.seek, tell=file.tell), *options)

    monkeypatch.setattr(video_write, "_opened", disk)
    with pytest.raises(FeathersegError, match=r"cannot write .*: No space left on device"):
        segment_video(predictor, VideoJob(clip, target))
    assert not target.exists()
    assert segment_video(predictor, VideoJob(clip, target)).resumed == (0, 5, 10, 12)[full]
    assert target.read_bytes() == whole.read_bytes()


def test_two_processes_do_not_write_one_video(predictor, clip, tmp_path):
    target = tmp_path / "out.mp4"
    lock = parts_folder(target) / LOCK
    lock.parent.mkdir()
    hold = "import filelock, sys; a = filelock.FileLock(sys.argv[1]); a.acquire(); "
    hold += "print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline()
        with pytest.raises(RunError, match="another process is writing"):
            segment_video(predictor, VideoJob(clip, target))
        other.communicate("\n")


def test_names_of_videos_end_like_videos(tmp_path):
    names = {
        "a.mp4": True,
        "a.MOV": True,
        "b.webm": True,
        "a.png": False,
        "._a.mp4": False,
        "camera": False,
    }
    assert {name: is_video(tmp_path / name) for name in names} == names


def test_a_bin_of_another_format_is_no_part_of_the_model(tmp_path):
    """OpenVINO's model.bin lies beside model.onnx where both were exported."""

    def digest_of(file):
        return content_digest(*model_files(file))

    for name in ("m.onnx", "m.xml", "m.ncnn.param"):
        (tmp_path / name).write_bytes(b"graph")
    digest = digest_of(tmp_path / "m.onnx")
    for name in ("m.bin", "m.ncnn.bin"):
        (tmp_path / name).write_bytes(b"weights")
    assert digest_of(tmp_path / "m.onnx") == digest
    assert digest_of(tmp_path / "m.xml") == digest_of(tmp_path / "m.ncnn.param") != digest
