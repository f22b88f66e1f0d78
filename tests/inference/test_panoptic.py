"""The merge against a loop by definition, true targets, degenerate scenes; memory at full size."""

import tracemalloc

import numpy as np
import pytest
import torch

from featherseg.data.panoptic.targets import panoptic_targets
from featherseg.inference import panoptic
from featherseg.inference.memory import LiveBytes
from featherseg.inference.panoptic import find_centers, merge
from featherseg.recipe.panoptic import PanopticTable

THINGS = {1, 3}  # classes; 0, 2 and 4 are stuff
EVERYTHING = PanopticTable(stuff_area=0)


def maps(height, width, peaks=()):
    """Centres (H, W) with the peaks {(row, column): value}, offsets of 0."""
    centers = torch.zeros(height, width)
    for place, value in dict(peaks).items():
        centers[place] = value
    return centers, torch.zeros(2, height, width)


def assert_valid(found, mask):
    """Ids and segments agree, everything is a number that JSON knows, void stays void."""
    assert found.ids.dtype == np.int32
    assert found.ids.shape == mask.shape
    assert [segment["id"] for segment in found.segments] == list(range(1, len(found.segments) + 1))
    assert set(np.unique(found.ids)) - {0} == {segment["id"] for segment in found.segments}
    for segment in found.segments:
        assert {type(value) for key, value in segment.items() if key != "score"} == {int}
        assert segment["area"] == (found.ids == segment["id"]).sum()
        assert segment["iscrowd"] == 0
        classes = set(np.unique(mask[found.ids == segment["id"]]).tolist())
        thing = segment["category_id"] in THINGS
        assert segment["category_id"] in classes
        assert classes <= THINGS if thing else classes == {segment["category_id"]}
        assert ("score" in segment) == thing
        assert 0 <= segment.get("score", 0) <= 1
    assert (found.ids[mask == 255] == 0).all()


def loop(mask, centers, offsets, settings):
    """Return each pixel's owner (H, W): ("thing", centre, class), ("stuff", class) or None."""
    height, width = mask.shape
    reach = settings.kernel // 2
    peaks = []
    for y, x in np.ndindex(height, width):
        around = centers[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        if centers[y, x] > settings.threshold and centers[y, x] == around.max():
            peaks.append((-float(centers[y, x]), y, x))
    peaks = [(y, x) for _, y, x in sorted(peaks)][: settings.top_k]
    owner, members = {}, {}
    for y, x in np.ndindex(height, width):
        if mask[y, x] in THINGS and peaks:
            to = (y + float(offsets[0, y, x]), x + float(offsets[1, y, x]))
            distances = [(to[0] - py) ** 2 + (to[1] - px) ** 2 for py, px in peaks]
            owner[y, x] = distances.index(min(distances))
            members.setdefault(owner[y, x], []).append(int(mask[y, x]))
    voted = {
        centre: max(sorted(set(labels)), key=labels.count) for centre, labels in members.items()
    }
    result = np.full((height, width), None)
    for y, x in np.ndindex(height, width):
        category = int(mask[y, x])
        if (y, x) in owner:
            result[y, x] = ("thing", owner[y, x], voted[owner[y, x]])
        elif (
            category not in THINGS
            and category != 255
            and (mask == category).sum() >= settings.stuff_area
        ):
            result[y, x] = ("stuff", category)
    return result


@pytest.mark.parametrize("chunk", [1, 2**20])  # one row at a time, and all at once
@pytest.mark.parametrize("settings", [
    PanopticTable(stuff_area=60),
    PanopticTable(kernel=3, top_k=2),
    PanopticTable(threshold=0.7, kernel=5, top_k=50, stuff_area=10_000),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_the_definition_says_pixel_by_pixel(seed, settings, chunk, monkeypatch):
    monkeypatch.setattr(panoptic, "CHUNK_BYTES", chunk)
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 2, 3, 4, 255], size=(4, 5), p=[0.2, 0.35, 0.1, 0.2, 0.1, 0.05]).astype(
        np.uint8
    )
    mask = mask.repeat(4, axis=0).repeat(3, axis=1)  # (16, 15)
    centers = torch.from_numpy(rng.random((16, 15)))
    offsets = torch.from_numpy(rng.normal(0, 4, (2, 16, 15)))
    found, expected = (
        merge(mask, centers, offsets, THINGS, settings),
        loop(mask, centers, offsets, settings),
    )
    assert_valid(found, mask)
    category = {segment["id"]: segment["category_id"] for segment in found.segments}
    pairs = {(int(i), owner) for i, owner in zip(found.ids.ravel(), expected.ravel(), strict=True)}
    assert (
        len(pairs) == len({i for i, _ in pairs}) == len({owner for _, owner in pairs})
    )  # one to one
    assert all((owner is None) if i == 0 else (owner[-1] == category[i]) for i, owner in pairs)


def random_scene(seed, size=(200, 240), objects=40):
    """Return discs and rectangles with ids over stuff, centres 4 pixels or more apart, and void."""
    rng = np.random.default_rng(seed)
    label = (
        rng.choice([0, 2, 4], size=(4, 4))
        .astype(np.uint8)
        .repeat(size[0] // 4, 0)
        .repeat(size[1] // 4, 1)
    )
    instances = np.zeros(size, np.int32)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for number in range(1, objects + 1):
        y, x, tall, wide = (
            rng.uniform(0, size[0]),
            rng.uniform(0, size[1]),
            rng.uniform(2, 40),
            rng.uniform(2, 40),
        )
        shape = [
            np.hypot((rows - y) / tall, (columns - x) / wide) < 1,
            (abs(rows - y) < tall) & (abs(columns - x) < 3),
        ]
        part = shape[number % 2]
        label[part], instances[part] = rng.choice([1, 3]), 1000 * number
    label[:9, :50], instances[:9, :50] = 255, 0
    means = []
    for number in np.unique(instances[instances > 0]):
        middle = np.argwhere(instances == number).mean(axis=0)
        if any(np.abs(middle - other).max() < 4 for other in means):
            label[instances == number], instances[instances == number] = 0, 0
        else:
            means.append(middle)
    return label, instances


@pytest.mark.parametrize("seed", range(6))
def test_true_targets_give_back_the_true_segments(seed):
    label, instances = random_scene(seed)
    targets = panoptic_targets(label, instances, THINGS)
    found = merge(
        label,
        torch.from_numpy(targets.center),
        torch.from_numpy(targets.offset),
        THINGS,
        EVERYTHING,
    )
    assert_valid(found, label)
    ground_truth = np.where(instances > 0, instances, -label.astype(np.int32))
    pairs = {*zip(found.ids.ravel().tolist(), ground_truth.ravel().tolist(), strict=True)}
    assert len(pairs) == len({i for i, _ in pairs}) == len({i for _, i in pairs})
    assert len({i for _, i in pairs if i > 0}) > 15
    for segment in found.segments:
        assert (label[found.ids == segment["id"]] == segment["category_id"]).all()


def test_an_instance_is_of_the_class_of_most_of_its_pixels_and_of_the_lower_where_they_are_equal():
    mask = np.array([[1, 3, 3, 0, 3, 1]], np.uint8)
    centers, offsets = maps(1, 6, {(0, 1): 0.9, (0, 5): 0.8})
    found = merge(mask, centers, offsets, THINGS, EVERYTHING)
    assert found.ids.tolist() == [[1, 1, 1, 3, 2, 2]]
    assert [segment["category_id"] for segment in found.segments] == [3, 1, 0]
    assert [segment.get("score") for segment in found.segments] == [
        pytest.approx(0.9),
        pytest.approx(0.8),
        None,
    ]


def test_a_pixel_goes_where_its_offset_points():
    mask = np.full((3, 20), 1, np.uint8)
    centers, offsets = maps(3, 20, {(1, 2): 1.0, (1, 17): 0.9})
    offsets[1, 0, 0] = 15.0  # over to the far centre
    offsets[1, 2, 19] = -15.0
    found = merge(mask, centers, offsets, THINGS, EVERYTHING)
    assert (found.ids[1, :10] == 1).all()
    assert (found.ids[1, 10:] == 2).all()
    assert (found.ids[0, 0], found.ids[2, 19]) == (2, 1)


@pytest.mark.parametrize(("area", "kept"), [(6, True), (7, False)])
def test_stuff_that_is_too_small_is_void(area, kept):
    mask = np.array([[0, 0, 0, 2], [0, 0, 0, 255]], np.uint8)
    found = merge(mask, *maps(2, 4), THINGS, PanopticTable(stuff_area=area))
    assert [segment["category_id"] for segment in found.segments] == [0] * kept
    assert found.ids.tolist() == [[kept] * 3 + [0], [kept] * 3 + [0]]


def test_exactly_so_many_centres_are_kept_the_best_and_of_equals_the_first():
    centers, _ = maps(200, 200)
    centers[5::10, 5::10] = 0.5  # 400 equal ones
    centers[195, 195] = 0.9
    positions, values = find_centers(centers, PanopticTable(top_k=6))
    assert positions.tolist() == [[195, 195], [5, 5], [5, 15], [5, 25], [5, 35], [5, 45]]
    assert values.tolist() == pytest.approx([0.9] + [0.5] * 5)


def test_a_centre_is_above_the_threshold_and_the_largest_around():
    centers, _ = maps(
        20, 20, {(4, 4): 0.5, (4, 7): 0.4, (4, 12): 0.3, (15, 15): 0.1, (0, 19): 0.100001}
    )
    positions, _ = find_centers(centers, PanopticTable(threshold=0.1, kernel=7))
    assert positions.tolist() == [[4, 4], [4, 12], [0, 19]]


def test_centres_without_a_pixel_are_no_instances():
    mask = np.array([[1, 1, 0, 0, 0, 0, 0, 0]], np.uint8)
    found = merge(mask, *maps(1, 8, {(0, 7): 0.9, (0, 0): 0.3}), THINGS, EVERYTHING)
    assert_valid(found, mask)
    assert [segment["category_id"] for segment in found.segments] == [1, 0]


DEGENERATE = {
    "no thing": np.tile(np.array([0, 2], np.uint8), (30, 20)),
    "one class of things": np.full((30, 40), 1, np.uint8),
    "one class of stuff": np.full((30, 40), 2, np.uint8),
    "all void": np.full((30, 40), 255, np.uint8),
    "one pixel": np.array([[3]], np.uint8),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("heat", ["none", "one", "everywhere", "not a number"])
@pytest.mark.parametrize("stuff_area", [0, 10_000])
def test_degenerate_scenes_give_valid_segmentations(name, heat, stuff_area):
    mask = DEGENERATE[name]
    values = {"none": 0.0, "one": 0.0, "everywhere": 0.7, "not a number": float("nan")}
    centers, offsets = torch.full(mask.shape, values[heat]), torch.full((2, *mask.shape), 3.0)
    if heat == "one":
        centers[-1, -1] = 5.0
    found = merge(mask, centers, offsets, THINGS, PanopticTable(stuff_area=stuff_area))
    assert_valid(found, mask)
    peaks = {"none": 0, "one": 1, "everywhere": 200, "not a number": 0}[heat]
    if not np.isin(mask, [*THINGS]).any() or not peaks:
        assert not any(segment["category_id"] in THINGS for segment in found.segments)
    if name in ("no thing", "one class of stuff"):
        assert bool(found.segments) == (stuff_area == 0)
    if name == "one class of things" and heat == "one":
        assert (found.ids == 1).all()
        assert found.segments[0]["score"] == 1.0


def test_three_hundred_instances_are_all_found_where_so_many_are_allowed():
    mask = np.full((150, 200), 1, np.uint8)
    numbers = 1 + (np.arange(150) // 10)[:, None] * 20 + np.arange(200) // 10  # 15 x 20 squares
    targets = panoptic_targets(mask, numbers, THINGS)
    inputs = (mask, torch.from_numpy(targets.center), torch.from_numpy(targets.offset), THINGS)
    found = merge(*inputs, PanopticTable(top_k=300))
    assert_valid(found, mask)
    assert len({*zip(found.ids.ravel().tolist(), numbers.ravel().tolist(), strict=True)}) == 300
    assert len(merge(*inputs, PanopticTable()).segments) == 200


def test_arrays_give_what_tensors_give():
    generator = torch.Generator().manual_seed(3)
    mask = torch.randint(0, 5, (61, 83), generator=generator).to(torch.uint8).numpy()
    centers = torch.rand(61, 83, generator=generator)
    offsets = 9 * torch.randn(2, 61, 83, generator=generator)
    settings = PanopticTable(threshold=0.9, kernel=5)
    of_tensors = merge(mask, centers, offsets, THINGS, settings)
    of_arrays = merge(mask, centers.numpy(), offsets.numpy(), THINGS, settings)
    assert (of_arrays.ids == of_tensors.ids).all()
    assert of_arrays.segments == of_tensors.segments
    assert len(of_arrays.segments) > 50


@pytest.mark.slow
def test_a_large_image_full_of_things_takes_less_than_100_mb():
    """1024x2048, every pixel a thing, 200 centres: all distances at once would be 1.7 GB."""
    centers, offsets = maps(1024, 2048)
    centers[50::100, 50::100] = torch.rand(10, 20, generator=torch.Generator().manual_seed(0)) + 0.2
    inputs = (
        np.full((1024, 2048), 1, np.uint8),
        centers,
        offsets,
        THINGS,
        PanopticTable(stuff_area=2048),
    )
    with LiveBytes() as tensors:
        found = merge(*inputs)
    tracemalloc.start()
    merge(*inputs)
    arrays = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.segments) == 200
    assert 16e6 < tensors.peak + arrays < 100e6
