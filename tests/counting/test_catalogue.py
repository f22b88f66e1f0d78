"""The counts that are written down are those that are counted."""

import pytest

from featherseg.counting.catalogue import CLASSES, COUNTS, SIZE, counts
from featherseg.counting.cost import cost
from featherseg.models import MODELS


@pytest.mark.parametrize("name", COUNTS)
def test_the_counts_that_are_written_down_are_right(name):
    counted = cost(name, SIZE, CLASSES)
    assert COUNTS[name] == (counted.params, counted.macs["macs"])


def test_a_model_that_is_not_written_down_is_counted(monkeypatch):
    assert set(COUNTS) <= set(MODELS)
    expected = COUNTS["frm-lite0"]
    monkeypatch.delitem(COUNTS, "frm-lite0")
    assert counts("frm-lite0") == expected
