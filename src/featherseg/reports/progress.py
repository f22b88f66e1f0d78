"""The predictions of a few validation images over a training: RUN/progress, a file per column."""

import re
from pathlib import Path

PROGRESS = "progress"
IMAGE, LABEL = "image.webp", "ground-truth.webp"


def strip_name(step: int) -> str:
    """Return the name of the column of a step."""
    return f"step-{step:07d}.webp"


def read_strips(run_path: Path) -> list[tuple[str, Path]]:
    """Return (heading, file) of every column: image, ground truth, then steps in order.

    Files that a link places outside are skipped, because a page would show their content.
    """
    folder = run_path / PROGRESS
    names = [(IMAGE, "image"), (LABEL, "ground truth")]
    steps = [
        (file.name, f"step {int(match[1]):,}")
        for file in (folder.iterdir() if folder.is_dir() else ())
        if (match := re.fullmatch(r"step-(\d{7,12})\.webp", file.name))
    ]
    inside = run_path.resolve() / PROGRESS
    files = [(heading, folder / name) for name, heading in (*names, *sorted(steps))]
    return [
        (heading, file)
        for heading, file in files
        if file.is_file() and file.resolve().parent == inside
    ]
