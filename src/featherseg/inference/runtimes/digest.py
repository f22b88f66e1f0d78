"""What tells one model from another, whatever it is called."""

import hashlib

from torch import nn

from featherseg.core.files import content_digest
from featherseg.inference.runtimes import Runtime
from featherseg.inference.runtimes.file_check import model_files
from featherseg.inference.runtimes.pytorch import weight_bytes


def model_digest(runtime: Runtime) -> str:
    """The sha256 of a model's weights, or of an exported file with its weights; "" of what is neither."""
    if path := getattr(runtime, "path", None):
        return content_digest(*model_files(path))
    model = getattr(runtime, "model", None)
    if not isinstance(model, nn.Module):
        return ""
    weights = hashlib.sha256()
    for content in weight_bytes(model):
        weights.update(content)
    return weights.hexdigest()
