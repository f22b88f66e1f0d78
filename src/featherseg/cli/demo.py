"""`featherseg demo`: the whole job on synthetic street scenes, by commands that a user types."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import out_option
from featherseg.core.errors import FeathersegError
from featherseg.core.wording import one_line

TRAIN = ("lightning", "tensorboard")
EXPORT = ("onnx", "onnxscript", "onnxruntime")
"""Packages of the extras [train] and [export]."""


def demo(
    output: Annotated[Path, out_option("The folder to write, a new one.")] = Path("demo"),
) -> None:
    """Train, evaluate, predict, export and report on synthetic street scenes.

    It needs only this package. Every step is a command, which is printed. Training starts from the
    included model and takes 40 steps. Without the extra [train] the included model is used instead
    of a trained one; without [export] the exported file is PyTorch's (.pt2) instead of ONNX.
    """
    empty = output.is_dir() and not any(output.iterdir())
    if output.is_symlink() or (output.exists() and not empty):
        raise FeathersegError(f"{output} exists and is not empty. Choose a new folder with -o.")
    from featherseg.core.files import check_folder

    check_folder(output)
    write_scenes(output / "scenes", 4)
    for title, *words in steps(output, trains=_installed(TRAIN), exports=_installed(EXPORT)):
        print(f"\n== {one_line(title)}", flush=True)
        if words:
            print(f"$ featherseg {one_line(shlex.join(words))}", flush=True)
            run_command(words)
    print(
        f"\nDone. Open {one_line(str(output / 'report.html'))}; the predicted scenes are in "
        f"{one_line(str(output / 'predictions'))}."
    )


def steps(output: Path, *, trains: bool, exports: bool) -> list[tuple[str, ...]]:
    """Return the steps of the demo: (title, words of the command).

    A title without a command says which step is skipped, and how to install what it needs.
    """
    from featherseg.runs.run import STARTER

    folder = str(output)
    run = f"{folder}/run" if trains else STARTER
    kind, name = ("onnx", "model.onnx") if exports else ("torch-export", "model.pt2")
    file = f"{run}/export/{name}" if trains else f"{folder}/{name}"
    place = [] if trains else ["-o", file]
    trust = [] if exports else ["--trust"]
    short = (  # some 20 s of two cores
        "--set data.train_size=80 --set data.val_size=20 --set train.steps=40 "
        "--set train.batch_size=4 --set train.lr=5e-4 --no-report"
    )
    train = f"train efficientvit-seg-b0 --init {STARTER} --data shapes {short} --out".split()
    training: tuple[str, ...] = ("Train, from the included model", *train, run)
    if not trains:
        training = (
            f"Not trained: pip install 'featherseg[train]' first. The included {STARTER} is used",
        )
    predict = ("predict", run, f"{folder}/scenes", "-o", f"{folder}/predictions")
    from_file = ("predict", file, f"{folder}/scenes", "-o", f"{folder}/from-file", *trust)
    return [
        training,
        ("Evaluate on unseen scenes", "evaluate", run, *["--data", "shapes", "--split", "test"]),
        ("Predict four of them", *predict),
        *([] if exports else [("No ONNX file: pip install 'featherseg[export]' first",)]),
        ("Export, and compare the file with the model", "export", run, "--format", kind, *place),
        ("Predict with the exported file", *from_file),
        ("Report", "report", run, "-o", f"{folder}/report.html"),
    ]


def run_command(words: list[str]) -> None:
    """Run a verb in this process. Raises typer.Exit if its exit code is not 0."""
    from featherseg.cli import build_app

    code = typer.main.get_command(build_app()).main(
        words, prog_name="featherseg", standalone_mode=False
    )
    if code:
        raise typer.Exit(code)


def write_scenes(folder: Path, count: int) -> None:
    """Write test scenes of the synthetic dataset as PNG files."""
    from PIL import Image

    from featherseg.data import open_dataset

    folder.mkdir(parents=True)
    scenes = open_dataset("shapes", "test", size=count)
    for index, key in enumerate(scenes.keys):
        Image.fromarray(scenes[index].image).save(folder / f"{key.replace('/', '_')}.png")


def _installed(packages: tuple[str, ...]) -> bool:
    return all(find_spec(package) for package in packages)
