"""`featherseg.predict` with `out` does what the command line does: videos, cameras, clusters."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from support.data.small_video import moving_images, read_video, write_video

import featherseg
from featherseg.core.errors import ConfigError
from featherseg.inference.video import camera as video_camera
from featherseg.runs.run import STARTER


class Listener:
    """A PredictReporter that keeps what it receives."""

    def __init__(self):
        self.messages, self.reasons, self.names, self.steps = [], [], [], []

    def message(self, text):
        self.messages.append(text)

    def skipped(self, reason):
        self.reasons.append(reason)

    def predicted(self, name, result, images):
        self.names.append((name, result.mask.shape, images))

    def progress(self, *step):
        self.steps.append(step)


@pytest.fixture
def predictor(make_runtime):
    return featherseg.Predictor(make_runtime())


def test_images_and_videos_go_into_one_folder(predictor, tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.new("RGB", (70, 64), (9, 90, 9)).save(photos / "a.png")
    clip = write_video(tmp_path / "clip.mp4", moving_images(4))
    (tmp_path / "bad.mp4").write_text("no video")
    listener = Listener()
    inputs = [photos, str(clip), tmp_path / "bad.mp4"]
    result = featherseg.predict(predictor, inputs, out=out, progress=listener)
    assert result.names == ("a",)
    assert [(video.job.source, video.frames) for video in result.videos] == [(clip, 4)]
    assert len(read_video(out / "clip_overlay.mp4")[0]) == 4
    assert list(result.left_out) == listener.reasons
    assert "bad.mp4 cannot be read as a video" in listener.reasons[0]
    assert not result.complete
    assert listener.names == [("a", (64, 70), 1)]
    assert ("predicting", 1, 1) in listener.steps
    assert ("clip_overlay.mp4, frames", 4, 4) in listener.steps
    plain = json.loads(json.dumps(result.as_dict()))
    assert plain["videos"][0]["file"] == str(out / "clip_overlay.mp4")
    assert plain["videos"][0]["frames"] == 4


def test_one_video_becomes_the_named_file_with_its_masks(predictor, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", moving_images(3))
    settings = {"masks": True}
    result = featherseg.predict(predictor, clip, out=tmp_path / "o.webm", settings=settings)
    assert result.complete
    assert len(read_video(tmp_path / "o.webm")[0]) == 3
    names = sorted(file.name for file in (tmp_path / "o_masks").iterdir())
    assert names == ["000000.png", "000001.png", "000002.png"]


def test_a_camera_gives_a_recording_in_the_main_thread_alone(predictor, tmp_path, monkeypatch):
    source = ("lavfi", "testsrc=size=64x48:rate=25,trim=end_frame=1{}")  # 10 frames
    cameras = dict.fromkeys(("linux", "darwin", "win32"), source)
    monkeypatch.setattr(video_camera, "CAMERAS", cameras)
    recording = featherseg.predict(predictor, "camera", out=tmp_path / "out.mp4")
    assert recording.frames + recording.dropped == 10
    assert len(read_video(tmp_path / "out.mp4")[0]) == recording.frames
    assert recording.as_dict()["size"] == (48, 64)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(featherseg.predict, predictor, "camera", out=tmp_path / "other.mp4")
        with pytest.raises(ConfigError, match="in the main thread"):
            job.result()
    assert not (tmp_path / "other.mp4").exists()


def test_what_a_cluster_cannot_do_is_refused(predictor, tmp_path):
    for options, message in (
        ({"cluster": "local", "batch": 2}, "--batch cannot go with --cluster"),
        ({"cluster": "local", "workers": 0}, "--workers 0"),
        ({"workers": 2}, "together with --cluster"),
        ({"cluster": "local", "settings": {"overwrite": True}}, "--overwrite cannot go"),
    ):
        with pytest.raises(ConfigError, match=message):
            featherseg.predict(STARTER, tmp_path, out=tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="every worker opens, not a Predictor"):
        featherseg.predict(predictor, tmp_path, out=tmp_path / "out", cluster="local")
    with pytest.raises(ConfigError, match=r"^cluster would have no effect: without out"):
        featherseg.predict(STARTER, tmp_path, cluster="local")
