"""Annotation files of real tools, spoiled: a dataset or a message, and nothing half written."""

import shutil
from pathlib import Path

import pytest
from hypothesis import strategies as st
from support.processes.fuzzing import BUDGETS, change_bytes, change_json, fuzz, mutations, told

import featherseg
from featherseg.core.errors import FeathersegError
from featherseg.data.datasets.dataset_toml import read_dataset_toml

FILES = Path(__file__).parents[1] / "converters" / "files"
TEXTS = [
    path
    for path in sorted(FILES.rglob("*"))
    if path.suffix in (".json", ".xml", ".txt", ".yaml", ".csv")
]


@pytest.mark.seconds
@BUDGETS
def test_any_annotation_file_becomes_a_dataset_or_a_message(tmp_path, seconds, seed):
    src, out = tmp_path / "src", tmp_path / "out"

    def target(case):
        path, mutate = case
        form = path.relative_to(FILES).parts[0]
        shutil.rmtree(src, ignore_errors=True)
        shutil.copytree(FILES / form, src, ignore=shutil.ignore_patterns("expected"))
        (src / path.relative_to(FILES / form)).write_bytes(mutate(path.read_bytes()))
        try:
            tool = form.partition("-")[0] if form.startswith(("coco", "cvat")) else form
            featherseg.convert(src, out, from_format=tool)
            read_dataset_toml(out / "dataset.toml")
        except FeathersegError as error:
            told(error)
        finally:
            shutil.rmtree(out, ignore_errors=True)
            assert [entry.name for entry in tmp_path.iterdir()] == ["src"]

    fuzz(
        target,
        st.tuples(st.sampled_from(TEXTS), mutations(change_json, change_bytes)),
        seconds,
        seed,
    )
