"""plan.json: what a fit was asked for and all that it decided before its first training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featherseg.core.errors import ConfigError, unknown
from featherseg.core.files import load_json, write_json
from featherseg.core.types import Size
from featherseg.core.wording import one_line
from featherseg.fitting.candidates import MODELS, check_size, has_weights
from featherseg.fitting.latency import Timing
from featherseg.fitting.plan import MOST_STEPS, Candidate, Plan

PLAN = "plan.json"
FORMAT_VERSION = 1

MOST_MS, MOST_HOURS = 10_000_000, 100_000
"""Above any limit, and any time, that is meant."""


@dataclass(frozen=True)
class FitConfig:
    """What the user said: see `fit`; paths as they were given."""

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

    def __post_init__(self) -> None:
        if not 0 < self.max_ms < MOST_MS:
            raise ConfigError(f"max_ms = {self.max_ms}: expected milliseconds above 0 and below {MOST_MS:,}.")
        if not 0 < self.hours < MOST_HOURS:
            raise ConfigError(
                f"hours = {self.hours}: expected a number above 0 and below {MOST_HOURS:,}, such as 2 or 0.5."
            )
        if self.image_size is not None:
            check_size(self.image_size)

    @property
    def limits(self) -> tuple[float, int, float | None]:
        """As `Timing.keeps` takes them."""
        return self.max_ms, self.percentile, self.max_mib


@dataclass(frozen=True)
class Parts:
    """Where the images are, as a recipe's [data] says it.

    test: None where no other images have masks; val_size: of the validation images so many are scored, None for all.
    """

    name: str
    root: str | None
    train: str = "train"
    val: str = "val"
    test: str | None = "test"
    val_size: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Keys of [data]."""
        found = {"name": self.name, "root": self.root, "train_split": self.train, "val_split": self.val}
        return found | ({} if self.val_size is None else {"val_size": self.val_size})


@dataclass(frozen=True)
class Final:
    """The last training of a candidate: up to how many steps, so many of them at a falling rate, and by which hours."""

    candidate: str
    hours: float
    steps: int
    decay: int

    def __post_init__(self) -> None:
        if not 0 <= self.decay <= _steps(self.steps):
            raise ValueError("a rate falls for more steps than there are")


@dataclass(frozen=True)
class Made:
    """A plan with what it was made from.

    device and threads are those that the timings are of; train_size the (height, width) of a typical training image,
    image_size of those that will be predicted. In seconds, spent: until the plan was made; ending: what is kept for the
    end; validating: a validation, with what a training needs to start;
    opening: what its first start needs beside that. finals: the last trainings in their order, each fixed when it
    began; failed: who was to be delivered and could not be, and why; shrunk: the scale at which one is delivered that
    was too slow at its own; given: it came from a file and is carried out to
    the letter; elsewhere: the timings are another device's; pretrained: candidates start from initial weights.
    """

    config: FitConfig
    parts: Parts
    device: str
    threads: int
    image_size: Size
    train_size: Size
    timings: tuple[Timing, ...]
    plan: Plan
    spent: float
    ending: float
    validating: float
    opening: float
    finals: tuple[Final, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    shrunk: Mapping[str, float] = field(default_factory=dict)
    given: bool = False
    elsewhere: bool = False
    pretrained: bool = True

    def timing(self, candidate: Candidate) -> Timing:
        """What was measured of a candidate."""
        return next(t for t in self.timings if (t.model, t.scale) == (candidate.model, candidate.scale))

    def finals_of(self, candidate: Candidate) -> list[Final]:
        """Its last trainings, up to that of these hours."""
        return [one for one in self.finals if one.candidate == candidate.name]

    def final(self, candidate: Candidate) -> Final | None:
        """Its last training of these hours, where it has begun."""
        return next((one for one in self.finals_of(candidate)[-1:] if one.hours == self.config.hours), None)

    def write(self, out: Path) -> None:
        """Replace OUT/plan.json."""
        plan = {
            "candidates": [asdict(one) for one in self.plan.candidates],
            "rungs": [{"steps": dict(steps), "keep": keep} for steps, keep in self.plan.rungs],
            "final": {name: list(steps) for name, steps in self.plan.final.items()},
        }
        found = {"format_version": FORMAT_VERSION, **{key: getattr(self, key) for key in PLAIN}}
        found |= {"config": asdict(self.config), "parts": asdict(self.parts), **plan}
        found |= {key: [asdict(one) for one in getattr(self, key)] for key in ("timings", "finals")}
        write_json(out / PLAN, found | {"failed": dict(self.failed), "shrunk": dict(self.shrunk)})


PLAIN = (
    "device",
    "threads",
    "image_size",
    "train_size",
    "spent",
    "ending",
    "validating",
    "opening",
    "given",
    "elsewhere",
    "pretrained",
)
"""Fields of a plan that stand in the file as they are."""


def read_plan(path: Path) -> Made:
    """A plan.json, ours or another's. Raises ConfigError for one that cannot be."""
    try:
        found = load_json(path)
        if found["format_version"] > FORMAT_VERSION:
            raise ValueError(f"it is of format {found['format_version']}, written by a newer featherseg")
        config, parts = dict(found["config"]), Parts(**found["parts"])
        config["image_size"] = _size(config["image_size"])
        config["loggers"] = tuple(config.get("loggers", ()))
        candidates = tuple(Candidate(**row) for row in found["candidates"])
        for one in candidates:
            if one.model not in MODELS:
                raise unknown("model that fit chooses from", one.model, MODELS)
            if not all(0 < value < 1e7 for value in (one.scale, one.latency_ms, one.step_seconds)):
                raise ValueError(f"{one.name}: expected numbers above 0")
        rungs = tuple(({name: _steps(n) for name, n in row["steps"].items()}, row["keep"]) for row in found["rungs"])
        final = {name: (_steps(n), int(d)) for name, (n, d) in found["final"].items()}
        names, left = {one.name for one in candidates}, len(candidates)
        for steps, keep in rungs:
            if not names <= steps.keys() or not 1 <= keep <= left:
                raise ValueError("a rung lacks candidates")
            left = keep
        if left != 1 or not names <= final.keys():
            raise ValueError("its rungs do not end with one candidate, whose last steps are known")
        if any(not 0 <= decay <= steps for steps, decay in final.values()):
            raise ValueError("a rate falls for more steps than there are")
        found.setdefault("pretrained", has_weights(candidates[0].model))  # older ones lack it
        plain = {key: found[key] for key in PLAIN}
        plain |= {key: _size(plain[key]) for key in ("image_size", "train_size")}
        timings = tuple(Timing(**row) for row in found["timings"])
        if lacking := names - {timing.name for timing in timings}:
            raise ValueError(f"no latency of {', '.join(sorted(lacking))}")
        plain |= {"finals": tuple(Final(**row) for row in found["finals"]), "failed": _reasons(found["failed"])}
        plain["shrunk"] = {str(name): float(scale) for name, scale in found.get("shrunk", {}).items()}
        if not names >= plain["shrunk"].keys() or not all(0 < scale <= 16 for scale in plain["shrunk"].values()):
            raise ValueError(f"shrunk = {plain['shrunk']}: expected candidates and their scales")
        if not names > plain["failed"].keys():
            raise ValueError("none of its candidates is left, or one failed that is none")
        return Made(FitConfig(**config), parts, timings=timings, plan=Plan(candidates, rungs, final), **plain)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        wrong = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise ConfigError(
            f"{path} is no plan that can be carried out: {wrong}. Expected the {PLAN} of a fit."
        ) from None


def _steps(value: Any) -> int:
    if not isinstance(value, int) or not 1 <= value <= MOST_STEPS:
        raise ValueError(f"{value!r} steps: expected 1 to {MOST_STEPS}")
    return value


def _reasons(value: Any) -> dict[str, str]:
    return {str(name): one_line(str(reason)) for name, reason in value.items()}


def _size(value: Any) -> Any:
    if value is None:
        return None
    height, width = (int(side) for side in value)
    return height, width
