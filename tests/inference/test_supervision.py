"""`Prediction.to_supervision`, with the package itself where it is installed."""

import sys
from types import ModuleType

import numpy as np
import pytest
from support.models.color_model import color_predictor, image

from featherseg.core.errors import MissingExtra


@pytest.fixture
def detections(monkeypatch):
    """supervision.Detections: the package's, or its fields alone."""
    try:
        from supervision import Detections
    except ImportError:

        class Detections:
            def __init__(self, **fields):
                vars(self).update(fields)

        module = ModuleType("supervision")
        module.Detections = Detections
        module.__spec__ = sys.__spec__
        monkeypatch.setitem(sys.modules, "supervision", module)
    return Detections


def test_every_class_has_one_mask(detections):
    prediction = color_predictor()(image())
    found = prediction.to_supervision()
    assert isinstance(found, detections)
    assert found.class_id.tolist() == [0, 1, 2]
    assert found.data["class_name"].tolist() == ["wall", "grass", "ball"]
    assert found.mask.dtype == bool
    for class_id, mask, (left, top, right, bottom) in zip(
        found.class_id, found.mask, found.xyxy.astype(int), strict=True
    ):
        assert (mask == (prediction.mask == class_id)).all()
        y, x = np.nonzero(mask)
        box = (left, top, right - 1, bottom - 1)
        assert box == (x.min(), y.min(), x.max(), y.max())


def test_without_the_package_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtra, match="pip install supervision"):
        color_predictor()(image()).to_supervision()
