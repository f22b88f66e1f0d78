"""The run folder: the one artifact that is passed on, written by `train` and `import`, read by every other verb.

recipe.toml (verbatim), resolved.json (every setting, the classes, what was loaded), weights.safetensors (the kept
weights), last.ckpt (to resume), data.json (what its data are known by), metrics.jsonl (append only), environment.json,
card.md, evaluations.jsonl, examples/.
"""

import hashlib
import logging
import os
import shlex
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn

from featherseg import models
from featherseg._version import __version__
from featherseg.backbones.weights import copy_strictly, read_state
from featherseg.core.config import Config, parse
from featherseg.core.errors import RunError, WeightsError, did_you_mean, near_path
from featherseg.core.files import (
    FIT,
    FIT_LOCK,
    LOCK,
    PLAN,
    is_held,
    load_json,
    read_lines,
    write_bytes,
    write_json,
)
from featherseg.core.notebook import html_table, percent
from featherseg.core.old_names import with_loggers, with_new_names, with_old_split
from featherseg.core.storage import refuse_address
from featherseg.core.types import ClassInfo, Color
from featherseg.core.wording import last_parts, marks
from featherseg.hub import is_address, pull, pulled_from
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import FULL_RANGE
from featherseg.layers.own_model import as_model
from featherseg.losses.terms import ClassWeights
from featherseg.recipe.tables import ImageSize, Recipe

FORMAT_VERSION = 2
RESOLVED, WEIGHTS, CHECKPOINT, METRICS = (
    "resolved.json",
    "weights.safetensors",
    "last.ckpt",
    "metrics.jsonl",
)
DATA = "data.json"  # what the training knows its data by
EXPORTS = "export"  # the folder of exported files
CURVE = "curve.svg"  # drawn once a training is over
EVALUATIONS, ENVIRONMENT = "evaluations.jsonl", "environment.json"
RESTRICTED = ("research", "non-commercial", "noncommercial", "no commercial", "by-nc")
SHIPPED = Path(__file__).resolve().parents[1] / "weights"
"""The runs that come with the package; nothing is written there."""
STARTER = "efficientvit-seg-b0-shapes"  # the one of them that messages name
IN_REPOSITORY = {"frm-lite0-camvid": "for research only, as CamVid's terms are"}
"""Runs of the repository's weights/ that do not come with the package -> their terms."""

log = logging.getLogger("featherseg")


class ClassRow(Config):
    """One class as resolved.json holds it."""

    name: str
    color: Color
    thing: bool = False


def class_rows(classes: Iterable[ClassInfo]) -> list[ClassRow]:
    """A dataset's classes as resolved.json holds them."""
    return [ClassRow(name=c.name, color=c.color, thing=c.thing) for c in classes]


class TeacherRow(Config):
    """One teacher of a run as resolved.json holds it; the path it was named by stands in the recipe.

    weights: SHA-256 of its weights.safetensors; outputs: digest of these and of how it is run, by which its outputs are
    found again.
    """

    name: str
    model: str
    weights: str
    outputs: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    licence: str


class RunInfo(Config):
    """What stands in resolved.json: with the weights, all that is needed to use the model."""

    format_version: int
    featherseg: str
    recipe_name: str
    recipe: Recipe
    classes: Annotated[list[ClassRow], Field(min_length=1, max_length=255)]
    channels: Annotated[int, Field(ge=1, le=models.MOST_CHANNELS)]
    image_size: ImageSize  # (height, width) of the images it was trained on: their median
    image_range: Annotated[int, Field(ge=2, le=FULL_RANGE)] | None = (
        None  # of 16-bit training images; None: 8 bits
    )
    licence: str
    loaded: dict[str, Any]  # which weights training started from, or which file was imported
    class_weights: ClassWeights | None  # of the loss, as resolved from the recipe
    threads: Annotated[
        int, Field(ge=1, le=4096)
    ]  # of torch on the CPU: other numbers give other bits
    found: list[str] | None = (
        None  # keys of the recipe that training set itself: an open crop, "auto"; None: not kept
    )
    device: str | None = None  # the kind that it was begun on, "cuda"; None: not kept
    teachers: tuple[TeacherRow, ...] = ()  # in the order of the recipe's
    objects: tuple[
        str, ...
    ] = ()  # what training was given as objects, not names: model, data, loss, augment
    fitted: bool = (
        False  # whether it was chosen by `fit`, of a run that was shared without its fit.json
    )


def parts_of(split: str) -> set[str]:
    """The splits that a split is made of: `test+val` of two."""
    return set(split.split("+"))


@dataclass(frozen=True)
class Run:
    """A run folder, opened. `model` is the trained model: eval mode, fp32, on the CPU.

    own_model: where training was given a model of one's own, such a model, whatever its weights.
    """

    path: Path
    info: RunInfo
    own_model: SegmentationModel | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The folder's name, or that of the repository on the hub."""
        address = self.address
        return (
            address.rpartition("@")[0].rpartition("/")[2]
            if address
            else Path(os.path.abspath(self.path)).name
        )

    @property
    def shipped(self) -> bool:
        """Whether it comes with the package."""
        return self.path.resolve().parent == SHIPPED

    @property
    def address(self) -> str | None:
        """hf://ORG/NAME@COMMIT of a run that was pulled from the hub."""
        return pulled_from(self.path)

    @property
    def read_only(self) -> bool:
        """Whether nothing is written into it: it comes with the package, or lies in the hub's cache."""
        return self.shipped or self.address is not None

    @property
    def spelling(self) -> str:
        """What a command calls it: its path, its address, or the name of a run that comes with the package."""
        return self.name if self.shipped else self.address or str(self.path)

    @property
    def recipe(self) -> Recipe:
        """Every setting of the training."""
        return self.info.recipe

    @property
    def licence(self) -> str:
        """Under which terms the weights may be used."""
        return self.info.licence

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Names and colours, in the order of the logits."""
        return tuple(ClassInfo(row.name, row.color, row.thing) for row in self.info.classes)

    @property
    def imported(self) -> str | None:
        """The name of the file that the weights were imported from; None for a run that was trained here."""
        return self.info.loaded.get("imported")

    @property
    def init(self) -> str | None:
        """What its training began with: `from scratch`, `ImageNet weights`, `weights of runs/a`; None if imported."""
        if self.imported:
            return None
        if init := self.info.loaded.get("init"):
            return f"weights of {last_parts(str(init))}"
        return "ImageNet weights" if "file" in self.info.loaded else "from scratch"

    def current_evaluations(self) -> list[dict[str, Any]]:
        """Those of `evaluations` that are of the weights that are there, as far as it is known."""
        now = self.weights_sha256
        return [
            line
            for line in self.evaluations()
            if now is None or line.get("weights_sha256") in (None, now)
        ]

    @property
    def weights_sha256(self) -> str | None:
        """That of the weights that are there now, None where there are none."""
        file = self.path / WEIGHTS
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

    def selected_on(self, split: str) -> bool:
        """Whether its weights, its end, or by `fit` its model were chosen by the score on that split of its data."""
        train = self.recipe.train
        chosen = (
            train.keep == "best"
            or train.patience
            or self.info.fitted
            or (self.path / FIT).is_file()
        )
        return not self.imported and bool(
            chosen and parts_of(split) & parts_of(self.recipe.data.val_split)
        )

    @property
    def validated_on_training(self) -> bool:
        """Whether the images that it was validated on are among those that it was trained on."""
        return self.recipe.trains_on_all or "train.keep" in (self.info.found or ())

    def marks_of(self, evaluation: Mapping[str, Any]) -> str:
        """What a reader of a line of `evaluations` has to know of its images; nothing of most."""
        selected = evaluation.get("selected", self.selected_on(str(evaluation.get("split"))))
        return marks(selected=selected, trained_on=evaluation.get("trained_on"))

    @property
    def unfinished(self) -> bool:
        """Whether its training goes on or was stopped on the way: no curve is drawn yet, and it has steps left."""
        if self.read_only or self.imported or (self.path / CURVE).is_file():
            return False
        steps, done = self.recipe.train.steps, max(self.metrics(), default=None)
        left = isinstance(steps, int) and done is not None and done < steps
        return left or (self.path / CHECKPOINT).is_file() or self.training

    @property
    def training(self) -> bool:
        """Whether a process trains in its folder now."""
        return is_held(self.path / LOCK)

    @property
    def how_far(self) -> str:
        """`its training was stopped at step 3 of 20; ...` with the command that goes on; "" of a finished run.

        `it is still training (step 3 of 20); ...` while a process trains in its folder.
        """
        if not self.unfinished:
            return ""
        steps, done = self.recipe.train.steps, max(self.metrics(), default=None)
        step = "" if done is None else f"step {done}{f' of {steps}' if steps else ''}"
        if self.training:
            at = f" ({step})" if step else ""
            return f"it is still training{at}; its weights are those of its last validation"
        at = f"at {step}" if step else "on the way"
        return f"its training was stopped {at}; featherseg train --resume --out {self.path} goes on"

    @cached_property
    def model(self) -> SegmentationModel:
        """The model with the kept weights. Raises RunError where there are none, WeightsError where they do not fit."""
        path = self.path / WEIGHTS
        if not path.is_file():
            goes_on = f"Continue with: featherseg train --resume --out {self.path}"
            raise RunError(
                f"{self.path} holds no {WEIGHTS} yet: its training has not reached the first validation. "
                + ("It is still running: wait for that." if self.training else goes_on)
            )
        state = read_state(path)
        kept = sum(tensor.numel() for tensor in state.values())
        model = self.untrained_model(4 * kept)  # auxiliary heads are not always kept
        state = model.with_own_aux_heads(state)  # a model may have got such heads since
        load_exactly(model, state, path)
        return model.eval()

    def untrained_model(self, most_parameters: int = models.MOST_PARAMETERS) -> SegmentationModel:
        """The model before its weights. Raises ConfigError above `most_parameters`, RunError without own_model."""
        model = (
            build_model(self.info, most_parameters)
            if "model" not in self.info.objects
            else self._own_copy()
        )
        model.image_range = self.info.image_range or FULL_RANGE
        return model

    def _own_copy(self) -> SegmentationModel:
        if self.own_model is None:
            raise RunError(
                f"{self.path} is of a model of one's own, {self.recipe.model.name}, which its folder does not hold: "
                f"pass model=, as in featherseg.load_run({str(self.path)!r}, model={self.recipe.model.name}(...))."
            )
        return deepcopy(self.own_model)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: where it is, its record (resolved.json), and every evaluation."""
        return {
            "path": str(self.path),
            **self.info.model_dump(mode="json"),
            "evaluations": self.evaluations(),
        }

    def _repr_html_(self) -> str:
        facts = {
            "model": self.recipe.model.name,
            "data": f"{self.recipe.data.shown} ({self.recipe.data.train_split})",
            "classes": ", ".join(row.name for row in self.info.classes),
            "weights": self.init or f"imported from {self.imported}",
            "licence": self.licence,
        }
        facts |= {"unfinished": self.how_far} if self.unfinished else {}
        rows = [
            (
                f"mIoU % on {e.get('data')} {e.get('split')}{f' ({told})' if (told := self.marks_of(e)) else ''}",
                percent(e.get("miou")),
            )
            for e in self.current_evaluations()
        ]
        return html_table(f"Run {self.name}", ("", ""), [*facts.items(), *rows])

    def evaluations(self) -> list[dict[str, Any]]:
        """Every line of evaluations.jsonl, oldest first."""
        return [with_new_names(line) for line in read_lines(self.path / EVALUATIONS)]

    def metrics(self) -> dict[int, dict[str, Any]]:
        """The last record of every step of metrics.jsonl."""
        return {
            r["step"]: r for r in read_lines(self.path / METRICS) if isinstance(r.get("step"), int)
        }


def build_model(info: RunInfo, most_parameters: int = models.MOST_PARAMETERS) -> SegmentationModel:
    """The untrained model that a run's record describes. Raises ConfigError above `most_parameters`."""
    model = info.recipe.model
    return models.build(
        model.name, len(info.classes), info.channels, model.options, most_parameters
    )


def load_exactly(model: SegmentationModel, state: dict[str, Tensor], source: Path) -> None:
    """Copy `state` (any float type) into the model, every key and shape equal. Raises WeightsError."""
    try:
        copy_strictly(model, state)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from None


def open_run(path: Path, own_model: SegmentationModel | None = None) -> Run:
    """Read a run folder's record. Raises RunError: no folder, half written, broken, or from a newer version."""
    refuse_address(path)
    file = path / RESOLVED
    if path.is_file():
        raise RunError(_no_run(path))
    if not path.is_dir():
        raise RunError(
            f"no run folder at {path}.{near_path(path)} Runs are written by `featherseg train ... --out {path}`."
        )
    if not file.is_file() and is_held(path / FIT_LOCK):
        raise RunError(
            f"{path}: its fit is still running. Wait for its end: the folder is a run then."
        )
    if not file.is_file() and (path / PLAN).is_file():
        raise RunError(
            f"{path}: its fit has not ended. Go on with: featherseg fit --resume --out {path}"
        )
    if not file.is_file() and is_held(path / LOCK):
        raise RunError(f"{path}: its training is being prepared. Wait for its first validation.")
    if not file.is_file():
        raise RunError(_no_run(path))
    try:
        values = load_json(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is not valid JSON ({error}); the run folder is damaged.") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise RunError(f"{file} has no format_version: it was not written by featherseg.")
    if version > FORMAT_VERSION:
        raise RunError(
            f"{path} was written by featherseg {values.get('featherseg')} (format {version}); this is {__version__}, "
            f"which reads formats up to {FORMAT_VERSION}. Update featherseg."
        )
    values = with_new_names(values) if version < FORMAT_VERSION else values
    info = parse(RunInfo, with_loggers(with_old_split(values)), str(file))
    fitted = path.parents[1] if path.parent.name == "trials" else path
    data = info.recipe.data.model_copy(
        update={"name": moved_dataset(info.recipe.data.name, fitted)}
    )
    recipe = info.recipe.model_copy(update={"data": data})
    return Run(path, info.model_copy(update={"recipe": recipe}), own_model)


def _no_run(path: Path) -> str:
    """The message about a file or folder that is no run: what it is, and what is done with it."""
    given = shlex.quote(str(path))
    if path.name == "dataset.toml" or (path / "dataset.toml").is_file():
        return f"{path} is a dataset, expected a run. Train one with: featherseg train frm-lite0 --data {given} -o RUN"
    if path.suffix == ".toml":
        return (
            f"{path} is a recipe, expected a run. Train one with: featherseg train {given} -o RUN"
        )
    if path.is_file():
        return f"{path} is a file, expected a run folder, as `train` and `import` of featherseg write it."
    if (path / "recipe.toml").is_file():
        return f"{path} is not a run: it has no {RESOLVED}. Its training was stopped before it started: train it anew."
    return f"{path} is not a run: it has no {RESOLVED}. Expected a folder that `featherseg train` or `import` wrote."


def moved_dataset(name: str, fitted: Path) -> str:
    """The data of a fit in a folder: where `fit` wrote a dataset.toml there and the folder was moved, that one."""
    moved = fitted.absolute() / "dataset.toml"
    lay_there = os.path.isabs(name) and os.path.basename(name) == moved.name
    return str(moved) if lay_there and not os.path.exists(name) and moved.is_file() else name


def load_run(name: str | Path, model: nn.Module | None = None) -> Run:
    """Open a run by its path, by name among those that come with featherseg or lie in $FEATHERSEG_HOME, or on the hub.

    One line of the log names the licence where the weights may not be used freely, and one says so where they have seen
    synthetic scenes alone.

    Args:
        name: A run folder, the name of one, or hf://ORG/NAME[@REVISION].
        model: Of a run whose model was given as an object: such an object, whatever its weights.

    Returns:
        Run: its record, and on demand `model` with the trained weights.

    Raises:
        RunError: There is no such run, or its record is damaged.
    """
    run = open_run(find_run(name), None if model is None else as_model(model))
    if run.shipped:
        log.warning(
            "%s was trained on synthetic street scenes only: on photographs it is often wrong",
            run.name,
        )
    if is_restricted(run.licence):
        log.warning("%s: %s", run.name, run.licence)
    return run


def is_restricted(licence: str) -> bool:
    """Whether terms say that what is under them may not be used freely."""
    return any(word in licence.lower() for word in RESTRICTED)


def find_run(name: str | Path) -> Path:
    """The folder of a run: a path that exists, the plain name of one that `runs_by_name` knows, or hf://ORG/NAME.

    Raises RunError.
    """
    if not isinstance(name, str | Path):
        raise not_a_run(name)
    if is_address(name):
        return pull(name)
    path = Path(name)
    if path.exists():
        return path
    named = runs_by_name()
    if len(path.parts) == 1 and path.name in named:
        return named[path.name]
    if path.name in IN_REPOSITORY:
        raise RunError(
            f"no run {str(name)!r} here: it is not installed by pip ({IN_REPOSITORY[path.name]}). It is the folder "
            f"weights/{path.name} of featherseg's repository: work in a checkout or copy the folder here. {STARTER} "
            "is included in featherseg and works at once, but was trained on synthetic streets only."
        )
    if len(path.parts) != 1:
        return path
    raise RunError(
        f"no run folder {str(name)!r} here, and no run of that name.{did_you_mean(path.name, named, here=True)} Use "
        "the path of your own run, or its name if it is in the folder $FEATHERSEG_HOME."
    )


def not_a_run(value: object) -> RunError:
    """The error for what is neither a run nor names one, such as a model."""
    return RunError(
        f"expected a run (its folder, its name, or what featherseg.load_run gives), found {type(value).__name__}. A "
        "model alone knows neither its classes' names nor how its images are prepared: train or import it."
    )


def runs_by_name() -> dict[str, Path]:
    """The runs that a name finds: in $FEATHERSEG_HOME, its weights/, in weights/ of a checkout, and in the package."""
    folders = [SHIPPED]
    source = Path(__file__).resolve().parents[3]
    if (
        source / "pyproject.toml"
    ).is_file():  # else the package is installed, and that folder is not ours
        folders.insert(0, source / "weights")
    if home := os.environ.get("FEATHERSEG_HOME"):
        folders[:0] = [Path(home), Path(home) / "weights"]
    return {
        run.parent.name: run.parent
        for folder in reversed(folders)
        for run in sorted(folder.glob(f"*/{RESOLVED}"))
    }


def save_weights(run: Path, state: dict[str, Tensor]) -> str:
    """Atomically write weights.safetensors; -> its sha256."""
    content = save(
        {key: value.detach().cpu().contiguous() for key, value in state.items()}, {"format": "pt"}
    )
    write_bytes(run / WEIGHTS, content)
    return hashlib.sha256(content).hexdigest()


def write_info(run: Path, info: RunInfo) -> None:
    """Atomically write resolved.json: from here on the folder is a run."""
    write_json(run / RESOLVED, info.model_dump(mode="json"))
