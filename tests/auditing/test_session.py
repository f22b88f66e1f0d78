import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from color_model import CLASSES as COLOR_CLASSES
from color_model import ColorModel

from featherseg.auditing import session
from featherseg.auditing.faults import plant
from featherseg.auditing.probabilities import probabilities_at
from featherseg.auditing.session import audit
from featherseg.core.types import Sample
from featherseg.data.decisions import audited_places
from featherseg.inference.masks import probabilities
from featherseg.inference.runtimes.pytorch import TorchRuntime

COLORS = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230]], np.uint8)
WRONG = (4, 17)


class Balls:
    """24 images of a wall, grass and balls in the colours that ColorModel knows; the masks of WRONG have a fault."""

    name, classes, channels, licence = "balls", COLOR_CLASSES, 3, "MIT"
    keys = [f"yard/{number:03}" for number in range(24)]

    def __len__(self) -> int:
        return len(self.keys)

    def right(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        label = np.zeros((40, 56), np.uint8)
        label[rng.integers(16, 26) :] = 1
        for _ in range(3):
            y, x = rng.integers(0, 30), rng.integers(0, 44)
            label[y : y + 9, x : x + 11] = 2
        return label

    def label(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        return plant(self.right(index), "dropped", 3, rng, self.right(0)) if index in WRONG else self.right(index)

    def __getitem__(self, index: int) -> Sample:
        noise = np.random.default_rng(index).integers(0, 20, (40, 56, 3), dtype=np.uint8)
        return Sample(self.keys[index], COLORS[self.right(index)] + noise, self.label(index))


@pytest.fixture
def runtime(monkeypatch) -> TorchRuntime:
    """What stands in for a run that never saw the images: it sees what is plain."""
    opened = TorchRuntime(ColorModel().eval(), COLOR_CLASSES, name="colors", device="cpu")
    monkeypatch.setattr(session, "open_unseeing", lambda run, data, device: (opened, []))
    return opened


def test_the_wrong_masks_come_first_and_every_image_once(runtime, tmp_path: Path):
    found = audit(Balls(), tmp_path / "audit.html", run="colors")
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert sorted(row["key"] for row in told["images"]) == Balls.keys
    scores = [row["score"] for row in told["images"]]
    assert scores == sorted(scores, reverse=True)
    assert {row["key"] for row in told["images"][:2]} == {Balls.keys[number] for number in WRONG}
    assert {type(told["self_test"][key]) for key in ("average_precision", "precision_at_50")} == {float}
    first = told["regions"][0]
    assert set(first) == {"key", "kind", "class", "score", "box"}
    assert first["key"] in {Balls.keys[number] for number in WRONG}


def test_a_stopped_audit_goes_on_and_ends_the_same(runtime, tmp_path: Path, monkeypatch):
    whole = audit(Balls(), tmp_path / "whole.html", run="colors").as_dict()
    examine, left = session.examine, [5]

    def stopped(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return examine(*arguments)

    monkeypatch.setattr(session, "examine", stopped)
    with pytest.raises(KeyboardInterrupt):
        audit(Balls(), tmp_path / "audit.html", run="colors")
    assert not (tmp_path / "audit.html").exists()
    left[0] = 19  # what is there is not examined again
    again = audit(Balls(), tmp_path / "audit.html", run="colors").as_dict()
    assert {**again, "page": ""} == {**whole, "page": ""}


def test_without_time_faults_are_planted_into_the_least_that_is_needed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(session, "ALWAYS_PLANTED", 3)
    chances = np.full((3, 40, 56), 1 / 3, np.float32)
    session.examine_all(Balls(), lambda *_: chances, tmp_path, time.monotonic() - 1, lambda *_: None)
    counts = [len(session.Example.load(path).faults) for path in sorted(tmp_path.glob("*.npz"))]
    assert [number for number, count in enumerate(counts) if count > 1] == [0, 12, 23]


def test_probabilities_at_some_places_are_those_of_the_whole_image(runtime):
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    rows, columns = np.array([0, 3, 17, 36]), np.array([1, 2, 49])
    whole = probabilities(runtime, image).numpy()
    assert probabilities_at(runtime, image, rows, columns) == pytest.approx(whole[:, rows][:, :, columns], abs=1e-6)


def test_small_images_are_audited_at_every_pixel_and_large_ones_evenly():
    rows, columns = audited_places((30, 40))
    assert (rows.tolist(), columns.tolist()) == (list(range(30)), list(range(40)))
    rows, columns = audited_places((1024, 2048))
    assert (len(rows), len(columns)) == (256, 512)
    assert set(np.diff(columns)) == {4}


def test_the_page_runs_its_own_script_alone_and_names_are_text(runtime, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Balls, "keys", ["<script>alert(1)</script>", *Balls.keys[1:]])
    audit(Balls(), tmp_path / "audit.html", run="colors")
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.count("<script>") == 1
    assert re.search(r"default-src 'none'; .*script-src 'sha256-[A-Za-z0-9+/]{43}='", page)
    assert page.count('<figure class="triple suspect"') == 24
    assert "http://" not in page
    assert "https://" not in page
