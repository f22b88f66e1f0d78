"""The catalogue of datasets."""

import pytest

from featherseg.data import DATASETS, dataset_facts, open_dataset

ROOTS = {"camvid": "data/camvid"}  # below the folder of real data; shapes is drawn


@pytest.mark.parametrize("name", ["shapes", pytest.param("camvid", marks=pytest.mark.data)])
def test_what_is_known_without_the_images_is_what_the_dataset_says(name, request):
    root = request.getfixturevalue("shared") / ROOTS[name] if name in ROOTS else None
    data, facts = open_dataset(name, "val", root, 1), dataset_facts(name)
    assert (facts.classes, facts.licence, facts.channels) == (data.classes, data.licence, data.channels)
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
        'name = "yard"\nimages = "i"\nmasks = "m"\nchannels = 4\nlicence = "CC0"\nclasses = ["grass", "path"]\n'
        '[splits]\ntrain = 1.0\n[map]\n0 = "grass"\n1 = "path"\n'
    )
    facts = dataset_facts(str(toml))
    assert [info.name for info in facts.classes] == ["grass", "path"]
    assert (facts.licence, facts.channels, facts.image_size) == ("CC0", 4, None)
