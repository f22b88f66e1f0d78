"""The real command, killed at several points and restarted: same lists, corrected dataset."""

import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.data.balls import WRONG, Balls, write_balls

import featherseg
from featherseg.core.types import Sample


class Others(Balls):
    """Similar images with right masks, for a model that never saw the audited images."""

    keys = [f"meadow/{number:03}" for number in range(24)]

    def right(self, index: int) -> np.ndarray:
        return super().right(index + 100)

    def label(self, index: int) -> np.ndarray:
        return self.right(index)

    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), label=self.label(index))


SECONDS = 600
"""After which a command that has not come so far has failed."""


def start(place: Path, name: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "featherseg",
        "audit",
        "balls",
        "--run",
        "run",
        "--minutes",
        "60",
    ]
    command += ["--json", f"{name}.json", "-o", f"{name}.html"]
    return subprocess.Popen(
        command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_at(process: subprocess.Popen, reached, seconds: float = SECONDS) -> None:
    """SIGKILL as soon as `reached()` holds."""
    ends = time.monotonic() + seconds
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < ends
        time.sleep(0.005)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_killed_at_several_points_it_ends_the_same_and_its_decisions_correct_the_masks(tmp_path):
    write_balls(tmp_path / "balls", things=True)
    settings = {
        "train.steps": 120,
        "train.batch_size": 8,
        "train.validations": 1,
        "model.pretrained": False,
    }
    featherseg.train(
        "frm-lite0", (Others(), Others()), out=tmp_path / "run", settings=settings, report=False
    )
    whole = start(tmp_path, "whole")
    assert "the page is whole.html" in whole.communicate()[0]

    def kept() -> int:
        return len(list(tmp_path.glob("audit.audit/*/*.npz")))

    kill_at(start(tmp_path, "audit"), lambda: kept() >= 3)
    kill_at(start(tmp_path, "audit"), lambda: kept() >= 17)
    kill_at(start(tmp_path, "audit"), lambda: kept() == 24)
    assert not (tmp_path / "audit.html").exists()
    assert "the page is audit.html" in start(tmp_path, "audit").communicate()[0]
    told = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "audit")]
    assert {**told[0], "page": ""} == {**told[1], "page": ""}
    assert told[0]["no_ranking"] is None
    pages = [(tmp_path / f"{name}.html").read_text() for name in ("whole", "audit")]
    assert pages[0] == pages[1]

    rows = [json.loads(unescape(text)) for text in re.findall(r'data-region="([^"]*)"', pages[0])]
    accepted = [
        {"decision": "accept", **row}
        for row in rows
        if row["key"] in {Balls.keys[number] for number in WRONG}
    ]
    (tmp_path / "decisions.json").write_text(json.dumps({"format": 1, "decisions": accepted}))
    check = ["check", "balls", "--fix", "out", "--decisions", "decisions.json"]
    subprocess.run(
        [sys.executable, "-m", "featherseg", *check], cwd=tmp_path, check=False, capture_output=True
    )
    changes = {row["key"]: row["runs"] for row in accepted}
    for number, key in enumerate(Balls.keys):
        wanted = Balls().label(number)
        for class_id, first, pixels in changes.get(key, ()):
            wanted.reshape(-1)[first : first + pixels] = class_id
        mask = np.array(Image.open(next((tmp_path / "out/masks").rglob(f"{key}.png"))))
        assert np.array_equal(mask, wanted)
