"""The counts that rows of the catalogue state are those that are counted."""

from dataclasses import replace

import pytest
from support.models.quick_exports import EVERY_MODEL

from featherseg.costs.catalogue import CLASSES, SIZE, counts
from featherseg.costs.cost import cost
from featherseg.models import MODELS


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_the_counts_that_a_row_states_are_right(name):
    counted = cost(name, SIZE, CLASSES)
    assert (MODELS[name].params, MODELS[name].macs) == (counted.params, counted.macs["macs"])


def test_a_model_whose_row_states_none_is_counted(monkeypatch):
    expected = counts("frm-lite0")
    monkeypatch.setitem(MODELS, "frm-lite0", replace(MODELS["frm-lite0"], params=None))
    assert counts("frm-lite0") == expected
