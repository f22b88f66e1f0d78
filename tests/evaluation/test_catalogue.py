"""The counts that are written down are those that are counted."""

import pytest

from featherseg.evaluation.catalogue import CLASSES, COUNTS, SIZE, counts
from featherseg.evaluation.cost import cost
from featherseg.models import MODELS


@pytest.mark.parametrize("name", MODELS)
def test_every_network_s_counts_are_written_down_as_they_are(name):
    counted = cost(name, SIZE, CLASSES)
    assert COUNTS[name] == (counted.params, counted.macs["macs"])


def test_a_network_that_is_not_written_down_is_counted(monkeypatch):
    expected = COUNTS["frm-lite0"]
    monkeypatch.delitem(COUNTS, "frm-lite0")
    assert counts("frm-lite0") == expected
