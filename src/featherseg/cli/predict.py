"""`featherseg predict RUN PATH...`: masks, colours and overlays of images and folders of images; videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Self

import typer

from featherseg.cli.options import (
    Device,
    MemoryGb,
    ResizeTo,
    RunOrFile,
    Scales,
    Tta,
    Window,
    out_option,
    parse_inference,
    with_own_resize,
)
from featherseg.cli.predict_cluster import predict_over_cluster, refuse_options
from featherseg.cli.predict_video import find_moving
from featherseg.core.errors import ConfigError, DataError, DataNotFound, near_path, unknown
from featherseg.core.storage import StoredFile, address, is_remote, joined, list_files, write_whole
from featherseg.core.wording import one_line, size_text

if TYPE_CHECKING:
    import numpy as np

    from featherseg.cli.terminal import Console
    from featherseg.data.images import EncodedImage
    from featherseg.inference.predictor import Prediction, Predictor
    from featherseg.inference.submissions import PanopticOutput, Submission

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
    max_side: Annotated[
        int | None,
        typer.Option(help="Longer side to downscale larger images to, for the model; masks keep full size."),
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
    A video becomes NAME_overlay.mp4, or the file named by -o; after an interruption the same command continues.
    A camera is recorded until Ctrl-C. Exit code 1 if an image or frames of a video could not be read; the others
    are still written. In a bucket every file appears whole or not at all, an image's mask after its other files.
    With --cluster the masks alone are written, and predictions.jsonl, which tells of every image; the same command
    again does what is missing.
    """
    from featherseg.data.images import is_image

    if workers is not None and (cluster is None or workers < 1):
        raise ConfigError(f"--workers {workers}: expected at least 1, together with --cluster local or an address.")
    if masks and submission is not None:
        raise ConfigError("--masks is for predictions without --submission, which writes masks alone. Leave it out.")
    if is_image(output.name) and not os.path.isdir(output):
        place = address(output) if is_remote(output) else output
        raise ConfigError(f"-o {place} names an image: expected a folder, for all results. Leave out the ending.")
    if cluster is not None:
        refuse_options({"--batch": batch != 1, "--submission": submission is not None, "--overwrite": overwrite})
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
        )
        if failed:
            raise typer.Exit(1)
        return
    moving = find_moving(paths, output, submission)
    files = find_images([path for path in paths if path not in moving.paths], output)
    inference = parse_inference(window, scales, tta, resize)
    bucket = address(output) if is_remote(output) else None
    if moving.paths and (bucket or any(map(is_remote, moving.paths))):
        raise ConfigError("videos are read from and written to this machine's disk alone: copy them, or name images.")
    from featherseg.cli.terminal import Console
    from featherseg.core.files import check_folder, unique_names
    from featherseg.inference.predictor import Predictor
    from featherseg.inference.runtimes import open_runtime
    from featherseg.inference.submissions import PanopticOutput

    with nullcontext(output) if bucket is None else TemporaryDirectory(prefix="featherseg-") as folder:
        if files:
            check_folder(Path(folder))
        moving.check(masks, overwrite)
        out = Output(Path(folder), None if submission is None else find_submission(submission), masks, bucket=bucket)
        names = unique_names([Path(file.name) for file in files])
        if out.submission and names != [file.stem for file in files]:
            raise ConfigError(
                f"two images have the same name, but {submission} takes one mask per image, named like it."
            )
        runtime = open_runtime(run, device)
        if runtime.panoptic and files and not out.submission:
            out = replace(out, panoptic=PanopticOutput(out.folder, runtime.classes))
        inputs = {os.path.realpath(file) for file in paths if not is_remote(file)}
        inputs |= {os.path.realpath(file) for file in files if isinstance(file, Path)}
        if bucket is None and (own := [file for file in out.all_files(names) if os.path.realpath(file) in inputs]):
            raise ConfigError(f"{own[0]} is one of the images itself. Choose another folder with -o.")
        taken = out.existing(names)
        if taken and not overwrite:
            raise ConfigError(
                f"{taken[0]} exists, {len(taken)} files in all. Use --overwrite, or another folder with -o."
            )
        inference = with_own_resize(inference, resize, runtime)
        predictor = Predictor(runtime, batch=batch, inference=inference, memory_gb=memory_gb, max_side=max_side)
        if out.submission:
            out.submission.check(predictor.runtime.name, predictor.classes)
        console = Console(highlight=False, soft_wrap=True)
        failed = _predict_all(predictor, files, names, out, console) if files else 0
        failed += moving.run(predictor, run, masks, console) if moving.paths else 0
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Output:
    """The folder to write into, and what: mask, colours and overlay of an image, the mask alone, or a benchmark's.

    `panoptic` writes the objects that a panoptic model saw. Of a folder in a `bucket`, `folder` holds the files until
    they are put there.
    """

    folder: Path
    submission: Submission | None
    masks: bool = False
    panoptic: PanopticOutput | None = None
    bucket: str | None = None

    @property
    def kinds(self) -> str:
        """The files of an image, in words."""
        if self.submission:
            return "NAME.png"
        objects = ", panoptic/NAME.png and panoptic.json" if self.panoptic else ""
        return ("NAME_mask.png" if self.masks else "NAME_mask.png, NAME_color.png, NAME_overlay.png") + objects

    def all_files(self, names: Sequence[str]) -> list[Path]:
        """The files of all images."""
        from featherseg.inference.predictor import output_files

        if self.submission:
            return [self.submission.file(self.folder, name) for name in names]
        objects = self.panoptic.files(self.folder, names) if self.panoptic else []
        kinds = 1 if self.masks else 3
        return [file for name in names for file in output_files(self.folder, name)[:kinds]] + objects

    def existing(self, names: Sequence[str]) -> list[str]:
        """Those of them that are there already."""
        files = self.all_files(names)
        if self.bucket is None:
            return [str(file) for file in files if os.path.exists(file)]
        try:
            there = {file.address for file in list_files(self.bucket, deep=self.panoptic is not None)}
        except DataNotFound:
            return []
        return [place for place in map(self._address, files) if place in there]

    def save(self, result: Prediction, name: str, file: Path | StoredFile) -> None:
        """Write them, as NAME, of the image in `file`."""
        if self.submission:
            self.submission.save(result.mask, self.folder, name)
        elif self.masks:
            result.save(self.all_files([name])[0])
        else:
            result.save(self.folder, name)
        if self.panoptic and result.panoptic:
            self.panoptic.add(name, file.name, result.panoptic)
        self._put(self.all_files([name]))

    def finish(self) -> None:
        """Write what there is one of for all images."""
        if self.panoptic:
            self._put([self.panoptic.finish()])

    def _put(self, files: Sequence[Path]) -> None:
        """Bring files to the bucket, where it is one; the mask, the first, last: with it an image is done."""
        for file in reversed(files if self.bucket else ()):
            if file.is_file():
                write_whole(self._address(file), file.read_bytes())
                file.unlink()

    def _address(self, file: Path) -> str:
        return joined(str(self.bucket), file.relative_to(self.folder).as_posix())


def find_submission(name: str) -> Submission:
    """The benchmark of that name. Raises UnknownName."""
    from featherseg.inference.submissions import SUBMISSIONS

    if name not in SUBMISSIONS:
        raise unknown("benchmark", name, SUBMISSIONS)
    return SUBMISSIONS[name]


def find_images(paths: list[Path], output: Path) -> list[Path | StoredFile]:
    """The files themselves, and the images directly inside the folders, by name.

    Raises DataNotFound, ConfigError, DataError.
    """
    from featherseg.data.images import images_in, stored_images

    files: list[Path | StoredFile] = []
    for path in paths:
        if is_remote(path):
            if is_remote(output) and address(path) == address(output):
                raise ConfigError(f"-o {address(output)} is the folder of the images itself. Choose another folder.")
            files += stored_images(str(path))
            continue
        if not os.path.exists(path):  # Path.exists raises of a name that is too long
            raise DataNotFound(f"{path} does not exist.{near_path(path)} Expected an image or a folder of images.")
        if not path.is_dir():
            files.append(path)
            continue
        if not is_remote(output) and output.resolve() == path.resolve():
            raise ConfigError(f"-o {output} is the folder of the images itself. Choose another folder.")
        files += images_in(path)
    return files


class ReadableOnly:
    """Reads images one after the other as (H, W, C) arrays; those that cannot be read are named and passed over.

    So are those whose name is too long for the files that `out` would write. `given` are the names and files of the
    images that were given out, `failed` counts the others. Of a single image the error itself is raised. Before an
    image that needs the memory for itself, what `writer` has in hand is written.
    """

    def __init__(
        self,
        files: list[Path | StoredFile],
        names: list[str],
        predictor: Predictor,
        out: Output,
        writer: Writer,
        console: Console,
    ) -> None:
        self.files, self.names, self.predictor, self.out = files, names, predictor, out
        self.writer, self.console = writer, console
        self.given: list[tuple[str, Path | StoredFile]] = []
        self.failed = 0
        self._fetched: tuple[StoredFile, EncodedImage] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        from rich.markup import escape

        from featherseg.core.allocator import return_freed_memory
        from featherseg.core.errors import FeathersegError
        from featherseg.inference.inputs import read_ahead

        pairs = list(zip(self.names, self.files, strict=True))
        ahead = read_ahead(pairs, self._read, self._is_light)
        for pair in pairs:  # not by zip, which would hold an image while the next is read
            pixels = next(ahead)
            if isinstance(pixels, FeathersegError):
                if len(pairs) == 1 or not isinstance(pixels, DataError | ConfigError):
                    raise pixels
                self.failed += 1
                self.console.print(f"[red]left out[/] {escape(one_line(str(pixels)))}")
                continue
            if not self.predictor.is_light(pixels.shape[:2]):
                self.writer.wait()
                return_freed_memory()  # each thread has a heap of its own, which keeps some
            self.given.append(pair)
            yield pixels
            del pixels  # not held while the next is read

    def _read(self, image: tuple[str, Path | StoredFile]) -> np.ndarray:
        from featherseg.core.files import name_too_long
        from featherseg.data.images import image_size, read_image

        name, file = image
        if too_long := [written for written in self.out.all_files([name]) if name_too_long(written)]:
            raise DataError(f"{file}: {too_long[0].name} would be too long a name for a file. Rename the image.")
        source, self._fetched = self._source(file), None
        self.predictor.plan(image_size(source))  # too large for the memory is said before it is decoded
        return read_image(source, self.predictor.runtime.channels)

    def _is_light(self, image: tuple[str, Path | StoredFile]) -> bool:
        from featherseg.data.images import image_size

        return self.predictor.is_light(image_size(self._source(image[1])))

    def _source(self, file: Path | StoredFile) -> Path | EncodedImage:
        """What is read: of an object in a bucket its bytes, which are fetched once, for its size and for its pixels."""
        from featherseg.data.images import EncodedImage

        if isinstance(file, Path):
            return file
        if self._fetched is None or self._fetched[0] is not file:
            self._fetched = (file, EncodedImage(file.read(), str(file)))
        return self._fetched[1]


class Writer:
    """Writes one result in a thread while the next is computed; closed, it has written all."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()

    def write(self, save: Callable[[], None]) -> None:
        """Begin with `save`, as soon as the one before is done. Raises what that one raised."""
        self.wait()
        self._last = self._thread.submit(save)

    def wait(self) -> None:
        """Until what was begun is written. Raises what it raised."""
        if self._last:
            self._last.result()
        self._last = None


def _predict_all(
    predictor: Predictor, files: list[Path | StoredFile], names: list[str], out: Output, console: Console
) -> int:
    """Write what can be read into `out`; -> how many images could not be read."""
    from rich.markup import escape
    from rich.progress import Progress

    done, hinted = 0, False
    silent = len(files) == 1 or not console.is_terminal
    with Writer() as writer, Progress(console=console, transient=True, disable=silent) as bar:
        readable = ReadableOnly(files, names, predictor, out, writer, console)
        task = bar.add_task("predicting", total=len(files))
        for result in predictor(iter(readable)):
            name, file = readable.given[done]
            done += 1
            if predictor.is_light(result.mask.shape):
                writer.write(partial(out.save, result, name, file))
            else:
                out.save(result, name, file)
            console.print(f"{escape(one_line(name))}: {size_text(result.mask.shape)}, {result.how}")
            hinted = hinted or _print_hint(console, result, predictor)
            if len(files) == 1:
                _print_shares(console, result)
            bar.update(task, completed=done + readable.failed)
            del result  # its image and mask are not held while the next is read
        writer.wait()
    out.finish()
    written, place = len(readable.given), out.bucket or str(out.folder)
    console.print(f"{written} image{'s' * (written != 1)}: {out.kinds} in {escape(one_line(place))}")
    if readable.failed:
        console.print(f"[red]{readable.failed} of {len(files)} could not be read (named above)[/]")
    return readable.failed


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
