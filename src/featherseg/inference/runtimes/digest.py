"""What distinguishes one model from another, whatever their names."""

import hashlib
import json

from featherseg.core.files import content_digest
from featherseg.inference.runtimes import Runtime
from featherseg.inference.runtimes.file_check import model_files


def model_digest(runtime: Runtime) -> str:
    """Return a sha256 of all that decides a model's masks, apart from `InferenceSettings`.

    For an exported file this is its content with its weights; for a torch model its layers,
    weights, classes and normalisation. A runtime that is neither has "".
    """
    if path := getattr(runtime, "path", None):
        return content_digest(*model_files(path))
    if runtime.device is None:
        return ""
    from torch import nn

    from featherseg.inference.runtimes.pytorch import weight_bytes

    model = getattr(runtime, "model", None)
    if not isinstance(model, nn.Module):
        return ""
    facts: list[object] = [(info.name, info.color, info.thing) for info in runtime.classes]
    facts += [runtime.mean, runtime.std, runtime.image_range, str(runtime.panoptic), str(model)]
    digest = hashlib.sha256(json.dumps(facts).encode())
    for content in weight_bytes(model):
        digest.update(content)
    return digest.hexdigest()
