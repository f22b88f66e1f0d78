"""The peers' goldens (tests/golden/peers): the authors' outputs on weights made from key names."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from support.golden.golden_make import GOLDEN
from support.golden.golden_rule import flat, peer_image, peer_tensor, shape_of
from torch import Tensor, nn

from featherseg.backbones.weights import load_official
from featherseg.core.types import SegOutput
from featherseg.costs.cost import by_convention, count_layers, count_parameters
from featherseg.layers.model import SegmentationModel
from featherseg.layers.resize import to_image


@dataclass(frozen=True)
class Golden:
    """The authors' outputs: `cases` with inputs and outputs, weight shapes by official key."""

    reference: dict
    shapes: dict[str, tuple[int, ...]]

    def state(self) -> dict[str, Tensor]:
        """The weights of the reference, float64 (counts of batches int64), by official key."""
        drawn = {
            key: torch.from_numpy(peer_tensor(key, shape)) for key, shape in self.shapes.items()
        }
        return {
            key: value if value.dtype == torch.int64 else value.double()
            for key, value in drawn.items()
        }

    def misses(
        self,
        model: SegmentationModel,
        rtol: float = 1e-6,
        names: Mapping[str, str] | None = None,
        upsampled: bool = False,
    ) -> list:
        """Run the cases on the reference's weights; return outputs off by rtol of their deviation.

        names: {reference name: ours} if they differ ("main": the logits, others: from aux).
        upsampled: the reference's logits are at the image's size.
        """
        load_official(model.double().eval(), self.state())
        outputs, found = self.run(model, names or {}, upsampled), []
        for case in self.reference["cases"]:
            for name, known in case["outputs"].items():
                values = outputs[case["name"]][name].astype(np.float64).ravel()
                places = np.linspace(0, values.size - 1, 32).astype(np.int64)
                off = np.abs(values[places] - known["slice32"]).max() / known["std"]
                total = abs(np.abs(values).sum() / known["abs_sum"] - 1)
                shape = list(outputs[case["name"]][name].shape)
                if shape != known["shape"] or not max(off, total) <= rtol:
                    found.append((case["name"], name, shape, off, total))
        return found

    @torch.no_grad()
    def run(self, model: SegmentationModel, names: Mapping[str, str], upsampled: bool) -> dict:
        """{case: {output: array}} of a model in float64 and eval mode."""
        outputs = {}
        for case in self.reference["cases"]:
            images = torch.from_numpy(peer_image(case["seed"], case["input_shape"])).double()
            out = model(images, aux=True)
            found = {"main": out.logits, **(out.aux or {})}
            if upsampled:
                size = (images.shape[2], images.shape[3])
                found = {name: to_image(out._replace(logits=x), size) for name, x in found.items()}
            outputs[case["name"]] = {
                name: found[names.get(name, name)].numpy() for name in case["outputs"]
            }
        return outputs


@cache
def golden(name: str) -> Golden:
    """The reference of one model: golden("ddrnet_23_slim")."""
    reference = json.loads((GOLDEN / f"peers/{name}.json").read_text())
    return Golden(reference, {key: shape_of(leaf) for key, leaf in flat(reference["keys"]).items()})


def unfit(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return three states that must not load, by message: missing key, extra key, wrong shape."""
    key = next(key for key, value in state.items() if value.ndim == 4)
    return {
        "missing": {k: v for k, v in state.items() if k != key},
        "unexpected": {**state, "foreign.weight": state[key]},
        "shape of": {**state, key: state[key][:-1]},
    }


def figures(build: Callable[[int], SegmentationModel]) -> tuple[float, ...]:
    """Return the measured peers' figures of a model, `build(classes)`, to three decimals.

    M parameters with 19 and with 150 classes without auxiliary heads, and with 19 and all heads;
    GMACs of 19 classes at 1024x2048 by macs and ptflops-0.6, of 150 classes at 512x512 by macs.
    """
    with torch.device("meta"):
        small, large = build(19).eval(), build(150).eval()
    plain = [
        count_parameters(model) - count_parameters(model.aux_heads) for model in (small, large)
    ]
    parameters = [count / 1e6 for count in (*plain, count_parameters(small))]
    full, square = gmacs(small, (1024, 2048)), gmacs(large, (512, 512))
    return tuple(
        round(figure, 3)
        for figure in (*parameters, full["macs"], full["ptflops-0.6"], square["macs"])
    )


class WithAux(nn.Module):
    """A model as it runs in training: its auxiliary heads too."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> SegOutput:
        return self.model(images, aux=True)


def gmacs(model: nn.Module, size: tuple[int, int]) -> dict[str, float]:
    """10^9 multiply-accumulates of a model on the meta device for one image, by convention."""
    counts, _ = count_layers(model, torch.empty(1, 3, *size, device="meta"))
    return {name: count / 1e9 for name, count in by_convention(counts).items()}
