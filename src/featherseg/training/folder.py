"""The run folder of one training process: locked while it trains, cleared if no step was taken."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featherseg.core.errors import RunError
from featherseg.core.files import (
    LOCK,
    check_folder,
    locked,
    read_lines,
    refuse_links,
    remove_tree,
)
from featherseg.reports.progress import PROGRESS
from featherseg.runs.run import BATCH, CHECKPOINT, DATA, ENVIRONMENT, LABELS, METRICS, RESOLVED
from featherseg.training.batches import CLASS_POINTS, RARE_CLASSES
from featherseg.training.self_training import FIRST

TENSORBOARD, WANDB, TRACKERS = "tensorboard", "wandb", "trackers.json"

BEGINNINGS = (
    *("recipe.toml", ENVIRONMENT, CLASS_POINTS, RARE_CLASSES, DATA, METRICS),
    *(TENSORBOARD, WANDB, TRACKERS, LABELS, BATCH),
)
"""Files written before the first step, besides resolved.json, which makes a folder a run."""

RANK_WAIT_SECONDS = 600
"""How long the other processes wait for rank 0 to begin a run folder."""


def refuse_existing(out: Path, *, resume: bool = False) -> None:
    """Raise RunError if a training in `out` would overwrite something; with `resume` a run is kept.

    What a killed training left before its first step may be overwritten.
    """
    if resume and _is_begun(out):
        return
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    leftover = LOCK in names and all(
        name in (LOCK, *BEGINNINGS) or name.endswith(".tmp") for name in names
    )
    if out.exists() and not leftover and (names or not out.is_dir()):
        problem = (
            "contains files, but no run to resume"
            if resume
            else "already exists. Add --resume to continue it"
        )
        raise RunError(
            f"{out} {problem}, or choose another folder with --out; nothing was changed."
        )


@contextmanager
def lock_folder(out: Path, *, resume: bool) -> Iterator[None]:
    """Let only this process train in `out`. The lock ends with the process, however it ends."""
    refuse_existing(out, resume=resume)
    is_new = not out.exists()
    check_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    # wandb keeps links of its own in its folder
    linked = [WANDB] if (out / WANDB).is_symlink() else []
    refuse_links(out, METRICS, TENSORBOARD, PROGRESS, *linked)
    error = RunError(f"another process is training in {out}. Wait for it or stop it first.")
    with locked(out / LOCK, error):
        try:
            yield
        finally:
            if is_new and not _is_begun(out):  # refused: leave no folder behind
                shutil.rmtree(out, ignore_errors=True)  # Windows keeps the lock file while locked


def _is_begun(out: Path) -> bool:
    """Whether a folder is a run, or has the first run of a self-training."""
    return any((folder / RESOLVED).is_file() for folder in (out, out / FIRST))


def remove_unbegun(out: Path) -> None:
    """Remove what a training wrote if it failed before its first step, so that it can run again."""
    steps = (record.get("step") for record in read_lines(out / METRICS))
    if (out / CHECKPOINT).is_file() or any(isinstance(step, int) for step in steps):
        return
    for name in (RESOLVED, *BEGINNINGS):  # first the file that makes it a run
        remove_tree(out / name)


def wait_for_rank_zero(out: Path) -> None:
    """Wait until rank 0 of a distributed training has begun the run folder. Raises RunError.

    Once rank 0 holds the lock it may take any time: it may read every image and mask first.
    """
    start = time.monotonic()
    while not (out / RESOLVED).is_file():
        if time.monotonic() - start > RANK_WAIT_SECONDS and not (out / LOCK).is_file():
            raise RunError(f"rank 0 did not begin a run at {out} within {RANK_WAIT_SECONDS} s.")
        time.sleep(0.5)
