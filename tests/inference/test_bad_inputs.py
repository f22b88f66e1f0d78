"""A Predictor on any argument: the right mask or a message; no crash, hang or other mask."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.bad_inputs import PARTS, corpus, write
from support.bad_inputs.bombs import black_square, bombs
from support.bad_inputs.case import GREY, RGB, BadInput, patches, saved, turned
from support.bad_inputs.objects import objects
from support.models.pixel_model import mask_of, pixel_runtime

from featherseg import FeathersegError
from featherseg.core.errors import DataError
from featherseg.data.images.decoding import image_size, read_image, read_mask
from featherseg.inference.predictor import Predictor

MOST_MEMORY = 200
"""MiB that a bomb may take."""


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(pixel_runtime())


def fault(case: BadInput, found: object) -> str | None:
    """What is wrong with a Prediction, or an error, for that case; None where it is right."""
    if isinstance(found, FeathersegError):
        sentence = str(found)
        if case.pixels is not None and not case.may_fail:
            return f"{case.name} was refused: {sentence}"
        return (
            None
            if sentence and "Traceback" not in sentence
            else f"{case.name} has no sentence: {sentence}"
        )
    if isinstance(found, Exception):
        return f"{case.name} crashed: {found!r}"
    if case.pixels is None:
        return f"{case.name} was read as {found.mask.shape}"
    if found.image.dtype != case.pixels.dtype or not np.array_equal(found.image, case.pixels):
        return f"{case.name} was read as another image"
    return (
        None
        if np.array_equal(found.mask, mask_of(case.pixels))
        else f"{case.name} has another mask"
    )


def answer(predictor: Predictor, thing: object) -> object:
    """A Prediction, a list of them, or what was raised."""
    try:
        found = predictor(thing)
        return list(found) if isinstance(found, Iterator) else found
    except Exception as error:
        return error


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """The sentence with which a file was refused; any other error comes out of here."""
    try:
        read(path)
    except FeathersegError as error:
        return str(error)
    return None


def test_the_corpus_has_at_least_300_inputs_and_each_its_name():
    cases = corpus()
    assert len(cases) >= 500
    assert len({case.name for case in cases}) == len(cases)
    assert sum(case.pixels is None for case in cases) >= 150
    assert sum(case.pixels is not None and not case.may_fail for case in cases) >= 150


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_file_gives_its_own_mask_or_a_sentence(predictor, tmp_path, part):
    faults = [fault(case, answer(predictor, write(tmp_path, case))) for case in part()]
    assert not [words for words in faults if words]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_file_as_a_mask_or_a_size_is_read_or_refused_in_a_sentence(tmp_path, part):
    paths = [write(tmp_path, case) for case in part()]
    told = [(path, refusal(read, path)) for path in paths for read in (read_mask, image_size)]
    assert not [words for path, words in told if words and str(path) not in words]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(
            part, marks=[pytest.mark.slow] if part.__wrapped__ is bombs else [], id=part.__name__
        )
        for part in PARTS
    ],
)  # Pillow itself decodes what the bombs hold, gigabytes of it
@pytest.mark.filterwarnings("ignore")  # the program opens the file by itself, and Pillow warns it
def test_every_file_that_pillow_opened_gives_its_own_mask_or_a_sentence(predictor, part):
    faults = []
    for case in part():
        try:
            image = Image.open(io.BytesIO(case.content))
        except Exception:
            continue
        found = answer(predictor, image)
        if isinstance(found, Exception):
            faults.append(
                None if isinstance(found, DataError) else f"{case.name} crashed: {found!r}"
            )
        elif case.pixels is not None and case.pixels.dtype == found.image.dtype == np.uint8:
            faults.append(fault(case, found) if image.format != "TIFF" else None)
    assert not [words for words in faults if words]


@pytest.mark.parametrize("case", objects(), ids=lambda case: case.name)
def test_every_object_gives_its_own_mask_or_a_sentence(predictor, case):
    found = answer(predictor, case.make())
    if case.pixels is None:
        assert isinstance(found, FeathersegError), found
        assert len(str(found)) > 15
        return
    assert not isinstance(found, Exception), found
    np.testing.assert_array_equal(found.image, case.pixels)
    np.testing.assert_array_equal(found.mask, mask_of(case.pixels))
    found.overlay(legend=True)


@pytest.mark.seconds
def test_images_without_contrast_or_with_hardly_a_pixel_make_no_nan(frm_runtime):
    predictor = Predictor(frm_runtime)
    flat = [np.full((40, 56, 3), value, np.uint8) for value in (0, 255)]
    tiny = [patches(1, 1), patches(1, 130), patches(130, 1), patches(2, 3)]
    deep = np.full((40, 56, 3), 65535, np.uint16)
    for image in (*flat, *tiny, deep):
        found = predictor(image)
        assert found.mask.shape == image.shape[:2]
        assert np.isfinite(found.probabilities()).all()


FINDINGS = (
    "tiff/three grey pages, turned",
    "tiff/16-bit colour in planes",
    "tiff/16-bit colour in planes, deflated",
    "tiff/signed bytes",
    "png/a palette without colours",
    "webp/an EXIF block of garbage",
)
"""What was once read as another image, or refused for no reason."""


@pytest.mark.parametrize("name", FINDINGS)
def test_what_was_once_wrong_is_right(predictor, tmp_path, name):
    case = next(case for case in corpus() if case.name == name)
    assert fault(case, answer(predictor, write(tmp_path, case))) is None


READ_ALL = """
import sys
from pathlib import Path
from featherseg.core.errors import FeathersegError
from featherseg.data.images.decoding import read_image

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

before = peak()
for path in sorted(Path(sys.argv[1]).rglob("*.*")):
    try:
        read_image(path)
    except FeathersegError:
        pass
print(peak() - before)
"""


@pytest.mark.seconds
@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="the peak of the memory is read from Linux"
)
def test_no_bomb_takes_more_than_its_share_of_memory(tmp_path):
    for case in bombs():
        write(tmp_path, case)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < MOST_MEMORY


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_name_too_long_a_pipe_and_a_folder_are_refused_without_waiting(predictor, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (
        tmp_path / "pipe.png",
        tmp_path,
        tmp_path / ("x" * 300 + ".png"),
        tmp_path / ("a/" * 3000 + "b.png"),
    ):
        with pytest.raises(DataError):
            predictor(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "colour"])
def test_a_turned_tiff_is_upright_from_a_file(tmp_path, orientation, pixels):
    """Pillow 13.0 maps raw grey TIFFs by their upright size, which scrambles rotated ones."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "phone.tif"
    path.write_bytes(saved(turned(pixels, orientation), "TIFF", exif=exif))
    channels = 1 if pixels.ndim == 2 else 3
    np.testing.assert_array_equal(
        read_image(path, channels), pixels.reshape(*pixels.shape[:2], channels)
    )
    np.testing.assert_array_equal(read_mask(path), pixels)


def test_one_bad_image_in_an_iterator_spoils_none_before_it(predictor):
    given = iter([RGB, RGB[::-1], None])
    results = predictor(given)
    np.testing.assert_array_equal(next(results).mask, mask_of(RGB))


def test_a_sound_image_just_above_the_limit_is_refused_by_its_header(predictor, tmp_path):
    path = tmp_path / "over.png"
    path.write_bytes(black_square(13_378))  # 178,970,884 pixels
    with pytest.raises(DataError, match="too large"):
        predictor(path)


def test_half_precision_is_rounded_once(predictor):
    for dtype in (torch.float16, torch.bfloat16):
        values = torch.arange(0, 1.001, 1 / 2048).to(dtype).clamp(0, 1)
        tensor = values.expand(3, 1, -1)
        exact = np.floor(values.double().numpy() * 255 + 0.5)
        assert np.abs(predictor(tensor).image[0, :, 0] - exact).max() == 0
