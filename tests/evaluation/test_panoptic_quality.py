import contextlib
import io
import json
import math
import warnings
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data.panoptic_scenes import CATEGORIES, count_slowly, listed, scene
from support.golden.golden_make import GOLDEN

from featherseg.core.errors import DataError, UnknownName
from featherseg.data.datasets.bdd100k_panoptic import CATEGORY_IDS, BDD100KPanoptic
from featherseg.data.panoptic.data import categories
from featherseg.data.panoptic.files import PanopticWriter
from featherseg.evaluation import PanopticQuality
from featherseg.evaluation.panoptic_quality import RULES, quality

SEEDS = st.integers(0, 2**32 - 1)
TWO = [{"id": 1, "isthing": 1}, {"id": 2, "isthing": 0}]


def scored(ground_truth, prediction, rule: str = "coco", of=CATEGORIES) -> dict:
    """The figures of one image; ground truth and prediction are (ids, segments)."""
    counter = PanopticQuality(of, rule)
    counter.update(*ground_truth, *prediction)
    return counter.compute()


def plain(ids: list[list[int]], **category: int) -> tuple[np.ndarray, list[dict]]:
    """Return (ids, segments) by category of ids: plain([[1, 0]], _1=2) gives id 1 category 2."""
    return np.array(ids), [
        {"id": int(name[1:]), "category_id": value} for name, value in category.items()
    ]


def pairs(rng: np.random.Generator, crowds: bool = True):
    """A ground truth, and a prediction that resembles it."""
    ground_truth = scene(rng, crowds=crowds)
    return ground_truth, scene(rng, crowds=False, near=ground_truth[0])


@given(SEEDS, st.sampled_from(RULES))
def test_pooled_counts_make_the_panoptic_quality_as_pixels_make_iou(seed, rule):
    rng, counter = np.random.default_rng(seed), PanopticQuality(CATEGORIES, rule)
    for _ in range(3):
        ground_truth, prediction = pairs(rng)
        counter.update(*ground_truth, *prediction)
    segments, matched, rest = counter.pooled()
    denominator = segments + rest - matched
    found, known = counter.compute(), denominator > 0
    assert found["n"] == known.sum()
    assert math.isclose((matched[known] / denominator[known]).mean(), found["pq"])
    assert (segments == [row["tp"] + row["fn"] for row in found["per_category"].values()]).all()


# What the official tools found


def unrolled(runs: list[int]) -> np.ndarray:
    """(H, W) ids of a golden's runs."""
    height, width, *rest = runs
    return np.repeat(rest[::2], rest[1::2]).reshape(height, width)


def overlapping(pairs: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of one row whose ids share as many pixels as a golden says."""
    ground_truth, prediction, pixels = np.array(pairs).T
    return np.repeat(ground_truth, pixels)[None], np.repeat(prediction, pixels)[None]


def test_every_case_has_the_figures_of_panopticapi():
    golden = json.loads((GOLDEN / "panoptic/panopticapi.json").read_text())
    assert len(golden["cases"]) == 37
    for case in golden["cases"]:
        ground_truth, prediction = (
            (unrolled(case[k]), case[f"{k}_segments"]) for k in ("gt", "prediction")
        )
        found = scored(ground_truth, prediction, of=golden["categories"])
        assert found["pq"] == case["expected"]["pq"], case["name"]
        for category, expected in case["expected"]["per_category"].items():
            counts = found["per_category"][int(category)]
            assert counts | {"iou_sum": round(counts["iou_sum"], 4)} == expected, case["name"]


def test_the_pair_of_deeplab2_has_its_figures():
    golden = json.loads((GOLDEN / "panoptic/overlaps.json").read_text())["deeplab2"]
    ground_truth, joined = overlapping(golden["overlaps"])
    true_segments = [
        {"id": int(value), "category_id": number} for value, number in golden["truth"].items()
    ]
    predicted = [
        {"id": value, "category_id": value // 256} for value in np.unique(joined).tolist() if value
    ]
    found = scored(
        (ground_truth, true_segments),
        (joined, predicted),
        of=[{"id": i, "isthing": 1} for i in range(1, 7)],
    )
    pq, sq, rq, *counts = golden["expected"]
    assert [found["pq"], found["sq"], found["rq"]] == pytest.approx([pq, sq, rq], abs=5e-9)
    rows = [row for row in found["per_category"].values() if row["tp"] + row["fp"] + row["fn"]]
    assert [np.mean([row[key] for row in rows]) for key in ("tp", "fn", "fp")] == counts


def test_the_pairs_of_bdd100k_s_toolkit_have_its_figures():
    golden = json.loads((GOLDEN / "panoptic/overlaps.json").read_text())["bdd100k"]
    counter = PanopticQuality(categories(BDD100KPanoptic.facts.classes, CATEGORY_IDS), "bdd100k")
    for name in "ab":
        ground_truth, prediction = overlapping(golden[name]["overlaps"])
        counter.update(ground_truth, golden[name]["truth"], prediction, golden[name]["prediction"])
        if name == "a":
            of_a = counter.compute()
    assert 100 * of_a["pq"] == pytest.approx(67.31291398, abs=5e-9)
    assert of_a["n"] == 16
    for category, expected in golden["image_a_per_category_tp_fp_fn_iousum"].items():
        assert list(of_a["per_category"][int(category)].values()) == pytest.approx(
            expected, rel=1e-14
        )
    found, expected = counter.compute(), golden["expected"]
    for key, figures in (("", found), ("/STUFF", found["stuff"]), ("/THING", found["things"])):
        assert figures["n"] == expected[f"N{key}"]
        assert 100 * figures["pq"] == pytest.approx(expected[f"PQ{key}"], rel=1e-14)
    assert [100 * found["sq"], 100 * found["rq"]] == pytest.approx(
        [expected["SQ"], expected["RQ"]], rel=1e-14
    )


@pytest.fixture(scope="module")
def official() -> ModuleType:
    """cityscapesscripts' panoptic evaluation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.evaluation import (
            evalPanopticSemanticLabeling as module,  # noqa: N813
        )
    return module


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_have_the_figures_of_cityscapesscripts(official, tmp_path, seed):
    """Five scenes with void and crowds, through the files that the writer makes."""
    rng = np.random.default_rng(seed)
    counter, writers = (
        PanopticQuality(CATEGORIES),
        [PanopticWriter(tmp_path / name, CATEGORIES) for name in ("t", "p")],
    )
    for number in range(5):
        ground_truth, prediction = pairs(rng)
        counter.update(*ground_truth, *prediction)
        for writer, panoptic in zip(writers, (ground_truth, prediction), strict=True):
            writer.add(number, f"{number}.jpg", f"{number}.png", panoptic)
    annotations = [json.loads(writer.finish().read_text())["annotations"] for writer in writers]
    known = {category["id"]: category for category in CATEGORIES}
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = official.pq_compute_single_core(
            0, list(zip(*annotations, strict=True)), tmp_path / "t", tmp_path / "p", known
        )
    ours = counter.compute()
    for category, row in ours["per_category"].items():
        stat = theirs[category]
        assert (row["tp"], row["fp"], row["fn"]) == (stat.tp, stat.fp, stat.fn)
        assert row["iou_sum"] == pytest.approx(stat.iou, rel=1e-14)
    for part, of_things in ((ours, None), (ours["things"], True), (ours["stuff"], False)):
        with contextlib.suppress(ZeroDivisionError):  # theirs, where no category occurs
            assert {key: part[key] for key in ("pq", "sq", "rq", "n")} == pytest.approx(
                theirs.pq_average(known, of_things)[0], rel=1e-14
            )
    assert ours["n"] == 4


# What follows from the definition


@settings(max_examples=60)
@given(seed=SEEDS, rule=st.sampled_from(RULES))
def test_counts_are_those_of_a_loop_over_masks(seed, rule):
    ground_truth, prediction = pairs(np.random.default_rng(seed))
    for segment in prediction[1]:
        segment["iscrowd"] = int(segment["id"] % 5 == 0)
    found = scored(ground_truth, prediction, rule)["per_category"]
    for category, expected in count_slowly(rule, *ground_truth, *prediction).items():
        assert list(found[category].values()) == pytest.approx(expected, rel=1e-13)


@settings(max_examples=30)
@given(seed=SEEDS, rule=st.sampled_from(RULES))
def test_a_prediction_that_is_the_ground_truth_scores_1(seed, rule):
    ground_truth = scene(np.random.default_rng(seed), crowds=False)
    found = scored(ground_truth, ground_truth, rule)
    if ground_truth[1]:
        assert [found[key] for key in ("pq", "sq", "rq")] == [1.0, 1.0, 1.0]
    assert found["n"] == len({segment["category_id"] for segment in ground_truth[1]})


@settings(max_examples=30)
@given(seed=SEEDS, rule=st.sampled_from(RULES))
def test_other_ids_and_another_order_of_the_list_change_nothing(seed, rule):
    rng = np.random.default_rng(seed)
    ground_truth, prediction = pairs(rng)
    before = scored(ground_truth, prediction, rule)
    renamed = []
    for ids, segments in (ground_truth, prediction):
        new = {0: 0} | {s["id"]: 7 * (i + 1) for i, s in enumerate(reversed(segments))}
        shuffled = [s | {"id": new[s["id"]]} for s in segments]
        renamed.append(
            (
                np.vectorize(new.get)(ids),
                shuffled[::-1] if not any(s["iscrowd"] for s in segments) else shuffled,
            )
        )
    after = scored(*renamed, rule)
    assert after["n"] == before["n"]
    assert [after[key] for key in ("pq", "sq", "rq")] == pytest.approx(
        [before[k] for k in ("pq", "sq", "rq")], nan_ok=True
    )


def test_a_match_needs_more_than_half():
    half = scored(plain([[1, 1, 2, 2]], _1=1, _2=2), plain([[1, 2, 2, 2]], _1=1, _2=2), of=TWO)[
        "per_category"
    ]
    assert half[1] == {"tp": 0, "fp": 1, "fn": 1, "iou_sum": 0.0}  # IoU 1/2
    assert half[2]["tp"] == 1  # IoU 2/3


@pytest.mark.parametrize(("rule", "iou"), [("coco", 1.0), ("bdd100k", 3 / 4)])
def test_void_under_a_match_is_part_of_the_union_by_one_rule_alone(rule, iou):
    found = scored(plain([[1, 1, 1, 0]], _1=1), plain([[5, 5, 5, 5]], _5=1), rule, TWO)
    assert found["pq"] == iou


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("void", "false_alarms"), [(2, 1), (3, 0)])
def test_a_prediction_mostly_on_void_is_no_false_alarm(rule, void, false_alarms):
    """On 2 of 4 pixels it is half, not more."""
    ground_truth = plain([[0] * void + [2] * (4 - void), [2] * 4], _2=2)
    found = scored(ground_truth, plain([[1] * 4, [2] * 4], _1=1, _2=2), rule, TWO)
    assert found["per_category"][1]["fp"] == false_alarms


@pytest.mark.parametrize(
    ("rule", "category", "false_alarms"), [("coco", 1, 0), ("coco", 3, 1), ("bdd100k", 3, 0)]
)
def test_a_prediction_on_a_crowd_of_another_class_is_excused_by_one_rule_alone(
    rule, category, false_alarms
):
    three = [*TWO, {"id": 3, "isthing": 1}]
    ground_truth = (
        np.array([[9, 9, 9, 2, 2, 2]]),
        [{"id": 9, "category_id": 1, "iscrowd": 1}, {"id": 2, "category_id": 2}],
    )
    found = scored(
        ground_truth,
        (np.array([[5, 5, 5, 2, 2, 2]]), plain([[]], _5=category, _2=2)[1]),
        rule,
        three,
    )
    assert found["per_category"][category]["fp"] == false_alarms
    assert found["per_category"][1]["fn"] == 0  # a crowd is never missed


def test_predicted_void_is_no_excuse_for_a_miss():
    found = scored(plain([[1, 1, 1, 1]], _1=1), (np.zeros((1, 4), int), []), of=TWO)
    assert found["per_category"][1] == {"tp": 0, "fp": 0, "fn": 1, "iou_sum": 0.0}
    assert found["pq"] == 0.0


def test_the_area_of_the_ground_truth_is_read_from_its_list():
    ground_truth = (
        np.array([[1, 1, 1, 2]]),
        [{"id": 1, "category_id": 1, "area": 4}, {"id": 2, "category_id": 2}],
    )
    assert (
        scored(ground_truth, plain([[1, 1, 1, 2]], _1=1, _2=2), of=TWO)["per_category"][1][
            "iou_sum"
        ]
        == 3 / 4
    )


def test_a_true_segment_without_a_pixel_is_a_miss():
    ground_truth = np.array([[2, 2]]), [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    assert scored(ground_truth, plain([[2, 2]], _2=2), of=TWO)["per_category"][1]["fn"] == 1


def test_what_does_not_occur_is_not_a_number_and_takes_no_part():
    found = PanopticQuality(TWO).compute()
    for part in (found, found["things"], found["stuff"]):
        assert part["n"] == 0
        assert all(math.isnan(part[key]) for key in ("pq", "sq", "rq"))
    found = scored(plain([[1, 1]], _1=1), plain([[1, 1]], _1=1), of=TWO)
    assert (found["pq"], found["n"], found["things"]["n"]) == (1.0, 1, 1)
    assert math.isnan(found["stuff"]["pq"])
    assert math.isnan(quality({"tp": 0, "fp": 0, "fn": 0, "iou_sum": 0.0})["sq"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_every_kind_of_whole_numbers_will_do(dtype):
    ids, segments = plain([[1, 1, 200, 0]], _1=1, _200=2)
    assert (
        scored((ids.astype(dtype), segments), (ids.astype(np.int32), segments), of=TWO)["pq"] == 1.0
    )


def test_300_instances_at_full_size_are_found_again_two_pixels_on():
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 300, (64, 128)).repeat(16, 0).repeat(16, 1)
    ground_truth, moved = (ids, listed(ids, rng, crowds=False)), np.roll(ids, 2, axis=(0, 1))
    found = scored(ground_truth, (moved, listed(moved, rng, crowds=False)))
    assert sum(row["tp"] for row in found["per_category"].values()) == 299


# What it says of wrong input


MAP, SEGMENTS = plain([[1, 1, 2, 2]], _1=1, _2=2)


@pytest.mark.parametrize(
    ("part", "ids", "segments", "sentence"),
    [
        (
            0,
            MAP,
            SEGMENTS[:1],
            r"map of the ground truth has id 2 \(2 pixels in all\), not listed among its 1 segment",
        ),
        (1, MAP, SEGMENTS[:1], r"map of the prediction has id 2 \(2 pixels"),
        (1, MAP + 1, SEGMENTS, r"map of the prediction has id 3 \(2 pixels"),
        (
            1,
            MAP,
            [*SEGMENTS, {"id": 3, "category_id": 1}],
            "prediction lists id 3, which no pixel of its map has",
        ),
        (
            0,
            MAP,
            [SEGMENTS[0], {"id": 2, "category_id": 5}],
            "segment 2 of the ground truth has the category_id 5. Expected",
        ),
        (1, MAP, [SEGMENTS[0], {"id": 2}], "segment 2 of the prediction has the category_id None"),
        (1, MAP, [*SEGMENTS, SEGMENTS[0]], "two segments of the prediction have the id 1"),
        (
            1,
            MAP,
            [*SEGMENTS, {"id": 0, "category_id": 1}],
            "has the id 0. Expected a whole number above 0",
        ),
        (1, MAP, [*SEGMENTS, {"category_id": 1}], "has the id None"),
        (
            0,
            MAP,
            [SEGMENTS[0], SEGMENTS[1] | {"area": 0}],
            "segment 2 of the ground truth has area 0",
        ),
        (
            1,
            MAP[:, :3],
            SEGMENTS,
            r"the prediction is 1x3, its ground truth 1x4 \(height x width\)",
        ),
        (1, MAP.astype(np.float32), SEGMENTS, r"ids of the prediction are float32 of shape 1x4"),
        (
            0,
            np.stack([MAP] * 3, axis=2),
            SEGMENTS,
            r"ids of the ground truth are int64 of shape 1x4x3",
        ),
        (0, -MAP, SEGMENTS, "map of the ground truth has ids -2, -1"),
    ],
)
def test_what_does_not_fit_gets_a_sentence_and_counts_nothing(part, ids, segments, sentence):
    counter = PanopticQuality(TWO)
    counter.update(MAP, SEGMENTS, MAP, SEGMENTS)
    before, both = counter.compute(), [(MAP, SEGMENTS), (MAP, SEGMENTS)]
    both[part] = ids, segments
    with pytest.raises(DataError, match=sentence):
        counter.update(*both[0], *both[1])
    assert counter.compute() == before


def test_slips_in_the_categories_get_a_sentence():
    with pytest.raises(UnknownName, match="Did you mean 'coco'"):
        PanopticQuality(TWO, "cocoa")
    with pytest.raises(DataError, match="category id 1 occurs twice"):
        PanopticQuality([*TWO, {"id": 1, "isthing": 0}])
    with pytest.raises(DataError, match=r"lacks a key\. Expected 'id' and 'isthing'"):
        PanopticQuality([{"id": 1, "name": "road"}])
