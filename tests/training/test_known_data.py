"""A run records its data: changes are named when it is scored, and trained images are no test."""

import shutil

import numpy as np
import pytest
from PIL import Image
from support.models.small_training import Silent, request

import featherseg
from featherseg.comparison.candidates import Candidate, cautions
from featherseg.core.errors import DataError
from featherseg.core.files import read_lines
from featherseg.data import LabelledImages
from featherseg.data.cache.fingerprint import read_fingerprint
from featherseg.evaluation.scored_split import learned_from, refuse_as_test
from featherseg.inference.runtimes import open_runtime
from featherseg.runs.run import load_run
from featherseg.training import train

pytestmark = pytest.mark.usefixtures("tiny")

TOML = """
name = "yard"
images = "images"
masks = "masks"
classes = ["grass", "path", "plant"]
[splits]
train = "train.txt"
val = "val.txt"
test = "test.txt"
[map]
0 = "grass"
1 = "path"
2 = "plant"
"""
LISTS = {"train": range(4), "val": range(4, 6), "test": range(6, 9)}


def make(folder, lists=LISTS, seed=0):
    rng = np.random.default_rng(seed)
    for number in range(9):
        for kind, pixels in (
            ("images", rng.integers(0, 256, (64, 96, 3))),
            ("masks", rng.integers(0, 3, (64, 96))),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / kind / f"{number}.png")
    (folder / "dataset.toml").write_text(TOML)
    for split, numbers in lists.items():
        (folder / f"{split}.txt").write_text("".join(f"{number}\n" for number in numbers))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a dataset of three splits, and a run on it."""
    folder = tmp_path_factory.mktemp("trained")
    data = str(make(folder / "yard"))
    train(request("train.epochs=1", data=data), folder / "run", Silent())
    return folder


@pytest.fixture
def moved(trained, tmp_path):
    """The same, where it may be changed."""
    shutil.copytree(trained, tmp_path / "moved")
    recipe = tmp_path / "moved/run/resolved.json"
    recipe.write_text(recipe.read_text().replace(str(trained), str(tmp_path / "moved")))
    return tmp_path / "moved"


def notes(folder, split, data=None, **options):
    found = featherseg.evaluate(folder / "run", data, split, **options).notes
    return [note for note in found if "since the training" in note or "trained on" in note]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_of_unchanged_data_nothing_is_said(moved, split):
    assert [note for note in notes(moved, split) if "since" in note] == []
    assert not notes(moved, split) or split == "train"


def test_every_split_is_kept(trained):
    known = read_fingerprint(trained / "run/data.json")
    assert {split: [row[0] for row in rows] for split, rows in known.splits.items()} == {
        split: [str(number) for number in numbers] for split, numbers in LISTS.items()
    }


@pytest.mark.parametrize(
    ("split", "kind", "number", "said"),
    [
        ("val", "masks", 4, "since the training: 1 mask of val changed: 4"),
        ("val", "images", 5, "since the training: 1 image of val changed: 5"),
        ("test", "masks", 7, "since the training: 1 mask of test changed: 7"),
        ("test", "images", 8, "since the training: 1 image of test changed: 8"),
        ("train", "masks", 0, "since the training: 1 mask of train changed: 0"),
    ],
)
def test_images_and_masks_that_changed_since_are_named(moved, split, kind, number, said):
    pixels = np.array(Image.open(moved / "yard" / kind / f"{number}.png"))
    pixels[:9, :9] = 1
    Image.fromarray(pixels).save(moved / "yard" / kind / f"{number}.png")
    assert said in notes(moved, split)
    kept = read_lines(moved / "run/evaluations.jsonl")[-1]
    assert said in kept["notes"]
    assert str(moved) not in str(kept)  # a run may be shared
    (other,) = {"val", "test"} - {split} if split != "train" else {"val"}
    assert notes(moved, other) == []


def test_images_that_came_or_went_and_values_that_mean_another_are_named(moved):
    (moved / "yard/test.txt").write_text("6\n7\n")
    text = (moved / "yard/dataset.toml").read_text()
    (moved / "yard/dataset.toml").write_text(
        text.replace("1 =", "x =").replace("2 =", "1 =").replace("x =", "2 =")
    )
    assert notes(moved, "test") == [
        "since the training: [map] 1 was path, is plant",
        "since the training: [map] 2 was plant, is path",
        "since the training: 1 image removed from test: 8",
    ]


def test_an_image_of_the_training_is_no_test_under_whatever_name(moved):
    shutil.copy(moved / "yard/images/2.png", moved / "yard/images/7.png")
    before = sorted(path.name for path in (moved / "run").iterdir())
    with pytest.raises(
        DataError,
        match=r"trained on 1 of these 3 images: 7 \(there 2\)\. So they are no test: .*\n.*--fix",
    ):
        notes(moved, "test")
    assert sorted(path.name for path in (moved / "run").iterdir()) == before  # no look was counted
    (moved / "yard/val.txt").write_text("4\n7\n")
    (said,) = [note for note in notes(moved, "val") if "trained on" in note]
    assert "trained on 1 of these 2 images: 7 (there 2): that says nothing of other images" in said


@pytest.mark.seconds
def test_other_data_with_images_of_the_training_are_no_test_either(moved, tmp_path):
    other = make(tmp_path / "other", seed=1)
    assert notes(moved, "test", str(other)) == []
    shutil.copy(moved / "yard/images/0.png", other / "images/6.png")
    with pytest.raises(DataError, match=r"trained on 1 of these 3 images: 6 \(there 0\)"):
        notes(moved, "test", str(other))
    with pytest.raises(
        DataError, match="So they are no test"
    ):  # as a dataset that is opened already
        notes(moved, "test", featherseg.data.open_dataset(str(other), "test"))
    (other / "val.txt").write_text("6\n7\n")
    assert len(notes(moved, "val", str(other))) == 1


def test_compare_counts_images_of_the_training_under_other_names(moved, tmp_path):
    other = make(tmp_path / "other", seed=1)
    run = load_run(str(moved / "run"))
    candidate = Candidate(
        "run", run.path, open_runtime(run, "cpu"), run, model="one", label="one", init="scratch"
    )
    labelled = LabelledImages(str(other), "test")
    assert learned_from(run, labelled.open(), labelled) == {}
    shutil.copy(moved / "yard/images/3.png", other / "images/8.png")
    seen = learned_from(run, labelled.open(), labelled)
    assert cautions([candidate], {run.path: seen}, 3) == ["run was trained on 1 of these 3 images"]
    with pytest.raises(DataError, match="So they are no test"):
        refuse_as_test(run, seen, labelled.open(), "test")


def test_a_changed_test_split_does_not_keep_a_run_from_going_on(moved):
    (moved / "yard/masks/6.png").write_bytes((moved / "yard/masks/7.png").read_bytes())
    run = train(
        request("train.epochs=1", data=str(moved / "yard")), moved / "run", Silent(), resume=True
    )
    assert run.path == moved / "run"


def test_a_run_from_before_says_that_nothing_is_known(moved):
    (moved / "run/data.json").unlink()
    found = featherseg.evaluate(moved / "run", None, "test").notes
    assert [note for note in found if "has no data.json" in note]


def test_a_training_on_images_of_its_validation_says_so(tmp_path):
    data = make(tmp_path / "yard")
    shutil.copy(data / "images/1.png", data / "images/5.png")
    reporter = Silent()
    run = train(request("train.epochs=1", data=str(data)), tmp_path / "run", reporter)
    assert [
        text
        for text in reporter.messages
        if text == "1 image of yard val is trained on too: 5 (there 1)"
    ]
    assert [note for note in notes(tmp_path, "val") if "trained on 1 of these 2" in note]
    assert run.path.is_dir()


@pytest.mark.seconds
def test_a_score_on_all_images_names_none_that_the_training_left_out(tmp_path):
    data = make(tmp_path / "yard")
    train(
        request("train.epochs=1", "data.val_size=1", "data.train_size=2", data=str(data)),
        tmp_path / "run",
        Silent(),
    )
    assert notes(tmp_path, "val") == []
    assert notes(tmp_path, "val", full=True) == []
    assert [note for note in notes(tmp_path, "train") if "since" in note] == []


def test_only_files_of_a_size_that_training_has_are_read(trained, monkeypatch):
    known = read_fingerprint(trained / "run/data.json")
    rows = [
        (key, ((size, 0, 0), image[1]), mask, said)
        for size, (key, image, mask, said) in enumerate(known.splits["train"])
    ]
    monkeypatch.setattr(
        "featherseg.data.cache.fingerprint.file_digest",
        lambda path: pytest.fail(f"{path} was read"),
    )
    data = featherseg.data.open_dataset(str(trained / "yard"), "test")
    assert known.model_copy(update={"splits": {"train": rows}}).trained_on(data) == {}
