"""Who is compared: run folders and exported files, which of them are runs of one model, and what to call them.

Runs that differ in nothing but their seed are runs of one model: they were trained on the same images, wherever these
lay.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from featherseg.hub import is_address
from featherseg.inference.runtimes import Runtime, is_exported_file, open_runtime
from featherseg.inference.runtimes.file_metadata import FileRuntime
from featherseg.runs.run import (
    DATA,
    EXPORTS,
    WEIGHTS,
    Run,
    find_run,
    load_run,
    open_run,
)

NOT_RECORDED = "initialisation not recorded"
MOST_SETTINGS = 2
"""More settings than these do not name a model."""

FREE = {
    "train.seed",
    "train.device",
    "train.checkpoint_seconds",
    "train.loggers",
    "train.rank_seconds",
}
FREE |= {"data.root", "data.workers"}
"""Settings in which runs of one model may differ."""

NOT_OF_TRAINING = ("model", "paper", "panoptic")
"""Tables of a recipe in which models that were trained alike may differ."""


@dataclass(frozen=True)
class Candidate:
    """A file that is compared, called `name`; `model` is equal for runs of one model, which is called `label`."""

    name: str
    path: Path
    runtime: Runtime
    run: Run | None
    model: str
    label: str
    init: str

    @property
    def seed(self) -> int | None:
        """Of its training, where it is a run."""
        return self.run.recipe.train.seed if self.run else None

    def cost(self, size: Size) -> Cost | None:
        """What its model weighs and costs at (height, width); None for a file that does not name its model."""
        try:
            with torch.device("meta"):
                if self.run:
                    return cost_of(self.run.untrained_model(), self.label, size)
                facts = self.runtime.facts if isinstance(self.runtime, FileRuntime) else None
                if facts is None or facts.model is None:
                    return None
                built = models.build(facts.model, len(facts.classes), facts.channels, facts.options)
                return cost_of(built, self.label, size)
        except FeathersegError:  # a model of the user's own, or of another release
            return None


def open_candidates(
    runs: Sequence[str | Run], device: str = "cpu", *, trust: bool = False
) -> list[Candidate]:
    """Open every file that is named; runs that are open already stay so, with models of one's own.

    trust: open .pt2 files, which run the code that they contain.

    Raises ConfigError where one is named twice, or a copy of it as if it were another training; RunError and so on.
    """
    names = [str(run.path) if isinstance(run, Run) else run for run in runs]
    paths = [str(Path(name).resolve()) for name in names]
    if doubled := sorted(
        {name for name, path in zip(names, paths, strict=True) if paths.count(path) > 1}
    ):
        raise ConfigError(f"{doubled[0]} is named twice: expected every run or file once.")
    if len(names) < 2:
        raise ConfigError(f"{len(names)} to compare: name two runs or exported files, or more.")
    opened = [_open(run, device, trust) for run in runs]
    labels, called = _labels(opened), short_names([Path(name) for name in names], skip=EXPORTS)
    candidates = [
        Candidate(name, one.path, one.runtime, one.run, one.model, labels[one.model], one.init)
        for name, one in zip(called, opened, strict=True)
    ]
    _refuse_copies(candidates)
    return candidates


def by_model(candidates: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    """The files of each model, in the order in which they were named."""
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        found.setdefault(one.model, []).append(one)
    return found


def seeds_of(files: Sequence[Candidate]) -> int:
    """How many different seeds the runs of one model have; files without a run count as one."""
    return len({one.seed for one in files})


def cautions(
    candidates: Sequence[Candidate], seen: Mapping[Path, Mapping[str, str]], images: int
) -> list[str]:
    """What a reader of the scores has to know: runs that are not finished, or were trained on some of these images.

    seen holds these by the run's path (`reports.record.learned_from`); exported files do not record them.
    """
    unfinished = [one for one in candidates if one.run and one.run.unfinished]
    found = [f"{one.name} is not finished: {one.run.how_far}" for one in unfinished if one.run]
    for one in candidates:
        if learned := seen.get(one.path):
            found.append(
                f"{one.name} was trained on {len(learned)} of these {counted(images, 'image')}"
            )
    for files in by_model(candidates).values():
        if (seeds := seeds_of(files)) < len(files):
            found.append(
                f"the {len(files)} runs of {files[0].label} have only {counted(seeds, 'seed')}: so many count"
            )
    return found


def trained_unlike(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The recorded settings of the training, without those of the model itself, in which these differ."""
    settings = [_settings(one.run) for one in candidates if one.run]
    names = {
        name for values in settings for name in values if name.split(".")[0] not in NOT_OF_TRAINING
    }
    return tuple(
        sorted(name for name in names if len({repr(values.get(name)) for values in settings}) > 1)
    )


@dataclass(frozen=True)
class _Opened:
    path: Path
    runtime: Runtime
    run: Run | None
    model: str
    init: str


def _open(run: str | Run, device: str, trust: bool) -> _Opened:
    if isinstance(run, str) and is_exported_file(run):
        path, runtime = Path(run), open_runtime(run, device, trust=trust)
        init = runtime.facts.init if isinstance(runtime, FileRuntime) else None
        return _Opened(path, runtime, None, str(path.resolve()), init or NOT_RECORDED)
    run = run if isinstance(run, Run) else load_run(run)
    training = json.dumps([_settings(run), run.info.loaded], sort_keys=True)
    begun_with = run.info.loaded.get("init")
    init = f"weights of {begun_with}" if begun_with and not run.imported else run.init
    return _Opened(run.path, open_runtime(run, device), run, training, init or NOT_RECORDED)


def _settings(run: Run, known: dict[Path, str] | None = None) -> dict[str, Any]:
    """{"train.lr": 0.002, ...}: every setting of a training that is not FREE, and as data.images what it learned from.

    known: teachers, as `_teaching`. Raises DataError where the record of the data is damaged.
    """
    known = {} if known is None else known
    tables = run.recipe.model_dump(mode="json")
    flat = {
        f"{table}.{key}": value
        for table, rows in tables.items()
        for key, value in (rows or {}).items()
    }
    flat["data.split_by"] = (
        flat["data.split_by"] or "hash"
    )  # both where nothing is split by share: now, and before
    flat["teacher.runs"] = [_teaching(path, known) for path in flat["teacher.runs"]]
    if fingerprint := read_fingerprint(
        run.path / DATA
    ):  # then a folder need not be told by where it lay
        flat["data.images"] = fingerprint.learned
        for key in ("data.name", "teacher.unlabelled"):
            flat[key] = Path(flat[key]).name if os.path.isabs(flat[key] or "") else flat[key]
    found = FREE | set(
        run.info.found or ()
    )  # what training found itself: of equal settings, or of the machine
    if run.recipe.train.minutes:
        found |= {"train.steps", "train.validations", "train.validate_every"}
    return {name: value for name, value in flat.items() if name not in found}


def _teaching(path: str, known: dict[Path, str]) -> str:
    """A teacher by its model and what it was trained by: those of several seeds teach alike.

    By its path or address where it is not here, as nothing is fetched, or is among its own teachers. known: those that
    were looked at, by folder.
    """
    if is_address(path):
        return path
    try:
        run = open_run(find_run(path))
    except FeathersegError:  # no longer there
        return path
    folder = run.path.resolve()
    if folder not in known:
        known[folder] = path
        training = json.dumps([_settings(run, known), run.info.loaded], sort_keys=True)
        known[folder] = (
            f"{run.recipe.model.name} ({hashlib.sha256(training.encode()).hexdigest()[:6]})"
        )
    return known[folder]


def _labels(opened: Sequence[_Opened]) -> dict[str, str]:
    """A name for each model: its model's, where several trainings of one are compared also what differs.

    An exported file is called by its path, as far as it takes.
    """
    firsts = {one.model: one for one in reversed(opened)}
    tails = dict(
        zip(firsts, short_names([one.path for one in firsts.values()], skip=EXPORTS), strict=True)
    )
    of_model: dict[str, dict[str, Run]] = {}  # model -> model -> its first run
    for key, one in firsts.items():
        if one.run:
            of_model.setdefault(one.run.recipe.model.name, {})[key] = one.run
    labels = dict(tails)
    for model, runs in of_model.items():
        apart = _settings_apart(runs) or tails
        labels |= {key: model if len(runs) == 1 else f"{model} ({apart[key]})" for key in runs}
    return labels


def _settings_apart(runs: dict[str, Run]) -> dict[str, str]:
    """The settings in which trainings of one model differ, as text; none where these are many, or do not differ."""
    settings = {key: _settings(run) for key, run in runs.items()}
    names = sorted({name for values in settings.values() for name in values})
    differing = [
        name for name in names if len({repr(values.get(name)) for values in settings.values()}) > 1
    ]
    texts = {
        key: ", ".join(f"{name}={values.get(name)}" for name in differing)
        for key, values in settings.items()
    }
    return (
        texts if len(differing) <= MOST_SETTINGS and len(set(texts.values())) == len(runs) else {}
    )


def _refuse_copies(candidates: Sequence[Candidate]) -> None:
    for files in by_model(candidates).values():
        seen: dict[str, str] = {}
        for one in files:
            digest = file_digest(one.path / WEIGHTS) if one.run else str(one.path)
            if digest in seen:
                raise ConfigError(
                    f"{seen[digest]} and {one.name} have the same weights from the same training, so a copy adds "
                    "nothing. Name one of them, or runs with other seeds."
                )
            seen[digest] = one.name
