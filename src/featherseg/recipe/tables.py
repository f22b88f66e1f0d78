"""The tables of a recipe: its keys, their types and bounds, and what each key does.

[augment] is defined in data/pipeline/augmentation.py, [loss] in losses/terms.py, [panoptic] in
panoptic.py.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from featherseg.core.config import Config, Positive, Share, SplitBy
from featherseg.core.storage import without_buckets
from featherseg.core.wording import last_parts
from featherseg.data.images.sizes import ImageSize, ResizeTo
from featherseg.data.pipeline.augmentation import AugmentTable
from featherseg.losses.terms import LossTable, Weight
from featherseg.recipe.panoptic import PanopticTable

# the largest learning rate that fp32 can represent, with room for an optimiser's factors
Rate = Annotated[float, Field(gt=0, le=1e30)]
Scale = Annotated[float, Field(gt=0, le=8)]
Percent = Annotated[float, Field(ge=0.0, le=100.0)]


def _joined(splits: Any) -> Any:
    """Return ["train", "val"] as "train+val", which `data.open_dataset` takes."""
    names = splits if isinstance(splits, list) else []
    if names and all(isinstance(name, str) and name for name in names):
        return "+".join(names)
    return splits


Splits = Annotated[str, BeforeValidator(_joined)]


def _separated(names: Any) -> Any:
    """Return "runs/a,runs/b" as ("runs/a", "runs/b")."""
    if not isinstance(names, str):
        return tuple(names) if isinstance(names, list) else names
    separated = tuple(name.strip() for name in names.split(",") if name.strip())
    if not separated:
        raise ValueError("expected names, separated by commas; leave it out, or give [], for none")
    return separated


Runs = Annotated[tuple[str, ...], Field(max_length=16), BeforeValidator(_separated)]
"""Runs by path or name: a list, or a text with commas."""

Loggers = Annotated[
    tuple[Literal["tensorboard", "mlflow", "wandb"], ...],
    Field(max_length=3),
    BeforeValidator(_separated),
]
"""What a training logs to in addition to its run folder: a list, or a text with commas."""

Convention = Literal["macs", "ptflops-0.6", "conv-bn"]
"""How multiply-accumulates are counted, see costs/cost.py."""


class ModelTable(Config):
    """[model]: the model, whether its backbone starts from ImageNet weights, and its own settings.

    Its settings are the keys of its paper's config (models/frm.py: FRMConfig): `context = "ppm"`.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    pretrained: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The model's own settings."""
        return dict(self.model_extra or {})


def shown_data(name: str) -> str:
    """Return a dataset's name for pages that are passed on: the last two parts of a path."""
    return last_parts(without_buckets(name))


class DataTable(Config):
    """[data]: what to train and validate on."""

    name: str  # a dataset of the catalogue, a dataset.toml or a folder
    root: str | None = None  # folder of a dataset of the catalogue
    split_by: SplitBy | None = None  # what random splits keep together; None: see dataset.toml
    train_split: Splits = "train"  # or several, ["train", "val"]: then the last weights are kept
    val_split: str = "val"
    train_size: Positive | None = None  # number of images; None: all
    val_size: Positive | None = None
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None  # None: by the number of cores
    test_resize: ResizeTo | None = None  # size of images in validation, scoring and prediction
    class_uniform: Share = 0.0  # share of samples drawn by class and cropped around a pixel of it

    @property
    def shown(self) -> str:
        """The result of `shown_data`."""
        return shown_data(self.name)


class TeacherTable(Config):
    """[teacher]: runs whose outputs the model learns too (losses/distillation.py)."""

    runs: Runs = ()  # by path or name; the mean of their logits is learned; () = no teacher
    unlabelled: str | None = None  # a folder of images without masks, for the teachers alone
    logits: Weight = 1.0  # weight of L_logits; 0 = off
    logits_temperature: Annotated[float, Field(gt=0, le=1000)] = 1.0
    channels: Weight = 3.0  # weight of L_channels; 0 = off
    channels_temperature: Annotated[float, Field(gt=0, le=1000)] = 4.0

    @model_validator(mode="after")
    def _teachers_have_an_effect(self) -> "TeacherTable":
        if self.unlabelled and not self.runs:
            raise ValueError(
                "teacher.unlabelled: images without masks need a teacher, set teacher.runs"
            )
        if self.runs and not (self.logits or self.channels):
            raise ValueError(
                "teacher.logits and teacher.channels are both 0: give one of them a weight"
            )
        if len(set(self.runs)) < len(self.runs):
            raise ValueError(f"teacher.runs = {list(self.runs)}: give every run once")
        return self


class TrainTable(Config):
    """[train]: length, optimiser, precision, devices, what is kept.

    The length is one of epochs, optimiser steps and minutes. Minutes are for the whole command.
    Default: steps = "auto", by the number of images. In the record of a run that was given minutes,
    steps are the steps that it took.
    """

    epochs: Positive | None = None
    steps: Positive | Literal["auto"] | None = None
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None

    # Images of a step
    batch_size: Positive | Literal["auto"] = 8  # on all devices; auto: more for small crops
    lr_batch_size: Positive | None = None  # images per step for lr; others scale it by the root
    accumulate: Positive = 1  # batches per step
    checkpoint_activations: bool = False  # recompute the backbone's maps in the backward

    # Optimiser: a name of training/optimisers.py; auto: muon from scratch, adamw for fine-tuning
    optimizer: str = "adamw"
    lr: Rate = 2e-3
    backbone_lr: Rate | None = None  # None: lr
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0  # rate of a stage / rate of the next one
    weight_decay: Weight = 0.01
    groups: Literal["structure", "mmseg", "uniform"] = "structure"  # which weights decay
    momentum: Share = 0.9  # sgd only
    clip_norm: Weight = 0.0  # largest norm of the gradient; 0 = off

    # Learning rate over the steps
    schedule: Literal["poly", "cosine", "stable"] = "poly"  # stable: training may be prolonged
    power: Annotated[float, Field(gt=0)] = 0.9  # poly: lr * (1 - step / steps) ** power
    decay_steps: Annotated[int, Field(ge=0)] = 0  # stable: last steps, with a falling rate
    floor: Share = 0.0  # final rate / lr
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the EMA of the weights; 0 = off
    ema_share: Share = 0.0  # or its length as a share of the steps; 0 = off

    # Validation, and what is kept
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"  # auto: bf16 if the device has it
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    validations: Positive = 10  # number in a run, at most one per epoch ...
    validate_every: Positive | None = None  # ... or one after this number of epochs
    keep: Literal["best", "last"] = "best"  # weights in the finished run folder
    patience: Positive | None = None  # stop after this number of validations without a better mIoU
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0

    # Devices
    device: str = "auto"
    devices: Annotated[int, Field(gt=0, le=1024)] = 1
    nodes: Annotated[int, Field(gt=0, le=1024)] = 1
    rank_seconds: Annotated[float, Field(ge=1, le=1e6)] = 1800.0  # longest wait for other processes
    sync_bn: bool = True  # with more than one process
    loggers: Loggers = ()

    @model_validator(mode="before")
    @classmethod
    def _length_is_known(cls, values: Any) -> Any:
        if isinstance(values, dict) and all(values.get(key) is None for key in LENGTHS):
            return values | {"steps": "auto"}
        return values

    @model_validator(mode="after")
    def _length_is_one(self) -> "TrainTable":
        if self.epochs and (self.steps or self.minutes):
            raise ValueError(
                f"train.epochs and train.{'steps' if self.steps else 'minutes'}: give one of them"
            )
        if self.minutes and self.steps == "auto":
            raise ValueError("train.minutes and train.steps = 'auto': give one of them")
        return self

    @model_validator(mode="after")
    def _rate_falls_within_the_steps(self) -> "TrainTable":
        if self.decay_steps and self.schedule != "stable":
            raise ValueError(
                f"train.decay_steps has no effect with train.schedule = {self.schedule!r}: "
                "expected 'stable'"
            )
        if isinstance(self.steps, int) and self.decay_steps > self.steps:
            raise ValueError(
                f"train.decay_steps = {self.decay_steps}: the run has {self.steps} steps"
            )
        return self

    def average_decay(self, steps: int) -> float:
        """Return the decay of the EMA in a run of this number of steps; 0 = no EMA."""
        return 1 - 1 / max(1.0, self.ema_share * steps) if self.ema_share else self.ema


MACHINE_KEYS = frozenset(
    {"data.workers", "train.device", "train.devices", "train.nodes", "train.rank_seconds"}
    | {"train.checkpoint_seconds", "train.loggers"}
)
"""Settings that do not change the result of a training."""

LENGTHS = ("epochs", "steps", "minutes")
EXCLUSIVE = (LENGTHS, ("ema", "ema_share"), ("validations", "validate_every"))
"""Groups of keys of [train] that exclude each other."""


class PaperTable(Config):
    """[paper]: the published row that the recipe repeats; it does not affect training."""

    row: str  # where it is printed
    data: str  # the dataset of `miou`
    classes: Positive  # of the model of `params_m` and `gmacs`
    miou: dict[str, Percent]  # by split
    # test-time augmentation of `miou`
    scales: Annotated[tuple[Scale, ...], Field(max_length=16)] = (1.0,)
    flip: bool = False
    params_m: Annotated[float, Field(gt=0)]  # millions
    gmacs: Annotated[float, Field(gt=0)]  # 10^9, for one image of `size`
    convention: Convention | Literal["other"]  # of gmacs; other: none of ours
    size: ImageSize


class Recipe(Config):
    """Everything that decides a training run, except the machine, and its published row."""

    model: ModelTable
    data: DataTable
    train: TrainTable
    augment: AugmentTable = AugmentTable()
    loss: LossTable = LossTable()
    teacher: TeacherTable = TeacherTable()
    panoptic: PanopticTable = PanopticTable()
    paper: PaperTable | None = None

    @property
    def trains_on_all(self) -> bool:
        """Whether it trains on several splits, the validation split among them."""
        parts = self.data.train_split.split("+")
        return len(parts) > 1 and self.data.val_split in parts

    @model_validator(mode="after")
    def _patience_needs_other_images(self) -> "Recipe":
        if self.trains_on_all and self.train.patience:
            raise ValueError(
                f"train.patience: {self.data.val_split} is trained on, so its scores cannot end a "
                "training. Leave it out"
            )
        return self
