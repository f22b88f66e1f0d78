"""What files are called, and in what trainings differ."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.models.small_run import small_info

from featherseg.comparison import candidates
from featherseg.comparison.candidates import _settings
from featherseg.comparison.compare import _by_seed
from featherseg.core.files import short_names
from featherseg.core.types import ClassInfo
from featherseg.data.cache.fingerprint import Fingerprint
from featherseg.runs.run import DATA, open_run, write_info


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b.onnx"], ["a", "b.onnx"]),
        (
            ["runs/a/export/model.onnx", "runs/b/export/model.onnx"],
            ["a/model.onnx", "b/model.onnx"],
        ),
        (["runs/a/export/model.onnx", "runs/a"], ["model.onnx", "a"]),
        (["x/run", "y/run", "y/other"], ["x/run", "y/run", "other"]),
        (["run", "y/run"], ["run", "y/run"]),
        (["a-run", "run"], ["a-run", "run"]),
        (["/a/run", "/b/run"], ["a/run", "b/run"]),
    ],
)
def test_files_are_called_by_as_much_of_their_paths_as_tells_them_apart(paths, names):
    assert short_names([Path(path) for path in paths], skip="export") == names


def trained(folder, *, init=None, **train):
    """The folder of a training, by what it began with, keys of [train]."""
    folder.mkdir()
    info = small_info((ClassInfo("road", (1, 2, 3)),))
    recipe = info.recipe
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=train)})
    write_info(
        folder, info.model_copy(update={"recipe": recipe, "loaded": {"init": init} if init else {}})
    )
    (folder / "weights.safetensors").write_text(str(folder))
    return open_run(folder)


def test_trainings_of_so_many_minutes_are_of_one_model_whatever_steps_they_had(tmp_path):
    asked = {"epochs": None, "minutes": 15.0}
    runs = [
        trained(tmp_path / str(s), seed=s, **asked, steps=100 + s, validations=s + 1)
        for s in range(2)
    ]
    assert _settings(runs[0]) == _settings(runs[1])
    longer = trained(tmp_path / "longer", epochs=None, minutes=30.0, steps=100)
    assert _settings(longer) != _settings(runs[0])


def test_weights_of_two_folders_of_one_name_are_not_one_start(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "open_runtime", lambda run, device: None)
    runs = [
        trained(tmp_path / name, init=f"/{name}/runs/base", seed=i) for i, name in enumerate("ab")
    ]
    starts = {one.init for one in candidates.open_candidates([str(run.path) for run in runs])}
    assert starts == {"weights of /a/runs/base", "weights of /b/runs/base"}


def test_runs_on_other_images_are_another_model_and_on_a_copy_of_the_data_the_same(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(candidates, "open_runtime", lambda run, device: None)

    def on(name, images, seed):
        run = trained(tmp_path / f"{name}-{seed}", seed=seed)
        data = run.recipe.data.model_copy(update={"name": f"/{name}/field"})
        write_info(
            run.path,
            run.info.model_copy(update={"recipe": run.recipe.model_copy(update={"data": data})}),
        )
        rows = [(f"{name}{i}", ((seed, 1, 1), f"{i:064}"), None, "") for i in images]
        splits = {"train": rows, "val": rows[:seed]}
        Fingerprint(
            channels=3, classes=[("road", False)], values={}, prepared=None, splits=splits
        ).save(run.path / DATA)
        return str(run.path)

    runs = [on("a", range(6), 0), on("b", reversed(range(6)), 1), on("a", range(36), 2)]
    models = candidates.by_model(candidates.open_candidates(runs))
    assert [[one.seed for one in files] for files in models.values()] == [[0, 1], [2]]
    labels = [files[0].label for files in models.values()]
    assert [label[:-8] for label in labels] == [
        f"frm-lite0 (data.images={n} images (" for n in (6, 36)
    ]


def test_runs_of_one_seed_are_one_training_in_the_intervals():
    files = [SimpleNamespace(seed=seed) for seed in (0, 0, 1)]
    values = [np.full((2, 3, 1), value) for value in (1, 3, 7)]
    assert _by_seed(files, values).tolist() == [
        np.full((2, 3, 1), 2.0).tolist(),
        np.full((2, 3, 1), 7.0).tolist(),
    ]
