"""The models of a benchmark, and their variants: every build and every exported file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from featherseg.core.errors import (
    ConfigError,
    DataNotFound,
    RunError,
    did_you_mean,
    missing_torch,
    unknown,
)
from featherseg.core.files import short_names
from featherseg.core.types import ClassInfo, Size
from featherseg.data.images.palettes import bright_palette
from featherseg.inference.runtimes import FILE_RUNTIMES, Runtime, is_exported_file, open_file
from featherseg.layers.sizes import resized

if TYPE_CHECKING:
    from featherseg.layers.model import SegmentationModel
    from featherseg.runs.run import Run

EAGER, TUNED = "eager", "eager-tuned"
"""The two baselines: PyTorch as it is, and with two lines that a user may add."""

EXPORTS = "export"  # as in runs/run.py, which needs torch
CATALOGUE_CLASSES = 19
"""Number of classes of an untrained model: that of Cityscapes, with which most papers count."""

CATALOGUE_SIZES = {"cgrseg": (512, 512)}
"""Prefix of a catalogue name -> (height, width) at which its paper counts."""

USUAL_SIZE = (512, 1024)
"""(height, width) for the other models of the catalogue."""


@dataclass(frozen=True)
class BenchmarkModel:
    """A model that is timed: a run, a name of the catalogue with seeded weights, or files alone.

    Args:
        run: None for a name of the catalogue, and for files alone.
        files: exported files of the model.
        builds: time all torch builds; else only the two baselines.
        first_file: the first of files alone, opened; they are compared with it, and no build of
            torch is timed.
    """

    name: str
    run: Run | None
    files: tuple[Path, ...] = ()
    builds: bool = True
    first_file: Runtime | None = None

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Classes in the order of the logits; class_0, class_1, ... for the catalogue."""
        if self.first_file:
            return self.first_file.classes
        return self.run.classes if self.run else untrained_classes()

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        if self.first_file:
            return self.first_file.channels
        return self.run.info.channels if self.run else 3

    @property
    def reference(self) -> str:
        """The short name of the variant with which masks are compared."""
        return short_names(self.files, skip=EXPORTS)[0] if self.first_file else EAGER

    @property
    def size(self) -> Size:
        """Default (height, width): that of its training images, else that of its paper."""
        if self.run:
            return self.run.info.image_size
        if file := self.first_file:
            return getattr(file, "fixed_size", None) or file.image_size or USUAL_SIZE
        return next(
            (size for name, size in CATALOGUE_SIZES.items() if self.name.startswith(name)),
            USUAL_SIZE,
        )

    @property
    def source(self) -> str:
        """What a worker opens: the path of the run, or the name in the catalogue."""
        return str(self.run.path) if self.run else self.name

    def seen(self, size: Size) -> Size:
        """Return the (height, width) to which the model resizes an image of `size`."""
        return resized(size, self.run.recipe.data.test_resize) if self.run else size

    def on_meta(self) -> SegmentationModel:
        """Return the model without weights, for counting."""
        import torch

        from featherseg import models

        with torch.device("meta"):
            if self.run:
                return self.run.untrained_model().eval()
            return models.build(self.name, CATALOGUE_CLASSES).eval()


@dataclass(frozen=True)
class Variant:
    """A row of a benchmark: a build of a model (a name of TORCH_BUILDS) or an exported file.

    name is unique in a benchmark: "eager", or "frm-lite0/eager" if there are several models.
    """

    name: str
    short: str
    model: BenchmarkModel
    build: str | None = None
    file: Path | None = None


def find_models(names: Sequence[str]) -> list[BenchmarkModel]:
    """Return each model that runs, exported files and catalogue names refer to, with its files.

    A run has all files of its export/. Any other file belongs to the only run that is named. If no
    run is named, files that lie in no run's export/ are one model, and so are all without torch.

    Raises:
        RunError, DataNotFound: a run or a file does not exist.
        ConfigError: several runs are named, and the run of a file is unknown.
        MissingExtra: something else than files is named, and torch is not installed.
    """
    if find_spec("torch") is None:
        if others := [name for name in names if not is_exported_file(name)]:
            raise missing_torch(f"{others[0]}, which is no exported file,")
        return [_files_alone([_existing(name) for name in names])]
    runs: dict[str, BenchmarkModel] = {}
    for name in (n for n in names if not is_exported_file(n)):
        model = _catalogue_or_run(name)
        runs[model.source] = model
    named = [n for n in runs.values() if n.run]
    paths = [_existing(name) for name in names if is_exported_file(name)]
    if paths and not runs and not any(map(_in_run, paths)):
        return [_files_alone(paths)]
    for path in paths:
        owner = _owner(path, named)
        known = runs.get(owner.source, owner)
        if not any(path.samefile(file) for file in known.files):
            known = BenchmarkModel(known.name, known.run, (*known.files, path), known.builds)
        runs[owner.source] = known
    names = short_names([Path(one.source if one.run else one.name) for one in runs.values()])
    return [replace(model, name=name) for model, name in zip(runs.values(), names, strict=True)]


def variants_of(timed_models: Sequence[BenchmarkModel], builds: Sequence[str]) -> list[Variant]:
    """Return every row of a benchmark: the builds of each model, then its files."""
    rows = []
    for model in timed_models:
        prefix = f"{model.name}/" if len(timed_models) > 1 else ""
        for build in builds if model.first_file is None else ():
            if model.builds or build in (EAGER, TUNED):
                rows.append(Variant(prefix + build, build, model, build=build))
        for file, short in zip(model.files, short_names(model.files, skip=EXPORTS), strict=True):
            rows.append(Variant(prefix + short, short, model, file=file))
    return rows


def baseline_of(variant: Variant, baseline: str, variants: Sequence[Variant]) -> Variant:
    """Return the row with which a variant is compared.

    It is the row of the same model with this short name, else the row with this full name.

    Raises:
        UnknownName: neither exists.
    """
    same_model = [v for v in variants if v.model is variant.model and v.short == baseline]
    matches = same_model or [v for v in variants if v.name == baseline]
    if not matches:
        names = dict.fromkeys(n for v in variants for n in (v.short, v.name))
        raise unknown("baseline", baseline, names)
    return matches[0]


def untrained_classes() -> tuple[ClassInfo, ...]:
    """Return class_0, class_1, ... in distinct colours."""
    return tuple(
        ClassInfo(f"class_{i}", color)
        for i, color in enumerate(bright_palette()[:CATALOGUE_CLASSES])
    )


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        raise DataNotFound(
            f"{path} does not exist. Write it with: featherseg export RUN --format FORMAT -o {path}"
        )
    return path


def _files_alone(paths: Sequence[Path]) -> BenchmarkModel:
    """Return files as one model; the first is the reference of the others."""
    unique = tuple(dict.fromkeys(paths))
    # The caller has checked the user's trust
    return BenchmarkModel(unique[0].name, None, unique, False, open_file(unique[0], trust=True))


def _in_run(file: Path) -> bool:
    """Whether a file lies in a run's export/."""
    from featherseg.runs.run import RESOLVED

    folder = file.absolute().parent
    return folder.name == EXPORTS and (folder.parent / RESOLVED).is_file()


def _catalogue_or_run(name: str) -> BenchmarkModel:
    from featherseg import models
    from featherseg.runs.run import find_run, open_run

    if name in models.MODELS and not Path(name).exists():
        return BenchmarkModel(name, None)
    try:
        run = open_run(find_run(name))
    except RunError as error:
        if "/" in name or Path(name).exists():
            raise
        near = did_you_mean(name, [m for m in models.MODELS if m[:3] == name[:3]])
        raise RunError(
            f"{error} Nor is it a model of the catalogue (`featherseg models`).{near}"
        ) from None
    return BenchmarkModel(run.name, run, _exported(run.path))


def _exported(run: Path) -> tuple[Path, ...]:
    """Return the files of RUN/export/ that a runtime opens."""
    return tuple(
        sorted(p for p in (run / EXPORTS).glob("*") if p.name.endswith(tuple(FILE_RUNTIMES)))
    )


def _owner(file: Path, named: Sequence[BenchmarkModel]) -> BenchmarkModel:
    """Return the run that a file was exported from; if it was not named, only with baselines."""
    if _in_run(file):
        from featherseg.runs.run import open_run

        run = open_run(file.absolute().parents[1])
        same = [n for n in named if os.path.samefile(n.source, run.path)]
        return same[0] if same else BenchmarkModel(run.name, run, builds=False)
    if len(named) != 1:
        raise ConfigError(
            f"{file} lies in no run's export/, so its masks have no reference. Name the run that "
            f"it was exported from as well: featherseg benchmark RUN {file}"
        )
    return named[0]
