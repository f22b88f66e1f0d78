"""The run folder: written by `train` and `import`, read by every other verb.

It contains recipe.toml (verbatim), resolved.json (every setting, the classes, what was loaded),
weights.safetensors (the kept weights), last.ckpt (to resume), data.json (the fingerprint of the
data), metrics.jsonl (append only), environment.json, card.md, evaluations.jsonl and examples/.
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
from featherseg.core.old_names import with_new_names, with_old_recipe
from featherseg.core.storage import refuse_address
from featherseg.core.types import ClassInfo, Color
from featherseg.core.wording import brief, counted, last_parts, marks
from featherseg.hub import is_address, pull, pulled_from
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import FULL_RANGE
from featherseg.layers.own_model import as_model
from featherseg.losses.terms import ClassWeights
from featherseg.recipe.tables import ImageSize, Recipe

FORMAT_VERSION = 2
RESOLVED, WEIGHTS = "resolved.json", "weights.safetensors"
CHECKPOINT, METRICS = "last.ckpt", "metrics.jsonl"
DATA = "data.json"  # the fingerprint of the training data
EXPORTS = "export"  # the folder of exported files
CURVE = "curve.svg"  # drawn at the end of a training
BATCH = "batch.jpg"  # the first images that a training sees, with their labels
LABELS = "labels.json"  # the classes in the masks that a training sees
EVALUATIONS, ENVIRONMENT = "evaluations.jsonl", "environment.json"

RESTRICTED = ("research", "non-commercial", "noncommercial", "no commercial", "by-nc")
"""Words of a licence that does not allow free use."""

SHIPPED = Path(__file__).resolve().parents[1] / "weights"
"""The folder of the runs that come with the package; nothing is written there."""

STARTER = "efficientvit-seg-b0-shapes"
"""The shipped run that demo, tests and messages use."""

SHIPPED_LIMITS = {
    STARTER: "was trained on synthetic street scenes only: on photographs it is often wrong",
    "road": "saw two highways from one survey vehicle: try it on your own road first",
    "indoor": "saw the corridors of two buildings: try it on your own first",
}
"""Shipped run -> how far it may be trusted."""

IN_REPOSITORY = {"frm-lite0-camvid": "for research only, as CamVid's terms are"}
"""Runs in the repository's weights/ that do not come with the package -> their terms."""

log = logging.getLogger("featherseg")


class ClassRow(Config):
    """One class in resolved.json."""

    name: str
    color: Color
    thing: bool = False


def class_rows(classes: Iterable[ClassInfo]) -> list[ClassRow]:
    """Return a dataset's classes as rows of resolved.json."""
    return [ClassRow(name=c.name, color=c.color, thing=c.thing) for c in classes]


class RunInfo(Config):
    """The content of resolved.json: with the weights, all that is needed to use the model.

    Attributes:
        image_size: The median (height, width) of the training images.
        image_range: Number of values of 16-bit training images; None for 8 bits.
        loaded: The weights that training started from, or the file that was imported.
        class_weights: Those of the loss, as resolved from the recipe.
        threads: torch's threads on the CPU; other numbers give other bits.
        found: Recipe keys that training set itself (an open crop, "auto"); None if unknown.
        device: The kind of device that training started on, "cuda"; None if unknown.
        objects: What training was given as objects, not names: model, data, loss, augment.
        fitted: Whether `fit` chose it, for a run that was shared without its fit.json.
    """

    format_version: int
    featherseg: str
    recipe_name: str
    recipe: Recipe
    classes: Annotated[list[ClassRow], Field(min_length=1, max_length=255)]
    channels: Annotated[int, Field(ge=1, le=models.MOST_CHANNELS)]
    image_size: ImageSize
    image_range: Annotated[int, Field(ge=2, le=FULL_RANGE)] | None = None
    licence: str
    loaded: dict[str, Any]
    class_weights: ClassWeights | None
    threads: Annotated[int, Field(ge=1, le=4096)]
    found: list[str] | None = None
    device: str | None = None
    objects: tuple[str, ...] = ()
    fitted: bool = False


def parts_of(split: str) -> set[str]:
    """Return the splits that a split consists of: `test+val` has two."""
    return set(split.split("+"))


@dataclass(frozen=True)
class Run:
    """A run folder, opened.

    Attributes:
        path: The folder.
        info: Its record.
        own_model: For a run whose model was given as an object, such a model with any weights.
        address: hf://ORG/NAME@COMMIT if the run was pulled from the hub.
    """

    path: Path
    info: RunInfo
    own_model: SegmentationModel | None = field(default=None, repr=False)
    address: str | None = None

    @property
    def name(self) -> str:
        """The name of the folder, or of the repository on the hub."""
        if self.address:
            return self.address.rpartition("@")[0].rpartition("/")[2]
        return Path(os.path.abspath(self.path)).name

    @property
    def shipped(self) -> bool:
        """Whether it comes with the package."""
        return self.path.resolve().parent == SHIPPED

    @property
    def read_only(self) -> bool:
        """Whether nothing is written into it: it is shipped, or in the hub's cache."""
        return self.shipped or self.address is not None

    @property
    def spelling(self) -> str:
        """How commands name it: by path, by address, or by name if it comes with the package."""
        return self.name if self.shipped else self.address or str(self.path)

    @property
    def recipe(self) -> Recipe:
        """Every setting of the training."""
        return self.info.recipe

    @property
    def licence(self) -> str:
        """The terms under which the weights may be used."""
        return self.info.licence

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Names and colours, in the order of the logits."""
        return tuple(ClassInfo(row.name, row.color, row.thing) for row in self.info.classes)

    @property
    def imported(self) -> str | None:
        """The name of the file that the weights were imported from; None for a trained run."""
        return self.info.loaded.get("imported")

    @property
    def init(self) -> str | None:
        """The weights that training started from; None for an imported run.

        `from scratch`, `ImageNet weights`, or `weights of runs/a`.
        """
        if self.imported:
            return None
        if init := self.info.loaded.get("init"):
            return f"weights of {last_parts(str(init))}"
        return "ImageNet weights" if "file" in self.info.loaded else "from scratch"

    def current_evaluations(self) -> list[dict[str, Any]]:
        """Return the evaluations of the present weights, and those of unknown weights."""
        now = self.weights_sha256
        return [
            line
            for line in self.evaluations()
            if now is None or line.get("weights_sha256") in (None, now)
        ]

    @property
    def weights_sha256(self) -> str | None:
        """The sha256 of the weights file; None without one."""
        file = self.path / WEIGHTS
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None

    def selected_on(self, split: str) -> bool:
        """Whether weights, end of training or model were selected by the score on this split."""
        train = self.recipe.train
        selects = (
            train.keep == "best"
            or train.patience
            or self.info.fitted
            or (self.path / FIT).is_file()
        )
        return not self.imported and bool(
            selects and parts_of(split) & parts_of(self.recipe.data.val_split)
        )

    @property
    def validated_on_training(self) -> bool:
        """Whether the validation images are among the training images."""
        return self.recipe.trains_on_all or "train.keep" in (self.info.found or ())

    def marks_of(self, evaluation: Mapping[str, Any]) -> str:
        """Return the notes that the score of a line of `evaluations` needs; "" for most."""
        selected = evaluation.get("selected", self.selected_on(str(evaluation.get("split"))))
        return marks(selected=selected, trained_on=evaluation.get("trained_on"))

    @property
    def unfinished(self) -> bool:
        """Whether its training continues in some process, or was interrupted."""
        return bool(self.how_far)

    @property
    def how_far(self) -> str:
        """How far an unfinished training is, with the command that continues it; else "".

        `its training was stopped at step 3 of 20; ...`, or, while a process trains in the folder,
        `it is still training (step 3 of 20); ...`.
        """
        if self.read_only or self.imported or (self.path / CURVE).is_file():
            return ""
        steps, done = self.recipe.train.steps, max(self.metrics(), default=None)
        steps_left = isinstance(steps, int) and done is not None and done < steps
        running = is_held(self.path / LOCK)
        if not (steps_left or running or (self.path / CHECKPOINT).is_file()):
            return ""
        step = "" if done is None else f"step {done}{f' of {steps}' if steps else ''}"
        if running:
            at = f" ({step})" if step else ""
            return f"it is still training{at}; its weights are those of its last validation"
        at = f"at {step}" if step else "on the way"
        return f"its training was stopped {at}; featherseg train --resume --out {self.path} goes on"

    @cached_property
    def model(self) -> SegmentationModel:
        """The trained model: eval mode, fp32, on the CPU.

        Raises:
            RunError: There are no weights yet.
            WeightsError: The weights do not fit the model.
        """
        path = self.path / WEIGHTS
        if not path.is_file():
            remedy = f"Continue with: featherseg train --resume --out {self.path}"
            if is_held(self.path / LOCK):
                remedy = "It is still running: wait for that."
            raise RunError(
                f"{self.path} holds no {WEIGHTS} yet: its training has not reached the first "
                f"validation. {remedy}"
            )
        state = read_state(path)
        parameters = sum(tensor.numel() for tensor in state.values())
        model = self.untrained_model(4 * parameters)  # auxiliary heads are not always kept
        state = model.with_own_aux_heads(state)  # the model may have got such heads since
        try:
            copy_strictly(model, state)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
        return model.eval()

    def untrained_model(self, most_parameters: int = models.MOST_PARAMETERS) -> SegmentationModel:
        """Return the model before its weights are loaded.

        Raises:
            ConfigError: It has more than `most_parameters`.
            RunError: The model was given as an object, and `own_model` is missing.
        """
        name, options = self.info.recipe.model.name, self.info.recipe.model.options
        if "model" not in self.info.objects:
            classes, channels = len(self.info.classes), self.info.channels
            model = models.build(name, classes, channels, options, most_parameters)
        elif self.own_model is not None:
            model = deepcopy(self.own_model)
        else:
            raise RunError(
                f"{self.path} was trained with your own model, {name}, which its folder lacks: "
                f"pass model=, as in featherseg.load_run({str(self.path)!r}, model={name}(...))."
            )
        model.image_range = self.info.image_range or FULL_RANGE
        return model

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values: its path, its record (resolved.json) and every evaluation."""
        return {
            "path": str(self.path),
            **self.info.model_dump(mode="json"),
            "evaluations": self.evaluations(),
        }

    def __repr__(self) -> str:
        unfinished = "unfinished" if self.unfinished else ""
        classes = counted(len(self.info.classes), "class")
        return brief(self, self.spelling, self.recipe.model.name, classes, unfinished)

    def _repr_html_(self) -> str:
        facts = {
            "model": self.recipe.model.name,
            "data": f"{self.recipe.data.shown} ({self.recipe.data.train_split})",
            "classes": ", ".join(row.name for row in self.info.classes),
            "weights": self.init or f"imported from {self.imported}",
            "licence": self.licence,
        }
        facts |= {"unfinished": self.how_far} if self.unfinished else {}
        rows = []
        for line in self.current_evaluations():
            notes = self.marks_of(line)
            scored = f"{line.get('data')} {line.get('split')}{f' ({notes})' if notes else ''}"
            rows.append((f"mIoU % on {scored}", percent(line.get("miou"))))
        return html_table(f"Run {self.name}", ("", ""), [*facts.items(), *rows])

    def evaluations(self) -> list[dict[str, Any]]:
        """Return every line of evaluations.jsonl, oldest first."""
        return [with_new_names(line) for line in read_lines(self.path / EVALUATIONS)]

    def metrics(self) -> dict[int, dict[str, Any]]:
        """Return {step: its last record in metrics.jsonl}."""
        return {
            r["step"]: r for r in read_lines(self.path / METRICS) if isinstance(r.get("step"), int)
        }


def open_run(path: Path, own_model: SegmentationModel | None = None) -> Run:
    """Read the record of a run folder.

    Raises:
        RunError: There is no folder, or its record is missing, damaged or from a newer version.
    """
    refuse_address(path)
    file = path / RESOLVED
    if path.is_file():
        raise RunError(_no_run(path))
    if not path.is_dir():
        raise RunError(
            f"no run folder at {path}.{near_path(path)} Runs are written by "
            f"`featherseg train ... --out {path}`."
        )
    if not file.is_file():
        hidden = len(path.parts) == 1 and path.name in runs_by_name()
        other = f" For featherseg's own model {path}, work in another folder."
        raise RunError(_no_record(path) + other * hidden)
    try:
        values = load_json(file)
    except (OSError, ValueError) as error:
        raise RunError(f"{file} is not valid JSON ({error}); the run folder is damaged.") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if not isinstance(version, int):
        raise RunError(f"{file} has no format_version: it was not written by featherseg.")
    if version > FORMAT_VERSION:
        raise RunError(
            f"{path} was written by featherseg {values.get('featherseg')} (format {version}); this "
            f"is {__version__}, which reads formats up to {FORMAT_VERSION}. Update featherseg."
        )
    values = with_new_names(values) if version < FORMAT_VERSION else values
    info = parse(RunInfo, with_old_recipe(values), str(file))
    fitted = path.parents[1] if path.parent.name == "trials" else path
    name = moved_dataset(info.recipe.data.name, fitted)
    data = info.recipe.data.model_copy(update={"name": name})
    recipe = info.recipe.model_copy(update={"data": data})
    info = info.model_copy(update={"recipe": recipe})
    return Run(path, info, own_model, pulled_from(path))


def _no_record(path: Path) -> str:
    """Return why a folder has no record, and what to do."""
    if is_held(path / FIT_LOCK):
        return f"{path}: its fit is still running. Wait for its end: the folder is a run then."
    if (path / PLAN).is_file():
        return f"{path}: its fit has not ended. Go on with: featherseg fit --resume --out {path}"
    if is_held(path / LOCK):
        return f"{path}: its training is being prepared. Wait for its first validation."
    return _no_run(path)


def _no_run(path: Path) -> str:
    """Return what a file or folder is that is not a run, and what to do with it."""
    quoted = shlex.quote(str(path))
    if path.name == "dataset.toml" or (path / "dataset.toml").is_file():
        return (
            f"{path} is a dataset, expected a run. Train one with: "
            f"featherseg train frm-lite0 --data {quoted} -o RUN"
        )
    if path.suffix == ".toml":
        return (
            f"{path} is a recipe, expected a run. Train one with: featherseg train {quoted} -o RUN"
        )
    if path.is_file():
        return (
            f"{path} is a file, expected a run folder, as `train` and `import` of featherseg "
            "write it."
        )
    if (path / "recipe.toml").is_file():
        return (
            f"{path} is not a run: it has no {RESOLVED}. Its training was stopped before it "
            "started: train it anew."
        )
    return (
        f"{path} is not a run: it has no {RESOLVED}. Expected a folder that `featherseg train` or "
        "`import` wrote."
    )


def moved_dataset(name: str, fitted: Path) -> str:
    """Return the dataset of a fit: its own dataset.toml, also after the fit's folder was moved."""
    moved = fitted.absolute() / "dataset.toml"
    is_own = os.path.isabs(name) and os.path.basename(name) == moved.name
    return str(moved) if is_own and not os.path.exists(name) and moved.is_file() else name


def load_run(name: str | Path, model: nn.Module | None = None) -> Run:
    """Open a run by its path, by its name, or from the Hugging Face Hub.

    Names are those of the runs that come with featherseg or are in $FEATHERSEG_HOME. The log names
    the licence if the weights may not be used freely, and warns if the run was trained on synthetic
    scenes alone.

        featherseg.load_run("runs/photos").model

    Args:
        name: A run folder, the name of one, or hf://ORG/NAME[@REVISION].
        model: For a run whose model was given as an object, such a model with any weights.

    Returns:
        Run: its record, and on demand `model` with the trained weights.

    Raises:
        RunError: There is no such run, or its record is damaged.
    """
    run = open_run(find_run(name), None if model is None else as_model(model))
    if run.shipped and (limits := SHIPPED_LIMITS.get(run.name)):
        log.warning("%s comes with featherseg and %s", run.name, limits)
    if is_restricted(run.info.licence):
        log.warning("%s: %s", run.name, run.info.licence)
    return run


def is_restricted(licence: str) -> bool:
    """Whether a licence says that its subject may not be used freely."""
    return any(word in licence.lower() for word in RESTRICTED)


def find_run(name: str | Path) -> Path:
    """Return the folder of a run: an existing path, a name of `runs_by_name`, or hf://ORG/NAME.

    Raises:
        RunError: There is no such run.
    """
    if not isinstance(name, str | Path):
        raise not_a_run(name)
    if is_address(name):
        return pull(name)
    path, named = Path(name), runs_by_name()
    is_name = len(path.parts) == 1 and path.name in named
    if path.exists():
        if is_name and (path / RESOLVED).is_file():
            log.warning(
                "%s: the run in this folder is taken, not the named one of featherseg", name
            )
        return path
    if is_name:
        return named[path.name]
    if path.name in IN_REPOSITORY:
        raise RunError(
            f"no run {str(name)!r} here: it is not installed by pip ({IN_REPOSITORY[path.name]}). "
            f"It is the folder weights/{path.name} of featherseg's repository: work in a checkout "
            f"or copy the folder here. {STARTER} is included in featherseg and works at once, but "
            "was trained on synthetic streets only."
        )
    if len(path.parts) != 1:
        return path
    raise RunError(
        f"no run folder {str(name)!r} here, and no run of that name."
        f"{did_you_mean(path.name, named, here=True)} Use the path of your own run, or its name if "
        "it is in the folder $FEATHERSEG_HOME."
    )


def not_a_run(value: object) -> RunError:
    """Return the error for a value that is neither a run nor names one, such as a model."""
    return RunError(
        "expected a run (its folder, its name, or what featherseg.load_run returns), found "
        f"{type(value).__name__}. A model alone has neither names of classes nor settings for its "
        "images: train or import it, or name its classes: Predictor(model, classes=[...])."
    )


def runs_by_name() -> dict[str, Path]:
    """Return the named runs of $FEATHERSEG_HOME, a checkout's weights/ and the package."""
    folders = [SHIPPED]
    source = Path(__file__).resolve().parents[3]
    if (source / "pyproject.toml").is_file():  # this is a checkout, not an installed package
        folders.insert(0, source / "weights")
    if home := os.environ.get("FEATHERSEG_HOME"):
        folders[:0] = [Path(home), Path(home) / "weights"]
    return {
        run.parent.name: run.parent
        for folder in reversed(folders)
        for run in sorted(folder.glob(f"*/{RESOLVED}"))
    }


def save_weights(run: Path, state: dict[str, Tensor]) -> str:
    """Atomically write weights.safetensors, and return its sha256."""
    content = save(
        {key: value.detach().cpu().contiguous() for key, value in state.items()}, {"format": "pt"}
    )
    write_bytes(run / WEIGHTS, content)
    return hashlib.sha256(content).hexdigest()


def write_info(run: Path, info: RunInfo) -> None:
    """Atomically write resolved.json, which makes the folder a run."""
    write_json(run / RESOLVED, info.model_dump(mode="json"))
