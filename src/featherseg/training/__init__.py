"""Training: a recipe and data in, a run folder out. The only folder that imports Lightning."""

from featherseg.training.prepare import Request
from featherseg.training.train import train

__all__ = ["Request", "train"]
