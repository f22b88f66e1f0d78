"""The parity check must pass a right file and see a wrong one."""

from copy import deepcopy
from dataclasses import replace
from math import inf, nan

import pytest
import torch
from support.models.quick_exports import ONE_OF_EACH
from support.models.shallow import shallow

from featherseg import models
from featherseg.exporters.onnx import EXAMPLE
from featherseg.exporters.parity import (
    SAME_CLASS,
    SHAPES,
    SIGNAL_DB,
    TOLERANCE,
    ParityReport,
    ParityRow,
    _compare_masks,
    perturb,
    verify,
)
from featherseg.exporters.pipeline import _difference
from featherseg.models import MODELS

SMALL = ((1, 64, 64), (1, 33, 65))


def test_the_sizes_are_such_that_a_fixed_size_is_seen():
    sizes = [shape[1:] for shape in SHAPES]
    assert len(set(sizes)) >= 5
    assert not {side for size in sizes for side in size} & set(EXAMPLE[1:])
    assert sum(height % 2 == 1 and width % 2 == 1 for height, width in sizes) >= 2
    assert any(min(size) < 64 for size in sizes)
    assert {shape[0] for shape in SHAPES} == {1, 3}


def holds(exported):
    rows = exported.report.parity.rows
    assert [(row.batch, row.height, row.width) for row in rows] == list(SHAPES)
    assert exported.report.parity.ok
    assert all(row.relative_error <= TOLERANCE and row.same_class > 0.99 for row in rows)


def test_an_export_is_checked_at_every_size_and_holds(exported):
    holds(exported)


@pytest.mark.slow
def test_so_are_those_of_the_other_variants(exported_variant):
    holds(exported_variant)


@pytest.mark.seconds
@pytest.mark.parametrize("kind", ["bias", "running_var", "gamma"])
def test_a_file_of_slightly_other_weights_is_seen(exported, kind):
    other = deepcopy(exported.run.model)
    tensors = [value for key, value in other.state_dict().items() if key.endswith(f".{kind}")]
    if not tensors:
        pytest.skip(f"{exported.run.recipe.model.name} has no {kind}")
    with torch.no_grad():
        for (
            tensor
        ) in tensors:  # all: the last of a model may sit behind a gate that hardly lets it through
            tensor.mul_(1.05)
    assert verify(exported.run.model, exported.report.path, SMALL).ok
    report = verify(other, exported.report.path, SMALL)
    assert not report.ok
    assert report.first_difference is not None


@pytest.mark.seconds
def test_a_file_of_another_shape_is_infinitely_wrong(exported):
    other = perturb(models.build(exported.run.recipe.model.name, classes=2))
    report = verify(other, exported.report.path, SMALL)
    assert not report.ok
    assert report.first_difference == "metadata: classes"
    assert report.worst.max_error == inf


def test_figures_that_are_not_finite_are_null_in_json():
    (row,) = ParityReport((ParityRow(1, 64, 64, 1e-6, 1e-7, 1.0),)).as_dict()[
        "rows"
    ]  # as of a file that gives masks
    assert (row["signal_db"], row["relative_error"]) == (None, 1e-7)


def test_a_nan_is_not_within_tolerance():
    good, bad = ParityRow(1, 64, 64, 1e-6, 1e-7, 1.0), ParityRow(1, 65, 65, nan, nan, 1.0)
    report = ParityReport((good, bad))
    assert good.ok
    assert not report.ok
    assert report.worst is bad


def test_a_file_whose_metadata_alone_differ_is_not_ok():
    report = ParityReport((ParityRow(1, 64, 64, 0.0, 0.0, 1.0),), "metadata: mean")
    assert not report.ok
    assert report.as_dict()["first_difference"] == "metadata: mean"


@pytest.mark.parametrize(
    ("same_class", "signal_db", "ok"),
    [
        (SAME_CLASS, SIGNAL_DB, True),
        (0.99, 9.9, False),
        (0.89, 30.0, False),
        (0.99, nan, False),
        (nan, 30.0, False),
    ],
)
def test_a_quantised_file_has_limits_of_its_own(same_class, signal_db, ok):
    row = ParityRow(1, 64, 64, 1.0, 100 * TOLERANCE, same_class, signal_db, quantised=True)
    assert row.ok == ok


def test_what_is_said_of_a_file_is_what_failed():
    fine = ParityRow(1, 64, 64, 9.0, 0.5, 1.0, 30.0, quantised=True)
    noisy = ParityRow(1, 65, 65, 1.0, 0.1, 0.99, 5.0, quantised=True)
    assert "at 65x65, batch 1" in _difference("int8", ParityReport((fine, noisy)))
    assert "5.0 dB of the signal above the noise; at least 10 dB" in _difference(
        "int8", ParityReport((fine, noisy))
    )
    other = replace(noisy, same_class=0.5)
    assert "50.0% of the places have the same class" in _difference("int8", ParityReport((other,)))


@pytest.mark.seconds
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in ONE_OF_EACH else pytest.mark.slow) for name in MODELS],
)
def test_perturbed_weights_are_nowhere_initial_and_always_the_same(name):
    model = shallow(name, 3)
    fresh = deepcopy(model.state_dict())
    first = deepcopy(perturb(model).state_dict())
    second = perturb(model).state_dict()
    for key, value in fresh.items():
        assert torch.equal(first[key], second[key])
        if not key.endswith("num_batches_tracked"):
            assert not torch.isclose(first[key], value).all(), key
            assert first[key].count_nonzero() > 0.999 * first[key].numel()


def test_a_mask_is_as_wrong_as_the_score_that_would_give_it():
    scores = torch.tensor(
        [[[[4.0, 1.0]], [[0.0, 3.0]], [[2.0, 2.0]]]]
    )  # (1, 3, 1, 2), over a range of 4
    error, relative, same, _ = _compare_masks(torch.tensor([[[2, 2]]]), scores)
    assert (error, relative, same) == (
        1.0,
        0.25,
        0.0,
    )  # class 2 for 0: 4 and 2 meet at 3, each off by 1
