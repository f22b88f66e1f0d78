"""plan.json: what a fit was asked for and all that it decided before its first training."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from featherseg.core.config import MOST_STEPS, Config, parse
from featherseg.core.errors import ConfigError, unknown
from featherseg.core.files import PLAN, load_json, write_json
from featherseg.core.types import Resize, SegmentationData, Size
from featherseg.core.wording import one_line, size_text
from featherseg.data import open_dataset
from featherseg.exporters.formats import EXPORTERS
from featherseg.fitting.candidates import MODELS, check_size, has_weights, resize_of
from featherseg.fitting.halving import MOST_MS, Candidate, Rung, Scale, Schedule
from featherseg.fitting.latency import Timing
from featherseg.recipe.tables import ImageSize, Positive
from featherseg.runs.run import moved_dataset

FORMAT_VERSION = 1

MOST_HOURS = 100_000
"""Hours above any time that is meant."""

Hours = Annotated[float, Field(gt=0, lt=MOST_HOURS)]
Seconds = Annotated[float, Field(ge=0, le=3600 * MOST_HOURS)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]


def check_limits(percentile: int | None, max_mib: float | None) -> None:
    """Raise ConfigError for an impossible percentile or memory limit; None is none."""
    if percentile not in (None, 50, 95):
        raise ConfigError(f"percentile = {percentile}: expected 50 or 95.")
    if max_mib is not None and not 0 < max_mib < 1e9:
        raise ConfigError(
            f"max_mib = {max_mib}: expected a number of MiB above 0 and below 1,000,000,000."
        )


@dataclass(frozen=True)
class FitConfig:
    """What the user asked `fit` for. Raises ConfigError, and UnknownName for the format."""

    data: str
    data_root: str | None
    max_ms: float
    percentile: int
    max_mib: float | None
    hours: float
    format: str
    image_size: Size | None
    device: str
    loggers: tuple[str, ...] = ()
    unlabelled: str | None = None

    def __post_init__(self) -> None:
        check_limits(self.percentile, self.max_mib)
        if not 0 < self.max_ms < MOST_MS:
            raise ConfigError(
                f"max_ms = {self.max_ms}: expected milliseconds above 0 and below {MOST_MS:,}."
            )
        if not 0 < self.hours < MOST_HOURS:
            raise ConfigError(
                f"hours = {self.hours}: expected a number above 0 and below {MOST_HOURS:,}, such "
                "as 2 or 0.5."
            )
        if self.format not in EXPORTERS:
            raise unknown("format", self.format, EXPORTERS)
        if self.image_size is not None:
            check_size(self.image_size)

    @property
    def limits(self) -> tuple[float, int, float | None]:
        """(max_ms, percentile, max_mib), as `Timing.keeps` takes them."""
        return self.max_ms, self.percentile, self.max_mib

    def resize_at(self, scale: float, size: Size) -> Resize | None:
        """Return what images of (height, width) are resized to at an input scale."""
        return resize_of(scale, size, whole=self.image_size is None)


@dataclass(frozen=True)
class Splits:
    """Where the images are, in the terms of a recipe's [data].

    Args:
        test: None if no other images have masks.
        val_size: The number of validation images that are scored, None for all.
    """

    name: str
    root: str | None
    train: str = "train"
    val: str = "val"
    test: str | None = "test"
    val_size: Positive | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The keys of [data]."""
        splits = {"train_split": self.train, "val_split": self.val}
        size = {} if self.val_size is None else {"val_size": self.val_size}
        return {"name": self.name, "root": self.root, **splits, **size}

    def open(self, split: str, size: int | None = None, *, exact: bool = True) -> SegmentationData:
        """Open one of the splits, as `open_dataset` does."""
        root = None if self.root is None else Path(self.root)
        return open_dataset(self.name, split, root, size, exact=exact)


@dataclass(frozen=True)
class FinalTraining:
    """The last training of a candidate, by which hours.

    Args:
        steps: All its steps.
        decay: Those of them at a falling rate.
        stopped: The step after which the hours ended it, None if it reached its steps.
        first: The step after which the training on the masks alone ended, with `unlabelled`.
    """

    candidate: str
    hours: Hours
    steps: Steps
    decay: int
    stopped: Steps | None = None
    first: Steps | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= self.steps:
            raise ValueError("a rate falls for more steps than there are")
        if self.stopped is not None and not self.constant <= self.stopped < self.steps:
            raise ValueError("a last training was stopped before its rate fell, or after its end")

    @property
    def constant(self) -> int:
        """Steps at the constant rate."""
        return self.steps - self.decay

    @property
    def reached(self) -> int:
        """Its last step."""
        return self.stopped or self.steps


@dataclass(frozen=True)
class FitPlan:
    """What a fit is to do, and what that was decided by: plan.json.

    A stage of a fit takes a plan and returns one. It changes only where a fit that is resumed must
    decide alike: the steps of the last training, a rung that the clock ended, a model that could
    not be delivered.

    Args:
        config: What the user asked for.
        splits: The images.
        device, threads: Those that the latencies are of.
        image_size: (height, width) of the images to predict.
        train_size: (height, width) of a typical training image.
        timings: The latency of every candidate that was timed.
        schedule: Which candidates train, and for how many steps.
        spent: Seconds until the plan was made.
        ending: Seconds kept for the end.
        validating: Seconds of a validation, with the start of a training that goes on.
        opening: Seconds that the first start of a training takes beside that.
        delivering: Seconds of `ending` that the delivery takes, as measured.
        finals: The last trainings in their order, each fixed when it began, and again where the
            hours ended it.
        failed: Candidates that could not be delivered, and why.
        over_limit: The candidate that is delivered though it is over the limit.
        shrunk: The scale at which a candidate is delivered that was too slow at its own.
        elsewhere: Whether the latencies were measured on another device.
        pretrained: Whether candidates start from initial weights.
    """

    config: FitConfig
    splits: Splits
    device: str
    threads: int
    image_size: Size
    train_size: Size
    timings: tuple[Timing, ...]
    schedule: Schedule
    spent: float
    ending: float
    validating: float
    opening: float
    delivering: float = 0.0
    finals: tuple[FinalTraining, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    over_limit: str | None = None
    shrunk: Mapping[str, float] = field(default_factory=dict)
    elsewhere: bool = False
    pretrained: bool = True

    def timing(self, candidate: Candidate) -> Timing:
        """Return what was measured of a candidate."""
        return next(
            t for t in self.timings if (t.model, t.scale) == (candidate.model, candidate.scale)
        )

    def resize_at(self, scale: float) -> Resize | None:
        """Return what images to predict are resized to at an input scale, as in training."""
        return self.config.resize_at(scale, self.image_size)

    def finals_of(self, candidate: Candidate) -> list[FinalTraining]:
        """Return its last trainings, up to that of these hours."""
        return [one for one in self.finals if one.candidate == candidate.name]

    def final(self, candidate: Candidate) -> FinalTraining | None:
        """Return its last training of these hours, None before it is planned."""
        last = self.finals_of(candidate)[-1:]
        return next((one for one in last if one.hours == self.config.hours), None)

    def refuse_other(self, asked: Mapping[str, Any]) -> None:
        """Raise ConfigError if a value differs from that of the plan; None is not asked for."""
        for key, value in asked.items():
            planned: Any = self.image_size if key == "image_size" else getattr(self.config, key)
            if value is None or value == planned:
                continue
            # One folder has many spellings
            is_place = key in ("data", "data_root", "unlabelled") and planned
            if is_place and os.path.abspath(value) == os.path.abspath(planned):
                continue
            if key == "image_size":
                planned, value = size_text(planned), size_text(value)
            if key == "loggers":
                planned, value = ",".join(planned), ",".join(value)
            raise ConfigError(
                f"it was begun with --{key.replace('_', '-')} {planned or 'none'}, and now it is "
                f"{value}. Leave it out, or begin another."
            )

    def write(self, out: Path) -> None:
        """Replace OUT/plan.json."""
        schedule = {
            "candidates": [asdict(one) for one in self.schedule.candidates],
            "rungs": [{"steps": dict(r.steps), "keep": r.keep} for r in self.schedule.rungs],
            "final": dict(self.schedule.final),
        }
        content = {"format_version": FORMAT_VERSION, **{key: getattr(self, key) for key in PLAIN}}
        content |= {"config": asdict(self.config), "parts": asdict(self.splits), **schedule}
        content |= {key: [asdict(x) for x in getattr(self, key)] for key in ("timings", "finals")}
        content |= {"failed": dict(self.failed), "shrunk": dict(self.shrunk)}
        write_json(out / PLAN, content)


PLAIN = (
    "device",
    "threads",
    "image_size",
    "train_size",
    "spent",
    "ending",
    "validating",
    "opening",
    "delivering",
    "over_limit",
    "elsewhere",
    "pretrained",
)
"""The fields of FitPlan that plan.json has as they are."""


def _not_newer(version: int) -> int:
    if version > FORMAT_VERSION:
        raise ValueError("it was written by a newer featherseg")
    return version


def _without_decay(steps: Any) -> Any:
    """Return the steps of a last training; older plans also have those at a falling rate."""
    return steps[0] if isinstance(steps, list | tuple) and len(steps) == 2 else steps


class _Rung(Config):
    steps: dict[str, Steps]
    keep: int


class _PlanFile(Config):
    """The content of plan.json, checked as a file of others."""

    format_version: Annotated[int, AfterValidator(_not_newer)]
    config: FitConfig
    parts: Splits
    device: Annotated[str, AfterValidator(one_line)]
    threads: Annotated[int, Field(ge=1, le=4096)]
    image_size: ImageSize
    train_size: ImageSize
    timings: tuple[Timing, ...]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    rungs: tuple[_Rung, ...]
    final: dict[str, Annotated[Steps, BeforeValidator(_without_decay)]]
    spent: Seconds
    ending: Seconds
    validating: Seconds
    opening: Seconds
    delivering: Seconds | None = None  # older ones lack it
    over_limit: str | None = None
    finals: tuple[FinalTraining, ...]
    failed: dict[str, Annotated[str, AfterValidator(one_line)]]
    shrunk: dict[str, Scale] = Field(default_factory=dict)
    given: bool = False  # older ones have it: they could be carried out again
    elsewhere: bool
    pretrained: bool | None = None  # older ones lack it

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> "_PlanFile":
        names, left = {one.name for one in self.candidates}, len(self.candidates)
        for one in self.candidates:
            if one.model not in MODELS:
                raise unknown("model that fit chooses from", one.model, MODELS)
        if len(names) < left or len({t.name for t in self.timings}) < len(self.timings):
            raise ValueError("a candidate or a timing is listed twice")
        timed = {(t.model, t.scale) for t in self.timings}
        if lacking := [one.name for one in self.candidates if (one.model, one.scale) not in timed]:
            raise ValueError(f"no latency of {', '.join(lacking)}")
        before = dict.fromkeys(names, 0)
        for rung in self.rungs:
            if not names <= rung.steps.keys() or not 1 <= rung.keep <= left:
                raise ValueError("a rung lacks candidates")
            if any(rung.steps[name] < before[name] for name in names):
                raise ValueError("a rung has fewer steps than the one before")
            left, before = rung.keep, rung.steps
        if left != 1 or not names <= self.final.keys():
            raise ValueError("its rungs do not end with one candidate, whose last steps are known")
        if any(self.final[name] < before[name] for name in names):
            raise ValueError("a last training has fewer steps than the rungs")
        trained = {last.candidate for last in self.finals}
        if not names >= self.shrunk.keys() | trained:
            raise ValueError("what is none of its candidates has a scale or last steps")
        if self.over_limit is not None and self.over_limit not in trained - self.failed.keys():
            raise ValueError("who is delivered over the limit was not trained to its end")
        if not names > self.failed.keys():
            raise ValueError("none of its candidates is left, or one failed that is none")
        return self


def read_plan(path: Path) -> FitPlan:
    """Read the plan.json of a fit.

    Raises:
        ConfigError: It is no plan that can be carried out.
        UnknownName: It names an unknown model or format.
    """
    try:
        content = parse(_PlanFile, load_json(path), PLAN)
    except (OSError, ValueError, ConfigError) as error:
        wrong = one_line(str(error).splitlines()[0].removeprefix(f"{PLAN}: ")).rstrip(".")
        raise ConfigError(
            f"{path} is no plan that can be carried out: {wrong}. Expected the {PLAN} of a fit."
        ) from None
    rungs = tuple(Rung(rung.steps, rung.keep) for rung in content.rungs)
    values = {key: getattr(content, key) for key in (*PLAIN, "config", "timings", "finals")}
    values |= {"failed": content.failed, "shrunk": content.shrunk}
    if content.delivering is None:
        values["delivering"] = content.ending
    if content.pretrained is None:
        values["pretrained"] = has_weights(content.candidates[0].model)
    name = moved_dataset(content.parts.name, path.parent)
    return FitPlan(
        splits=replace(content.parts, name=name),
        schedule=Schedule(content.candidates, rungs, content.final),
        **values,
    )
