"""What files are called, and in what trainings differ."""

from pathlib import Path

import pytest

from featherseg.core.files import short_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b.onnx"], ["a", "b.onnx"]),
        (["runs/a/export/model.onnx", "runs/b/export/model.onnx"], ["a/model.onnx", "b/model.onnx"]),
        (["runs/a/export/model.onnx", "runs/a"], ["model.onnx", "a"]),
        (["x/run", "y/run", "y/other"], ["x/run", "y/run", "other"]),
        (["run", "y/run"], ["run", "y/run"]),
        (["a-run", "run"], ["a-run", "run"]),
        (["/a/run", "/b/run"], ["a/run", "b/run"]),
    ],
)
def test_files_are_called_by_as_much_of_their_paths_as_tells_them_apart(paths, names):
    assert short_names([Path(path) for path in paths], skip="export") == names
