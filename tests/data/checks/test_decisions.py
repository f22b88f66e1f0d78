"""Decisions from an audit's page in a copy of the masks, against a loop, and refusals."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import featherseg
from featherseg.core.errors import ConfigError, DataError
from featherseg.core.files import MOST_TEXT
from featherseg.data.checks.decisions import (
    Changes,
    audited_places,
    changes_of,
    mask_digest,
    read_decisions,
)
from featherseg.data.images.pairs import Pair

KINDS = {
    "numbers": ('7 = "grass"\n40 = "path"\n255 = "ignore"', {0: 7, 1: 40, 255: 255}),
    "colours": ('"#00ff00" = "grass"\n"#804000" = "path"', {0: (0, 255, 0), 1: (128, 64, 0)}),
}
LABEL = np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 1]], np.uint8)
SOUND = {
    "decision": "accept",
    "key": "train/a",
    "region": 0,
    "size": [4, 5],
    "runs": [[0, 2, 2], [1, 10, 3]],
}


def made(
    folder: Path, kind: str = "numbers", label: np.ndarray = LABEL, things: bool = False
) -> Path:
    """Images a and b of train, c of test."""
    text, values = KINDS[kind]
    channels = 3 if kind == "colours" else 1
    raw = np.zeros((*label.shape, channels), np.uint8)
    for index, value in values.items():
        raw[label == index] = value
    rng = np.random.default_rng(0)
    for key in ("train/a", "train/b", "test/c"):
        for below in ("images", "masks", *(["instances"] if things else [])):
            (folder / below / key).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*label.shape, 3), np.uint8)).save(
            folder / f"images/{key}.png"
        )
        Image.fromarray(raw.squeeze()).save(folder / f"masks/{key}.png")
        if things:
            Image.fromarray(np.where(label == 1, 300, 0).astype(np.uint16)).save(
                folder / f"instances/{key}.png"
            )
    table = '\n[things]\nclasses = ["path"]\ninstances = "instances"\n' if things else ""
    (folder / "dataset.toml").write_text(
        'name = "yard"\nimages = "images"\nmasks = "masks"\nclasses = ["grass", "path"]\n'
        f'[splits]\ntrain = "train"\ntest = "test"\n[map]\n{text}\n{table}'
    )
    return folder


def saved(path: Path, *decisions: object, **more: object) -> Path:
    path.write_text(json.dumps({"format": 1, "decisions": decisions} | more))
    return path


def fixed(folder: Path, out: Path, *decisions: object):
    return featherseg.check(folder, fix=out, decisions=saved(folder / "decisions.json", *decisions))


def mask(out: Path, key: str = "train/a") -> np.ndarray:
    return np.array(Image.open(out / f"masks/{key}.png"))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_accepted_is_changed_and_nothing_else(tmp_path, kind):
    report = fixed(
        made(tmp_path / "yard", kind),
        tmp_path / "out",
        SOUND,
        {**SOUND, "decision": "keep", "key": "train/b"},
    )
    wanted = LABEL.copy()
    wanted[0, 2:4], wanted[2, :3] = 0, 1
    assert np.array_equal(mask(tmp_path / "out"), wanted)
    assert np.array_equal(mask(tmp_path / "out", "train/b"), LABEL)
    assert np.array_equal(mask(tmp_path / "out", "test/c"), LABEL)
    assert report.mended.changed == {"train/a": 5}
    assert report.changes.words == {"accept": 1, "keep": 1, "skip": 0}
    assert featherseg.check(tmp_path / "out").clean


def test_pixels_that_change_are_of_no_object_and_the_others_stay_of_theirs(tmp_path):
    fixed(made(tmp_path / "yard", things=True), tmp_path / "out", SOUND)
    numbers = np.array(Image.open(tmp_path / "out/instances/train/a.png"))
    wanted = np.where(LABEL == 1, 300, 0)
    wanted[0, 2:4], wanted[2, :3] = 0, 0
    assert np.array_equal(numbers, wanted)
    before = (tmp_path / "yard/instances/train/b.png").read_bytes()
    assert (tmp_path / "out/instances/train/b.png").read_bytes() == before
    assert featherseg.check(tmp_path / "out").clean


def test_ignored_pixels_stay_ignored(tmp_path):
    label = LABEL.copy()
    label[0, 2] = 255
    fixed(made(tmp_path / "yard", label=label), tmp_path / "out", SOUND)
    assert mask(tmp_path / "out")[0, :4].tolist() == [0, 0, 255, 0]


@settings(max_examples=50)
@given(st.integers(1, 1500), st.integers(1, 1500), st.integers(0, 2**32 - 1))
def test_a_pixel_of_a_large_mask_belongs_to_the_audited_one_that_is_nearest(height, width, seed):
    rows, columns = audited_places((height, width))
    rng = np.random.default_rng(seed)
    for full, places in ((height, rows), (width, columns)):
        at = rng.integers(-1, 3, (1, len(places))).astype(np.int16)
        pair = Pair("a", Path("a.png"), Path("a.png"))
        drawn = Changes({"a": at}, {"a": pair}).draw(pair, np.full((1, full), 7, np.int16))[0]
        assert np.array_equal(drawn[places], np.where(at[0] < 0, 7, at[0]))
        distance = np.abs(np.arange(full)[:, None] - places[None])  # (full, audited)
        for pixel in rng.integers(0, full, 20):
            near = np.flatnonzero(distance[pixel] <= distance[pixel].min() + 1)
            assert drawn[pixel] in np.where(at[0, near] < 0, 7, at[0, near])


REFUSED = {
    "key": ({"key": "train/d"}, "'train/d', which is no image of train or val of yard"),
    "test": ({"key": "test/c"}, "which is no image of train or val"),
    "size": ({"size": [5, 4]}, r"at 5x4, but .*a\.png is 4x5 and is audited at 4x5"),
    "class": ({"runs": [[2, 0, 1]]}, "is to get class 2, but yard has 2 classes"),
    "beyond": ({"runs": [[0, 18, 3]]}, "3 pixels from pixel 18 on, but its mask has 20"),
    "empty run": ({"runs": [[0, 3, 0]]}, "no run is empty"),
    "overlap": ({"runs": [[0, 2, 3], [1, 4, 1]]}, r"two runs of 'train/a' overlap at pixel 4"),
    "negative": ({"runs": [[0, -1, 3]]}, "whole numbers from 0 on"),
    "huge": ({"runs": [[0, 1, 2**70]]}, "whole numbers from 0 on"),
    "fraction": ({"runs": [[0, 1.5, 3]]}, "whole numbers from 0 on"),
    "true": ({"runs": [[True, 1, 3]]}, "whole numbers from 0 on"),
    "pairs": ({"runs": [[0, 1]]}, "runs as a list of"),
    "huge size": ({"size": [2**40, 5]}, r"size as \[height, width\]"),
    "word": ({"decision": "perhaps"}, "decision is 'perhaps', expected one of accept, keep, skip"),
    "more": ({"colour": 1}, "expected the keys"),
    "number as key": ({"key": 5}, "expected a text as key"),
    "other mask": ({"mask": mask_digest(LABEL + 1)}, "has changed since, or is of another dataset"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_decision_on_these_data_is_refused_before_anything_is_written(
    tmp_path, case
):
    change, said = REFUSED[case]
    folder = made(tmp_path / "yard")
    with pytest.raises(DataError, match=said):
        fixed(folder, tmp_path / "out", {**SOUND, **change})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["yard"]


def test_a_missing_file_of_decisions_says_where_such_files_come_from_and_what_is_called_alike(
    tmp_path,
):
    folder = made(tmp_path / "yard")
    saved(tmp_path / "decisions.json", SOUND)
    said = r"decision\.json does not exist\. Did you mean '.*decisions\.json'\? "
    said += ".* on the page of `featherseg audit`"
    with pytest.raises(DataError, match=said):
        featherseg.check(folder, fix=tmp_path / "out", decisions=tmp_path / "decision.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ('{"format": 1, "decisions": [', "cannot be read"),
        ("[" * 100_000, "nested too deeply"),
        ("[1]", "has no decisions"),
        ('{"format": 2, "decisions": []}', "has format 2, but this version reads 1"),
        (
            json.dumps({"format": 1, "decisions": [SOUND, SOUND]}),
            "decides twice on region 0 of 'train/a'",
        ),
        (json.dumps({"format": 1, "decisions": [5]}), "decision 1: expected the keys"),
        (
            '{"format":1,"decisions":[{"runs":[' + "[0,1,1]," * (MOST_TEXT // 8) + "[0,1,1]]}]}",
            f"more than {MOST_TEXT:,} bytes",
        ),
    ],
    ids=["empty", "torn", "deep", "list", "newer", "twice", "number", "millions"],
)
def test_a_file_of_decisions_that_is_none_is_refused(tmp_path, text, said):
    folder = made(tmp_path / "yard")
    (folder / "decisions.json").write_text(text)
    with pytest.raises(DataError, match=said):
        featherseg.check(folder, fix=tmp_path / "out", decisions=folder / "decisions.json")
    assert not (tmp_path / "out").exists()


def test_two_regions_of_an_image_may_change_and_may_not_overlap(tmp_path):
    folder, other = made(tmp_path / "yard"), {**SOUND, "region": 1, "runs": [[1, 15, 1]]}
    fixed(folder, tmp_path / "out", SOUND, {**other, "runs": [[0, 15, 1]]})
    assert mask(tmp_path / "out")[3, 0] == 0
    with pytest.raises(DataError, match="overlap"):
        fixed(folder, tmp_path / "again", SOUND, {**other, "runs": [[1, 12, 1]]})


def test_decisions_without_a_copy_to_draw_them_into_are_refused(tmp_path):
    folder = made(tmp_path / "yard")
    with pytest.raises(ConfigError, match="--fix OUT"):
        featherseg.check(folder, decisions=saved(tmp_path / "decisions.json", SOUND))


def test_an_image_in_two_splits_changes_in_both_and_one_name_of_two_images_is_refused(tmp_path):
    folder = made(tmp_path / "yard")
    listing = featherseg.check(folder).listing
    pair = listing.splits["train"][0]
    decisions = read_decisions(saved(tmp_path / "decisions.json", SOUND))
    both = replace(listing, splits={"train": [pair], "val": [replace(pair)], "test": [pair]})
    assert changes_of(decisions, both, "decisions.json").draw(replace(pair), LABEL)[0, 2] == 0
    other = replace(pair, image=folder / "images/train/b.png")
    twice = replace(listing, splits={"train": [pair], "val": [other]})
    with pytest.raises(DataError, match="has 2 images of that name in train and val"):
        changes_of(decisions, twice, "decisions.json")
    elsewhere = replace(listing, splits={"train": [pair], "test": [other]})
    assert np.array_equal(
        changes_of(decisions, elsewhere, "decisions.json").draw(other, LABEL), LABEL
    )
