import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.processes.command import command

from featherseg.cli.check import check
from featherseg.core.errors import ConfigError, DataError, UnknownName

run = command(check)
TOML = """
name = "yard"
images = "images"
masks = "masks"
classes = ["grass", "path"]
[splits]
train = "train"
[map]
0 = "grass"
1 = "path"
"""


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """25 images of one split."""
    folder = tmp_path / "yard"
    rng = np.random.default_rng(0)
    for i in range(25):
        for kind, pixels in (
            ("images", rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)),
            ("masks", rng.integers(0, 2, (4, 5), dtype=np.uint8)),
        ):
            path = folder / kind / f"train/{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (folder / "dataset.toml").write_text(TOML)
    return folder


def test_a_clean_dataset_ends_with_0_and_a_table_of_the_classes(yard: Path):
    result = run(yard / "dataset.toml")
    assert result.exit_code == 0
    assert "train 25 images: clean" in result.stdout
    assert "grass" in result.stdout
    assert "4x5 (25)" in result.stdout


def test_faults_end_with_1_and_at_most_20_of_a_kind_are_shown(yard: Path):
    for path in yard.glob("masks/train/*"):
        path.unlink()
    result = run(yard)
    assert result.exit_code == 1
    assert "images without a mask, or masks without an image: 25" in result.stdout
    assert result.stdout.count("has no mask") == 20
    assert "and 5 more" in result.stdout
    assert "--fix OUT" in result.stdout


def test_json_is_all_there_is_on_stdout(yard: Path, tmp_path: Path):
    (yard / "masks/train/00.png").unlink()
    result = run(yard, "--json", "--fix", tmp_path / "out")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert [fault["key"] for fault in report["faults"]] == ["train/00"]
    assert "24 samples copied" in result.stderr


def test_fix_says_what_was_mended_and_left_out_and_the_copy_is_clean(yard: Path, tmp_path: Path):
    (yard / "masks/train/00.png").unlink()
    Image.new("L", (5, 4), 78).save(yard / "masks/train/01.png")
    Image.new("L", (5, 4), 78).save(yard / "images/spare.png")
    result = run(yard, "--fix", tmp_path / "out")
    assert result.exit_code == 1
    assert "left out, in no split: 1" in result.stdout
    assert "24 samples copied, stray values ignored in 1 of them" in result.stdout
    assert "left out, images without a mask, or masks without an image: 1" in result.stdout
    assert run(tmp_path / "out/dataset.toml").exit_code == 0


def test_a_folder_in_the_way_is_refused_before_anything_is_read(yard: Path):
    for path in yard.glob("images/train/*"):
        path.write_bytes(b"")
    result = run(yard, "--fix", yard)
    assert isinstance(result.exception, DataError)
    assert "is not empty" in str(result.exception)


def test_an_unknown_dataset_is_an_error_and_no_fault():
    assert isinstance(run("camvit").exception, UnknownName)


def test_a_plain_folder_gets_a_proposal(yard: Path):
    (yard / "dataset.toml").unlink()
    result = run(yard)
    assert result.exit_code == 0
    assert "raw value" in result.stdout
    assert '1 = "foreground"' in result.stdout


def test_names_with_brackets_are_printed_as_they_are(yard: Path):
    (yard / "images/train/00.png").rename(yard / "images/train/[bold]00.png")
    assert "[bold]00.png has no mask" in run(yard).stdout


@pytest.mark.parametrize(
    ("splits", "said", "beside"),
    [
        (
            "train = 0.8\nval = 0.2",
            "split by sequence (names without frame numbers): 5 sequences, none in two",
            "",
        ),
        (
            'train = "train.txt"\nval = "val.txt"',
            "",
            "val: 10 of 10 images stand beside one of train",
        ),
    ],
)
def test_how_the_images_were_split_is_said_and_neighbours_across_splits_are_named(
    tmp_path, splits, said, beside
):
    keys = [f"clip{clip}_{frame}" for clip in range(5) for frame in range(4)]
    walk = (
        np.random.default_rng(0)
        .integers(0, 256, (20, 40, 3), dtype=np.uint8)
        .repeat(4, 0)
        .repeat(4, 1)
    )
    for number, key in enumerate(keys):
        frame = walk[:, 4 * number : 4 * number + 80]
        for kind, pixels in (
            ("images", frame),
            ("masks", np.full(frame.shape[:2], len(key) % 2, np.uint8)),
        ):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{key}.png")
    (tmp_path / "train.txt").write_text("\n".join(keys[::2]))
    (tmp_path / "val.txt").write_text("\n".join(keys[1::2]))
    (tmp_path / "dataset.toml").write_text(TOML.replace('train = "train"', splits))
    text = run(tmp_path / "dataset.toml").stdout
    assert said in text
    assert ("stand beside" in text) == bool(beside)
    assert beside in text
    assert 'put split_by = "image" into dataset.toml' not in text  # they are frames
    found = json.loads(run(tmp_path / "dataset.toml", "--json").stdout)
    assert (found["how_split"] or "") in text
    assert any(beside in note for note in found["notes"])


def test_decisions_are_told_and_need_a_copy(yard: Path, tmp_path: Path):
    row = {
        "decision": "accept",
        "key": "train/03",
        "region": 0,
        "size": [4, 5],
        "runs": [[0, 0, 20]],
    }
    (tmp_path / "decisions.json").write_text(json.dumps({"format": 1, "decisions": [row]}))
    result = run(yard, "--fix", tmp_path / "out", "--decisions", tmp_path / "decisions.json")
    assert result.exit_code == 0
    ones = int((np.array(Image.open(yard / "masks/train/03.png")) == 1).sum())
    assert (
        f"decisions: 1 accepted, 0 kept, 0 skipped; {ones} pixels of 1 mask changed"
        in result.stdout
    )
    refused = run(yard, "--decisions", tmp_path / "decisions.json")
    assert isinstance(refused.exception, ConfigError)


@pytest.mark.seconds
def test_a_check_needs_no_torch(lawn):
    code = "import sys, featherseg; featherseg.check(sys.argv[1]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, lawn], check=True)
