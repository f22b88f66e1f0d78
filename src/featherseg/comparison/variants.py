"""What is benchmarked becomes variants: each model in every build and every exported file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from featherseg import models
from featherseg.comparison.builds import EAGER, TUNED
from featherseg.core.errors import ConfigError, DataNotFound, RunError, did_you_mean, unknown
from featherseg.core.files import short_names
from featherseg.core.types import ClassInfo, Size
from featherseg.data.images.palettes import default_palette
from featherseg.inference.runtimes import FILE_RUNTIMES, is_exported_file
from featherseg.layers.model import SegmentationModel
from featherseg.layers.resize import resized
from featherseg.runs.run import EXPORTS, RESOLVED, Run, open_run
from featherseg.runs.run import find_run as path_of_run

CATALOGUE_CLASSES = 19
"""Of an untrained model: as many as Cityscapes has, which most papers count with."""

CATALOGUE_SIZES = {"cgrseg": (512, 512)}
"""Beginning of a catalogue name -> (height, width) its paper counts at."""

USUAL_SIZE = (512, 1024)


@dataclass(frozen=True)
class BenchmarkModel:
    """One model that is timed: a run, or a catalogue name (`run` is None: seeded weights, untrained).

    builds: whether torch builds beside the two baselines are timed, too; files are those that it was exported to.
    """

    name: str
    run: Run | None
    files: tuple[Path, ...] = ()
    builds: bool = True

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """In the order of the logits; of an untrained model class_0, class_1, ..."""
        return self.run.classes if self.run else untrained_classes()

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.run.info.channels if self.run else 3

    @property
    def size(self) -> Size:
        """(height, width) it is timed at by default: its training images', or its paper's."""
        if self.run:
            return self.run.info.image_size
        return next(
            (size for name, size in CATALOGUE_SIZES.items() if self.name.startswith(name)),
            USUAL_SIZE,
        )

    @property
    def source(self) -> str:
        """What a worker opens: the run's path, or the catalogue name."""
        return str(self.run.path) if self.run else self.name

    def seen(self, size: Size) -> Size:
        """(height, width) in which the model sees an image of that size."""
        return resized(size, self.run.recipe.data.test_resize) if self.run else size

    def on_meta(self) -> SegmentationModel:
        """The model without weights, to count with."""
        with torch.device("meta"):
            if self.run:
                return self.run.untrained_model().eval()
            return models.build(self.name, CATALOGUE_CLASSES).eval()


@dataclass(frozen=True)
class Variant:
    """One row: a model in one build (a name of TORCH_BUILDS), or one exported file (build is None).

    name is unique in a benchmark, as in "eager", or "frm-lite0/eager" where there are several models.
    """

    name: str
    short: str
    model: BenchmarkModel
    build: str | None = None
    file: Path | None = None


def find_models(names: Sequence[str]) -> list[BenchmarkModel]:
    """Runs, exported files and catalogue names -> models, each once, with the files that belong to it.

    A file belongs to the run in whose export/ it lies, else to the only run that is named beside it. A run has all the
    files of its export/. Raises RunError, DataNotFound, and ConfigError for a file of which no run is known: without
    it the file's masks have no reference.
    """
    runs: dict[str, BenchmarkModel] = {}
    for name in (n for n in names if not is_exported_file(n)):
        model = _catalogue_or_run(name)
        runs[model.source] = model
    named = [n for n in runs.values() if n.run]
    for name in (n for n in names if is_exported_file(n)):
        path = Path(name)
        if not path.exists():
            raise DataNotFound(
                f"{path} does not exist. Write it with: featherseg export RUN --format FORMAT -o {path}"
            )
        owner = _owner(path, named)
        known = runs.get(owner.source, owner)
        if not any(path.samefile(file) for file in known.files):
            known = BenchmarkModel(known.name, known.run, (*known.files, path), known.builds)
        runs[owner.source] = known
    found = list(runs.values())
    names = short_names([Path(model.source) if model.run else Path(model.name) for model in found])
    return [replace(model, name=name) for model, name in zip(found, names, strict=True)]


def variants_of(timed: Sequence[BenchmarkModel], builds: Sequence[str]) -> list[Variant]:
    """Every row of a benchmark: of each model its builds, then its files."""
    rows = []
    for model in timed:
        prefix = f"{model.name}/" if len(timed) > 1 else ""
        for build in builds:
            if model.builds or build in (EAGER, TUNED):
                rows.append(Variant(prefix + build, build, model, build=build))
        for file, short in zip(model.files, short_names(model.files, skip=EXPORTS), strict=True):
            rows.append(Variant(prefix + short, short, model, file=file))
    return rows


def baseline_of(variant: Variant, baseline: str, variants: Sequence[Variant]) -> Variant:
    """The row that a row is compared with: the one of that name of its own model, else the one of that full name.

    Raises UnknownName where there is none.
    """
    own = [v for v in variants if v.model is variant.model and v.short == baseline]
    found = own or [v for v in variants if v.name == baseline]
    if not found:
        raise unknown(
            "baseline", baseline, dict.fromkeys(n for v in variants for n in (v.short, v.name))
        )
    return found[0]


def untrained_classes() -> tuple[ClassInfo, ...]:
    """class_0, class_1, ... in colours that lie apart."""
    return tuple(
        ClassInfo(f"class_{i}", c) for i, c in enumerate(default_palette(CATALOGUE_CLASSES))
    )


def _catalogue_or_run(name: str) -> BenchmarkModel:
    if name in models.MODELS and not Path(name).exists():
        return BenchmarkModel(name, None)
    try:
        run = open_run(path_of_run(name))
    except RunError as error:
        if "/" in name or Path(name).exists():
            raise
        near = did_you_mean(name, [m for m in models.MODELS if m[:3] == name[:3]])
        raise RunError(
            f"{error} Nor is it a model of the catalogue (`featherseg models`).{near}"
        ) from None
    return BenchmarkModel(run.name, run, _exported(run.path))


def _exported(run: Path) -> tuple[Path, ...]:
    """The files of RUN/export/ that a runtime opens."""
    return tuple(
        sorted(p for p in (run / EXPORTS).glob("*") if p.name.endswith(tuple(FILE_RUNTIMES)))
    )


def _owner(file: Path, named: Sequence[BenchmarkModel]) -> BenchmarkModel:
    """The run that a file was exported from: alone, with the two baselines, where it was not named itself."""
    folder = file.absolute().parent
    if folder.name == EXPORTS and (folder.parent / RESOLVED).is_file():
        run = open_run(folder.parent)
        same = [n for n in named if os.path.samefile(n.source, run.path)]
        return same[0] if same else BenchmarkModel(run.name, run, builds=False)
    if len(named) != 1:
        raise ConfigError(
            f"{file} lies in no run's export/, so that its masks have no reference. "
            f"Name the run it was exported from as well: featherseg benchmark RUN {file}"
        )
    return named[0]
