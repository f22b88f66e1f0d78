"""The exported file in onnxruntime beside a model whose weights all left their initial values."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import featherseg
from featherseg import models
from featherseg.core.types import ClassInfo
from featherseg.exporters.job import POSTPROCESSING, PREPROCESSING, Facts, metadata
from featherseg.exporters.onnx import EXAMPLE, OPSET
from featherseg.exporters.stages import PREFIX, Stages
from featherseg.inference.memory import peak_bytes_per_pixel
from featherseg.runs.provenance import provenance

SIZES = [
    (64, 64),
    (97, 131),
    (65, 99),
    (100, 100),
    (33, 65),
    (352, 480),
    (1, 1),
    (7, 300),
    (127, 130),
    (255, 511),
]


@pytest.fixture(scope="module")
def session(exported) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        str(exported.report.path), providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize(
    ("size", "batch"), [(size, 1 + 2 * (i % 2)) for i, size in enumerate(SIZES)]
)
def test_every_map_is_the_models_own_at_every_size(exported, session, size, batch):
    assert size != EXAMPLE[1:]
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out = exported.run.model(images)
    maps = [x.numpy() for x in (out.logits, out.centers, out.offsets) if x is not None]
    for found, expected in zip(session.run(None, {"images": images.numpy()}), maps, strict=True):
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-4 * (expected.max() - expected.min())


def test_any_batch_height_and_width_go_in_and_logits_come_out_first(exported, session):
    (images,), (logits, *others) = session.get_inputs(), session.get_outputs()
    assert [x.name for x in others] == (
        ["centers", "offsets"] if exported.run.model.panoptic else []
    )
    assert (images.name, images.shape) == ("images", ["batch", 3, "height", "width"])
    assert (logits.name, logits.shape[1]) == ("logits", len(exported.run.classes))


def test_it_is_one_file_that_stands_alone(exported):
    path = exported.report.path
    assert path == exported.run.path / "export" / "model.onnx"
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    assert path.stat().st_size == exported.report.bytes
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model)
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == OPSET
    assert not any(tensor.external_data for tensor in model.graph.initializer)


def test_the_models_stages_are_named_inside_and_cost_nothing(exported):
    graph = onnx.load(exported.report.path).graph
    with torch.no_grad(), Stages(exported.run.model) as stages:
        exported.run.model(torch.randn(1, 3, 33, 35))
    named = {name for node in graph.node for name in node.output if name.startswith(PREFIX)}
    assert len(named) >= 9
    paths = {name.removeprefix(PREFIX) for name in named}
    # the graph's form of a stage may have parts of its own: segformer's decoder.act
    modules = {name for name, _ in exported.run.model.named_modules() if name}
    assert {path.rpartition(".")[0] for path in paths - {*stages.values}} <= modules
    assert named <= {
        name for node in graph.node for name in node.input
    }  # no node is there for a name's sake


def test_no_path_of_this_machine_is_left_in_the_file(exported):
    content = exported.report.path.read_bytes()
    for folder in (Path(featherseg.__file__).parent, Path(torch.__file__).parent):
        assert str(folder).encode() not in content


def test_the_metadata_say_all_that_predicting_needs(exported, session):
    texts = session.get_modelmeta().custom_metadata_map
    found = {key: json.loads(text) for key, text in texts.items()}
    run = exported.run
    # the graph's form of a model holds less at once, or as much
    assert 0 < found.pop("peak_bytes_per_pixel") <= 1.000001 * peak_bytes_per_pixel(run.model)
    assert found == {
        "format_version": 2,
        "model": run.recipe.model.name,
        "options": {},
        "init": "from scratch",
        "classes": ["road", "straße", "car", "sky", "void-like"],
        "colors": [list(row.color) for row in run.classes],
        "things": [False, False, True, False, False],
        "mean": list(run.model.mean),
        "std": list(run.model.std),
        "channels": 3,
        "size_divisor": run.model.size_divisor,
        "minimum_size": run.model.minimum_size,
        "align_corners": run.model.align_corners,
        "licence": "research only",
        "provenance": provenance(run),
        "image_size": [96, 128],
        "test_resize": None,
        "panoptic": run.recipe.panoptic.model_dump() if run.model.panoptic else None,
        "masks": False,
        "channel_order": "RGB",
        "value_range": [0, 255],
        "image_range": 65536,
        "preprocessing": PREPROCESSING[False].format(order="RGB", deep="v / 257"),
        "postprocessing": POSTPROCESSING[False],
    }


@pytest.mark.seconds
def test_channels_are_the_models():
    grey = models.build("frm-lite0", classes=2, channels=1)
    texts = metadata(
        grey, Facts("grey", (ClassInfo("a", (0, 0, 0)), ClassInfo("b", (1, 1, 1))), "MIT")
    )
    assert json.loads(texts["channels"]) == 1
    assert len(json.loads(texts["mean"])) == len(json.loads(texts["std"])) == 1
