"""Checks of several splits that are trained on as one, data.train_split = ["train", "val"]."""

import json
from pathlib import Path

import numpy as np

from featherseg.data import open_dataset
from featherseg.data.images.pairs import spread
from featherseg.recipe.reading import parse_recipe, read_recipe


def assert_joined(name: str, root: Path, *splits: str) -> None:
    """Every image of the splits, one split after the other, is as it is in its own."""
    text = json.dumps(splits)
    settings = parse_recipe(
        read_recipe("frm-lite0"), [f"data.train_split={text}"], name=name, root=str(root)
    ).data
    joined = open_dataset(settings.name, settings.train_split, Path(settings.root))
    own = [
        (data, index)
        for data in (open_dataset(name, one, root) for one in splits)
        for index in range(len(data))
    ]
    assert len(splits) <= len(own) == len(joined)
    assert len(set(joined.keys)) == len(own)
    for place, (data, index) in enumerate(own):
        assert joined.keys[place] == data.keys[index]
        found, sample = joined[place], data[index]
        for array in ("image", "label", "instances"):
            np.testing.assert_array_equal(getattr(found, array), getattr(sample, array))
        np.testing.assert_array_equal(joined.label(place), data.label(index))
        if hasattr(data, "panoptic"):
            ids, segments = joined.panoptic(place)
            np.testing.assert_array_equal(ids, data.panoptic(index)[0])
            assert segments == data.panoptic(index)[1]
    assert open_dataset(name, "+".join(splits), root, size=2).keys == spread(joined.keys, 2)
