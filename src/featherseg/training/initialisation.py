"""What weights a training starts from: ImageNet's, a run's or a checkpoint's, key by key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherseg import models
from featherseg.backbones.weights import load_pretrained, read_state
from featherseg.core.errors import DataNotFound, WeightsError
from featherseg.core.files import file_digest
from featherseg.core.types import ClassInfo
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import ModelTable, Recipe
from featherseg.runs.run import WEIGHTS, Run, TeacherRow, find_run, is_restricted, load_run

LEAST_BACKBONE = 0.8
WRAPPERS = ("net.", "model.", "module.", "backbone.")

PREFIXES = ("module.", "net.", "model.", "_orig_mod.")
"""What wrappers (DataParallel, Lightning, compilers) put before every key of the model they hold."""

LOSSES = ("loss.", "sem_loss.", "bd_loss.")
"""How keys begin of what HRNet's scripts, and PIDNet's after them, save beside the model's own under `model.`: the
class weights of their losses."""


@dataclass
class KeyTable:
    """What became of every key when weights were carried over, and of every class; sha256: of the file of weights.

    licence: the terms of the run that it is of; None for a checkpoint, which states none. in_order: whether classes are
    taken for those of the data in their order, as a checkpoint names none.
    """

    source: str
    sha256: str = ""
    licence: str | None = None
    loaded: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    in_order: bool = False
    classes_kept: list[str] = field(default_factory=list)
    classes_new: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The table as sentences."""
        rows = [f"weights from {self.source}: {len(self.loaded)} keys loaded"]
        for what, names in (("re-initialised", self.reinitialised), ("dropped", self.dropped)):
            shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
            rows.append(f"  {len(names)} {what}" + (f": {shown}" if names else ""))
        if self.classes_kept or self.classes_new:
            how = (
                "taken in their order, as the file names none"
                if self.in_order
                else "matched by name"
            )
            rows.append(f"  classes {how}: {', '.join(self.classes_kept) or 'none'}")
            rows.append(f"  new classes: {', '.join(self.classes_new) or 'none'}")
        return rows


def starting_weights(
    model: SegmentationModel, recipe: Recipe, init: str | None, classes: tuple[ClassInfo, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Fill the model with what it starts from; -> (the run's record of it, sentences for the user).

    Raises WeightsError before anything is trained.
    """
    if init is not None:
        table = carry_over(model, init, recipe.model, classes)
        record: dict[str, Any] = {
            "init": table.source,
            "sha256": table.sha256,
            "keys": len(table.loaded),
        }
        record |= {"classes_kept": table.classes_kept} | (
            {"licence": table.licence} if table.licence else {}
        )
        return record, table.lines()
    if recipe.model.pretrained:
        name = models.configure(recipe.model.name, recipe.model.options).backbone
        if len(model.mean) != 3:  # the published weights are for RGB; widened afterwards
            return _pretrained_wide(model, recipe, name)
        record = load_pretrained(model.backbone, name)
        return record, [f"backbone from {record['file']} ({record['licence']})"]
    rates = (
        ""
        if recipe.train.backbone_lr
        else f", all of the model learns at train.lr = {recipe.train.lr:g}"
    )
    return {}, [f"training from scratch: no pretrained weights{rates}"]


def terms_of(licence: str, loaded: Mapping[str, Any], teachers: Sequence[TeacherRow]) -> str:
    """The terms of a run: those of the data, and those of starting weights and teachers that restrict its use."""
    others = [
        ("starting weights", loaded.get("licence", "")),
        *(("teacher", row.licence) for row in teachers),
    ]
    further = [
        f"its {what}: {own}" for what, own in others if is_restricted(own) and own not in licence
    ]
    return "; ".join(dict.fromkeys([licence, *further]))


def _pretrained_wide(
    model: SegmentationModel, recipe: Recipe, name: str
) -> tuple[dict[str, Any], list[str]]:
    """ImageNet weights for images of other channels: load three, then average the first convolution."""
    rgb = models.build(recipe.model.name, model.classes, 3, recipe.model.options).backbone
    record = load_pretrained(rgb, name)
    rgb.widen(len(model.mean))
    model.backbone.load_state_dict(rgb.state_dict())
    return record, [
        f"backbone from {record['file']}, first convolution averaged to {len(model.mean)} channels"
    ]


def carry_over(
    model: SegmentationModel, init: str, settings: ModelTable, classes: tuple[ClassInfo, ...]
) -> KeyTable:
    """Copy every tensor whose key and shape fit; of tensors that grow with the classes, the rows of equal names.

    `init` is a run (path or name) or a checkpoint file. Raises WeightsError where under 80 % of the backbone's tensors
    find their match: then these are other weights.
    """
    file, run = _find_init(init)
    state, known = read_state(file), [] if run is None else [c.name for c in run.classes]
    source = _best_names(model, state if run else split_losses(state)[0])
    own = model.state_dict()
    known_model = settings.name in models.MODELS  # one's own is not built again with other classes
    per_class = class_keys(settings, model.classes, len(model.mean)) if known_model else set()
    licence = None if run is None else run.licence
    table = KeyTable(init, file_digest(file), licence, dropped=sorted(set(source) - set(own)))
    for key, value in own.items():
        found = source.get(key)
        if found is not None and key in per_class and found.shape[1:] == value.shape[1:]:
            _copy_rows(value, found, known, classes, table)
            (table.loaded if table.classes_kept else table.reinitialised).append(key)
        elif found is not None and found.shape == value.shape:
            value.copy_(found)
            table.loaded.append(key)
        elif not key.endswith("num_batches_tracked"):
            table.reinitialised.append(key)
            if found is not None:
                table.dropped.append(key)
    _refuse_foreign(own, table, init)
    table.classes_new = [c.name for c in classes if c.name not in table.classes_kept]
    return table


def _find_init(init: str) -> tuple[Path, Run | None]:
    """The file of weights, and the run where they are one's."""
    path = Path(init)
    if path.is_file():
        return path, None
    if path.suffix in (".pth", ".pt", ".ckpt", ".safetensors", ".tar"):
        raise DataNotFound(
            f"no weights at {path}. --init takes a run folder, the name of a run, or a checkpoint file."
        )
    run = load_run(find_run(init))
    return run.path / WEIGHTS, run


def _best_names(model: SegmentationModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our key names: of the readings that are possible, the one that fits the most keys.

    As they are; without wrappers' prefixes ("net.", "module.model."); each as ours, the authors' model or a backbone.
    """
    stripped = [
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for prefix in WRAPPERS
    ]
    readings = [dict(state), *stripped]
    for one in (dict(state), strip_prefix(state)[0]):
        readings.append(one)
        if whole := getattr(model, "rename_official", None):
            readings.append(whole(one)[0])
        renamed, _ = model.backbone.rename_official(one)
        readings += [
            {f"backbone.{key}": value for key, value in reading.items()}
            for reading in (renamed, one)
        ]
    own = model.state_dict()
    return max(
        readings,
        key=lambda reading: sum(k in own and own[k].shape == v.shape for k, v in reading.items()),
    )


def split_losses(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """(the tensors of the model, the keys of losses beside it, see LOSSES); all may be under "module."."""
    losses = [key for key in state if key.removeprefix("module.").startswith(LOSSES)]
    return {key: value for key, value in state.items() if key not in losses}, losses


def strip_prefix(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """(the tensors without the wrappers' prefixes that every key has, what was taken off: "module.model.")."""
    prefix = ""
    while found := next(
        (p for p in PREFIXES if state and all(k.startswith(prefix + p) for k in state)), ""
    ):
        prefix += found
    return {key.removeprefix(prefix): value for key, value in state.items()}, prefix


def class_keys(settings: ModelTable, classes: int, channels: int) -> set[str]:
    """The keys whose tensors have one row a class: those that change when a class is added."""
    with torch.device("meta"):
        fewer, more = (
            models.build(settings.name, k, channels, settings.options).state_dict()
            for k in (classes, classes % 254 + 1)
        )
    return {key for key in fewer if fewer[key].shape != more[key].shape}


def _copy_rows(
    value: Tensor, found: Tensor, known: list[str], classes: tuple[ClassInfo, ...], table: KeyTable
) -> None:
    """Rows of classes with the same name; without names (a bare checkpoint) all rows where the number is equal."""
    names = [c.name for c in classes]
    if not known and len(found) == len(value):
        known, table.in_order = names, True
    for row, class_name in enumerate(names):
        if class_name in known:
            value[row].copy_(found[known.index(class_name)])
            if class_name not in table.classes_kept:
                table.classes_kept.append(class_name)


def _refuse_foreign(own: Mapping[str, Tensor], table: KeyTable, init: str) -> None:
    backbone = [
        k for k in own if k.startswith("backbone.") and not k.endswith("num_batches_tracked")
    ]
    matched = len(set(backbone) & set(table.loaded))
    if matched < LEAST_BACKBONE * len(backbone):
        raise WeightsError(
            f"{init} does not fit this model: {matched} of the backbone's {len(backbone)} tensors match; at least "
            f"{LEAST_BACKBONE:.0%} must. Were these weights trained with another model? See `featherseg models`."
        )
