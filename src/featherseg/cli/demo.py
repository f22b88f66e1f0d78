"""`featherseg demo`: the whole job on synthetic street scenes, small, by the commands that a user would type."""

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


def demo(
    output: Annotated[Path, out_option("The folder to write, a new one.")] = Path("demo"),
) -> None:
    """Train, evaluate, predict, export and report on synthetic street scenes; needs nothing but the package.

    Every step is a command, and is printed. Training starts from the model that is included and takes 40 steps. Without
    the extra [train] the included model takes the place of the trained one; without [export] the exported file is
    PyTorch's own (.pt2) in place of ONNX.
    """
    if output.is_symlink() or (
        output.exists() and not (output.is_dir() and not any(output.iterdir()))
    ):
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
        f"\nDone. Open {one_line(str(output / 'report.html'))}; the predicted scenes are in {output / 'predictions'}."
    )


def steps(output: Path, *, trains: bool, exports: bool) -> list[tuple[str, ...]]:
    """What happens to the scenes in `output`: (title, words of the command); a title alone says what is left out."""
    from featherseg.runs.run import STARTER

    folder = str(output)
    run = f"{folder}/run" if trains else STARTER
    kind, name = ("onnx", "model.onnx") if exports else ("torch-export", "model.pt2")
    file = f"{run}/export/{name}" if trains else f"{folder}/{name}"
    place = [] if trains else ["-o", file]
    trust = [] if exports else ["--trust"]
    length = (
        "data.train_size=80",
        "data.val_size=20",
        "train.steps=40",
        "train.batch_size=4",
        "train.lr=5e-4",
    )
    settings = [
        "--data",
        "shapes",
        *(word for setting in length for word in ("--set", setting)),
        "--no-report",
    ]
    found: list[tuple[str, ...]] = []
    if trains:
        train = ("train", "efficientvit-seg-b0", "--init", STARTER, *settings, "--out", run)
        found.append(("Train, from the model that is included", *train))
    else:
        found.append(
            (
                f"Not trained, as that needs: pip install 'featherseg[train]'. The included {STARTER} is used",
            )
        )
    found += [
        (
            "Evaluate on scenes it has not seen",
            "evaluate",
            run,
            "--data",
            "shapes",
            "--split",
            "test",
        ),
        ("Predict four of them", "predict", run, f"{folder}/scenes", "-o", f"{folder}/predictions"),
    ]
    if not exports:
        found.append(("No ONNX file, as that needs: pip install 'featherseg[export]'",))
    return [
        *found,
        ("Export, and compare the file with the model", "export", run, "--format", kind, *place),
        (
            "Predict with the exported file",
            "predict",
            file,
            f"{folder}/scenes",
            "-o",
            f"{folder}/from-file",
            *trust,
        ),
        ("Report", "report", run, "-o", f"{folder}/report.html"),
    ]


def run_command(words: list[str]) -> None:
    """Run a verb in this process. Raises typer.Exit where it ends with another code than 0."""
    from featherseg.cli import build_app

    code = typer.main.get_command(build_app()).main(
        words, prog_name="featherseg", standalone_mode=False
    )
    if code:
        raise typer.Exit(code)


def write_scenes(folder: Path, count: int) -> None:
    """Test scenes of the synthetic dataset, as PNG files."""
    from PIL import Image

    from featherseg.data import open_dataset

    folder.mkdir(parents=True)
    scenes = open_dataset("shapes", "test", size=count)
    for index, key in enumerate(scenes.keys):
        Image.fromarray(scenes[index].image).save(folder / f"{key.replace('/', '_')}.png")


def _installed(packages: tuple[str, ...]) -> bool:
    return all(find_spec(package) for package in packages)
