import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data.panoptic_scenes import CATEGORIES, THINGS, scene

from featherseg.core.errors import DataError
from featherseg.core.types import ClassInfo
from featherseg.data.panoptic.segments import check_agreement, from_sample, list_segments, to_sample

SEEDS = st.integers(0, 2**32 - 1)
CLASSES = tuple(ClassInfo(str(c["id"]), (0, 0, 0), thing=bool(c["isthing"])) for c in CATEGORIES)
CATEGORY_IDS = [category["id"] for category in CATEGORIES]
CLASS_OF = {category: index for index, category in enumerate(CATEGORY_IDS)}


def by_id(segments: list[dict]) -> dict[int, dict]:
    return {segment["id"]: segment for segment in segments}


@settings(max_examples=40)
@given(seed=SEEDS)
def test_areas_and_boxes_are_those_of_the_masks(seed):
    ids, segments = scene(np.random.default_rng(seed))
    category_of = {segment["id"]: segment["category_id"] for segment in segments} | {0: 0}
    crowds = frozenset(segment["id"] for segment in segments if segment["iscrowd"])
    same, listed = list_segments(ids, category_of, crowds)
    np.testing.assert_array_equal(same, ids)
    assert same.dtype == np.int32
    assert [segment["id"] for segment in listed] == sorted(by_id(segments))
    for segment in listed:
        rows, columns = np.nonzero(ids == segment["id"])
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert segment == by_id(segments)[segment["id"]] | {"bbox": box}


def test_a_segment_as_wide_as_the_image_ends_with_its_rows():
    ids = np.array([[0, 0, 4], [4, 4, 4], [4, 0, 0]])
    (segment,) = list_segments(ids, {0: 0, 4: 1})[1]
    assert (segment["area"], segment["bbox"]) == (5, [0, 0, 3, 3])


@settings(max_examples=40)
@given(seed=SEEDS)
def test_a_sample_has_classes_instances_and_crowds_where_the_masks_are(seed):
    ids, segments = scene(np.random.default_rng(seed))
    label, instances = to_sample(ids, segments, CLASS_OF, CLASSES)
    assert (label.dtype, instances.dtype) == (np.uint8, np.int32)
    assert (label[ids == 0] == 255).all()
    assert not instances[ids == 0].any()
    for segment in segments:
        mask = ids == segment["id"]
        expected = (
            segment["id"] * (-1) ** segment["iscrowd"] if segment["category_id"] in THINGS else 0
        )
        assert (label[mask] == CLASS_OF[segment["category_id"]]).all()
        assert (instances[mask] == expected).all()


@settings(max_examples=40)
@given(seed=SEEDS)
def test_a_sample_and_its_segmentation_tell_the_same(seed):
    """Stuff of one class becomes one segment; things and crowds stay apart."""
    ids, segments = scene(np.random.default_rng(seed))
    label, instances = to_sample(ids, segments, CLASS_OF, CLASSES)
    again = from_sample(label, instances, CLASSES, CATEGORY_IDS)
    found_label, found_instances = to_sample(*again, CLASS_OF, CLASSES)
    np.testing.assert_array_equal(found_label, label)
    np.testing.assert_array_equal(np.sign(found_instances), np.sign(instances))
    matched = np.unique(np.stack([instances.ravel(), found_instances.ravel()]), axis=1)
    assert matched.shape[1] == len(np.unique(instances)) == len(np.unique(found_instances))
    things = [segment for segment in segments if segment["category_id"] in THINGS]
    stuff = {segment["category_id"] for segment in segments} - set(THINGS)
    assert len(again[1]) == len(things) + len(stuff)


def test_things_without_an_instance_are_a_crowd():
    label, instances = np.array([[0, 0, 0, 2]], np.uint8), np.array([[0, 5, 5, 0]], np.int32)
    ids, segments = from_sample(label, instances, CLASSES, CATEGORY_IDS)
    rows = [(segment["category_id"], segment["area"], segment["iscrowd"]) for segment in segments]
    assert sorted(rows) == [(1, 1, 1), (1, 2, 0), (90, 1, 0)]
    assert len(np.unique(ids)) == 3


def test_an_instance_of_two_classes_is_two_segments():
    label, instances = np.array([[0, 1]], np.uint8), np.array([[7, 7]], np.int32)
    assert [s["category_id"] for s in from_sample(label, instances, CLASSES, CATEGORY_IDS)[1]] == [
        1,
        4,
    ]


@pytest.mark.parametrize("label", [255, 2])
def test_an_image_of_void_or_of_one_class_has_no_or_one_segment(label):
    full = np.full((4, 5), label, np.uint8)
    ids, segments = from_sample(full, np.zeros((4, 5), np.int32), CLASSES, CATEGORY_IDS)
    assert len(segments) == (label != 255)
    assert (ids == 0).all() == (label == 255)
    np.testing.assert_array_equal(to_sample(ids, segments, CLASS_OF, CLASSES)[0], full)


def test_a_map_and_a_list_that_differ_are_named():
    ids, segments = np.array([[0, 3, 3, 4]]), [{"id": 3}, {"id": 4}]
    check_agreement(ids, segments, "a.png")
    with pytest.raises(
        DataError, match=r"a\.png draws the segment id 4, which its annotation does not list"
    ):
        check_agreement(ids, segments[:1], "a.png")
    with pytest.raises(DataError, match=r"a\.png lists the segment id 9, which no pixel has"):
        check_agreement(ids, [*segments, {"id": 9}], "a.png")
