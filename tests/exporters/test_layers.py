"""Layers without a quick model: exported graphs are right at other sizes than the example's."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from featherseg.backbones.efficientformer_v2 import Attention, AttentionDownsample
from featherseg.exporters.onnx import OPSET
from featherseg.exporters.parity import perturb
from featherseg.layers.attention import DisentangledNonLocal
from featherseg.layers.pooling import (
    DeepAggregationPooling,
    PyramidPooling,
    RegionMax,
    StridedRegionMean,
)
from featherseg.models.cgrseg import rectangular_module
from featherseg.models.deeplabv3 import AtrousPyramid
from featherseg.models.efficientvit import LinearAttention


def two_dimensional():
    attention = AttentionDownsample(6, 8)
    attention.position.how = "two-dimensional"
    return attention


LAYERS = {
    "ppm": lambda: PyramidPooling(6, 4),
    "dappm": lambda: DeepAggregationPooling(6, 3, 4),
    "non-local, unpooled, without gamma": lambda: DisentangledNonLocal(
        6, key_channels=2, kv_pool=1, gamma=False
    ),
    "attention with a position bias": lambda: Attention(6, stride=2),
    "attention between stages": lambda: AttentionDownsample(6, 8),
    "attention between stages, its offsets resized in two directions": two_dimensional,
    "atrous pyramid": lambda: AtrousPyramid(6, 4, (2, 3, 12), project_kernel=1),
    "strided region means": lambda: StridedRegionMean(2),
    "rectangular self-calibration": lambda: rectangular_module(6, band=5),
    "region maxima": lambda: RegionMax(2),
    "linear attention, in which some queries meet no key": lambda: LinearAttention(6, 2),
}


class Every(nn.ModuleDict):
    """(B, 6, h, w) -> the output of each layer in one graph, because an export takes seconds."""

    def forward(self, x):
        return {name: layer(x) for name, layer in self.items()}


@pytest.mark.slow  # in quick tests they are those of the exported models
@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own insides
def test_a_layer_exports_with_any_height_and_width(tmp_path):
    layers, dynamic = (
        Every({name: perturb(layer()) for name, layer in LAYERS.items()}).eval(),
        torch.export.Dim.DYNAMIC,
    )
    torch.onnx.export(
        layers,
        (torch.randn(2, 6, 7, 9),),
        tmp_path / "layer.onnx",
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(
        tmp_path / "layer.onnx", providers=["CPUExecutionProvider"]
    )
    for size in ((1, 2, 2), (1, 5, 11), (3, 23, 40), (2, 6, 6)):
        x = torch.randn(size[0], 6, *size[1:], generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            given = layers(x)
        for (name, expected), found in zip(
            given.items(), session.run(None, {session.get_inputs()[0].name: x.numpy()}), strict=True
        ):
            error, spread = np.abs(found - expected.numpy()).max(), expected.max() - expected.min()
            assert error <= 1e-5 * spread, (name, size)
