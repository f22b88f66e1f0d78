"""The goldens are what they were made from, small, and say their sources."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from support.golden.golden_make import GOLDEN, KEY_SETS, made, text
from support.golden.golden_rule import image
from support.golden.parity_golden import entries

FILES = sorted(
    path.relative_to(GOLDEN).as_posix() for path in GOLDEN.rglob("*.*") if path.suffix != ".md"
)


@pytest.fixture(scope="module")
def contents(shared: Path) -> dict:
    return made(shared)


def test_they_equal_the_numbers_of_the_reference(contents):
    assert set(FILES) <= set(contents)  # the reference has more peers than we have models
    for name in FILES:
        content = contents[name]
        if name.endswith(".json"):
            assert (GOLDEN / name).read_text() == text(content), name
            continue
        with np.load(GOLDEN / name, allow_pickle=False) as arrays:
            assert set(arrays.files) == set(content), name
            for key, value in content.items():
                np.testing.assert_array_equal(arrays[key], value, strict=True)


def test_they_are_small_and_every_file_has_its_line_in_the_readme():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*.*")) < 1_000_000
    readme = (GOLDEN / "README.md").read_text()
    for name in FILES:
        assert f"`{name}`" in readme or f"`{Path(name).parent}/*`" in readme, name
        assert name.endswith(".npz") or '"source":' in (GOLDEN / name).read_text(), name


@pytest.mark.parametrize("name", KEY_SETS)
def test_a_key_set_has_as_many_parameters_as_the_authors_model(name):
    known = entries(name)
    learned = [
        shape
        for key, (kind, shape) in known.items()
        if kind not in ("mean", "var", "count", "index_self", "index_down", "index_ones")
        and f"{key}_seg" not in known  # beside a table of CGRSeg stands ImageNet's, a buffer there
    ]
    golden = json.loads((GOLDEN / f"keys/{name}.json").read_text())
    assert sum(math.prod(shape) for shape in learned) == golden["parameters"]


def test_the_rule_s_stream_is_the_one_the_goldens_were_made_with():
    for name in ("van_b1", "cgrseg_t"):
        for case in json.loads((GOLDEN / f"parity/{name}.json").read_text())["cases"]:
            values = image(case["input_tag"], case["input_shape"]).ravel()
            places = [i * (values.size - 1) // 15 for i in range(16)]
            assert values[places].tolist() == case["input_summary"]["slice16"]
