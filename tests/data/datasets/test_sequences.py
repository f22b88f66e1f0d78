"""Splits by share keep sequences together; what they are is read off the names of the images."""

import hashlib
from itertools import pairwise

import pytest

from featherseg.data.datasets.sequences import (
    neighbours,
    sequence_names,
    sequences_of,
    split_by_share,
)

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
    assert sequence_names([key]) == [sequence]


RUNNING = {  # forms of the f-th frame, of one sequence: what stands before its number
    "frame_{:05}_720p": "frame",
    "v_{:05}_30fps": "v",
    "clip_{:06}_v2": "clip",
    "frame_{:05}_leftImg8bit": "frame",
    "munster/munster_{:06}_000019": "munster/munster",
    "yard{:04}/0001": "",
    "NEU_000{}_jpg.rf.0123456789abcdef0123456789abcdef": "NEU",
}
TIMES = {  # of the second s, and the fraction of it
    "cam_17000{s:05}_{n}00000000": "cam",
    "17000{s:05}.{n}00000": "",
    "2024-05-12_{h:02}-{m:02}-{x:02}": "",
    "IMG_20240512_{h:02}{m:02}{x:02}": "IMG",
    "gate/2024-05-12T{h:02}.{m:02}.{x:02}.{n}": "gate",
}


@pytest.mark.parametrize("form", RUNNING)
def test_numbers_that_do_not_run_or_run_beside_are_not_the_frames(form):
    keys = [form.format(f) for f in range(450)]
    assert set(sequence_names(keys)) == {RUNNING[form]}
    assert sequences_of(reversed(keys)) == {RUNNING[form]: keys}
    splits, how = split_by_share(keys, SHARES)
    assert "by time: 1 sequence" in how
    left = [key for key in keys if key not in owners(splits)]
    assert not any(neighbours(splits, left).values())
    assert (
        neighbours(split(keys, split_by="sequence-1"))["test"] >= 40 or "000{}" in form
    )  # seen: 43 of 45


@pytest.mark.parametrize("form", TIMES)
def test_a_time_is_one_number(form):
    seconds = range(36_000, 36_200)
    fractions = range(0, 10, 3) if "{n}" in form else [0]
    times = [
        (s, n, {"h": s // 3600, "m": s // 60 % 60, "x": s % 60}) for s in seconds for n in fractions
    ]
    keys = [form.format(s=s, n=n, **day) for s, n, day in times]
    assert sequences_of(reversed(keys)) == {TIMES[form]: keys}


def test_two_numbers_that_run_together_are_both_the_frames():
    keys = [f"frame_{f:05}_{1_700_000_001 + 33 * f}" for f in range(100)]
    assert sequences_of(keys) == {"frame": keys}


@pytest.mark.parametrize(
    "form",
    [
        "seq{s}_{f:04}",
        "{s:04}TP_{f:06}",
        "20240512_1433{s:02}_{f:04}",
        "2024-05-{s:02}_{f}",
        "{s}/{f}_720p",
    ],
)
def test_a_number_that_many_images_share_is_the_sequences(form):
    keys = [form.format(s=s, f=f) for s in range(10, 20) for f in range(100)]
    assert len(sequences_of(keys)) == 10
    assert {len(frames) for frames in sequences_of(keys).values()} == {100}


def test_copies_of_one_image_show_no_sequence():
    keys = [f"frame_{i // 3:05}_720p_jpg.rf.{i:032x}" for i in range(300)]
    assert sequences_of(keys) == {"frame": keys}


@pytest.mark.parametrize("form", ["frame_{:05}_720p", "clip/{}"])
def test_neighbours_are_counted_whatever_was_taken_for_a_sequence(form):
    keys = [form.format(f) for f in range(100)]
    assert neighbours({"train": keys[::2], "val": keys[1::2]}) == {"val": 50}


def test_numbers_in_hashes_are_none():
    keys = [f"{hashlib.sha256(bytes([i])).hexdigest()[:8]}-{i % 3}" for i in range(90)]
    assert not any(neighbours({"train": keys[::2], "val": keys[1::2]}).values())
    words = [f"0a{i:06x}-7c39d841" for i in range(90)]
    assert len(sequences_of(words)) == 90


def test_no_split_by_sequence_takes_most_training_images_away():
    splits, how = split_by_share(clips(3, 100), SHARES)
    assert "by time" in how
    assert len(splits["train"]) > 200
    assert len(split(clips(3, 100), split_by="sequence-1")["train"]) == 100
    by_groups, _ = split_by_share(clips(3, 100), SHARES, pattern="clip[0-9]+")
    assert len(by_groups["train"]) == 100  # a user's groups are never cut


@pytest.mark.parametrize(("count", "frames"), [(5, 30), (10, 45), (40, 30)])
def test_no_sequence_is_in_two_splits_and_none_of_these_is_empty(count, frames):
    splits = split(clips(count, frames))
    assert all(splits.values())
    parts = [set(sequence_names(keys)) for keys in splits.values()]
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
    assert not any(
        neighbours(splits, [k for k in clips(1, frames) if k not in owners(splits)]).values()
    )
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


@pytest.mark.parametrize(
    ("count", "expected"), [(10, [8, 1, 1]), (24, [20, 2, 2]), (200, [160, 20, 20])]
)
def test_shares_of_few_single_images_are_exact(count, expected):
    splits, how = split_by_share(
        [f"photo-{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(count)], SHARES
    )
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
        (
            clips(60, 10),
            [f"clip{c:02}/frame_{f}" for c in range(60) for f in range(10, 14)],
        ),  # of known ones
        (
            [
                f"photo-{hashlib.sha256(bytes([i % 256, i // 256])).hexdigest()}x"
                for i in range(600)
            ],
            ["photo-new"],
        ),
        (
            clips(1, 600),
            [f"clip00/frame_{f}" for f in range(600, 900)],
        ),  # later frames of one that is cut
    ],
)
def test_from_500_images_on_new_ones_move_no_old_one(old, new):
    before, after = owners(split(old)), owners(split(old + new))
    assert {key: after.get(key) for key in old} == {key: before.get(key) for key in old}
    assert len(set(before.values())) == 3


@pytest.mark.parametrize(
    ("frames", "expected"), [(0, [0, 0]), (1, [1, 0]), (2, [1, 1]), (10, [7, 2])]
)
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
