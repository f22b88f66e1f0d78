"""Every key of a recipe changes something.

Each key of each table gets another value, and what a training of two steps on a tiny model leaves
behind must differ: batches, losses, rates, steps, scores, weights, files or objects. [paper] is
compared with a run instead. The recipe that is recorded does not count. So a key that is declared
and not wired fails here without a row being added.
"""

import math
import re
import time
import types
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from pydantic.fields import FieldInfo
from support.models.fit_plans import write_yard
from support.models.quick_work import quick_training
from support.models.small_run import small_info
from support.models.small_training import Silent, Tiny, TinyConfig
from torch import nn

import featherseg
from featherseg.core.config import Config, toml_value
from featherseg.core.errors import FeathersegError
from featherseg.core.files import append_line
from featherseg.core.types import ClassInfo, SegOutput
from featherseg.costs.published import compare
from featherseg.layers.model import Decoded, ModelConfig, ModelEntry
from featherseg.losses import LOSSES
from featherseg.models import MODELS, build
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import Recipe
from featherseg.runs.run import CHECKPOINT, EVALUATIONS, Run
from featherseg.training import Request, job, timing, train

STEPS = 2
"""Steps of a training here; one that validates at every step takes one more, to end for it."""

MOST_TRIED = 3
"""Values that are tried before a key is said to do nothing."""

BASE = {
    "model.name": "every-head",
    "model.pretrained": False,
    "data.name": "{yard}",
    "data.train_size": 2,
    "data.val_size": 1,
    "data.split_by": "image",
    "data.workers": 0,
    "data.test_resize": [48, 72],
    "data.class_uniform": 0.5,
    "augment.resize": [56, 84],
    "augment.scale": [0.5, 1.5],
    "augment.crop": [32, 48],
    "augment.category_ratio": 0.9,
    "augment.rotate": 10.0,
    "augment.flip": 0.5,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.saturation": 0.2,
    "augment.blur": 0.5,
    "augment.cutmix": 0.5,
    "augment.copy_paste": 0.5,
    "loss.class_weights": "auto",
    "loss.class_weight_power": 0.5,
    "loss.undo_class_weights": 0.5,
    "loss.label_smoothing": 0.1,
    "loss.ohem_threshold": 0.4,
    "loss.ohem_min_kept": 600,
    "loss.auxiliary": 0.4,
    "loss.boundary": 1.0,
    "loss.dice": 0.5,
    "loss.lovasz": 0.5,
    "loss.boundary_weight": 1.0,
    "loss.contrast": 0.1,
    "loss.contrast_temperature": 0.1,
    "loss.contrast_dim": 16,
    "loss.contrast_samples": 16,
    "loss.contrast_views": 4,
    "loss.contrast_base_temperature": 0.07,
    "loss.contrast_warmup_steps": 1,
    "train.steps": 4,
    "train.batch_size": 2,
    "train.lr_batch_size": 4,
    "train.lr": 2e-3,
    "train.backbone_lr": 1e-3,
    "train.layer_decay": 0.8,
    "train.clip_norm": 0.05,
    "train.warmup_steps": 2,
    "train.ema": 0.2,
    "train.validations": 1,
}
"""A training in which as much as possible acts at once."""

OWN_LOSS = {key: None for key in BASE if key.startswith("loss.")} | {"loss.name": "scaled"}
EVERY_STEP = {"train.validations": None, "train.validate_every": 1}
NO_CHANGE_OF_SCORE = {**EVERY_STEP, "train.lr": 1e-9, "train.backbone_lr": 1e-9}
PANOPTIC = {key: None for key in BASE if key.startswith("loss.")} | {
    "model.name": "objects",
    "data.name": "shapes",
    "data.split_by": None,
    "data.train_size": 2,
    "data.val_size": 1,
    "data.class_uniform": None,
    "data.test_resize": [40, 80],
    "augment.cutmix": None,
    "augment.copy_paste": None,
    "train.batch_size": 2,
    "panoptic.threshold": 0.1,
    "panoptic.kernel": 3,
    "panoptic.top_k": 5,
}
PAPER = {
    "data.test_resize": None,
    "data.name": "shapes",
    "data.split_by": None,
    "paper.row": "Table 1",
    "paper.data": "shapes",
    "paper.classes": 19,
    "paper.miou": {"val": 70.1},
    "paper.params_m": 1.5,
    "paper.gmacs": 2.5,
    "paper.convention": "macs",
    "paper.size": [64, 96],
}

BESIDE: dict[str, dict[str, Any]] = {
    "loss.class_weights": {"loss.class_weight_power": None},
    "loss.focal": {"loss.label_smoothing": None},
    "loss.options": OWN_LOSS,
    "loss.hardest": PANOPTIC,
    "loss.center_sigma": PANOPTIC,
    "train.epochs": {"train.steps": None},
    "train.minutes": {"train.steps": None},
    "train.momentum": {"train.optimizer": "sgd"},
    "train.decay_steps": {"train.schedule": "stable"},
    "train.ema_share": {"train.ema": None},
    "train.validate_every": {"train.validations": None},
    "train.keep": NO_CHANGE_OF_SCORE,
    "train.patience": NO_CHANGE_OF_SCORE,
    "panoptic": PANOPTIC,
    "paper": PAPER,
}
"""What a key, or a table, needs in BASE before it can act; None leaves a key of BASE out.

A key `X_Y` gets X = 1 if X is a key that is off.
"""

VALUES: dict[str, Any] = {
    "model.name": "wide",
    "data.name": "{other}",
    "data.root": "{other_root}",
    "data.train_split": "test",
    "data.val_split": "test",
    "loss.class_weights": [1.0, 3.0],
    "loss.options": {"factor": 2.0},
    "data.unlabelled": "{images}",
    "train.minutes": 0.5,
    "train.optimizer": "sgd",
    "train.decay_steps": 4,
    "train.checkpoint_seconds": 1e-9,
    "train.loggers": ["tensorboard"],
    "panoptic.threshold": 3.0,
    "panoptic.stuff_area": 3000,
    "paper.row": "Table 2",
    "paper.data": "camvid",
    "paper.miou": {"val": 71.2},
}
"""Values that act here, for keys of which `other_values` derives none from the type."""

REFUSED: dict[str, tuple[Any, str]] = {
    "model.pretrained": (True, "tiny"),
    "loss.name": ("no-such-loss", "unknown loss 'no-such-loss'"),
    "train.device": ("no-such-device", "no-such-device"),
    "train.devices": (3, "cannot be divided among 3 devices"),
    "train.nodes": (3, "cannot be divided among 3 devices"),
}
"""Keys that are seen by a refusal, as a training would need weights, devices or a package."""

UNSEEN = {
    "data.workers": "A training has the same bits with any number of workers.",
    "train.rank_seconds": "Only processes that wait for one another have it.",
    "train.sync_bn": "It acts with more than one process: tests/training/test_processes.py.",
}
"""Keys that change nothing here, with the reason."""


def table_of(field: FieldInfo) -> dict[str, FieldInfo]:
    """The keys of a table of the recipe, which may be left out as a whole."""
    kinds = [field.annotation, *get_args(field.annotation)]
    table = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config))
    return dict(table.model_fields)


BACKBONES = ("efficientnet-lite0", "mit-b0", "mit-b1", "resnet-50")
"""Backbones that models of other papers take."""

KEYS: dict[str, FieldInfo] = {}
"""Every key of every table."""
for name, table in Recipe.model_fields.items():
    KEYS |= {f"{name}.{key}": field for key, field in table_of(table).items()}


def other_values(kind: Any, now: Any) -> Iterator[Any]:
    """Values of a type other than `now`; numbers near it first. Some may break the key's bounds."""
    if isinstance(now, (int, float)) and not isinstance(now, bool):
        near = [now * 2, now // 2, now + 1] if isinstance(now, int) else [now * 2, now / 2]
    else:
        near = []
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is bool:
        candidates: list[Any] = [not now]
    elif kind is int:
        candidates = [*near, 1, 2, 3, 30]
    elif kind is float:
        candidates = [*map(float, near), 0.5, 1.0, 2.0, 30.0]
    elif origin is Literal:
        candidates = list(arguments)
    elif origin in (Union, types.UnionType):
        candidates = [value for one in arguments for value in other_values(one, now)]
    elif origin is Annotated:
        candidates = list(other_values(arguments[0], now))
    elif origin is tuple and isinstance(now, list | tuple):
        candidates = [[value * 2 for value in now], [value / 2 for value in now]]
    else:
        candidates = []
    for number, value in enumerate(candidates):
        if value != now and value not in candidates[:number]:
            yield value


class EveryHead(Tiny):
    """Tiny with auxiliary heads; logits and centres are centred, so that it finds all untrained.

    It counts how often its first block is computed in training.
    """

    boundary_head = "edges"
    computed = 0

    def __init__(self, config: TinyConfig, classes: int) -> None:
        super().__init__(config, classes)
        self.aux_heads["fine"] = nn.Conv2d(12, classes, 1)
        self.aux_heads["edges"] = nn.Conv2d(12, 1, 1)
        self.backbone.stem.register_forward_pre_hook(count)

    def decode(self, pyramid: list[torch.Tensor]) -> Decoded:
        logits, features, _ = super().decode(pyramid)
        fine, heads = pyramid[1], self.aux_heads.items()
        return Decoded(centred(logits), features, lambda: {k: head(fine) for k, head in heads})

    def forward(self, images: torch.Tensor, aux: bool = False) -> SegOutput:
        out = super().forward(images, aux)
        if out.centers is None:
            return out
        return out._replace(centers=centred(out.centers), offsets=9 * out.offsets)


def centred(maps: torch.Tensor) -> torch.Tensor:
    """Each map of (B, C, h, w) with mean 0 and variance 1."""
    return nn.functional.instance_norm(maps)


def count(block: nn.Module, _: Any) -> None:
    EveryHead.computed += block.training  # not in validations


class ScaledLoss(nn.Module):
    """A loss of an installed package, with one option."""

    def __init__(self, model: Any, class_weights: list[float] | None, factor: float = 1.0) -> None:
        super().__init__()
        self.factor, self.weights = factor, class_weights

    def forward(self, out: SegOutput, labels: torch.Tensor) -> torch.Tensor:
        weights = None if self.weights is None else torch.tensor(self.weights)
        logits = nn.functional.interpolate(out.logits, labels.shape[1:])
        return self.factor * nn.functional.cross_entropy(logits, labels, weights, ignore_index=255)


class Follower(Silent):
    """Notes at which steps a checkpoint was already there."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.checkpoint, self.reported = out / CHECKPOINT, []

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        self.reported.append((step, steps, record, self.checkpoint.is_file()))


class House(NamedTuple):
    """Where the trainings of this module are, and what stands for `{name}` in a value."""

    folder: Path
    names: dict[str, str]

    def recipe(self, settings: dict[str, Any]) -> Path:
        """Write a recipe.toml of the settings by key; None is left out."""
        text = ""
        for table in Recipe.model_fields:
            own = {key: value for key, value in settings.items() if key.startswith(f"{table}.")}
            rows = [f"{k.split('.')[1]} = {toml_value(v)}" for k, v in own.items() if v is not None]
            text += "\n".join([f"[{table}]", *rows, ""]) if rows else ""
        for name, path in self.names.items():
            text = text.replace(f"{{{name}}}", path)
        path = self.folder / f"{sha256(text.encode()).hexdigest()[:16]}.toml"
        path.write_text(text)
        return path

    def outcome(self, settings: dict[str, Any]) -> Any:
        """What can be seen of a recipe of these settings."""
        return seen(self.recipe(settings))


@cache
def seen(recipe: Path) -> dict[str, Any]:
    """What a training of STEPS steps leaves behind, or a comparison with [paper]."""
    out = recipe.with_suffix("")
    parsed = parse_recipe(read_recipe(str(recipe)))
    if parsed.paper:
        return {"beside the paper": beside_the_paper(parsed, out)}
    EveryHead.computed, reporter = 0, Follower(out)
    steps = STEPS + (parsed.train.validate_every == 1)
    request = Request(str(recipe), began=time.monotonic(), ends=lambda step: step >= steps)
    run = train(request, out, reporter)
    computed = EveryHead.computed
    weights = b"".join(value.numpy().tobytes() for value in run.model.state_dict().values())
    outcome = {"steps": reporter.reported, "weights": sha256(weights).hexdigest()}
    outcome |= {"files": sorted(path.name for path in out.iterdir()), "computed": computed}
    if run.model.panoptic:
        image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        outcome["objects"] = featherseg.Predictor(run, device="cpu")(image).panoptic.ids.tobytes()
    return outcome


def beside_the_paper(recipe: Recipe, out: Path) -> Any:
    """The comparison of an evaluated run with the row of its recipe."""
    info = small_info([ClassInfo("a", (0, 0, 0))]).model_copy(update={"recipe": recipe})
    out.mkdir()
    for number, how in enumerate(("whole", "whole, flip", "whole, scales 2.0")):
        scores = {"split": "val", "data": "shapes", "images": 3, "miou": 0.7 + 0.01 * number}
        append_line(out / EVALUATIONS, scores | {"inference": how})
    return compare(Run(out, info))


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """Data and models that are small; memory and time are not estimated."""
    folder = tmp_path_factory.mktemp("recipes")
    shares = "train = 0.5\nval = 0.25\ntest = 0.25"
    names = {
        "yard": str(write_yard(folder / "yard", 16, shares)),
        "other": str(write_yard(folder / "other", 12, shares)),
        "images": str(folder / "yard" / "images"),
    }
    names["other_root"] = str(folder / "other")
    with quick_training(), pytest.MonkeyPatch.context() as patched:
        for name, channels in (("every-head", 16), ("wide", 24)):
            row = ModelEntry(EveryHead, TinyConfig(channels=channels), paper="none")
            patched.setitem(MODELS, name, row)
        panoptic = ModelEntry(EveryHead, TinyConfig(), paper="none", panoptic=True)
        patched.setitem(MODELS, "objects", panoptic)
        patched.setitem(LOSSES, "scaled", ScaledLoss)
        patched.setattr(job, "estimate_memory", lambda *_, **__: None)
        patched.setattr(timing, "time_batch", lambda *_, **__: 0.01)
        patched.setattr(timing, "time_reading", lambda *_, **__: 0.01)
        house = House(folder, names)
        yield house
        seen.cache_clear()


def test_rows_are_of_keys_that_there_are():
    assert {*VALUES, *REFUSED, *UNSEEN} <= KEYS.keys()
    assert BESIDE.keys() <= KEYS.keys() | Recipe.model_fields.keys()


@pytest.mark.parametrize("beside", [{}, PANOPTIC], ids=["masks", "panoptic"])
def test_the_same_recipe_ends_alike(beside, house):
    recipe = house.recipe(BASE | beside)
    again = recipe.with_stem(f"{recipe.stem}-again")
    again.write_text(recipe.read_text())
    assert seen(again) == seen(recipe)


@pytest.mark.parametrize("key", [key for key in KEYS if key not in UNSEEN])
def test_a_key_changes_something(key, house):
    base = BASE | BESIDE.get(key.split(".")[0], {}) | BESIDE.get(key, {})
    term = key.rpartition("_")[0]  # "loss.contrast" of "loss.contrast_dim"
    if term in KEYS and term not in base and not KEYS[term].default:
        base[term] = 1.0
    if key in REFUSED:
        value, words = REFUSED[key]
        with pytest.raises(FeathersegError, match=words):
            house.outcome(base | {key: value})
        return
    before = house.outcome(base)
    now = base[key] if key in base else KEYS[key].get_default(call_default_factory=True)
    values = [VALUES[key]] if key in VALUES else other_values(KEYS[key].annotation, now)
    alike: list[Any] = []
    for value in values:
        with suppress(FeathersegError):  # out of bounds, or not together with the others
            if house.outcome(base | {key: value}) != before:
                return
            alike.append(value)
        if len(alike) == MOST_TRIED:
            break
    pytest.fail(
        f"{key} = {now} and {alike} end alike. Wire the key or delete it. If it acts only beside "
        f"other settings or by other values, name them in BESIDE or VALUES."
    )


CONFIGS: dict[type[ModelConfig], str] = {}
"""The settings of each paper's models -> the lightest model that has them."""
for name in sorted(MODELS, key=lambda name: MODELS[name].params or math.inf):
    CONFIGS.setdefault(type(MODELS[name].config), name)


MODEL_OF = {"position_resize": "cgrseg-t"}
"""Models of settings that do nothing in the lightest one, with its other backbone."""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_each_setting_of_a_model_changes_it(config):
    unchanged = []
    for key, field in config.model_fields.items():
        name = MODEL_OF.get(key, CONFIGS[config])
        now = getattr(MODELS[name].config, key)
        values = [*other_values(field.annotation, now), *(BACKBONES if key == "backbone" else ())]
        if not any(changes(name, key, value) for value in values):
            unchanged.append(key)
    assert unchanged == []


def changes(name: str, key: str, value: Any) -> bool:
    """Whether the model can be built with this setting, and is another one."""
    with suppress(FeathersegError):  # out of bounds, or not of this backbone
        return shape_of(name, {key: value}) != unset_shape_of(name)
    return False


def shape_of(name: str, options: dict[str, Any] | None = None) -> Any:
    """The layers of a model, the sizes of its weights and its plain attributes, without values."""
    with torch.device("meta"), pytest.MonkeyPatch.context() as patched:
        for initialiser in [name for name in vars(nn.init) if re.fullmatch(r"[a-z]\w*_", name)]:
            patched.setattr(nn.init, initialiser, lambda tensor, *_, **__: tensor)
        model = build(name, 3, options=options)
    plain = [
        {k: v for k, v in vars(part).items() if isinstance(v, bool | int | float | str | tuple)}
        for part in model.modules()
    ]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return repr(model), plain, [(key, tensor.shape) for key, tensor in tensors]


unset_shape_of = cache(shape_of)
