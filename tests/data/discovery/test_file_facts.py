"""Each file is decoded once on any number of cores; the facts equal those of a pixel loop."""

import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from featherseg.data.checks.check import check_data
from featherseg.data.discovery import file_facts
from featherseg.data.discovery.file_facts import FileFacts, count_values, in_threads
from featherseg.data.images.decoding import mask_and_colors


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 1), (9, 11)])
def test_counts_are_those_of_a_loop_over_the_pixels(dtype, shape):
    raw = np.random.default_rng(0).choice([0, 3, 200], shape).astype(dtype)
    pixels, alike, flat = Counter(), Counter(), Counter()
    for y, x in np.ndindex(*shape):
        value = int(raw[y, x])
        pixels[value] += 1
        right = x + 1 < shape[1] and raw[y, x + 1] == value
        alike[value] += right
        flat[value] += right and y + 1 < shape[0] and raw[y + 1, x] == value
    expected = [[v, pixels[v], alike[v], flat[v]] for v in sorted(pixels)]
    assert count_values(raw, flat=True).T.tolist() == expected


def test_colours_are_counted_by_their_number():
    colors = np.random.default_rng(1).choice([0, 255], (5, 4, 3)).astype(np.uint8)
    number = colors.astype(int) @ [65536, 256, 1]
    values, pixels = np.unique(number, return_counts=True)
    assert count_values(colors)[:2].tolist() == [values.tolist(), pixels.tolist()]


@pytest.mark.parametrize("cores", [1, 3])
def test_results_come_in_order_and_few_are_computed_ahead(monkeypatch, cores):
    monkeypatch.setattr(file_facts, "usable_cores", lambda: cores)
    begun: list[int] = []

    def square(number: int) -> int:
        begun.append(number)
        return number * number

    results = in_threads(square, range(1000))
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    results.close()
    assert len(begun) <= 5 + file_facts.AHEAD * cores


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for i in range(12):
        photo = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        mask = np.zeros((48, 64), np.uint8)
        mask[i : i + 20, 5:30] = 255
        Image.fromarray(photo).save(tmp_path / f"images/{i:03}.png")
        Image.fromarray(mask).save(tmp_path / f"masks/{i:03}.png")
    (tmp_path / "images/004.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "masks/007.png")
    return tmp_path


@pytest.mark.seconds
def test_a_report_is_the_same_whatever_the_number_of_cores(monkeypatch, folder):
    reports = []
    for cores in (1, 2, 7):
        monkeypatch.setattr(file_facts, "usable_cores", lambda cores=cores: cores)
        reports.append(json.dumps(check_data(str(folder)).as_dict()))
    assert len(set(reports)) == 1
    assert {fault["kind"] for fault in json.loads(reports[0])["faults"]} == {"unreadable", "size"}


@pytest.mark.parametrize("proposed", [True, False])
def test_each_file_is_decoded_once(monkeypatch, folder, proposed):
    if not proposed:
        report = check_data(str(folder))
        report.proposal.write(folder)
    read: Counter[str] = Counter()
    for name in ("image_and_turn", "mask_and_colors"):
        original = getattr(file_facts, name)

        def counting(path, *options, original=original):
            read[str(path)] += 1
            return original(path, *options)

        monkeypatch.setattr(file_facts, name, counting)
    check_data(str(folder))
    assert len(read) == 24
    assert set(read.values()) == {1}


def test_what_is_kept_of_an_unreadable_file_holds_no_pixels(folder):
    error = FileFacts().image(folder / "images/004.png", 3)
    assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF"])
def test_the_colours_of_a_palette_are_those_that_pillow_decodes(tmp_path, form):
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 5, (7, 9)).astype(np.uint8)
    ).convert("P")
    image.putpalette(list(range(15)))
    image.save(tmp_path / "mask", form)
    with Image.open(io.BytesIO((tmp_path / "mask").read_bytes())) as again:
        assert again.mode == "P"
        bands = again.getpalette("RGB")
    assert mask_and_colors(tmp_path / "mask", colors=False)[1] == list(
        zip(bands[::3], bands[1::3], bands[2::3], strict=True)
    )
