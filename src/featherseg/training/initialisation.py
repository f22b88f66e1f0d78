"""The weights that a training starts from: ImageNet's, a run's or a checkpoint's, key by key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featherseg import models
from featherseg.backbones.weights import load_pretrained, read_state, strip_prefix
from featherseg.core.errors import DataNotFound, WeightsError
from featherseg.core.files import file_digest
from featherseg.core.types import ClassInfo
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import ModelTable, Recipe
from featherseg.runs.run import WEIGHTS, Run, find_run, is_restricted, load_run

LEAST_BACKBONE = 0.8
"""Share of the backbone's tensors that must match, or the weights are another model's."""

WRAPPERS = ("net.", "model.", "module.", "backbone.")

LOSSES = ("loss.", "sem_loss.", "bd_loss.")
"""Prefixes of losses' class weights that HRNet's and PIDNet's scripts save beside `model.`."""


@dataclass
class KeyTable:
    """What happened to every key and every class when weights were carried over.

    sha256: Of the file of weights.
    licence: Of the run that the weights are from; None for a checkpoint, which states none.
    in_order: Whether classes were matched by order, because a checkpoint has no names.
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
        """Return the table as messages."""
        rows = [f"weights from {self.source}: {len(self.loaded)} keys loaded"]
        rows += [_listed("re-initialised", self.reinitialised), _listed("dropped", self.dropped)]
        if self.classes_kept or self.classes_new:
            how = (
                "matched by order, because the file has no names"
                if self.in_order
                else "matched by name"
            )
            rows.append(f"  classes {how}: {', '.join(self.classes_kept) or 'none'}")
            rows.append(f"  new classes: {', '.join(self.classes_new) or 'none'}")
        return rows


def _listed(what: str, names: Sequence[str]) -> str:
    """Return a message that names the first six keys."""
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    return f"  {len(names)} {what}" + (f": {shown}" if names else "")


def starting_weights(
    model: SegmentationModel, recipe: Recipe, init: str | None, classes: tuple[ClassInfo, ...]
) -> tuple[dict[str, Any], list[str]]:
    """Load the starting weights into the model; return (the run's record of them, messages).

    Raises WeightsError if they cannot be found or do not fit.
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
        if len(model.mean) != 3:  # the published weights are for RGB and are widened
            return _pretrained_wide(model, recipe, name)
        record = load_pretrained(model.backbone, name)
        return record, _pretrained_lines(record)
    rates = (
        ""
        if recipe.train.backbone_lr
        else f", all of the model learns at train.lr = {recipe.train.lr:g}"
    )
    return {}, [f"training from scratch: no pretrained weights{rates}"]


def _pretrained_lines(record: Mapping[str, Any]) -> list[str]:
    """Return messages about loaded ImageNet weights: their terms, and what was not loaded."""
    return [
        f"backbone from {record['file']} ({record['licence']}): {record['keys']} keys loaded",
        _listed("of the backbone not in the file", record["absent"]),
        _listed("of the file not used", record["unused"]),
    ]


def terms_of(licence: str, loaded: Mapping[str, Any]) -> str:
    """Return a run's licence: the data's, and restrictions of the starting weights."""
    terms = loaded.get("licence", "")
    restricted = is_restricted(terms) and terms not in licence
    return f"{licence}; its starting weights: {terms}" if restricted else licence


def _pretrained_wide(
    model: SegmentationModel, recipe: Recipe, name: str
) -> tuple[dict[str, Any], list[str]]:
    """Load ImageNet weights into a model whose images do not have 3 channels.

    The first convolution is averaged over the 3 channels.
    """
    rgb = models.build(recipe.model.name, model.classes, 3, recipe.model.options).backbone
    record = load_pretrained(rgb, name)
    rgb.widen(len(model.mean))
    model.backbone.load_state_dict(rgb.state_dict())
    averaged = f"its first convolution was averaged to {len(model.mean)} channels"
    return record, [*_pretrained_lines(record), averaged]


def carry_over(
    model: SegmentationModel, init: str, settings: ModelTable, classes: tuple[ClassInfo, ...]
) -> KeyTable:
    """Copy every tensor whose key and shape fit, and return what happened to each.

    Tensors with a row per class get the rows of classes with the same name. `init` is a run (path
    or name) or a checkpoint file. Raises WeightsError if less than LEAST_BACKBONE of the backbone
    matches.
    """
    file, run = _find_init(init)
    state, source_classes = read_state(file), [] if run is None else [c.name for c in run.classes]
    source = _best_names(model, state if run else split_losses(state)[0])
    target = model.state_dict()
    per_class: set[str] = set()
    if settings.name in models.MODELS:  # a model given as an object cannot be built again
        per_class = class_keys(settings, model.classes, len(model.mean))
    licence = None if run is None else run.licence
    table = KeyTable(init, file_digest(file), licence, dropped=sorted(set(source) - set(target)))
    for key, value in target.items():
        loaded = source.get(key)
        if loaded is not None and key in per_class and loaded.shape[1:] == value.shape[1:]:
            _copy_rows(value, loaded, source_classes, classes, table)
            (table.loaded if table.classes_kept else table.reinitialised).append(key)
        elif loaded is not None and loaded.shape == value.shape:
            value.copy_(loaded)
            table.loaded.append(key)
        elif not key.endswith("num_batches_tracked"):
            table.reinitialised.append(key)
            if loaded is not None:
                table.dropped.append(key)
    _refuse_foreign(target, table, init)
    table.classes_new = [c.name for c in classes if c.name not in table.classes_kept]
    return table


def _find_init(init: str) -> tuple[Path, Run | None]:
    """Return (the file of weights, the run that it belongs to or None)."""
    path = Path(init)
    if path.is_file():
        return path, None
    if path.suffix in (".pth", ".pt", ".ckpt", ".safetensors", ".tar"):
        raise DataNotFound(
            f"no weights at {path}. --init takes a run folder, the name of a run, or a checkpoint "
            "file."
        )
    run = load_run(find_run(init))
    return run.path / WEIGHTS, run


def _best_names(model: SegmentationModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our key names: the reading of `state` that fits the most keys.

    Keys are read as they are and without wrappers' prefixes ("net.", "module.model."), each as
    ours, as the authors' model or as a backbone.
    """
    stripped = [
        {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        for prefix in WRAPPERS
    ]
    target = model.state_dict()
    readings = [dict(state), *stripped]
    for one in (dict(state), strip_prefix(state)[0]):
        readings.append(one)
        if rename := getattr(model, "rename_official", None):
            # Auxiliary heads that the file lacks are filled up with the model's own
            readings.append(
                {
                    key: value
                    for key, value in rename(one)[0].items()
                    if key not in target or value.data_ptr() != target[key].data_ptr()
                }
            )
        renamed, unused = model.backbone.rename_official(one)
        readings += [
            {f"backbone.{key}": value for key, value in reading.items()}
            for reading in (renamed | {key: one[key] for key in unused}, one)
        ]

    def matches(reading: Mapping[str, Tensor]) -> int:
        return sum(key in target and target[key].shape == v.shape for key, v in reading.items())

    return max(readings, key=matches)


def split_losses(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Return (the tensors of the model, the keys of LOSSES); all may be under "module."."""
    losses = [key for key in state if key.removeprefix("module.").startswith(LOSSES)]
    return {key: value for key, value in state.items() if key not in losses}, losses


def class_keys(settings: ModelTable, classes: int, channels: int) -> set[str]:
    """Return the keys of tensors with a row per class: those that change if a class is added."""
    with torch.device("meta"):
        fewer, more = (
            models.build(settings.name, k, channels, settings.options).state_dict()
            for k in (classes, classes % 254 + 1)
        )
    return {key for key in fewer if fewer[key].shape != more[key].shape}


def _copy_rows(
    value: Tensor,
    loaded: Tensor,
    source_classes: list[str],
    classes: tuple[ClassInfo, ...],
    table: KeyTable,
) -> None:
    """Copy the rows of classes by name; without names all rows, if their number is equal."""
    names = [c.name for c in classes]
    if not source_classes and len(loaded) == len(value):
        source_classes, table.in_order = names, True
    for row, class_name in enumerate(names):
        if class_name in source_classes:
            value[row].copy_(loaded[source_classes.index(class_name)])
            if class_name not in table.classes_kept:
                table.classes_kept.append(class_name)


def _refuse_foreign(target: Mapping[str, Tensor], table: KeyTable, init: str) -> None:
    """Raise WeightsError if too little of the backbone was loaded."""
    backbone = [
        k for k in target if k.startswith("backbone.") and not k.endswith("num_batches_tracked")
    ]
    matched = len(set(backbone) & set(table.loaded))
    if matched < LEAST_BACKBONE * len(backbone):
        raise WeightsError(
            f"{init} does not fit this model: {matched} of the backbone's {len(backbone)} tensors "
            f"match; at least {LEAST_BACKBONE:.0%} must. Name the model that these weights were "
            "trained with; `featherseg models` lists them."
        )
