"""A small training on drawn scenes for tests: 8 images, crops of 64 x 96, no pretrained weights."""

from pathlib import Path

import torch

from featherseg.training import Request, train

SMALL = (
    "model.pretrained=false",
    "data.train_size=8",
    "data.val_size=2",
    "data.workers=0",
    "augment.crop=[64, 96]",
    "loss.class_weights=none",
    "train.epochs=2",
    "train.batch_size=4",
    "train.precision=fp32",
    "train.checkpoint_seconds=1000",
)


YARD = """
name = "yard"
images = "images"
masks = "masks"
classes = ["grass", "path", "plant"]
[splits]
train = "train.txt"
val = "val.txt"
[map]
0 = "grass"
1 = "path"
2 = "plant"
"""
"""A dataset.toml of three classes, of images/ and masks/ listed in train.txt and val.txt."""


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.messages, self.steps = [], []

    def message(self, text):
        self.messages.append(text)

    def step(self, step, steps, record):
        self.steps.append(step)

    def progress(self, doing, done, total):
        pass


class Killed(BaseException):
    """Stands for a kill: nothing of ours handles it."""


class KilledAt(Silent):
    """Dies when a step is reported: its metrics are written then, its checkpoint is not."""

    def __init__(self, step):
        super().__init__()
        self.last = step

    def step(self, step, steps, record):
        super().step(step, steps, record)
        if step == self.last:
            raise Killed


def request(*overrides: str, **kwargs) -> Request:
    """Of the model that is the quickest to train, if `overrides` name no other."""
    return Request("frm-lite0", overrides=("model.name=efficientvit-seg-b0", *SMALL, *overrides), **kwargs)


def trained(out: Path, *overrides: str, reporter=None, resume=False):
    return train(request(*overrides), out, reporter or Silent(), resume=resume)


def equal_state(first, second) -> bool:
    """Whether two nested structures of tensors and plain values are the same to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal_state(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal_state, first, second))
    return first == second


def outcome(run):
    """All that two runs are compared by: kept weights, optimiser, schedule, average, the last record of each step."""
    checkpoint = torch.load(run.path / "last.ckpt", weights_only=True)
    parts = {
        key: checkpoint[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "average", "global_step")
    }
    recorder = checkpoint["callbacks"]["Recorder"]
    return {"weights": dict(run.model.state_dict()), "recorder": recorder, "metrics": run.metrics(), **parts}
