"""The tables of a recipe: its keys, their types and bounds, and what each key does."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from featherseg.core.config import Config, Positive, Share, SplitBy
from featherseg.core.storage import without_buckets
from featherseg.core.wording import last_parts
from featherseg.data.images.sizes import ImageSize, ResizeTo
from featherseg.data.pipeline.augmentation import AugmentTable
from featherseg.losses.terms import LossTable

Rate = Annotated[
    float, Field(gt=0, le=1e30)
]  # what fp32 holds, with room for an optimiser's factors
Percent = Annotated[float, Field(ge=0.0, le=100.0)]


def _joined(splits: Any) -> Any:
    """["train", "val"] as `data.open_dataset` takes it: "train+val"."""
    if (
        isinstance(splits, list)
        and splits
        and all(isinstance(split, str) and split for split in splits)
    ):
        return "+".join(splits)
    return splits


Splits = Annotated[str, BeforeValidator(_joined)]


def _separated(names: Any) -> Any:
    """ "runs/a,runs/b" as ("runs/a", "runs/b")."""
    if isinstance(names, str):
        if not (found := tuple(name.strip() for name in names.split(",") if name.strip())):
            raise ValueError(
                "expected names, separated by commas; leave it out, or give [], for none"
            )
        return found
    return tuple(names) if isinstance(names, list) else names


Runs = Annotated[tuple[str, ...], Field(max_length=16), BeforeValidator(_separated)]
"""Runs by path or name, separated by commas where they are a text."""

Loggers = Annotated[
    tuple[Literal["tensorboard", "mlflow", "wandb"], ...],
    Field(max_length=3),
    BeforeValidator(_separated),
]
"""Where a training is followed beside its run folder; separated by commas where they are a text."""

Convention = Literal["macs", "ptflops-0.6", "conv-bn"]
"""How multiply-accumulates are counted; costs/cost.py says what each convention counts."""


class ModelTable(Config):
    """[model]: which model, whether its backbone starts from ImageNet weights, and settings of the model itself.

    The latter are the keys of its paper's config (models/frm.py: FRMConfig), as in `context = "ppm"`.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    pretrained: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are the model's own."""
        return dict(self.model_extra or {})


def shown_data(name: str) -> str:
    """A dataset as a page that is passed on names it: of a path the last two parts, without a bucket's name."""
    return last_parts(without_buckets(name))


class DataTable(Config):
    """[data]: what to train and validate on. `name` is a dataset of the catalogue, a dataset.toml or a folder."""

    name: str
    root: str | None = None
    split_by: SplitBy | None = (
        None  # what splits by share keep together; None: as the dataset.toml says
    )
    train_split: Splits = "train"  # or several, ["train", "val"]: then the last weights are kept
    val_split: str = "val"
    train_size: Positive | None = None  # use only so many images
    val_size: Positive | None = None
    workers: Annotated[int, Field(ge=0, le=1024)] | None = (
        None  # None: as the cores allow (training/batches.py)
    )
    test_resize: ResizeTo | None = (
        None  # images are brought to fit this wherever the model is validated, scored or used
    )
    class_uniform: Share = (
        0.0  # so many of the samples are drawn by class, every class alike, and cropped around it
    )

    @property
    def shown(self) -> str:
        """As `shown_data` has it."""
        return shown_data(self.name)


class TeacherTable(Config):
    """[teacher]: runs that the model learns from beside the masks (losses/distillation.py); off without `runs`."""

    runs: Runs = ()  # by path or name; of several the mean of their logits
    unlabelled: str | None = (
        None  # a folder of images without masks, of which only the teachers tell something
    )
    logits: Annotated[float, Field(ge=0)] = (
        1.0  # weight of L_logits: the classes of each place; 0 = off
    )
    logits_temperature: Annotated[float, Field(gt=0, le=1000)] = 1.0
    channels: Annotated[float, Field(ge=0)] = (
        3.0  # weight of L_channels: the places of each class; 0 = off
    )
    channels_temperature: Annotated[float, Field(gt=0, le=1000)] = 4.0

    @model_validator(mode="after")
    def _somebody_teaches_something(self) -> "TeacherTable":
        if self.unlabelled and not self.runs:
            raise ValueError(
                "teacher.unlabelled: images without masks need a teacher. Name one with teacher.runs"
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

    The length is one of epochs, steps of the optimiser, and minutes, which the whole command may take; where all are
    left out, steps = "auto": by the number of images. Steps that were found stand beside minutes.
    """

    epochs: Positive | None = None
    steps: Positive | Literal["auto"] | None = None
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None
    batch_size: Positive | Literal["auto"] = (
        8  # over all devices, without accumulation; auto: more of small crops
    )
    lr_batch_size: Positive | None = (
        None  # images of a step that the rates are for: others scale them by the root
    )
    accumulate: Positive = 1
    checkpoint_activations: bool = (
        False  # the backbone keeps no maps for the backward, it computes them again
    )
    # of training/optimisers.py; auto: muon from scratch, adamw with pretrained weights
    optimizer: str = "adamw"
    lr: Rate = 2e-3
    backbone_lr: Rate | None = None  # lr where left out
    layer_decay: Annotated[float, Field(gt=0, le=1)] = (
        1.0  # a stage's rate is that of the next, deeper one times this
    )
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    groups: Literal["structure", "mmseg", "uniform"] = (
        "structure"  # of parameters (training/optimisers.py)
    )
    momentum: Share = 0.9  # of sgd
    clip_norm: Annotated[float, Field(ge=0)] = (
        0.0  # the gradient of a step is scaled to this norm at most; 0 = off
    )
    schedule: Literal["poly", "cosine", "stable"] = (
        "poly"  # of the rate over the steps; stable: may go on longer
    )
    power: Annotated[float, Field(gt=0)] = 0.9  # poly: lr * (1 - step / steps) ** power
    decay_steps: Annotated[int, Field(ge=0)] = (
        0  # stable: the last steps, in which the rate falls; before, it is lr
    )
    floor: Share = 0.0  # share of lr that the schedule ends at
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the weight average; 0 = off
    ema_share: Share = (
        0.0  # in its place: the average reaches back over this share of the steps; 0 = off
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = (
        "fp32"  # auto: bf16 where the device computes in it, else fp32
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    validations: Positive = 10  # spread over the run, one an epoch at most ...
    validate_every: Positive | None = None  # ... or every so many epochs
    keep: Literal["best", "last"] = "best"  # which weights the run folder holds in the end
    patience: Positive | None = None  # stop after so many validations without a better mIoU
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    device: str = "auto"
    devices: Annotated[int, Field(gt=0, le=1024)] = 1
    nodes: Annotated[int, Field(gt=0, le=1024)] = 1
    rank_seconds: Annotated[float, Field(ge=1, le=1e6)] = (
        1800.0  # that processes wait for one another, validations too
    )
    sync_bn: bool = True  # with more than one GPU
    loggers: Loggers = ()  # beside the run folder, which has it all

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
                f"train.decay_steps is of train.schedule = 'stable', and it is {self.schedule!r}"
            )
        if isinstance(self.steps, int) and self.decay_steps > self.steps:
            raise ValueError(
                f"train.decay_steps = {self.decay_steps}: the run has {self.steps} steps"
            )
        return self

    def average_decay(self, steps: int) -> float:
        """Decay of the weight average in a run of so many steps; 0 where there is none."""
        return 1 - 1 / max(1.0, self.ema_share * steps) if self.ema_share else self.ema


LENGTHS, AVERAGES = ("epochs", "steps", "minutes"), ("ema", "ema_share")
"""Keys of [train] of which one is given."""


class PanopticTable(Config):
    """[panoptic]: how a panoptic model's centres and offsets become objects; it changes no training."""

    threshold: Annotated[float, Field(ge=0)] = (
        0.1  # values of the centre map at or below it are no centre
    )
    kernel: Annotated[int, Field(gt=0, lt=512)] = (
        7  # pixels, odd: a centre is the largest in a square of this side
    )
    top_k: Annotated[int, Field(gt=0, le=10_000)] = 200  # centres that are kept at most, the best
    stuff_area: Annotated[int, Field(ge=0)] = (
        0  # pixels under which a class without instances becomes void
    )

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> "PanopticTable":
        if self.kernel % 2 == 0:
            raise ValueError(f"panoptic.kernel = {self.kernel}: expected an odd number of pixels")
        return self


class PaperTable(Config):
    """[paper]: the published row that the recipe repeats, with the figures as printed. It changes no training.

    miou holds %, by split of `data`, at one scale unless `scales` and `flip` tell otherwise. gmacs are counted by
    `convention` ("other": in a way that is none of ours) for one image of `size` (height, width); they and params_m
    are of the model with `classes` classes.
    """

    row: str  # where it is printed
    data: str
    classes: Positive
    miou: dict[str, Percent]
    scales: Annotated[tuple[Annotated[float, Field(gt=0, le=8)], ...], Field(max_length=16)] = (
        1.0,
    )
    flip: bool = False
    params_m: Annotated[float, Field(gt=0)]  # millions
    gmacs: Annotated[float, Field(gt=0)]  # 10^9
    convention: Convention | Literal["other"]
    size: ImageSize


class Recipe(Config):
    """Everything that decides a training run, apart from the machine; and what was published of such a run."""

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
        """Whether the images that it validates on are among several splits that it trains on."""
        parts = self.data.train_split.split("+")
        return len(parts) > 1 and self.data.val_split in parts

    @model_validator(mode="after")
    def _no_patience_without_images_to_tell(self) -> "Recipe":
        if self.trains_on_all and self.train.patience:
            raise ValueError(
                f"train.patience: {self.data.val_split} is trained on and so tells no end: leave it out"
            )
        return self
