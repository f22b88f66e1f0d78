"""`featherseg predict RUN PATH...`: masks, colours and overlays of images, folders and videos."""

from __future__ import annotations

import time
from contextlib import closing
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
)
from featherseg.core.wording import one_line, size_text

if TYPE_CHECKING:
    from rich.progress import Progress

    from featherseg.cli.terminal import Console
    from featherseg.inference.predictor import Prediction

LINE_SECONDS = 60
"""Seconds between two lines of progress without a terminal."""


def predict(
    run: RunOrFile,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Images, folders of images, or videos; camera or camera:N, if no file or folder "
            "has this name; for images also s3://BUCKET/FOLDER.",
            metavar="PATH...",
        ),
    ],
    output: Annotated[
        Path,
        out_option(
            "The output folder, also s3://BUCKET/FOLDER; for one video or a camera, a .mp4 or "
            ".webm."
        ),
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
        typer.Option(
            help="Longer side to downscale larger images to, before --scales; masks keep the full "
            "size."
        ),
    ] = None,
    submission: Annotated[
        str | None,
        typer.Option(
            metavar="BENCHMARK",
            help="Write masks as NAME.png, in the format of the cityscapes or bdd100k benchmark.",
        ),
    ] = None,
    masks: Annotated[
        bool,
        typer.Option(
            "--masks",
            help="Of images, write the masks alone; of a video, also the masks, a PNG per frame.",
        ),
    ] = False,
    probabilities: Annotated[
        str | None,
        typer.Option(
            metavar="npz|png",
            help="Also write those of all classes, NAME_probabilities.npz, or of the mask's, "
            "NAME_confidence.png.",
        ),
    ] = None,
    palette: Annotated[
        str | None,
        typer.Option(
            metavar="bright|CLASS=#RRGGBB,...",
            help="Other colours than the model's: bright, which all readers tell apart, or those "
            "of some classes.",
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option(help="Opacity of the colours in overlays, 0 to 1.", metavar="SHARE")
    ] = 0.5,
    contour: Annotated[
        bool,
        typer.Option("--contour/--no-contour", help="Outline classes or objects in overlays."),
    ] = True,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMAT,...",
            help="Also write -o/FORMAT: coco, geojson, csv (areas), labelme, cvat, yolo.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite existing predictions.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS",
            help="Write the masks of one folder by many processes, by Ray: docs/scale.md.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="With --cluster: how many processes [default: this machine's cores]."),
    ] = None,
) -> None:
    """Write NAME_mask.png, NAME_color.png and NAME_overlay.png for every image.

    The mask has class indices with a palette. The overlay leaves a class named background, and a
    class in black, as they are. A panoptic model also writes its objects in the
    official format: panoptic/NAME.png and panoptic.json. With --submission cityscapes the masks
    have that benchmark's label ids, with --submission bdd100k its train ids. A video becomes
    NAME_overlay.mp4, or the file named by -o. The polygons of --to are at most 1 pixel off the
    outlines of the masks; `convert --to` writes exact ones. A camera is recorded until
    Ctrl-C.
    After an interruption the same command continues: images that predictions.jsonl in the folder
    lists are not predicted again, unless they have changed. In a bucket every file appears complete
    or not at all, the mask of an image after its other files.
    With --cluster only the masks are written, and predictions.jsonl, which lists every image; the
    same command again does what is missing.
    Exit code 1 if an image or frames of a video could not be read, or the model does not take an
    image's size; the others are still written.
    """
    changes = parse_inference(window, scales, tta, resize)
    formats = tuple(dict.fromkeys(name.strip() for name in (to or "").split(",") if name.strip()))
    import featherseg
    from featherseg.cli.terminal import Console
    from featherseg.inference.output import OutputSettings

    with closing(PredictConsole(Console(highlight=False, soft_wrap=True))) as reporter:
        result = featherseg.predict(
            run,
            paths,
            out=output,
            device=device,
            batch=batch,
            inference=changes or None,
            memory_gb=memory_gb,
            max_side=max_side,
            threads=threads,
            settings=OutputSettings(
                masks, submission, overwrite, probabilities, palette, alpha, contour, formats
            ),
            trust=trust,
            cluster=cluster,
            workers=workers,
            progress=reporter,
        )
    if not result.complete:
        raise typer.Exit(1)


class PredictConsole:
    """A `PredictReporter` that prints a line for each image, and a bar for long work.

    Without a terminal a line every LINE_SECONDS replaces the bar.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.done = self.first = 0
        self.total: int | None = None
        self.began = self.printed = time.monotonic()

    def close(self) -> None:
        """End the bar."""
        if self.bar:
            self.bar.stop()

    def message(self, text: str) -> None:
        """Print a sentence."""
        self.console.print(one_line(text), markup=False)

    def skipped(self, reason: str) -> None:
        """Print why an image or a video is skipped."""
        from rich.markup import escape

        self.console.print(f"[red]left out[/] {escape(one_line(reason))}")

    def predicted(self, name: str, result: Prediction, images: int) -> None:
        """Print how an image was predicted, and the shares of its classes if it is the only one."""
        from featherseg.inference.drawing import printable

        self.message(f"{name}: {size_text(result.mask.shape)}, {result.how}")
        if images == 1:
            shares = sorted(result.shares.items(), key=lambda item: -item[1])
            rows = [(printable(name), f"{share:.1%}") for name, share in shares if share > 0]
            self.console.print_table(("class", "share"), rows)

    def progress(self, doing: str, done: int, total: int | None) -> None:
        """Draw how far the work is. The rate does not count what an earlier command did."""
        from rich.markup import escape
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        now = time.monotonic()
        # The next piece of work, such as another video
        if done < self.done or total != self.total:
            self.close()
            self.bar, self.first, self.began, self.printed = None, done, now, now
        self.done, self.total = done, total
        rate = (done - self.first) / (now - self.began) if now > self.began else 0.0

        if self.console.is_terminal and total != 1:
            if self.bar is None:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[rate]}/s"),
                    TimeRemainingColumn(),
                )
                self.bar = Progress(*columns, console=self.console, transient=True)
                self.bar.add_task("")
                self.bar.start()
            self.bar.update(
                self.bar.task_ids[0],
                description=escape(one_line(doing)),
                completed=done,
                total=total,
                rate=f"{rate:.1f}" if rate else "-",
            )
        elif not self.console.is_terminal and now - self.printed >= LINE_SECONDS:
            self.printed = now
            of = "" if total is None else f" of {total}"
            self.message(f"{doing}: {done}{of}, {rate:.1f} a second")
