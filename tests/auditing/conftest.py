from pathlib import Path

import pytest
from support.data.balls import write_balls
from support.models.color_model import CLASSES, ColorModel

from featherseg.auditing import audit as session
from featherseg.auditing import boosting
from featherseg.inference.runtimes.pytorch import TorchRuntime


@pytest.fixture
def runtime(monkeypatch) -> TorchRuntime:
    """What stands in for a run that never saw the images: it sees what is plain."""
    opened = TorchRuntime(ColorModel().eval(), CLASSES, name="colors", device="cpu")
    monkeypatch.setattr(session, "open_unseeing", lambda run, data, device: (opened, []))
    monkeypatch.setattr(boosting, "TREES", 8)  # enough for what is plain, in little time
    return opened


@pytest.fixture
def on_disk(tmp_path) -> Path:
    """Balls as a dataset of one's own."""
    return write_balls(tmp_path / "balls")
