"""A folder's prediction that SIGKILL interrupts ends in the same bytes as one without a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featherseg.runs.run import STARTER

LIVES = """
import os, signal, sys
from functools import partial
from pathlib import Path

sys.path.append(sys.argv[1])
import featherseg
from support.models.pixel_model import pixel_runtime
from featherseg.inference import output
from featherseg.inference.predictor import Predictor

photos, whole, killed = map(Path, sys.argv[2:])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number, function, *, behind=False):
    # `function`, killed before or behind its n-th call
    calls = 0

    def wrapped(*given):
        nonlocal calls
        calls += 1
        if calls == number and not behind:
            die()
        done = function(*given)
        if calls == number:
            die()
        return done

    return wrapped


def torn(record, rows):
    # the lines of the first two images are cut in their middle
    written = record.stat().st_size
    append(record, rows)
    if written > 400:
        os.truncate(record, (written + record.stat().st_size) // 2 + 9)
        die()


append = output.append_rows
KILLS = {
    "before anything": (output, "append_rows", at_call(1, append)),
    "before the first image": (output, "append_rows", at_call(1, append, behind=True)),
    "between the files of an image": (os, "replace", at_call(2, os.replace)),
    "while a file is written": (os, "fsync", at_call(2, os.fsync)),
    "between mask and record": (output, "append_rows", at_call(2, append)),
    "within the record": (output, "append_rows", torn),
    "behind the record": (output, "append_rows", at_call(2, append, behind=True)),
}


def live(out, kill=None):
    # one process, forked before torch has threads; -> the signal that ended it
    if child := os.fork():
        return os.waitpid(child, 0)[1]
    try:
        if kill:
            setattr(*KILLS[kill])
        found = featherseg.predict(Predictor(pixel_runtime(), batch=2), photos, out=out)
        print(kill, found.resumed, len(found.names), flush=True)
    finally:
        os._exit(0)


assert live(whole) == 0
for kill in KILLS:
    assert live(killed, kill) == signal.SIGKILL, kill
assert live(killed) == 0
assert live(killed) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_folder_that_is_killed_again_and_again_ends_in_the_same_bytes(tmp_path):
    photos, whole, killed = tmp_path / "photos", tmp_path / "whole", tmp_path / "killed"
    photos.mkdir()
    for number in range(12):
        size = (20, 30 + number // 5)  # groups of two, and of one where the size changes
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:02}.png")
    (photos / "03.png").write_bytes(b"no image")
    words = [sys.executable, "-c", LIVES, str(Path(__file__).parents[1]), photos, whole, killed]
    done = subprocess.run(
        words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "None 11 11"
    assert sorted(os.listdir(killed)) == sorted(os.listdir(whole))
    assert {f.name: f.read_bytes() for f in killed.iterdir()} == {
        f.name: f.read_bytes() for f in whole.iterdir()
    }


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_killed(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(60):
        pixels = np.random.default_rng(number).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:02}.png")
    command = [sys.executable, "-m", "featherseg", "predict", STARTER, str(photos), "-o"]
    for _ in range(2):
        with subprocess.Popen([*command, str(out)], stdout=subprocess.PIPE, text=True) as process:
            for _ in range(25):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
    done = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of 60 images are in" in done.stdout
    assert subprocess.run([*command, str(tmp_path / "whole")], capture_output=True).returncode == 0
    found, whole = (
        {f.name: f.read_bytes() for f in folder.iterdir()} for folder in (out, tmp_path / "whole")
    )
    assert found == whole
    again = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert (again.returncode, "nothing left to do: 60 images" in again.stdout) == (0, True)
