"""Images in, a folder of predictions out: the next image is read and the last one written while the
model works."""

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featherseg.core.allocator import return_freed_memory
from featherseg.core.errors import ConfigError, DataError, FeathersegError
from featherseg.core.files import name_too_long
from featherseg.core.notebook import html_table
from featherseg.core.wording import brief, counted, size_text
from featherseg.data.images.decoding import EncodedImage, image_size, read_image
from featherseg.data.images.unused_parts import TOLD, unused_parts
from featherseg.inference.folder_record import (
    ImageFile,
    Version,
    version_of,
)
from featherseg.inference.inputs import InputImage, read_ahead
from featherseg.inference.output import Output, ReadImage
from featherseg.inference.predictor import (
    TOLERANCE,
    Prediction,
    Predictor,
)
from featherseg.inference.reporter import PredictReporter
from featherseg.inference.soft_output import SOFT_FILES

if TYPE_CHECKING:
    from featherseg.inference.video.segmentation import VideoResult

LARGER_THAN_TRAINED = 2.0
"""Objects are larger than in training if sides exceed this multiple of the training images'."""


@dataclass(frozen=True)
class PredictedFolder:
    """What was written into a folder.

    Args:
        folder: The folder, or its address in a bucket.
        names: NAME of every image that has predictions.
        left_out: Why other images and videos have none.
        resumed: How many of the images an earlier command had written.
        notes: What was not used of images, by count.
        videos: What became of each video.
        to: The folders in the formats that were asked for.
    """

    folder: str
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    resumed: int = 0
    notes: tuple[str, ...] = ()
    videos: tuple["VideoResult", ...] = ()
    to: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing was skipped and every frame of the videos could be read."""
        return not self.left_out and not any(video.unreadable for video in self.videos)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        videos = [video.as_dict() for video in self.videos]
        return asdict(replace(self, videos=())) | {"videos": videos}

    def __repr__(self) -> str:
        videos = counted(len(self.videos), "video") if self.videos else ""
        skipped = f"{len(self.left_out)} left out" if self.left_out else ""
        return brief(self, self.folder, counted(len(self.names), "image"), videos, skipped)

    def _repr_html_(self) -> str:
        title = f"{self.folder}: {counted(len(self.names), 'image')}"
        return html_table(
            title, ("image",), [(name,) for name in self.names[:20]], (*self.left_out, *self.notes)
        )


def write_images(
    predictor: Predictor, output: Output, reporter: PredictReporter, *, alone: bool
) -> PredictedFolder:
    """Predict the images that wait, and write what can be read.

    The next image is read and the last one is written while the model works, if the memory has room
    for them.

    Args:
        predictor: The model.
        output: Where predictions go, after `check`.
        reporter: Receives what happens to each image.
        alone: Raise the error of an image instead of skipping it: nothing else was asked for.

    Raises:
        FeathersegError: Nothing can be written.
    """
    images, resumed, hinted = len(output.files), len(output.resumed), False
    waiting = len(output.waiting)
    if resumed and waiting:
        reporter.message(
            f"{resumed} of {images} images are in {output.place} already: going on with the others"
        )
    if output.settings.probabilities:
        predictor = copy(predictor)
        predictor.soft = SOFT_FILES[output.settings.probabilities][0]
    reading, saved = _Reading(predictor, output, reporter, alone), set[str]()
    try:
        with ThreadPoolExecutor(max_workers=1) as writer:
            for group in predictor.in_groups(iter(reading)):
                while group:
                    result, image = group.pop(0), reading.given.popleft()
                    save = partial(output.save, result, image, ends_group=not group)
                    if reading.saving:
                        reading.saving.result()  # one image is saved at a time
                    if predictor.is_light(result.mask.shape):
                        reading.saving = writer.submit(save)
                    else:
                        reading.saving = None
                        save()
                    saved.add(image.name)

                    # NAME has a number if another image has the same name
                    same = image.name == image.file.stem
                    shown = image.name if same else f"{image.name} ({image.file})"
                    reporter.predicted(shown, result, images)
                    if not hinted and (hint := size_hint(predictor, result)):
                        hinted = True
                        reporter.message(hint)
                    reading.done += 1
                    reporter.progress("predicting", reading.done, waiting)
                    del result, save  # its image and mask are not held while the next is read
            if reading.saving:
                reading.saving.result()
    except KeyboardInterrupt:
        done = resumed + len(saved)
        reporter.message(
            f"stopped with {done} of {images} images done: the same command does the rest"
        )
        raise
    finally:  # what an interrupted command wrote is listed too
        output.finish()

    # The summary
    predicted, unused = counted(resumed + len(saved), "image"), reading.unused
    notes = tuple(
        f"{counted(unused[part], 'image')} {text}" for part, text in TOLD.items() if unused[part]
    )
    if waiting:
        kinds = ", ".join(output.file_names("NAME"))
        listed = " and panoptic.json" if output.panoptic else ""
        reporter.message(f"{predicted}: {kinds}{listed} in {output.place}")
    else:
        reporter.message(f"nothing left to do: {predicted} predicted in {output.place}")
    for note in notes:
        reporter.message(note)
    if reading.left_out:
        reporter.message(f"{len(reading.left_out)} of {images} left out (named above)")
    names = tuple(name for name in output.names if name in saved or name in output.resumed)
    return PredictedFolder(output.place, names, tuple(reading.left_out), resumed, notes)


def write_formats(
    output: Output, result: PredictedFolder, reporter: PredictReporter
) -> PredictedFolder:
    """Write the predicted masks in the formats of `OutputSettings.to`; they are read again."""
    from featherseg.converters import write_predicted

    images = {
        name: file if isinstance(file, Path) else Path(file.name)
        for name, file in zip(output.names, output.files, strict=True)
        if name in result.names
    }
    masks, folders = [output.mask_file(name) for name in images], list[str]()
    for format in dict.fromkeys(output.settings.to) if masks else ():
        folder = output.folder / format
        if format in output.formats_there:
            reporter.message(f"{folder} is there already")
        else:
            conversion = write_predicted(
                masks, images, format, folder, TOLERANCE, reporter.progress
            )
            reporter.message(f"{conversion.format} of {counted(len(masks), 'image')}: {folder}")
        folders.append(str(folder))
    return replace(result, to=tuple(folders))


def size_hint(predictor: Predictor, result: Prediction) -> str:
    """Return a hint if an image is far larger than those of the training, else ""."""
    trained = predictor.runtime.image_size
    if trained is None or predictor.max_side is not None or predictor.inference.resize is not None:
        return ""
    height, width = result.mask.shape
    if max(height / trained[0], width / trained[1]) <= LARGER_THAN_TRAINED:
        return ""
    return (
        f"hint: {predictor.runtime.name} was trained on images of {size_text(trained)}; in this "
        "one, objects may be larger than in training. If the mask is poor, try "
        f"--max-side {max(trained)}."
    )


@dataclass
class _Reading:
    """Reads the waiting images in order, and skips those that cannot be read or predicted.

    Attributes:
        alone: Whether an error is raised instead.
        given: The images that were read and are not yet saved.
        left_out: Why others were skipped.
        done: Number of images that were predicted or skipped.
        unused: What is not used of the images, by kind.
        saving: The image that is being saved. An image that needs the memory for itself waits for
            it.
        fetched: The next image from a bucket, if it needs the memory for itself.
    """

    predictor: Predictor
    output: Output
    reporter: PredictReporter
    alone: bool
    given: deque[ReadImage] = field(default_factory=deque)
    left_out: list[str] = field(default_factory=list)
    done: int = 0
    unused: Counter[str] = field(default_factory=Counter)
    saving: Future[None] | None = None
    fetched: EncodedImage | None = None

    def __iter__(self) -> Iterator[InputImage]:
        ahead = read_ahead(self.output.waiting, self._read)
        for name, file in self.output.waiting:  # zip would hold an image while the next is read
            outcome = next(ahead)
            if isinstance(outcome, FeathersegError):
                if self.alone or not isinstance(outcome, DataError | ConfigError):
                    raise outcome
                self.left_out.append(str(outcome))
                self.reporter.skipped(str(outcome))
                self.done += 1
                self.reporter.progress("predicting", self.done, len(self.output.waiting))
                continue
            image, version = outcome
            if not self.predictor.is_light(image.pixels.shape[:2]):
                if self.saving:
                    self.saving.result()
                return_freed_memory()  # each thread has a heap of its own, which keeps some
            self.given.append(ReadImage(name, file, version))
            del outcome  # not held while the next is read
            yield image
            del image

    def _read(
        self, item: tuple[str, ImageFile], only_light: bool
    ) -> tuple[InputImage, Version] | None:
        name, file = item
        names = self.output.file_names(name)
        if too_long := [path for path in names if name_too_long(self.output.folder / path)]:
            shown = Path(too_long[0]).name
            raise DataError(
                f"{file}: {shown} would be too long a name for a file. Rename the image."
            )
        version = version_of(file)  # before the image is read, so that a later change is seen
        if isinstance(file, Path):
            source: Path | EncodedImage = file
        else:
            source, self.fetched = self.fetched or EncodedImage(file.read(), str(file)), None
        size = image_size(source)
        try:  # what the memory or the model does not take is refused before it is decoded
            if only_light and not self.predictor.is_light(size):
                self.fetched = source if isinstance(source, EncodedImage) else None
                return None
            self.predictor.plan(size)
        except (ConfigError, DataError) as error:
            raise type(error)(f"{file}: {error}") from None
        channels = self.predictor.runtime.channels
        georeference, unused = unused_parts(source, channels)
        pixels = read_image(source, channels)
        if not self.output.other_mask(name, file):
            georeference = None
        self.unused.update(unused if georeference is None else (*unused, "place"))
        return InputImage(pixels, name, georeference, file.name), version
