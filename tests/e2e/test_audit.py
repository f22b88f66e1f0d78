"""The real command, killed at several points and called again: the same lists, and a dataset that is corrected."""

import json
import re
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from balls import WRONG, Balls, write_balls
from color_model import CLASSES
from PIL import Image
from small_run import small_info

from featherseg import models
from featherseg.core.types import ClassInfo
from featherseg.runs import save_weights, write_info

SECONDS = 600
"""After which a command that has not come so far has failed."""


def start(place: Path, name: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "featherseg", "audit", "balls", "--run", "run", "--minutes", "60"]
    command += ["--json", f"{name}.json", "-o", f"{name}.html"]
    return subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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
    (tmp_path / "run").mkdir()
    torch.manual_seed(0)
    save_weights(tmp_path / "run", models.build("frm-lite0", len(CLASSES)).state_dict())
    classes = [ClassInfo(info.name, info.color) for info in CLASSES]
    write_info(tmp_path / "run", small_info(classes, image_size=(40, 56)))
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
    pages = [(tmp_path / f"{name}.html").read_text() for name in ("whole", "audit")]
    assert pages[0] == pages[1]

    rows = [json.loads(unescape(text)) for text in re.findall(r'data-region="([^"]*)"', pages[0])]
    accepted = [{"decision": "accept", **row} for row in rows if row["key"] in {Balls.keys[number] for number in WRONG}]
    (tmp_path / "decisions.json").write_text(json.dumps({"format": 1, "decisions": accepted}))
    check = ["check", "balls", "--fix", "out", "--decisions", "decisions.json"]
    subprocess.run([sys.executable, "-m", "featherseg", *check], cwd=tmp_path, check=False, capture_output=True)
    changes = {row["key"]: row["runs"] for row in accepted}
    for number, key in enumerate(Balls.keys):
        wanted = Balls().label(number)
        for class_id, first, pixels in changes.get(key, ()):
            wanted.reshape(-1)[first : first + pixels] = class_id
        mask = np.array(Image.open(next((tmp_path / "out/masks").rglob(f"{key}.png"))))
        assert np.array_equal(mask, wanted)
