"""`featherseg predict RUN PATH...`: masks, colours and overlays of images and folders of images; videos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import (
    Device,
    MemoryGb,
    ResizeTo,
    RunOrFile,
    Scales,
    Threads,
    Trust,
    Tta,
    Window,
    out_option,
    parse_inference,
    with_own_resize,
)
from featherseg.cli.predict_cluster import predict_over_cluster, refuse_options
from featherseg.cli.predict_video import find_moving
from featherseg.core.errors import ConfigError
from featherseg.core.storage import is_remote
from featherseg.core.wording import counted, one_line, size_text

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.inference.folder import Output
    from featherseg.inference.predictor import Prediction, Predictor

LARGER_THAN_TRAINED = 2.0
"""Sides beyond this multiple of the training images' earn a hint: things are larger than the model ever saw."""


def predict(
    run: RunOrFile,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders of images, or videos; camera or camera:N, where no file or folder is called so; of "
            "images also s3://BUCKET/FOLDER.",
            metavar="PATH...",
        ),
    ],
    output: Annotated[
        Path,
        out_option("The output folder, also s3://BUCKET/FOLDER; for one video or a camera, a .mp4 or .webm."),
    ] = Path("predictions"),
    device: Device = "auto",
    batch: Annotated[int, typer.Option(help="Batch size, for images of the same size.")] = 1,
    tta: Tta = None,
    scales: Scales = "1",
    window: Window = None,
    resize: ResizeTo = None,
    memory_gb: MemoryGb = 4.0,
    threads: Threads = None,
    trust: Trust = False,
    max_side: Annotated[
        int | None,
        typer.Option(help="Longer side to downscale larger images to, before --scales; masks keep full size."),
    ] = None,
    submission: Annotated[
        str | None,
        typer.Option(
            metavar="BENCHMARK", help="Write only NAME.png, in the format of the cityscapes or bdd100k benchmark."
        ),
    ] = None,
    masks: Annotated[
        bool,
        typer.Option("--masks", help="Of images, write the masks alone; of a video, also the masks, a PNG per frame."),
    ] = False,
    probabilities: Annotated[
        str | None,
        typer.Option(
            metavar="npz|png",
            help="Also write those of all classes, NAME_probabilities.npz, or of the mask's, NAME_confidence.png.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite existing predictions.")] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS", help="Write the masks of one folder by many processes, by Ray: docs/scale.md."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="With --cluster: how many processes [default: this machine's cores].")
    ] = None,
) -> None:
    """Write NAME_mask.png (class indices with a palette), NAME_color.png and NAME_overlay.png for every image.

    A panoptic model also writes its objects in the official format: panoptic/NAME.png and panoptic.json.
    With --submission cityscapes the masks hold that benchmark's label ids, with --submission bdd100k its train ids.
    A video becomes NAME_overlay.mp4, or the file named by -o. After an interruption the same command continues; images
    that are listed in the folder's predictions.jsonl and have not changed since are not predicted again.
    A camera is recorded until Ctrl-C. Exit code 1 if an image or frames of a video could not be read, or the model does
    not take an image's size; the others are still written. In a bucket every file appears whole or not at all, an
    image's mask after its other files.
    With --cluster the masks alone are written, and predictions.jsonl, which tells of every image; the same command
    again does what is missing.
    """
    from featherseg.data.images.decoding import find_images, folders_of_images, refuse_image_name

    # Options that do not go together
    if workers is not None and (cluster is None or workers < 1):
        raise ConfigError(f"--workers {workers}: expected at least 1, together with --cluster local or an address.")
    for option, given in {"--masks": masks, "--probabilities": probabilities}.items():
        if given and submission is not None:
            raise ConfigError(
                f"{option} is for predictions without --submission, which writes masks alone. Leave it out."
            )
    refuse_image_name(output)

    # Over a cluster: masks alone, by a way of its own
    if cluster is not None:
        unfit = {"--batch": batch != 1, "--submission": submission is not None, "--overwrite": overwrite}
        refuse_options(unfit | {"--threads": threads is not None, "--probabilities": probabilities is not None})
        failed = predict_over_cluster(
            run,
            paths,
            output,
            cluster=cluster,
            workers=workers,
            device=device,
            inference=parse_inference(window, scales, tta, resize),
            resize=resize,
            memory_gb=memory_gb,
            max_side=max_side,
            trust=trust,
        )
        if failed:
            raise typer.Exit(1)
        return

    # What the paths are: videos or a camera, images, folders of images
    moving = find_moving(paths, output, submission)
    files = find_images([path for path in paths if path not in moving.paths], output)
    inference = parse_inference(window, scales, tta, resize)
    if moving.paths and any(map(is_remote, (output, *moving.paths))):
        raise ConfigError("videos are read from and written to this machine's disk alone: copy them, or name images.")
    if moving.paths and probabilities is not None:
        raise ConfigError("--probabilities is for images: save a video's frames as images to get theirs.")
    from rich.markup import escape

    from featherseg.cli.terminal import Console
    from featherseg.inference.folder import OutputSettings, is_alone, open_output
    from featherseg.inference.predictor import Predictor
    from featherseg.inference.runtimes import open_runtime
    from featherseg.inference.video.read import is_video

    # All that would be in the way is refused; then the images, after them the videos
    with open_output(output, files, OutputSettings(masks, submission, overwrite, probabilities)) as out:
        moving.check(masks, overwrite)
        runtime = open_runtime(run, device, threads, trust=trust)
        inference = with_own_resize(inference, resize, runtime)
        predictor = Predictor(runtime, batch=batch, inference=inference, memory_gb=memory_gb, max_side=max_side)
        out.check(predictor)
        console = Console(highlight=False, soft_wrap=True)
        if runtime.how_far:
            console.print(f"NOTE: {runtime.how_far}.", markup=False)
        for folder in [path for path in paths if not is_remote(path) and os.path.isdir(path)]:
            where = escape(one_line(str(folder)))
            if videos := sum(is_video(file) for file in folder.iterdir()):
                console.print(f"{where}: images alone are taken, not {counted(videos, 'video')}; name videos as files")
            if deeper := [inside for inside in folders_of_images(folder) if inside.resolve() != output.resolve()]:
                left = f"{counted(len(deeper), 'folder')} in it ({escape(one_line(deeper[0].name))})"
                console.print(f"{where}: its own images are taken, not those of {left}; name each folder of images")
        failed = _predict_images(predictor, out, console, alone=is_alone(paths, files)) if files else 0
        failed += moving.run(predictor, run, masks, console) if moving.paths else 0
    if failed:
        raise typer.Exit(1)


def _predict_images(predictor: Predictor, out: Output, console: Console, *, alone: bool) -> int:
    """Write the images' predictions and tell of each; -> how many were left out. The error of one `alone` is raised."""
    from rich.markup import escape
    from rich.progress import Progress

    from featherseg.core.errors import FeathersegError
    from featherseg.core.files import short_names
    from featherseg.inference.folder import write_predictions

    files = dict(zip(out.names, short_names([Path(str(file)) for file in out.files]), strict=True))
    done, failed, hinted, place = len(out.resumed), 0, False, escape(one_line(out.place))
    if out.resumed and not out.waiting:
        console.print(f"nothing left to do: {counted(done, 'image')} predicted in {place}")
        return 0
    if out.resumed:
        console.print(f"{done} of {len(out.files)} images are in {place} already: going on with the others")
    silent = len(out.files) == 1 or not console.is_terminal
    with Progress(console=console, transient=True, disable=silent) as bar:
        task = bar.add_task("predicting", total=len(out.files), completed=done)

        def told(name: str, found: Prediction | FeathersegError) -> None:
            nonlocal done, failed, hinted
            if isinstance(found, FeathersegError):
                failed += 1
                console.print(f"[red]left out[/] {escape(one_line(str(found)))}")
                return
            done += 1
            # NAME is numbered where another image has it: then the file is told
            shown = name if name == Path(files[name]).stem else f"{name} ({files[name]})"
            console.print(f"{escape(one_line(shown))}: {size_text(found.mask.shape)}, {found.how}")
            hinted = hinted or _print_hint(console, found, predictor)
            if len(out.files) == 1:
                _print_shares(console, found)
            bar.update(task, completed=done + failed)

        try:
            written = write_predictions(predictor, out, told, alone=alone)
        except KeyboardInterrupt:
            console.print(f"stopped with {done} of {len(out.files)} images done: the same command does the rest")
            raise
    console.print(f"{counted(done, 'image')}: {out.kinds} in {place}")
    for note in written.notes:
        console.print(note, markup=False)
    if failed:
        console.print(f"[red]{failed} of {len(out.files)} left out (named above)[/]")
    return failed


def _print_hint(console: Console, result: Prediction, predictor: Predictor) -> bool:
    """Say so where an image is far larger than those of the training; -> whether it was said."""
    from rich.markup import escape

    trained = predictor.runtime.image_size
    if trained is None or predictor.max_side is not None or predictor.inference.resize is not None:
        return False
    height, width = result.mask.shape
    if max(height / trained[0], width / trained[1]) <= LARGER_THAN_TRAINED:
        return False
    model = escape(one_line(predictor.runtime.name))
    console.print(
        f"[yellow]hint[/] {model} was trained on images of {size_text(trained)}; in this one, objects may be larger "
        f"than in training. If the mask is poor, try --max-side {max(trained)}."
    )
    return True


def _print_shares(console: Console, result: Prediction) -> None:
    from featherseg.inference.drawing import printable

    shares = sorted(result.shares.items(), key=lambda item: -item[1])
    console.print_table(("class", "share"), [(printable(name), f"{share:.1%}") for name, share in shares if share > 0])
