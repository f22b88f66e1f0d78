"""What keys tell about sequences, and how the rest is cut into blocks."""

import numpy as np
import pytest

from featherseg.uncertainty.clusters import clusters_of, single_images


def lengths(keys: list[str]) -> list[int]:
    clusters = clusters_of(keys)
    assert len(clusters.index) == len(keys)
    found = np.bincount(clusters.index, minlength=clusters.count)
    assert (found > 0).all()
    return found.tolist()


@pytest.mark.parametrize("form", ["{s:04d}TP_{f:06d}", "Seq{s:02d}VD_f{f:05d}", "seq{s}/frame_{f:04d}", "city/{s}/{f}"])
def test_ten_sequences_are_drawn_whole(form):
    keys = [form.format(s=s, f=f) for s in range(10) for f in range(3 + s)]
    assert lengths(keys) == [3 + s for s in range(10)]
    assert clusters_of(keys).description == "10 whole sequences"


def test_camvids_two_test_sequences_are_cut_into_blocks_that_never_cross():
    keys = [f"0001TP_{f:06d}" for f in range(62)] + [f"Seq05VD_f{f:05d}" for f in range(171)]
    assert lengths(keys)[:2] == [31, 31]
    assert set(lengths(keys)[2:]) == {24, 25}
    assert clusters_of(keys).description == "9 blocks of about 25 consecutive images"


@pytest.mark.parametrize("form", ["ADE_val_{:08d}", "{:012d}", "munster/munster_{:06d}_000019", "0a{:06x}-7c39d841"])
def test_names_without_sequences_are_blocks_of_25_in_their_order(form):
    keys = [form.format(i) for i in range(500)]
    assert (clusters_of(keys).index == np.arange(500) // 25).all()


@pytest.mark.parametrize("form", ["{}", "img_{}", "yard/frame{}", "a/{}b"])
def test_frames_whose_numbers_are_not_padded_are_blocks_in_time(form):
    frames = sorted(range(1, 101), key=str)  # 1, 10, 100, 11, ...: as files are listed
    clusters = clusters_of([form.format(f) for f in frames])
    assert {f: int(u) for f, u in zip(frames, clusters.index, strict=True)} == {f: (f - 1) // 25 for f in range(1, 101)}


def test_few_images_are_one_block_and_single_images_are_all_apart():
    assert lengths(["a", "b", "c"]) == [3]
    assert single_images(3).index.tolist() == [0, 1, 2]
