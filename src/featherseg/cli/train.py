"""`featherseg train`: a recipe and a dataset become a run folder."""

import sys
import time
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

LINE_SECONDS = 10.0
"""Seconds between two lines of progress without a terminal."""


def train(
    out: Annotated[Path, out_option("The run folder to write; must be new, except with --resume.")],
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="A model (its default recipe), a shipped recipe, or a .toml file. Not needed with "
            "--resume."
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
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
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="RUN[,RUN]",
            help="Runs to learn from besides the masks, such as one of a larger model; sets "
            "teacher.runs.",
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(help="A folder of images without masks, which only the teacher labels."),
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
    from featherseg.core.config import setting_texts
    from featherseg.core.machine import this_rank

    options = {
        "data.root": ("--data-root", data_root),
        "train.minutes": ("--minutes", minutes),
        "teacher.runs": ("--teacher", teacher),
        "teacher.unlabelled": ("--unlabelled", unlabelled),
        "train.device": ("--device", device),
    }
    settings = check_settings(overrides, {"data.name": ("--data", data), **options})
    settings += setting_texts(
        {key: value for key, (_, value) in options.items() if value is not None}
    )
    with TrainingProgress() as progress:
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


STEPS = "step"
"""The label of the bar of a training."""


class TrainingProgress:
    """Shows a training, or several in turn: a bar on a terminal, else a line every LINE_SECONDS."""

    def __init__(self, *, stderr: bool = False) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        from featherseg.cli.terminal import Console

        # An export redirects sys.stdout to keep its writers quiet; the bar stays on the terminal
        self.console = Console(stderr=stderr, file=None if stderr else sys.stdout)
        self.bar = Progress(
            TextColumn("{task.fields[doing]}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task: Any = None
        self.doing = ""  # what the task shows: STEPS, or other work
        self.start_time, self.start_step = 0.0, 0  # at the first step that was seen
        self.line_time = 0.0
        self.last_step = self.steps = 0  # of the training that is shown

    def __enter__(self) -> "TrainingProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.bar.disable:  # rich before 15 would print an empty line
            self.bar.stop()

    def message(self, text: str) -> None:
        """Print a message."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        """Show a step, and its validation if it has one."""
        now = time.monotonic()
        is_next_training = step <= self.last_step or steps != self.steps
        if self.doing != STEPS or is_next_training:
            self._begin(STEPS, steps, step)
            self.start_time, self.start_step = now, step
        self.last_step, self.steps = step, steps
        steps_done = step - self.start_step
        rate = steps_done / (now - self.start_time) if steps_done > 0 else 0.0
        text = f"loss {record['loss']:.3f}, {rate:.2f} steps/s"
        self.bar.update(self.task, completed=step, description=text)
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
        self.bar.update(self.task, completed=done)

    def _begin(self, doing: str, total: int | None, completed: int) -> None:
        """Replace the bar by one for other work."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task("", total=total, completed=completed, doing=doing)
        self.doing = doing
