"""The catalogue of datasets."""

import pytest

from featherseg.core.errors import DataNotFound, UnknownName
from featherseg.data import DATASETS, dataset_facts, open_dataset
from featherseg.inference.submissions import SUBMISSIONS

ROOTS = {"camvid": "data/camvid"}  # below the folder of real data; shapes is drawn


@pytest.mark.parametrize("name", ["shapes", pytest.param("camvid", marks=pytest.mark.data)])
def test_what_is_known_without_the_images_is_what_the_dataset_says(name, request):
    root = request.getfixturevalue("shared") / ROOTS[name] if name in ROOTS else None
    data, facts = open_dataset(name, "val", root, 1), dataset_facts(name)
    assert (facts.classes, facts.licence, facts.channels) == (
        data.classes,
        data.licence,
        data.channels,
    )
    assert facts.image_size == data.label(0).shape


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_is_known_without_its_images(name):
    facts = dataset_facts(name)
    assert len({info.name for info in facts.classes}) == len(facts.classes) > 1
    assert facts.licence
    assert facts.image_size is not None


def test_a_dataset_toml_is_known_without_its_images(tmp_path):
    toml = tmp_path / "dataset.toml"
    toml.write_text(
        'name = "yard"\nimages = "i"\nmasks = "m"\nchannels = 4\nlicence = "CC0"\n'
        'classes = ["grass", "path"]\n'
        '[splits]\ntrain = 1.0\n[map]\n0 = "grass"\n1 = "path"\n'
    )
    facts = dataset_facts(str(toml))
    assert [info.name for info in facts.classes] == ["grass", "path"]
    assert (facts.licence, facts.channels, facts.image_size) == ("CC0", 4, None)


ON_DISK = [name for name in DATASETS if name != "shapes"]
UNPUBLISHED = r"labels of the (split test|splits test|test images) .* are not public.*: use val"
NO_TEST = {
    "coco-stuff-10k": r"test\.txt are the val split",
    "comma10k": "has no split test: use val",
}


@pytest.mark.parametrize("name", ON_DISK)
def test_splits_without_labels_and_unknown_ones_are_refused_before_a_file_is_read(name, tmp_path):
    with pytest.raises(UnknownName, match=f"unknown split of {name} 'trian'. Did you mean 'train'"):
        open_dataset(name, "trian", tmp_path)
    if "test" not in DATASETS[name].splits:
        expected = NO_TEST.get(name, UNPUBLISHED)
        expected += f".*--submission {name}" if name in SUBMISSIONS else ""
        with pytest.raises(DataNotFound, match=expected):
            open_dataset(name, "test", tmp_path)


@pytest.mark.parametrize("name", ON_DISK)
def test_a_root_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(DataNotFound, match=r"nowhere is not a folder\. Expected.*--data-root"):
        open_dataset(name, "train", tmp_path / "nowhere")


def test_a_missing_file_is_no_misspelt_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataNotFound, match=r"nothing\.zip does not exist"):
        open_dataset("nothing.zip", "train")
