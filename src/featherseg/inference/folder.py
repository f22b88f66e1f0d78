"""Images in, a folder of predictions out, on a disk or in a bucket: masks, colours, overlays, objects, submissions.

`open_output` and `Output.check` refuse what can be refused; then `write_predictions` keeps model and disk busy at once.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np

from featherseg.core.allocator import return_freed_memory
from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, unknown
from featherseg.core.files import check_folder, name_too_long, unique_names
from featherseg.core.notebook import html_table
from featherseg.core.storage import StoredFile, address, is_remote, joined, list_files, write_whole
from featherseg.core.types import Progress
from featherseg.core.wording import counted
from featherseg.data.images import EncodedImage, find_images, image_size, read_image, refuse_image_name
from featherseg.inference.inputs import read_ahead
from featherseg.inference.predictor import Prediction, Predictor, output_files
from featherseg.inference.runtimes import Runtime
from featherseg.inference.submissions import SUBMISSIONS, PanopticOutput

ImageFile = Path | StoredFile

Told = Callable[[str, Prediction | FeathersegError], object]
"""Called of every image with its name, and what was predicted for it or why it could not be read."""

LISTED_EVERY, LISTING_SHARE = 30.0, 0.05
"""Seconds after which panoptic.json is written again while images are predicted; with a long list, of which that takes
long, more: it takes at most this share of the time. What was predicted since is not listed where a command is killed.
"""


@dataclass(frozen=True)
class OutputSettings:
    """What is written of an image: NAME_mask.png, NAME_color.png, NAME_overlay.png, by a panoptic model its objects.

    Args:
        masks: NAME_mask.png in place of these three.
        submission: NAME.png alone, in the format of a benchmark: cityscapes or bdd100k.
        overwrite: Replace files that are there.

    Raises:
        ConfigError: masks and submission are both asked for.
    """

    masks: bool = False
    submission: str | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.masks and self.submission is not None:
            raise ConfigError("masks and submission: a submission holds masks alone. Give one of them.")


DEFAULTS = OutputSettings()


@dataclass(frozen=True)
class PredictedFolder:
    """Where predictions were written; names: NAME of every image that has them; left_out: why others have none."""

    folder: str
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        title = f"{self.folder}: {counted(len(self.names), 'image')}"
        return html_table(title, ("image",), [(name,) for name in self.names[:20]], self.left_out)


class Output:
    """The folder to write into, and what becomes of each of `files` there, under its name in `names`.

    Of a folder in a `bucket`, `folder` holds the files until they are put there. Raises UnknownName for a benchmark,
    ConfigError where two images would be one file of a submission.
    """

    def __init__(
        self, folder: Path, files: Sequence[ImageFile], settings: OutputSettings, bucket: str | None = None
    ) -> None:
        self.folder, self.files, self.settings, self.bucket = folder, files, settings, bucket
        if (benchmark := settings.submission) is not None and benchmark not in SUBMISSIONS:
            raise unknown("benchmark", benchmark, SUBMISSIONS)
        self.submission = None if benchmark is None else SUBMISSIONS[benchmark]
        self.names = unique_names([Path(file.name) for file in files])
        if self.submission and self.names != [file.stem for file in files]:
            raise ConfigError(
                f"two images have the same name, but {benchmark} takes one mask per image, named like it."
            )
        self.panoptic: PanopticOutput | None = None
        self._list_at = time.monotonic() + LISTED_EVERY

    @property
    def place(self) -> str:
        """The folder or the address that was asked for."""
        return self.bucket or str(self.folder)

    @property
    def kinds(self) -> str:
        """The files of an image, in words."""
        if self.submission:
            return "NAME.png"
        objects = ", panoptic/NAME.png and panoptic.json" if self.panoptic else ""
        return ("NAME_mask.png" if self.settings.masks else "NAME_mask.png, NAME_color.png, NAME_overlay.png") + objects

    def check(self, runtime: Runtime) -> None:
        """Raises ConfigError where files of this model's predictions would replace others, or an image itself.

        DataError where panoptic.json, which goes on listing earlier images, cannot be read or has other classes.
        """
        if runtime.panoptic and self.files and not self.submission:
            self.panoptic = PanopticOutput(self.folder, runtime.classes)
        written, there = self.all_files(self.names), dict[str, StoredFile]()
        if self.bucket is None:
            images = {os.path.realpath(file) for file in self.files if isinstance(file, Path)}
            if own := [file for file in written if os.path.realpath(file) in images]:
                raise ConfigError(f"{own[0]} is one of the images itself. Choose another folder with -o.")
            taken = [str(file) for file in written if os.path.exists(file)]
        else:
            with suppress(DataNotFound):
                there = {file.address: file for file in list_files(self.bucket, deep=self.panoptic is not None)}
            taken = [place for place in map(self._address, written) if place in there]
        if taken and not self.settings.overwrite:
            raise ConfigError(
                f"{taken[0]} exists, {len(taken)} files in all. Use --overwrite, or another folder with -o."
            )
        if self.panoptic:
            listed = self.panoptic.writer.path
            if stored := there.get(self._address(listed)):
                listed.write_bytes(stored.read())
            if listed.exists():
                exists = (lambda file: self._address(file) in there) if self.bucket else Path.is_file
                self.panoptic.keep(self.names, exists, self._address(listed) if self.bucket else str(listed))

    def all_files(self, names: Sequence[str]) -> list[Path]:
        """The files of images of these names, without what there is one of for all."""
        if self.submission:
            return [self.submission.file(self.folder, name) for name in names]
        objects = self.panoptic.files(names) if self.panoptic else []
        kinds = 1 if self.settings.masks else 3
        return [file for name in names for file in output_files(self.folder, name)[:kinds]] + objects

    def save(self, result: Prediction, name: str, file: ImageFile) -> None:
        """Write the files of the image in `file`, as NAME."""
        if self.submission:
            self.submission.save(result.mask, self.folder, name)
        elif self.settings.masks:
            result.save(self.all_files([name])[0])
        else:
            result.save(self.folder, name)
        if self.panoptic and result.panoptic:
            self.panoptic.add(name, file.name, result.panoptic)
        self._put(self.all_files([name]))
        if time.monotonic() >= self._list_at:
            self.finish()

    def finish(self) -> None:
        """Write what there is one of for all images, where any was saved; called by `save` too, from time to time."""
        began = time.monotonic()
        if self.panoptic and self.panoptic.added:
            self._put([self.panoptic.finish()])
        ended = time.monotonic()
        self._list_at = ended + max(LISTED_EVERY, (ended - began) / LISTING_SHARE)

    def _put(self, files: Sequence[Path]) -> None:
        """Bring files to the bucket, where it is one; the mask, the first, last: with it an image is done."""
        for file in reversed(files if self.bucket else ()):
            if file.is_file():
                write_whole(self._address(file), file.read_bytes())
                file.unlink()

    def _address(self, file: Path) -> str:
        return joined(str(self.bucket), file.relative_to(self.folder).as_posix())


@contextmanager
def open_output(place: Path, files: Sequence[ImageFile], settings: OutputSettings) -> Iterator[Output]:
    """The folder, or address in a bucket, that predictions of `files` go to. Raises what `Output` does.

    FeathersegError where nothing can be written there.
    """
    if is_remote(place):
        with TemporaryDirectory(prefix="featherseg-") as folder:
            yield Output(Path(folder), files, settings, address(place))
    else:
        if files:
            check_folder(place)
        yield Output(place, files, settings)


def is_alone(paths: Sequence[str | Path], files: Sequence[ImageFile]) -> bool:
    """Whether `files`, which were found by `paths`, are one image that was named itself."""
    return len(paths) == len(files) == 1 and not os.path.isdir(paths[0])


def write_predictions(predictor: Predictor, output: Output, told: Told, *, alone: bool = False) -> PredictedFolder:
    """Write what can be read, and is of a size that the model takes. Other images are told and left out.

    alone: nothing else was asked for than this image, so that its error is raised. The next image is read and the last
    is written while the model works, where the memory has room for them. Raises ConfigError where the model's classes
    are not the benchmark's, FeathersegError where nothing can be written.
    """
    if output.submission:
        output.submission.check(predictor.runtime.name, predictor.classes)
    try:
        with Writer() as writer:
            readable, names = ReadableOnly(predictor, output, writer, told, alone), list[str]()
            for result in predictor(iter(readable)):  # not by enumerate, which would hold the last result
                name, file = readable.given[len(names)]
                names.append(name)
                if predictor.is_light(result.mask.shape):
                    writer.write(partial(output.save, result, name, file))
                else:
                    writer.wait()  # one image is saved at a time
                    output.save(result, name, file)
                told(name, result)
                del result  # its image and mask are not held while the next is read
            writer.wait()
    finally:  # also of a command that is stopped: what it wrote is listed
        output.finish()
    return PredictedFolder(output.place, tuple(names), tuple(readable.left_out))


def write_folder(
    predictor: Predictor, images: Any, out: str | Path, settings: OutputSettings, progress: Progress
) -> PredictedFolder:
    """What `featherseg.predict` does with `out`; images: paths of images or folders, or a list of them.

    Raises ConfigError for images that are no paths and an `out` that is named like an image, and what `find_images`,
    `open_output`, `Output.check` and `write_predictions` raise.
    """
    paths = images if isinstance(images, list | tuple) else [images]
    if not all(isinstance(path, str | Path) for path in paths):
        raise ConfigError("with out, images are paths of images or folders: what is written is named like them.")
    refuse_image_name(Path(out))
    files = find_images([Path(path) for path in paths], Path(out))
    done = count(1)
    with open_output(Path(out), files, settings) as output:
        output.check(predictor.runtime)

        def told(*_: object) -> None:
            progress("predicting", next(done), len(files))

        return write_predictions(predictor, output, told, alone=is_alone(paths, files))


class ReadableOnly:
    """Reads images one after the other as (H, W, C) arrays; those that cannot be read are told and left out.

    So are those of a size that the model does not take, and those whose name is too long for the files that `output`
    would write. `given` are the names and files of the images that were given out. Before an image that needs the
    memory for itself, what `writer` has in hand is written.
    """

    def __init__(self, predictor: Predictor, output: Output, writer: "Writer", told: Told, alone: bool) -> None:
        self.predictor, self.output, self.writer, self.told, self.alone = predictor, output, writer, told, alone
        self.given: list[tuple[str, ImageFile]] = []
        self.left_out: list[str] = []
        self._fetched: tuple[StoredFile, EncodedImage] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        pairs = list(zip(self.output.names, self.output.files, strict=True))
        ahead = read_ahead(pairs, self._read, self._is_light)
        for pair in pairs:  # not by zip, which would hold an image while the next is read
            pixels = next(ahead)
            if isinstance(pixels, FeathersegError):
                if self.alone or not isinstance(pixels, DataError | ConfigError):
                    raise pixels
                self.left_out.append(str(pixels))
                self.told(pair[0], pixels)
                continue
            if not self.predictor.is_light(pixels.shape[:2]):
                self.writer.wait()
                return_freed_memory()  # each thread has a heap of its own, which keeps some
            self.given.append(pair)
            yield pixels
            del pixels  # not held while the next is read

    def _read(self, image: tuple[str, ImageFile]) -> np.ndarray:
        name, file = image
        if too_long := [written for written in self.output.all_files([name]) if name_too_long(written)]:
            raise DataError(f"{file}: {too_long[0].name} would be too long a name for a file. Rename the image.")
        source, self._fetched = self._source(file), None
        size = image_size(source)
        with _naming(file):
            self.predictor.plan(size)  # what the memory or the model does not take is said before it is decoded
        return read_image(source, self.predictor.runtime.channels)

    def _is_light(self, image: tuple[str, ImageFile]) -> bool:
        size = image_size(self._source(image[1]))
        with _naming(image[1]):
            return self.predictor.is_light(size)

    def _source(self, file: ImageFile) -> Path | EncodedImage:
        """What is read: of an object in a bucket its bytes, which are fetched once, for its size and for its pixels."""
        if isinstance(file, Path):
            return file
        if self._fetched is None or self._fetched[0] is not file:
            self._fetched = (file, EncodedImage(file.read(), str(file)))
        return self._fetched[1]


@contextmanager
def _naming(file: ImageFile) -> Iterator[None]:
    """What is said of an image's size begins with its name."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"{file}: {error}") from None


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
