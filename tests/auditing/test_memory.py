"""What an audit holds in memory hardly grows with the images: all that is large lies in a file an image."""

import gc
import tracemalloc

import numpy as np
import pytest
from balls import Balls

from featherseg.auditing import session
from featherseg.auditing.examples import examine
from featherseg.auditing.scorer import Judged, SelfTest
from featherseg.auditing.session import audit


@pytest.mark.slow
def test_an_image_more_takes_a_kilobyte_at_most(runtime, tmp_path, monkeypatch):
    """Without the scorer, which gives a score a region; a mask and a prediction take 4 kB, an image 7 kB."""
    label = np.indices((40, 56)).sum(axis=0).astype(np.uint8) // 6 % 3
    chances = np.random.default_rng(0).dirichlet((0.4, 0.4, 0.4), (5, 7)).transpose(2, 0, 1).repeat(8, 1).repeat(8, 2)
    made = examine(label, chances.astype(np.float32), (40, 56), (), np.random.default_rng(0), label)

    def judge(examples, folds, names):
        seen = [np.linspace(0, 1, len(example.kinds), dtype=np.float32) for example in examples()]
        return Judged(np.linspace(0, 1, len(seen)), seen, SelfTest(0.5, 0.5, 0.5, 0.5, 0.5, {}, 0.5))

    monkeypatch.setattr(session, "examine", lambda *_: made)
    monkeypatch.setattr(session, "judge", judge)
    monkeypatch.setattr(Balls, "__len__", lambda self: len(self.keys))

    def peak(count: int) -> int:
        monkeypatch.setattr(Balls, "keys", [f"clip{number // 10}/{number:06}" for number in range(count)])
        gc.collect()
        tracemalloc.start()
        audit(Balls(), tmp_path / f"{count}.html", run="colors", minutes=600, progress=lambda *_: None)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(300)  # imports, and the first call of everything; of so many the list of regions is full
    few, many = peak(300), peak(600)
    assert (many - few) / 300 < 1000
