"""Splits by share keep sequences together; what they are is read off the names of the images."""

import hashlib
from itertools import pairwise

import pytest

from featherseg.data.sequences import neighbours, sequence_of, split_by_share

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def clips(count: int, frames: int, first: int = 0) -> list[str]:
    return [f"clip{c:02}/frame_{f}" for c in range(first, first + count) for f in range(frames)]


def owners(splits: dict[str, list[str]]) -> dict[str, str]:
    return {key: split for split, keys in splits.items() for key in keys}


def split(keys: list[str], shares: dict[str, float] = SHARES, **options) -> dict[str, list[str]]:
    return split_by_share(keys, shares, **options)[0]


@pytest.mark.parametrize(
    ("key", "sequence"),
    [
        ("0001TP_006690", "0001TP"),
        ("seq1/0007", "seq1"),
        ("yard/frame12", "yard"),
        ("drive_a_jpg.rf.0123456789abcdef0123456789abcdef", "drive_a"),
        ("drive_0041_png.rf.0123456789abcdef0123456789abcdef", "drive"),
        ("house", "house"),
    ],
)
def test_a_sequence_is_a_name_without_its_frame_number(key, sequence):
    assert sequence_of(key) == sequence


@pytest.mark.parametrize(("count", "frames"), [(3, 20), (5, 30), (10, 45), (40, 30)])
def test_no_sequence_is_in_two_splits_and_none_of_these_is_empty(count, frames):
    splits = split(clips(count, frames))
    assert all(splits.values())
    parts = [{sequence_of(key) for key in keys} for keys in splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == count
    assert not any(neighbours(splits).values())


def test_a_hash_of_each_name_put_most_test_frames_beside_a_training_frame():
    splits = split(clips(1, 450), split_by="hash")
    beside = neighbours(splits)["test"]
    assert beside >= 0.9 * len(splits["test"])  # seen: 44 of 45


def test_older_runs_splits_are_made_as_they_were():
    keys = clips(3, 40)
    splits = split(keys, split_by="hash")
    for key, name in owners(splits).items():
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
        assert name == ("train" if place < 0.8 else "val" if place < 0.8 + 0.1 else "test")


@pytest.mark.parametrize("frames", [20, 120, 450, 700])
def test_one_clip_is_cut_in_time_with_a_gap_at_every_cut(frames):
    splits, how = split_by_share(clips(1, frames), SHARES)
    assert "by time: 1 sequence" in how
    assert not any(neighbours(splits, [k for k in clips(1, frames) if k not in owners(splits)]).values())
    places = {name: [int(key.rpartition("_")[2]) for key in keys] for name, keys in splits.items()}
    for name in ("val", "test"):
        distance = min(abs(a - b) for a in places[name] for b in places["train"])
        assert distance > max(1, round(0.02 * min(frames, 250)))
        runs = 1 + sum(b - a > 1 for a, b in pairwise(sorted(places[name])))
        assert runs <= -(-frames // 250)  # whole stretches of time
    assert 0.7 * frames <= len(places["train"]) < 0.85 * frames


@pytest.mark.parametrize("keys", [clips(2, 100), [*clips(1, 380), "a", "b", "c"]])
def test_too_few_or_too_unequal_sequences_are_cut_as_well(keys):
    splits, how = split_by_share(keys, SHARES)
    assert "by time" in how
    assert all(len(splits[name]) >= 0.08 * len(keys) for name in splits)


@pytest.mark.parametrize(("count", "expected"), [(10, [8, 1, 1]), (24, [20, 2, 2]), (200, [160, 20, 20])])
def test_shares_of_few_single_images_are_exact(count, expected):
    splits, how = split_by_share([f"photo-{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(count)], SHARES)
    assert [len(keys) for keys in splits.values()] == expected
    assert how.startswith("by image: no two names are of one sequence; train 8")


def test_images_that_are_no_frames_are_split_singly_where_that_is_asked():
    splits, how = split_by_share(clips(1, 100), SHARES, "image")
    assert [len(keys) for keys in splits.values()] == [80, 10, 10]
    assert how.startswith("by image: as split_by asks")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (clips(60, 10), clips(5, 10, first=60)),  # further sequences
        (clips(60, 10), [f"clip{c:02}/frame_{f}" for c in range(60) for f in range(10, 14)]),  # of known ones
        ([f"photo-{hashlib.sha256(bytes([i % 256, i // 256])).hexdigest()}x" for i in range(600)], ["photo-new"]),
        (clips(1, 600), [f"clip00/frame_{f}" for f in range(600, 900)]),  # later frames of one that is cut
    ],
)
def test_from_500_images_on_new_ones_move_no_old_one(old, new):
    before, after = owners(split(old)), owners(split(old + new))
    assert {key: after.get(key) for key in old} == {key: before.get(key) for key in old}
    assert len(set(before.values())) == 3


@pytest.mark.parametrize(("frames", "expected"), [(0, [0, 0]), (1, [1, 0]), (2, [1, 1]), (10, [7, 2])])
def test_of_very_few_images_none_is_lost_without_need(frames, expected):
    shares = {"train": 0.8, "val": 0.2}
    assert [len(keys) for keys in split(clips(1, frames), shares).values()] == expected
    if frames < 3:
        assert [len(keys) for keys in split(["a", "b"][:frames], shares).values()] == expected


def test_what_is_left_over_is_in_no_split():
    splits = split(clips(20, 5), {"train": 0.5, "val": 0.1})
    assert [len(keys) for keys in splits.values()] == [50, 10]


def test_images_beside_one_of_train_are_counted_in_lists_and_folders():
    keys = clips(1, 10)
    lists = {"train": keys[::2], "val": keys[1::2]}
    assert neighbours(lists) == {"val": 5}
    folders = {name: [f"{name}/{key}" for key in part] for name, part in lists.items()}
    assert neighbours(folders) == {"val": 5}
    assert neighbours({"train": keys[:4], "val": keys[5:]}, keys[4:5]) == {"val": 0}
    numbered = {name: [f"{name}/{i:04}" for i in range(9)] for name in ("train", "val")}
    assert neighbours(numbered) == {}  # each folder counts from 0: no sequence goes through both
