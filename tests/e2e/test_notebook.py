"""The notebook runs as it is, and what it shows was made by running it."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def kinds(cell) -> list[list[str]]:
    """Of each output of a cell the kinds of data it has."""
    return [sorted(output.get("data", {"text": ""})) for output in cell.get("outputs", [])]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_runs_and_shows_what_it_showed(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    kept, run = nbformat.read(NOTEBOOK, 4), nbformat.read(NOTEBOOK, 4)
    nbclient.NotebookClient(
        run, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert [kinds(cell) for cell in run.cells] == [kinds(cell) for cell in kept.cells]
    assert any(
        "image/png" in kind for cell in kept.cells for kinds_ in [kinds(cell)] for kind in kinds_
    )
    assert (tmp_path / "quickstart" / "export" / "model.onnx").is_file()
    assert "/home/" not in NOTEBOOK.read_text()
