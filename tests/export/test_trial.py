import json

import torch
from safetensors import safe_open
from three_layer_run import three_layer_run

from featherseg.exporters import export


def test_the_file_holds_the_weights_and_the_classes(tmp_path):
    run = three_layer_run(tmp_path / "run")
    path = tmp_path / "model.safetensors"
    assert export(run, "trial", path).path == path
    with safe_open(path, "pt") as file:
        assert all(torch.equal(file.get_tensor(key), value) for key, value in run.model.state_dict().items())
        assert json.loads(file.metadata()["featherseg.classes"]) == [info.name for info in run.classes]
