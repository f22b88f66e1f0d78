"""The memory of an audit hardly grows with its images: large data lies in a file per image."""

import gc
import tracemalloc

import numpy as np
import pytest
from support.data.balls import Balls

from featherseg.auditing import audit as session
from featherseg.auditing import examining
from featherseg.auditing.audit import audit
from featherseg.auditing.examples import examine
from featherseg.auditing.faults import FAULTS


@pytest.mark.slow
def test_an_image_more_takes_a_kilobyte_at_most(runtime, tmp_path, monkeypatch):
    """Per image: a mask and a prediction take 4 kB, the image 7 kB, its regions' scores 0.1 kB.

    2,000 images take at most twice the memory of 200: most of it is for images that are learned
    from, whose number is the same.
    """
    label = np.indices((40, 56)).sum(axis=0).astype(np.uint8) // 6 % 3
    chances = (
        np.random.default_rng(0)
        .dirichlet((0.4, 0.4, 0.4), (5, 7))
        .transpose(2, 0, 1)
        .repeat(8, 1)
        .repeat(8, 2)
    )
    other = np.roll(label, 9, 1)
    made = {
        faults: examine(
            label, chances.astype(np.float32), (40, 56), faults, np.random.default_rng(0), other
        )
        for faults in (FAULTS, ())
    }
    monkeypatch.setattr(examining, "examine", lambda label, chances, size, faults, *_: made[faults])
    monkeypatch.setattr(Balls, "__len__", lambda self: len(self.keys))
    monkeypatch.setattr(examining, "MOST_PLANTED", 100)
    monkeypatch.setattr(session, "MOST_TRAINING", 150)

    def collect(doing: str, done: int, total: int | None) -> None:
        """Collect first: numpy's file reader leaves cycles of ast, which are not memory in use."""
        if done % 50 == 0:
            gc.collect()

    def peak(count: int, name: str) -> int:
        monkeypatch.setattr(
            Balls, "keys", [f"clip{number // 10}/{number:06}" for number in range(count)]
        )
        gc.collect()
        tracemalloc.start()
        audit(Balls(), tmp_path / f"{name}.html", run="colors", minutes=600, progress=collect)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(
        2000, "first"
    )  # imports, the first call of everything, and the room that Python makes for names of files
    few, many = peak(200, "few"), peak(2000, "many")  # of 200 the list of regions is full
    assert (many - few) / 1800 < 1000
    assert many < 2 * few
