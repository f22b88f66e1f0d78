"""Import the published weights of a model as a run folder, which every verb accepts.

It needs no Lightning.
"""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from featherseg import models
from featherseg._version import __version__
from featherseg.backbones.weights import load_official, read_state, strip_prefix
from featherseg.core.config import setting_texts
from featherseg.core.errors import ConfigError, RunError, WeightsError
from featherseg.core.files import check_folder, file_digest, write_json, write_text
from featherseg.core.machine import environment
from featherseg.core.types import DataFacts, Size, as_size
from featherseg.core.wording import counted
from featherseg.data import dataset_facts
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.reading import (
    RecipeFile,
    parse_recipe,
    read_recipe,
    shipped_recipes,
    with_absolute_paths,
)
from featherseg.recipe.tables import ModelTable, Recipe
from featherseg.reports.card import card
from featherseg.runs.run import (
    FORMAT_VERSION,
    Run,
    RunInfo,
    class_rows,
    is_restricted,
    save_weights,
    write_info,
)
from featherseg.training.initialisation import split_losses

NAMED = 5
"""Unused keys that a message names; the run's record has all of them."""


@dataclass(frozen=True)
class ImportRequest:
    """The arguments of `featherseg import`.

    licence: Terms of use of the weights, as their authors state them.
    size: (height, width) of the training images; default: that of the dataset's images.
    """

    file: Path
    model: str
    data: str
    licence: str
    data_root: Path | None = None
    size: Size | None = None
    overrides: tuple[str, ...] = ()

    def read(self) -> tuple[RecipeFile, Recipe]:
        """Return featherseg's recipe of the model, for this dataset if there is one, and it parsed.

        Its model and data are those of the run; its training is not. Raises UnknownName and
        ConfigError.
        """
        models.entry(self.model)
        for_data = f"{self.model}_{self.data}"
        file = read_recipe(for_data if for_data in shipped_recipes() else self.model)
        root = None if self.data_root is None else str(self.data_root)
        return file, with_absolute_paths(
            parse_recipe(file, self.overrides, name=self.data, root=root)
        )


def import_weights(
    file: str | Path,
    model: str,
    data: str | Path,
    *,
    out: str | Path,
    licence: str,
    data_root: str | Path | None = None,
    image_size: Size | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    on_message: Callable[[str], object] | None = None,
) -> Run:
    """Make a run folder from a model's published weights, to evaluate, export and serve them.

    Every key and shape must fit. Nothing in the file is executed.

        featherseg.import_weights(
            "pidnet.pth", "pidnet-s", "cityscapes", out="runs/pidnet", licence="MIT"
        )

    Args:
        file: The weights: .pth, .pt, .ckpt, .pth.tar or .safetensors.
        model: The model's name.
        data: The dataset whose classes it was trained on: a name or a dataset.toml. No images are
            needed.
        out: The run folder to write; must be new.
        licence: Terms of use of the weights, as their authors state them.
        data_root: The folder that contains the dataset.
        image_size: (height, width) of the training images in pixels. Default: the dataset's.
        settings: Keys of the recipe and their values, {"model.context": "none"}, or texts.
        on_message: Called with each sentence for the user. Default: the logger "featherseg".

    Returns:
        Run: the run, which keeps the sha256 of the file and the licence.

    Raises:
        RunError: `out` exists.
        ConfigError, UnknownName: A value is out of range, or there is no such model or dataset.
        WeightsError: The file cannot be read, or is not of this model: every key that is missing,
            unexpected or of another shape is listed.
    """
    alone = [settings] if isinstance(settings, str) else settings
    texts = setting_texts(alone) if isinstance(alone, Mapping) else alone
    root = None if data_root is None else Path(data_root)
    size = None if image_size is None else as_size("image_size", image_size)
    request = ImportRequest(Path(file), model, str(data), licence, root, size, tuple(texts))
    return write_imported_run(
        request, Path(out), on_message or logging.getLogger("featherseg").info
    )


def write_imported_run(
    request: ImportRequest, out: Path, on_message: Callable[[str], object]
) -> Run:
    """Write the run folder `out` with the weights of `request.file`, atomically.

    Every key and shape must fit. The dataset gives the classes; it need not be on disk. Raises as
    `import_weights`.
    """
    if os.path.islink(out) or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise RunError(
            f"{out} already exists. Choose another folder with --out; nothing was changed."
        )
    check_folder(out)
    if not request.licence.strip():
        raise ConfigError(
            "the licence is empty: state the terms of use of these weights with --licence TEXT."
        )
    file, recipe = request.read()
    facts = dataset_facts(recipe.data.name)
    size = request.size or facts.image_size
    if size is None:
        raise ConfigError(
            f"{recipe.data.name} does not define the image size that these weights were trained "
            "on: set --image-size HEIGHTxWIDTH."
        )
    model = models.build(
        recipe.model.name, len(facts.classes), facts.channels, recipe.model.options
    )
    loaded = _load(model, request, recipe, on_message)
    info = _info(request, file, recipe, facts, size, loaded)
    _write_run(out, info, model, _marked(file, loaded))
    return Run(out, info)


def _load(
    model: SegmentationModel,
    request: ImportRequest,
    recipe: Recipe,
    on_message: Callable[[str], object],
) -> dict[str, Any]:
    """Load the file into the model; return the run's record. Raises WeightsError, ConfigError."""
    path = request.file
    if not path.is_file():
        raise WeightsError(
            f"{path} is not a file. Expected weights: .pth, .pt, .ckpt, .pth.tar or .safetensors."
        )
    state, losses = split_losses(read_state(path))
    state, prefix = strip_prefix(state)
    if prefix:
        on_message(f"removed the prefix {prefix!r} from all keys")
    try:
        unused = losses + load_official(model, state)
    except WeightsError as error:
        _refuse_other_classes(model, state, request)
        _refuse_backbone_alone(recipe.model, state, request)
        raise WeightsError(f"{path}: {error}") from None
    if unused:
        more = f" and {len(unused) - NAMED} more" if len(unused) > NAMED else ""
        on_message(
            f"{counted(len(unused), 'key')} of the file not used here: "
            f"{', '.join(unused[:NAMED])}{more}"
        )
    return {
        "imported": path.name,
        "sha256": file_digest(path),
        "licence": request.licence.strip(),
        "unused": unused,
    }


def _refuse_other_classes(
    model: SegmentationModel, state: Mapping[str, Tensor], request: ImportRequest
) -> None:
    """Raise ConfigError if only the number of classes differs."""
    rename = getattr(model, "rename_official", None)
    renamed = rename(state)[0] if rename else state
    target = model.state_dict()
    needed = {key for key in target if not key.endswith("num_batches_tracked")}
    if not needed <= renamed.keys() <= target.keys():
        return
    shapes = [
        (value.shape, target[key].shape)
        for key, value in renamed.items()
        if value.shape != target[key].shape
    ]
    if all(len(a) and len(b) and a[1:] == b[1:] and b[0] == model.classes for a, b in shapes):
        counts = {theirs[0] for theirs, _ in shapes}
        if len(counts) == 1:
            raise ConfigError(
                f"{request.file} is a {request.model} of {counts.pop()} classes, but "
                f"{request.data} has {model.classes}. Name the dataset that it was trained on with "
                "--data."
            )


def _refuse_backbone_alone(
    model: ModelTable, state: Mapping[str, Tensor], request: ImportRequest
) -> None:
    """Raise WeightsError if the file contains the backbone alone, as ImageNet weights do."""
    name = models.configure(model.name, model.options).backbone
    try:
        load_official(models.build(model.name, 2, options=model.options).backbone, state)
    except WeightsError:
        return
    raise WeightsError(
        f"{request.file} contains only the backbone {name}, as trained on ImageNet, so the model "
        "cannot segment yet. Train it from these weights:\n"
        f"featherseg train {model.name} --data {request.data} --init {request.file} --out RUN"
    )


def _info(
    request: ImportRequest,
    file: RecipeFile,
    recipe: Recipe,
    facts: DataFacts,
    size: Size,
    loaded: dict[str, Any],
) -> RunInfo:
    return RunInfo(
        format_version=FORMAT_VERSION,
        featherseg=__version__,
        recipe_name=file.name,
        recipe=recipe,
        classes=class_rows(facts.classes),
        channels=facts.channels,
        image_size=size,
        licence=combined_licence(request.licence.strip(), facts.licence),
        loaded=loaded,
        class_weights=None,
        threads=torch.get_num_threads(),
    )


def combined_licence(weights: str, data: str) -> str:
    """Return the licence of a run: that of the weights, and the data's if it restricts the use."""
    return f"{data}; the weights themselves: {weights}" if is_restricted(data) else weights


def _marked(file: RecipeFile, loaded: Mapping[str, Any]) -> str:
    """Return the recipe's text below a comment that the weights were not trained by it."""
    return (
        f"# The weights of this run were imported from {loaded['imported']!r} "
        f"(sha256 {loaded['sha256']}).\n"
        "# They were not trained by this recipe, which is featherseg's own for such a model "
        f"({file.name}).\n"
        f"# The model and the data of this run are in resolved.json.\n\n{file.text}"
    )


def _write_run(out: Path, info: RunInfo, model: SegmentationModel, recipe: str) -> None:
    """Write all files into a folder beside `out`, then rename it to `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name[:40]}-", dir=out.parent) as temporary:
        folder = Path(temporary) / out.name
        save_weights(folder, model.state_dict())
        write_text(folder / "recipe.toml", recipe)
        write_json(folder / "environment.json", environment())
        write_text(folder / "card.md", card(Run(folder, info)))
        write_info(folder, info)
        os.replace(folder, out)
