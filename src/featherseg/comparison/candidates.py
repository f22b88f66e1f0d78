"""The candidates of a comparison: run folders and exported files, and which are of one model.

Runs that differ only in their seed are runs of one model. They were trained on the same images,
whichever folder these were in.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from featherseg import models
from featherseg.core.errors import ConfigError, FeathersegError
from featherseg.core.files import file_digest, short_names
from featherseg.core.types import Size
from featherseg.core.wording import counted
from featherseg.costs.cost import Cost, cost_of
from featherseg.data.cache.fingerprint import read_fingerprint
from featherseg.inference.runtimes import Runtime, is_exported_file, open_runtime
from featherseg.inference.runtimes.file_metadata import FileRuntime
from featherseg.runs.run import (
    DATA,
    EXPORTS,
    WEIGHTS,
    Run,
    load_run,
)

NOT_RECORDED = "initialisation not recorded"

MOST_SETTINGS = 2
"""Most settings in the name of a model."""

FREE = {
    "train.seed",
    "train.device",
    "train.checkpoint_seconds",
    "train.loggers",
    "train.rank_seconds",
    "data.root",
    "data.workers",
}
"""Settings in which runs of one model may differ."""

NOT_OF_TRAINING = ("model", "paper", "panoptic")
"""Tables of a recipe that do not say how a model was trained."""


@dataclass(frozen=True)
class Candidate:
    """A run or exported file that is compared.

    Args:
        name: of the file.
        run: None for an exported file.
        model: a key that is equal for all runs of one model.
        label: name of the model.
    """

    name: str
    path: Path
    runtime: Runtime
    run: Run | None
    model: str
    label: str
    init: str

    @property
    def seed(self) -> int | None:
        """Seed of the training; None for an exported file."""
        return self.run.recipe.train.seed if self.run else None

    @property
    def recorded_run(self) -> Run | None:
        """The run in which scores are recorded; None for a file or a read-only run."""
        return self.run if self.run and not self.run.read_only else None

    def cost(self, size: Size) -> Cost | None:
        """Return parameters and MACs at (height, width); None if the model cannot be built."""
        try:
            with torch.device("meta"):
                if self.run:
                    return cost_of(self.run.untrained_model(), self.label, size)
                facts = self.runtime.facts if isinstance(self.runtime, FileRuntime) else None
                if facts is None or facts.model is None:
                    return None
                built = models.build(facts.model, len(facts.classes), facts.channels, facts.options)
                return cost_of(built, self.label, size)
        except FeathersegError:  # the user's own model, or one of another release
            return None


def open_candidates(
    runs: Sequence[str | Run], device: str = "cpu", *, trust: bool = False
) -> list[Candidate]:
    """Open every run and file; a `Run` object keeps its model.

    trust: open .pt2 files; they run the code that they contain.

    Raises:
        ConfigError: fewer than two are named, one is named twice, or one is a copy of another.
        RunError, ExportError: a run or a file cannot be opened.
    """
    names = [str(run.path) if isinstance(run, Run) else run for run in runs]
    paths = [str(Path(name).resolve()) for name in names]
    if doubled := sorted(
        {name for name, path in zip(names, paths, strict=True) if paths.count(path) > 1}
    ):
        raise ConfigError(f"{doubled[0]} is named twice: expected every run or file once.")
    if len(names) < 2:
        raise ConfigError(f"{len(names)} to compare: name two runs or exported files, or more.")
    short = short_names([Path(name) for name in names], skip=EXPORTS)
    opened = [_open(run, name, device, trust) for run, name in zip(runs, short, strict=True)]
    labels = _labels(opened)
    candidates = [replace(one, label=labels[one.model]) for one in opened]
    _refuse_copies(candidates)
    return candidates


def by_model(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """Return the candidates of each model, in the order of `candidates`."""
    of_model: dict[str, list[Candidate]] = {}
    for one in candidates:
        of_model.setdefault(one.model, []).append(one)
    return of_model


def seeds_of(files: Sequence[Candidate]) -> int:
    """Return the number of seeds among the runs of one model; files without a run count as one."""
    return len({one.seed for one in files})


def cautions(
    candidates: Sequence[Candidate], trained_on: Mapping[Path, Mapping[str, str]], images: int
) -> list[str]:
    """Return warnings: unfinished runs, training on scored images, several runs with one seed.

    trained_on: scored images that a run was trained on (`learned_from`), by its path.
    """
    texts = [
        f"{one.name} is not finished: {one.run.how_far}"
        for one in candidates
        if one.run and one.run.unfinished
    ]
    for one in candidates:
        if keys := trained_on.get(one.path):
            texts.append(
                f"{one.name} was trained on {len(keys)} of these {counted(images, 'image')}"
            )
    for files in by_model(candidates).values():
        if (seeds := seeds_of(files)) < len(files):
            texts.append(
                f"the {len(files)} runs of {files[0].label} have only {counted(seeds, 'seed')}: "
                f"they count as {seeds}"
            )
    return texts


def trained_unlike(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the names of training settings in which the runs differ, without the model's own."""
    settings = [_settings(one.run) for one in candidates if one.run]
    names = {
        name for values in settings for name in values if name.split(".")[0] not in NOT_OF_TRAINING
    }
    return tuple(
        sorted(name for name in names if len({repr(values.get(name)) for values in settings}) > 1)
    )


def _open(run: str | Run, name: str, device: str, trust: bool) -> Candidate:
    """Open a run or a file as a candidate without a label."""
    if isinstance(run, str) and is_exported_file(run):
        path, runtime = Path(run), open_runtime(run, device, trust=trust)
        init = runtime.facts.init if isinstance(runtime, FileRuntime) else None
        model, label = str(path.resolve()), ""
        return Candidate(name, path, runtime, None, model, label, init or NOT_RECORDED)
    run = run if isinstance(run, Run) else load_run(run)
    model, label = json.dumps([_settings(run), run.info.loaded], sort_keys=True), ""
    origin = run.info.loaded.get("init")
    init = f"weights of {origin}" if origin and not run.imported else run.init
    runtime = open_runtime(run, device)
    return Candidate(name, run.path, runtime, run, model, label, init or NOT_RECORDED)


def _settings(run: Run) -> dict[str, Any]:
    """Return {"train.lr": 0.002, ...}: the settings that must be equal for runs of one model.

    These are all that are not FREE, and as data.images the images of the training.

    Raises:
        DataError: the record of the data is damaged.
    """
    tables = run.recipe.model_dump(mode="json")
    flat = {
        f"{table}.{key}": value
        for table, rows in tables.items()
        for key, value in (rows or {}).items()
    }
    # Data without a split by share: "hash" in older runs, empty in newer ones
    flat["data.split_by"] = flat["data.split_by"] or "hash"

    # The images identify the data, so its folder does not count
    if fingerprint := read_fingerprint(run.path / DATA):
        flat["data.images"] = fingerprint.learned
        for key in ("data.name", "data.unlabelled"):
            flat[key] = Path(flat[key]).name if os.path.isabs(flat[key] or "") else flat[key]

    # What training resolved itself follows from equal settings, or from the machine
    ignored = FREE | set(run.info.found or ())
    if run.recipe.train.minutes:
        ignored |= {"train.steps", "train.validations", "train.validate_every"}
    return {name: value for name, value in flat.items() if name not in ignored}


def _labels(candidates: Sequence[Candidate]) -> dict[str, str]:
    """Return a label for each key `Candidate.model`.

    It is the name of the model; trainings of the same model also get the settings that differ. An
    exported file is labelled by the end of its path.
    """
    firsts = {one.model: one for one in reversed(candidates)}
    paths = short_names([one.path for one in firsts.values()], skip=EXPORTS)
    by_path = dict(zip(firsts, paths, strict=True))
    labels = dict(by_path)
    trainings: dict[str, dict[str, Run]] = {}  # name of the model -> key -> its first run
    for key, one in firsts.items():
        if one.run:
            trainings.setdefault(one.run.recipe.model.name, {})[key] = one.run
    for name, runs in trainings.items():
        details = _differing_settings(runs) or by_path
        for key in runs:
            labels[key] = name if len(runs) == 1 else f"{name} ({details[key]})"
    return labels


def _differing_settings(runs: dict[str, Run]) -> dict[str, str]:
    """Return the settings in which runs differ, as text; {} if there are too many, or none."""
    settings = {key: _settings(run) for key, run in runs.items()}
    names = sorted({name for values in settings.values() for name in values})
    differing = [
        name for name in names if len({repr(values.get(name)) for values in settings.values()}) > 1
    ]
    texts = {
        key: ", ".join(f"{name}={values.get(name)}" for name in differing)
        for key, values in settings.items()
    }
    if len(differing) > MOST_SETTINGS or len(set(texts.values())) < len(runs):
        return {}
    return texts


def _refuse_copies(candidates: Sequence[Candidate]) -> None:
    """Raise ConfigError if two candidates of a model have the same weights."""
    for files in by_model(candidates).values():
        names: dict[str, str] = {}  # by digest
        for one in files:
            digest = file_digest(one.path / WEIGHTS) if one.run else str(one.path)
            if digest in names:
                raise ConfigError(
                    f"{names[digest]} and {one.name} have the same weights from the same training, "
                    "so a copy adds nothing. Name one of them, or runs with other seeds."
                )
            names[digest] = one.name
