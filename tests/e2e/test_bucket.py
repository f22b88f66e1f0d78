"""predict, train, evaluate on S3 (moto on loopback): faults, a killed client, no leaked secret."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.data.lawn import TOML, png
from support.servers.running_bucket import KEY, SECRET, RunningBucket

from featherseg.runs.run import STARTER

pytestmark = pytest.mark.slow


@pytest.fixture
def serve(tmp_path):
    """Starts servers, which end with the test."""
    made = []

    def start(fault=""):
        made.append(RunningBucket(tmp_path / "home", fault))
        return made[-1]

    yield start
    for server in made:
        server.stop()


@pytest.fixture
def photos(tmp_path):
    """Six images on the disk; what predict makes of them there is the truth."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(
            0, 256, (64, 64 + 8 * number, 3), dtype=np.uint8
        )
        (folder / f"{number}.png").write_bytes(png(pixels))
    return folder


@pytest.fixture
def expected(photos, tmp_path):
    command = [
        sys.executable,
        "-m",
        "featherseg",
        "predict",
        STARTER,
        str(photos),
        "-o",
        str(tmp_path / "out"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return pictures({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})


def pictures(files):
    """Leave out the record, which says where the images are and of which version."""
    return {name: content for name, content in files.items() if name != "predictions.jsonl"}


def test_predictions_through_a_bucket_that_fails_now_and_then_are_those_of_the_disk(
    serve, photos, expected
):
    server = serve("every:4")
    server.put(**{f"in/{path.name}": path.read_bytes() for path in photos.iterdir()})
    code, said = server.featherseg("predict", STARTER, "s3://yard/in", "-o", "s3://yard/out")
    assert code == 0, said
    assert pictures(server.objects("out")) == expected


def test_of_a_client_that_is_killed_no_object_is_half_there(serve, photos, expected):
    server = serve("hang:out/3_mask.png")
    server.put(**{f"in/{path.name}": path.read_bytes() for path in photos.iterdir()})
    client = server.start("predict", STARTER, "s3://yard/in", "-o", "s3://yard/out")
    assert server.process.stdout.readline() == "hanging\n"  # half of the mask is sent
    client.send_signal(signal.SIGKILL)
    client.communicate()
    found = pictures(server.objects("out"))
    assert "3_mask.png" not in found
    assert {name: expected[name] for name in found} == found
    assert {f"{number}_mask.png" for number in range(3)} <= set(found)
    code, said = server.featherseg(
        "predict", STARTER, "s3://yard/in", "-o", "s3://yard/out", "--overwrite"
    )
    assert code == 0, said
    assert pictures(server.objects("out")) == expected


def test_a_storage_that_never_answers_is_one_sentence(serve):
    code, said = serve("all").featherseg("predict", STARTER, "s3://yard/in", "-o", "s3://yard/out")
    assert code == 2
    assert "s3://yard/in cannot be listed" in said
    assert "Traceback" not in said


def test_a_run_is_trained_and_scored_on_data_in_a_bucket(serve, tmp_path):
    server = serve("every:5")
    files = {"lawn/dataset.toml": TOML.encode()}
    for split, count in (("train", 6), ("val", 2)):
        for number in range(count):
            label = np.zeros((64, 96), np.uint8)
            label[:, 30 + number :] = 1
            noise = np.random.default_rng(number).integers(0, 60, (64, 96, 3), dtype=np.uint8)
            files[f"lawn/images/{split}/{number}.png"] = png(noise + 90 * label[:, :, None])
            files[f"lawn/masks/{split}/{number}.png"] = png(label)
    server.put(**files)
    name, run = "s3://yard/lawn/dataset.toml", tmp_path / "run"
    settings = ("--set", "train.steps=2", "--set", "train.batch_size=2", "--set", "data.workers=0")
    code, said = server.featherseg(
        "train", "efficientvit-seg-b0", "--data", name, *settings, "--out", run
    )
    assert code == 0, said
    assert "s3://yard/lawn: 16 files, 0.1 MB" in said
    assert name in (run / "resolved.json").read_text()
    assert all(
        SECRET.encode() not in path.read_bytes() for path in run.rglob("*") if path.is_file()
    )

    # Elsewhere, where there is no copy yet, the run finds its data as well.
    server.environment["FEATHERSEG_HOME"] = str(tmp_path / "other")
    code, said = server.featherseg("evaluate", run, "--split", "val")
    assert code == 0, said
    assert (tmp_path / "other/mirror/s3/yard/lawn/masks/val/1.png").read_bytes() == files[
        "lawn/masks/val/1.png"
    ]
    assert not (tmp_path / "other/mirror/s3/yard/lawn/dataset.toml").is_symlink()


WORKER = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
from support.processes.without_cluster import in_this_process
from featherseg.inference.cluster import Job, predict_folder
from featherseg.inference.runtimes.digest import model_digest
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import InferenceSettings
digest = model_digest(open_runtime({STARTER!r}, "cpu"))
settings = InferenceSettings()
job = Job({STARTER!r}, "s3://yard/in", "s3://yard/out", "cpu", settings, 4.0, None, digest)
print(predict_folder(job, in_this_process, 2, lambda *counts: None))
"""


def test_what_workers_of_a_cluster_put_is_whole_when_a_client_is_killed(serve, photos, expected):
    server = serve("hang:out/3_mask.png")
    server.put(**{f"in/{path.name}": path.read_bytes() for path in photos.iterdir()})
    pipes = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "env": server.environment,
    }
    client = subprocess.Popen([sys.executable, "-c", WORKER], **pipes)
    assert server.process.stdout.readline() == "hanging\n"  # half of the mask is sent
    client.kill()
    client.communicate()
    masks = {name: content for name, content in expected.items() if name.endswith("_mask.png")}
    found = server.objects("out")
    del found["settings.json"]
    assert "3_mask.png" not in found
    assert {name: masks[name] for name in found} == found
    for counts in ("(6, 0)", "(6, 0)"):  # goes on, then has nothing to do
        said = subprocess.run([sys.executable, "-c", WORKER], **pipes, check=False).stdout
        assert said.splitlines()[-1] == counts, said
        assert SECRET not in said
        assert KEY not in said
    found = server.objects("out")
    assert len(found.pop("predictions.jsonl").splitlines()) == 6
    assert SECRET.encode() not in found.pop("settings.json")
    assert found == masks


def test_a_bucket_that_fails_now_and_then_gets_the_same_from_workers(serve, photos, expected):
    server = serve("every:5")
    server.put(**{f"in/{path.name}": path.read_bytes() for path in photos.iterdir()})
    pipes = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
        "env": server.environment,
    }
    said = subprocess.run([sys.executable, "-c", WORKER], **pipes, check=False).stdout
    assert said.splitlines()[-1] == "(6, 0)", said
    found = server.objects("out")
    assert {name: content for name, content in found.items() if name.endswith("_mask.png")} == {
        name: content for name, content in expected.items() if name.endswith("_mask.png")
    }
