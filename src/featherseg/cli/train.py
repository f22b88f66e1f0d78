"""`featherseg train`: a recipe and a dataset become a run folder."""

import os
import re
import shlex
import sys
import time
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer

from featherseg.cli.options import (
    Data,
    DataRoot,
    Overrides,
    TrainingDevice,
    check_settings,
    out_option,
)
from featherseg.cli.progress import is_quiet
from featherseg.core.errors import ConfigError
from featherseg.core.wording import WarningText

RUNS = Path("runs")
"""The folder of run folders that --out does not name."""

LINE_SECONDS = 10.0
"""Seconds between two lines of progress without a terminal."""


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A model (its default recipe), a shipped recipe, or a .toml file. Not needed with "
            "--resume."
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    out: Annotated[
        Path | None,
        out_option(
            "The run folder to write; must be new, except with --resume "
            "[default: runs/RECIPE-DATA, then runs/RECIPE-DATA-2, ...]."
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="Weights to start from: a run (by path or name) or a checkpoint file."),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="Time limit of the whole command, start and report included; replaces epochs and "
            "steps."
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images without masks. A first training, on the masks alone, labels "
            "them; a second learns from all."
        ),
    ] = None,
    overrides: Overrides = None,
    device: TrainingDevice = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the stopped run in --out, with its settings.")
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report",
            help="Evaluate the run on its validation split and write its report.",
        ),
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show crop, batch, steps, precision, memory and expected time; write nothing.",
        ),
    ] = False,
) -> None:
    """Train a model, write a run folder, evaluate it on its validation split, write report.html.

    It can be killed at any time: `featherseg train --resume --out RUN` continues.
    A resumed run keeps its settings, except for the device and the like.
    With train.schedule="stable" it may get more steps.
    To train with other settings, start a new run with --init RUN.
    """
    if recipe is None and not resume:
        raise typer.BadParameter(
            "name a model or a recipe (`featherseg models` lists them)", param_hint="RECIPE"
        )
    is_named = out is not None
    out = out or _default_folder(recipe, data, resume=resume)
    from featherseg.core.config import setting_texts
    from featherseg.core.machine import this_rank

    options = {
        "data.root": ("--data-root", data_root),
        "train.minutes": ("--minutes", minutes),
        "data.unlabelled": ("--unlabelled", unlabelled),
        "train.device": ("--device", device),
    }
    settings = check_settings(overrides, {"data.name": ("--data", data), **options})
    settings += setting_texts(
        {key: value for key, (_, value) in options.items() if value is not None}
    )
    with TrainingProgress() as progress:
        if not is_named:
            progress.message(f"the run folder is {out} (--out names another)")
            sys.argv += ["--out", str(out)]  # processes that Lightning starts repeat the command
        if not this_rank():  # before PyTorch and Lightning, which take seconds
            dataset = data or "the data of its recipe"
            doing = f"resuming {out}" if resume else f"training {recipe} on {dataset}"
            progress.message(f"{doing}: loading PyTorch")
        import featherseg
        from featherseg.core.allocator import keep_freed_memory

        keep_freed_memory()
        arguments: dict[str, Any] = {
            "out": out,
            "init": init,
            "settings": settings,
            "resume": resume,
            "report": report,
            "progress": progress,
        }
        if dry_run:
            for line in featherseg.train(recipe, data, dry_run=True, **arguments).lines():
                progress.message(line)
        else:
            featherseg.train(recipe, data, **arguments)


def _default_folder(recipe: str | None, data: str | None, *, resume: bool) -> Path:
    """Return the first folder of runs/RECIPE-DATA, runs/RECIPE-DATA-2, ... that does not exist.

    Raises ConfigError with `resume`, and if several processes would each choose one.
    """
    if resume:
        checkpoints = sorted(RUNS.glob("*/last.ckpt"), key=lambda path: path.stat().st_mtime)
        newest = shlex.quote(str(checkpoints[-1].parent)) if checkpoints else "RUN"
        raise ConfigError(
            "--resume continues the run in --out, which is missing. Run:\n"
            f"featherseg train --resume --out {newest}"
        )
    if int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))) > 1:
        raise ConfigError(
            "several processes train one run, and must have one folder: give --out RUN."
        )
    parts = [str(recipe).removesuffix(".toml"), *([] if data is None else [_without_file(data)])]
    name = re.sub(r"[^\w.-]+", "_", "-".join(Path(part).name for part in parts))
    numbered = (RUNS / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(folder for folder in numbered if not os.path.lexists(folder))


def _without_file(data: str) -> str:
    """Return the path that names a dataset: yard/dataset.toml and yard.zip are yard."""
    path = Path(data)
    if path.suffix.lower() in (".toml", ".json", ".xml", ".yaml", ".yml"):
        path = path.absolute().parent
    return os.path.abspath(path.with_suffix("") if path.suffix.lower() == ".zip" else path)


STEPS = "step"
"""The label of the bar of a training."""


class TrainingProgress:
    """Shows a training, or several in turn: a bar on a terminal, else a line every LINE_SECONDS."""

    def __init__(self, *, stderr: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        from featherseg.cli.terminal import Console

        # An export redirects sys.stdout to keep its writers quiet; the bar stays on the terminal
        self.console = Console(stderr=stderr, file=None if stderr else sys.stdout)
        # 80 columns have room for all of a step; what is longer is cut, not broken
        one_line = Column(no_wrap=True, overflow="ellipsis")
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[doing]}", markup=False, table_column=one_line),
            BarColumn(8 if self.console.width < 100 else 24),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
            TextColumn("{task.description}", markup=False, table_column=one_line),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self.console,
            disable=not self.console.is_terminal or is_quiet(),
        )
        self.task: Any = None
        self.doing = ""  # what the task shows: STEPS, or other work
        self.start_time, self.start_step = 0.0, 0  # at the first step that was seen
        self.line_time = 0.0
        self.last_step = self.steps = 0  # of the training that is shown
        self.miou: float | None = None  # of its last validation

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        self._begin("starting", None, 0)  # until the first work that reports itself
        return self

    def __exit__(self, *_: object) -> None:
        if not self.bar.disable:  # rich before 15 would print an empty line
            self.bar.stop()

    def message(self, text: str) -> None:
        """Print a message; with -q only a warning."""
        from featherseg.cli.terminal import wrapped

        if is_quiet() and not isinstance(text, WarningText):
            return
        text = wrapped(text, self.console.width) if self.console.is_terminal else text
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        """Show a step, and its validation if it has one."""
        now = time.monotonic()
        is_next_training = step <= self.last_step or steps != self.steps
        if self.doing != STEPS or is_next_training:
            self._begin(STEPS, steps, step)
            self.start_time, self.start_step = now, step
        if step <= self.last_step:
            self.miou = None
        self.last_step, self.steps = step, steps
        steps_done = step - self.start_step
        rate = steps_done / (now - self.start_time) if steps_done > 0 else 0.0
        self.miou = record.get("val_miou", self.miou)
        figures = [f"loss {record['loss']:.3f}"]
        figures += [f"mIoU {100 * self.miou:.1f} %"] if self.miou is not None else []
        figures += [f"lr {record['lr']:.2g}"] if "lr" in record else []
        figures += [f"{rate:.3g} steps/s"] if rate else []  # after two steps
        text = ", ".join(figures)
        count = f"{step}/{steps}"
        self.bar.update(self.task, completed=step, description=text, count=count)
        if record.get("val_miou") is not None:
            objects = (
                f"PQ {100 * record['val_pq']:.2f} %, " if record.get("val_pq") is not None else ""
            )
            self.message(f"step {step}: validation {objects}mIoU {100 * record['val_miou']:.2f} %")
        elif not self.console.is_terminal and now - self.line_time > LINE_SECONDS:
            left = f", {(steps - step) / rate / 60:.0f} min left" if rate else ""
            self.message(f"step {step} of {steps}: {text}{left}")
        else:
            return
        self.line_time = now

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Show work between two steps, such as a validation, or before or after a training."""
        if self.doing == STEPS and self.last_step < self.steps:
            text = f"{doing} {done}/{total}" if total else doing
            self.bar.update(self.task, description=text)
            return
        if doing != self.doing:
            self._begin(doing, total, done)
        count = f"{done}/{total}" if total else ""
        self.bar.update(self.task, completed=done, count=count)

    def _begin(self, doing: str, total: int | None, completed: int) -> None:
        """Replace the bar by one for other work."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task("", total=total, completed=completed, doing=doing, count="")
        self.doing = doing
