"""VAN's and CGRSeg's goldens (tests/golden/parity and keys): the authors' outputs and keys."""

import json
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from support.golden.golden_make import EVERY, GOLDEN
from support.golden.golden_rule import flat, image, labels, shape_of, tensor
from torch import Tensor

from featherseg import backbones
from featherseg.backbones.weights import load_official
from featherseg.models.cgrseg import VARIANTS, CGRSeg

REQUIRED = ("stage1", "stage2", "stage3", "stage4", "logits")


@cache
def entries(name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{official key: (kind of tensor, shape)} of an official state dict: entries("van_b1")."""
    leaves = flat(json.loads((GOLDEN / f"keys/{name}.json").read_text())["keys"])
    return {
        key: (leaf.split()[0], shape_of("".join(leaf.split()[1:]))) for key, leaf in leaves.items()
    }


def numbered(name: str) -> dict[str, Tensor]:
    """An official state dict in which every tensor holds its own number throughout."""
    return {
        key: torch.full(shape, float(i))
        for i, (key, (_, shape)) in enumerate(entries(name).items())
    }


def maps(model: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Return stages, for CGRSeg also logits and inner maps, (B, C, h, w), by golden name."""
    if not isinstance(model, CGRSeg):
        return {f"stage{i}": x for i, x in enumerate(model(images), 1)}
    assert model.context is not None
    assert model.prototype is not None
    found = maps(model.backbone, images)
    first, last = model.context.refine[0], model.context.refine[-1]
    handles = [
        first.register_forward_pre_hook(lambda _, given: found.update(pyramid_pooled=given[0])),
        last.register_forward_hook(lambda _, given, out: found.update(pyramid_context=out)),
        *(
            fuse.register_forward_hook(
                lambda _, given, out, stride=stride: found.update({f"fused_{stride}": out})
            )
            for fuse, stride in zip(model.decoder.fuse, (8, 16, 32), strict=True)
        ),
        model.prototype.embed.register_forward_hook(
            lambda _, given, out: found.update(coarse_logits=given[1], class_embedding=out)
        ),
        model.prototype.register_forward_hook(
            lambda _, given, out: found.update(dpg_out=out * given[0])
        ),
    ]
    found["logits"] = model(images).logits
    for handle in handles:
        handle.remove()
    return found


def misses(name: str, dtype: torch.dtype) -> tuple[int, list[tuple]]:
    """Load the golden's weights and run its cases; return (number of maps, differences).

    A difference is more than the golden's `atol` in float32 (20 times the authors' model's own
    difference between float32 and float64), or 1e-7 of a map's largest value in float64.
    """
    golden = json.loads((GOLDEN / f"parity/{name}.json").read_text())
    with np.load(GOLDEN / f"parity/{name}.npz", allow_pickle=False) as arrays:
        samples = dict(arrays)
    known = entries(name)
    classes = golden["num_classes"]
    model = (
        CGRSeg(VARIANTS["cgrseg-t"].config, classes)
        if classes
        else backbones.build(name.replace("_", "-"))
    )
    state = {
        key: torch.from_numpy(tensor(key, shape, kind)) for key, (kind, shape) in known.items()
    }

    # other weights first: what a model keeps of them between two runs must not survive
    load_official(
        model, {k: v * -0.5 if known[k][0] in ("table", "weight") else v for k, v in state.items()}
    )
    with torch.no_grad():
        maps(model.eval(), torch.zeros(1, 3, 64, 64))
    load_official(model, state)
    model.to(dtype).eval()

    compared, found = 0, []

    def compare(what: str, got: Tensor, of: dict) -> None:
        nonlocal compared
        compared += 1
        values = got.detach().numpy().astype(np.float64).ravel()
        atol = 1e-7 * max(abs(of["min"]), abs(of["max"])) if dtype == torch.float64 else of["atol"]
        if list(got.shape) != of["shape"]:
            found.append((what, list(got.shape)))
            return
        places = [i * (values.size - 1) // 15 for i in range(16)]
        off = [
            np.abs(values[places] - of["slice16"]).max(),
            *(abs(getattr(values, key)() - of[key]) for key in ("mean", "std", "min", "max")),
            abs(np.abs(values).sum() - of["abs_sum"]) / values.size,
        ]
        if (full := samples.get(what)) is not None:  # stored as float32
            off.append(
                np.abs(values[:: EVERY.get(what, 1)] - full).max() - 1e-6 * np.abs(full).max()
            )
        if not max(off) <= atol:
            found.append((what, max(off), atol))

    for number, case in enumerate(golden["cases"]):
        batch, _, *size = case["input_shape"]
        images = torch.from_numpy(image(case["input_tag"], case["input_shape"]))
        assert images.flatten()[[0, -1]].tolist() == [
            case["input_summary"]["slice16"][i] for i in (0, -1)
        ]
        images = images.to(dtype).requires_grad_("loss" in case)
        given = maps(model, images)
        assert {key for key in REQUIRED if key in case["outputs"]} <= set(given)
        for key, of in case["outputs"].items():
            compare(f"case{number}_{key}", given[key], of)
        if (expected := samples.get(f"case{number}_argmax")) is not None:
            up = F.interpolate(given["logits"], size=size, mode="bilinear", align_corners=False)
            agreement = (up.argmax(1).numpy().ravel() == expected).mean()
            if agreement < 0.999:
                found.append((f"case{number}_argmax", agreement))
        if "loss" in case:
            up = F.interpolate(given["logits"], size=size, mode="bilinear", align_corners=False)
            label = torch.from_numpy(labels(case["input_tag"], (batch, *size), classes))
            loss = F.cross_entropy(up, label, ignore_index=255, reduction="none").mean()
            if abs(loss.item() - case["loss"]["ce_mean_all_pixels"]) >= 1e-4:
                found.append((f"case{number}_loss", loss.item()))
            (gradient,) = torch.autograd.grad(loss, images)
            compare(
                f"case{number}_gradient", gradient, case["loss"]["grad_input_of_ce_mean_all_pixels"]
            )
    return compared, found
