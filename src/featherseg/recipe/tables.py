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
    """The model, as `featherseg models` lists it."""
    pretrained: bool = True
    """Start the backbone from ImageNet weights; without them it starts from random ones."""

    @property
    def options(self) -> dict[str, Any]:
        """The model's own settings."""
        return dict(self.model_extra or {})


def shown_data(name: str) -> str:
    """Return a dataset's name for pages that are passed on: the last two parts of a path."""
    return last_parts(without_buckets(name))


class DataTable(Config):
    """[data]: what to train and validate on."""

    name: str
    """A dataset of the catalogue, a dataset.toml or its folder; `--data`."""
    root: str | None = None
    """The folder of a dataset of the catalogue; `--data-root`."""
    split_by: SplitBy | None = None
    """What a split by share keeps together; unset: as its dataset.toml says."""
    train_split: Splits = "train"
    """The split that is trained on, or several: then the last weights are kept."""
    val_split: str = "val"
    """The split that is validated on."""
    train_size: Positive | None = None
    """Number of training images; unset: all."""
    val_size: Positive | None = None
    """Number of validation images; unset: all."""
    unlabelled: str | None = None
    """A folder of images without masks, which a first training labels; `--unlabelled`."""
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Processes that load images; unset: by the number of cores."""
    test_resize: ResizeTo | None = None
    """Size to which images are resized in validation, scoring and prediction, in pixels."""
    class_uniform: Share = 0.0
    """Share of the samples drawn by class, with a crop around a pixel of it."""

    @property
    def shown(self) -> str:
        """The result of `shown_data`."""
        return shown_data(self.name)


class TrainTable(Config):
    """[train]: length, optimiser, precision, devices, what is kept.

    The length is one of epochs, optimiser steps and minutes. Minutes are for the whole command.
    Default: steps = "auto", by the number of images. In the record of a run that was given minutes,
    steps are those that were planned when it began.
    """

    epochs: Positive | None = None
    """Length in epochs; instead of steps and minutes."""
    steps: Positive | Literal["auto"] | None = None
    """Length in optimiser steps; auto, used if no length is set: by the number of images."""
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Time limit of the whole command in minutes, start and report included; `--minutes`."""

    # Images of a step
    batch_size: Positive | Literal["auto"] = 8
    """Images of a step on all devices; auto: more for small crops, fewer if memory is short."""
    lr_batch_size: Positive | None = None
    """Images of a step for which `lr` is meant; rates of others are scaled by the root."""
    accumulate: Positive = 1
    """Number of batches whose gradients are added up to a step."""
    checkpoint_activations: bool = False
    """Compute the backbone's maps again in the backward: less memory, more time."""

    # Optimiser, see training/optimisers.py
    optimizer: str = "adamw"
    """`adamw`, `muon` or `sgd`; auto: muon from scratch, adamw for fine-tuning."""
    lr: Rate = 2e-3
    """Learning rate."""
    backbone_lr: Rate | None = None
    """Learning rate of the backbone; unset: `lr`."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Rate of a stage of the backbone as a share of the next stage's."""
    weight_decay: Weight = 0.01
    """Decay of the weights."""
    groups: Literal["structure", "mmseg", "uniform"] = "structure"
    """Which weights decay: all but norms and biases, as in mmsegmentation, or all (`uniform`)."""
    momentum: Share = 0.9
    """Momentum of `sgd`."""
    clip_norm: Weight = 0.0
    """Largest norm of the gradient; 0 = off."""

    # Learning rate over the steps
    schedule: Literal["poly", "cosine", "stable"] = "poly"
    """Course of the rate over the steps; `stable`: constant, and the training may be prolonged."""
    power: Annotated[float, Field(gt=0)] = 0.9
    """Exponent of `poly`: lr * (1 - step / steps) ** power."""
    decay_steps: Annotated[int, Field(ge=0)] = 0
    """Last steps of `stable`, in which the rate falls."""
    floor: Share = 0.0
    """Final rate as a share of `lr`."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """First steps, in which the rate rises."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the exponential moving average (EMA) of the weights; 0 = off."""
    ema_share: Share = 0.0
    """Length of the EMA as a share of the steps, instead of `ema`; 0 = off."""

    # Validation, and what is kept
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Precision of a step; auto: bf16 if the device has it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights and of all that is drawn."""
    validations: Positive = 10
    """Number of validations in a run, at most one per epoch."""
    validate_every: Positive | None = None
    """Epochs between validations, instead of their number."""
    keep: Literal["best", "last"] = "best"
    """Which weights the finished run has: the best in validation, or the last."""
    patience: Positive | None = None
    """Stop after this number of validations without a better mIoU; unset: never."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between checkpoints to resume from."""

    # Devices
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `--device`."""
    devices: Annotated[int, Field(gt=0, le=1024)] = 1
    """Number of GPUs, or of processes, on each machine."""
    nodes: Annotated[int, Field(gt=0, le=1024)] = 1
    """Number of machines."""
    rank_seconds: Annotated[float, Field(ge=1, le=1e6)] = 1800.0
    """Longest wait for other processes, in seconds."""
    sync_bn: bool = True
    """Batch norms use the images of all processes, if there are several."""
    loggers: Loggers = ()
    """Trackers that a training logs to in addition to its run folder."""

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

    row: str
    """Where the row is printed."""
    data: str
    """The dataset of `miou`."""
    classes: Positive
    """Number of classes of the model of `params_m` and `gmacs`."""
    miou: dict[str, Percent]
    """Published mIoU in %, by split."""
    # test-time augmentation of `miou`
    scales: Annotated[tuple[Scale, ...], Field(max_length=16)] = (1.0,)
    """Scales of test-time augmentation of `miou`."""
    flip: bool = False
    """Whether test-time augmentation flips."""
    params_m: Annotated[float, Field(gt=0)]
    """Published parameters in millions."""
    gmacs: Annotated[float, Field(gt=0)]
    """Published multiply-accumulates in 10^9, for one image of `size`."""
    convention: Convention | Literal["other"]
    """How `gmacs` are counted; other: by none of ours."""
    size: ImageSize
    """(height, width) of the image of `gmacs` in pixels."""


class Recipe(Config):
    """Everything that decides a training run, except the machine, and its published row."""

    model: ModelTable
    data: DataTable
    train: TrainTable
    augment: AugmentTable = AugmentTable()
    loss: LossTable = LossTable()
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
