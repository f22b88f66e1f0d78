"""Training: a recipe and data in, a run folder out. The only folder that imports Lightning."""

from featherseg.training.job import train
from featherseg.training.prepare import Request

__all__ = ["Request", "train"]
