"""Best and worst images: the right ones are chosen, and what is drawn is what was predicted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featherseg.core.types import ClassInfo
from featherseg.inference.drawing import color_mask, rgb_view
from featherseg.reports.examples import MAX_SIDE, choose, read_examples, webp

CLASSES = (ClassInfo("road", (128, 64, 128)), ClassInfo("car", (0, 0, 142)))


@pytest.mark.seconds
@given(
    st.dictionaries(st.text(max_size=3), st.floats(0, 1) | st.just(float("nan")), max_size=12),
    st.integers(1, 5),
)
def test_no_image_is_chosen_twice_and_the_extremes_are_there(mious, count):
    chosen = choose(mious, count)
    keys, known = [e.key for e in chosen], {k: m for k, m in mious.items() if m == m}
    best, worst = ([e.miou for e in chosen if e.name.startswith(k)] for k in ("best", "worst"))
    assert len(keys) == len(set(keys)) == len(best) + len(worst)
    assert len(worst) == min(count, -(-len(known) // 3))
    assert len(best) == min(count, len(known) // 3) <= len(known) / 2.9
    if known:
        assert worst[0] == min(known.values())
    if len(known) > 2:
        assert best[0] == max(known.values())


def test_the_most_telling_image_comes_first():
    chosen = choose({"a": 0.5, "b": 0.1, "c": 0.9, "d": 0.7, "e": 0.3}, 2)
    assert [(e.name, e.key) for e in chosen] == [
        ("best-1", "c"),
        ("worst-1", "b"),
        ("worst-2", "e"),
    ]


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_16_bit_images_of_any_channels_can_be_shown(channels):
    image = np.full((4, 6, channels), 65535, dtype=np.uint16)
    assert np.array(rgb_view(image)).min() == 255


def test_large_masks_are_shrunk_without_new_colours(tmp_path):
    label = (np.indices((700, 1300)).sum(axis=0) // 97 % 2).astype(np.uint8)
    (tmp_path / "a.webp").write_bytes(webp(color_mask(label, CLASSES), lossless=True))
    image = np.array(Image.open(tmp_path / "a.webp").convert("RGB"))
    assert max(image.shape) == MAX_SIDE
    assert {tuple(color) for color in image.reshape(-1, 3).tolist()} == {
        info.color for info in CLASSES
    }


def test_a_folder_without_or_with_broken_images_has_no_examples(tmp_path):
    assert read_examples(tmp_path) == []
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "examples.json").write_text(
        '[{"name": "best-1", "key": "a", "miou": 0.5}]'
    )
    assert read_examples(tmp_path) == []
