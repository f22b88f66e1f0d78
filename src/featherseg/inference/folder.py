"""Images in, a folder of predictions out, on a disk or in a bucket.

`Output` refuses what can be refused before the model works. Then `write_images` reads the next
image and writes the last one while the model works.
"""

import os
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from featherseg.core.allocator import return_freed_memory
from featherseg.core.config import refuse_unused
from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, unknown
from featherseg.core.files import name_too_long, refuse_links, unique_names
from featherseg.core.notebook import html_table
from featherseg.core.storage import StoredFile, joined, list_files, write_whole
from featherseg.core.wording import brief, changed_settings, counted, size_text
from featherseg.data.images.decoding import EncodedImage, image_size, read_image
from featherseg.data.images.georeference import TIFF_SUFFIXES
from featherseg.data.images.unused_parts import TOLD, unused_parts
from featherseg.inference.folder_record import (
    ImageFile,
    Settings,
    Version,
    append_rows,
    image_place,
    read_record,
    settings_of,
    version_of,
)
from featherseg.inference.inputs import InputImage, read_ahead
from featherseg.inference.manifest import DONE, MANIFEST, PANOPTIC
from featherseg.inference.predictor import (
    KINDS,
    TOLERANCE,
    Prediction,
    Predictor,
    check_alpha,
)
from featherseg.inference.reporter import PredictReporter
from featherseg.inference.soft_output import SOFT_FILES, check_soft, save_soft

if TYPE_CHECKING:
    from featherseg.inference.submissions import PanopticOutput, Submission
    from featherseg.inference.video.segmentation import VideoResult

LARGER_THAN_TRAINED = 2.0
"""Objects are larger than in training if sides exceed this multiple of the training images'."""

LISTED_EVERY = 30.0
"""Seconds after which panoptic.json is written again, so that a kill loses little of it."""

LISTING_SHARE = 0.05
"""Most of the time that is spent on writing panoptic.json: a long list is written less often."""


@dataclass(frozen=True)
class OutputSettings:
    """Which files are written for an image.

    By default these are NAME_mask.png, NAME_color.png, NAME_overlay.png, and the objects of a
    panoptic model.

    Args:
        masks: Of these three write NAME_mask.png alone.
        submission: Write NAME.png alone, in the format of a benchmark: cityscapes or bdd100k.
        overwrite: Replace existing files.
        probabilities: Also write, for "npz", NAME_probabilities.npz: those of all classes,
            (K, H, W) float16; or for "png" NAME_confidence.png: that of the mask's class, 255 =
            certain.
        palette: Colours other than the model's: "bright", which readers with any colour vision
            tell apart, or "CLASS=#rrggbb,..." for some classes.
        alpha: Opacity of the colours in overlays, 0 to 1.
        contour: Outline the classes in overlays, or the objects of a panoptic model.
        to: Also write the masks of all images in these formats of `convert --to`, each
            into a folder of its name. Polygons are at most TOLERANCE pixels off the outlines.

    Raises:
        ConfigError: A submission is combined with other files or colours, probabilities are of
            another kind, or alpha is out of range.
        UnknownName: A format of `to` is not known.
    """

    masks: bool = False
    submission: str | None = None
    overwrite: bool = False
    probabilities: str | None = None
    palette: str | None = None
    alpha: float = 0.5
    contour: bool = True
    to: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_alpha(self.alpha)
        if self.submission is not None and (self.masks or self.probabilities or self.to):
            raise ConfigError(
                "a submission holds masks alone. Leave out masks, probabilities and formats."
            )
        if self.probabilities not in (None, *SOFT_FILES):
            raise ConfigError(
                f"probabilities {self.probabilities!r}: expected {' or '.join(SOFT_FILES)}."
            )
        if self.submission is not None:
            refuse_unused(self.look_given, "a submission holds masks in the format of a benchmark")
        if self.to:
            from featherseg.converters import writer_of

            for name in self.to:
                writer_of(name)

    @property
    def look(self) -> dict[str, Any]:
        """The arguments of `Prediction.save` and `overlay`."""
        return {"palette": self.palette, "alpha": self.alpha, "contour": self.contour}

    @property
    def look_given(self) -> dict[str, bool]:
        """Which of `look` differ from their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value != defaults[name] for name, value in self.look.items()}


DEFAULTS = OutputSettings()


class ReadImage(NamedTuple):
    """An image that was read: NAME of its results, its file, and which version of it that was."""

    name: str
    file: ImageFile
    version: Version


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


class Output:
    """The folder to write into, and what each of `files` becomes there under its name in `names`.

    After `check`, `waiting` lists the images to predict, and `resumed` the names of those that an
    earlier command predicted.

    Args:
        folder: The folder; for a bucket, a local one that holds files until they are uploaded.
        files: The images.
        settings: Which files are written for each.
        bucket: The address of the folder in a bucket.

    Raises:
        UnknownName: There is no such benchmark.
        ConfigError: Two images would become one file of a submission.
        FeathersegError: The record is a link.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[ImageFile],
        settings: OutputSettings,
        bucket: str | None = None,
    ) -> None:
        self.folder, self.files, self.settings, self.bucket = folder, files, settings, bucket
        self.place = bucket or str(folder)
        self.submission: Submission | None = None
        if (benchmark := settings.submission) is not None:
            from featherseg.inference.submissions import SUBMISSIONS  # with all datasets: 0.1 s

            if benchmark not in SUBMISSIONS:
                raise unknown("benchmark", benchmark, SUBMISSIONS)
            self.submission = SUBMISSIONS[benchmark]
        self.names = unique_names([Path(file.name) for file in files])
        if self.submission and self.names != [file.stem for file in files]:
            raise ConfigError(
                f"two images have the same name, but {benchmark} takes one mask per image, named "
                "like it."
            )
        refuse_links(folder, MANIFEST)
        self.panoptic: PanopticOutput | None = None
        self.waiting: list[tuple[str, ImageFile]] = []
        self.resumed: set[str] = set()
        self.formats_there: set[str] = set()
        self._record = folder / MANIFEST
        self._recorded: Settings | None = None  # by the record's last line
        self._record_changed = False
        self._settings: Settings = {}
        # Name -> its existing files, which a killed command may have written
        self._unrecorded: dict[str, list[str]] = {}
        self._stored: dict[str, StoredFile] = {}  # by address
        self._together: list[ReadImage] = []
        self._list_at = time.monotonic() + LISTED_EVERY

    def check(self, predictor: Predictor) -> None:
        """Find out which images wait.

        Raises:
            ConfigError: Other files or an image itself would be replaced, images were predicted
                with other settings, or the model does not fit the submission or probabilities.
            DataError: An existing panoptic.json, which lists earlier images, cannot be continued.
        """
        if not self.files:
            return
        if self.submission:
            self.submission.check(predictor.runtime.name, predictor.classes)
        elif predictor.runtime.panoptic:
            from featherseg.inference.submissions import PanopticOutput

            self.panoptic = PanopticOutput(self.folder, predictor.classes)
        if self.settings.probabilities:
            check_soft(predictor.runtime)

        # No result may take the place of an image
        existing = self._list()
        if self.bucket is None:
            real_folder = cache(os.path.realpath)  # asked once a folder, not once an image
            images = {
                os.path.realpath(file)
                if file.is_symlink()
                else os.path.join(real_folder(file.parent), file.name)
                for file in self.files
                if isinstance(file, Path)
            }
            folder = os.path.realpath(self.folder)
            for name, file in zip(self.names, self.files, strict=True):
                for result in (*self.file_names(name), *self.other_mask(name, file)):
                    if os.path.join(folder, result.replace("/", os.sep)) in images:
                        raise ConfigError(
                            f"{self._shown(result)} is one of the images itself. Choose another "
                            "folder with -o."
                        )

        # Continue what earlier commands wrote
        if self.panoptic:
            listed = self._fetch(self.panoptic.writer.path)
            if listed.exists():
                exists = (
                    (lambda file: self._relative(file) in existing) if self.bucket else Path.is_file
                )
                self.panoptic.keep(self.names, exists, self._shown(self._relative(listed)))
        kinds = {
            name: getattr(self.settings, name) for name in ("masks", "submission", "probabilities")
        }
        given = self.settings.look_given  # others are not recorded, as by earlier versions
        kinds |= {name: value for name, value in self.settings.look.items() if given[name]}
        self._settings = settings_of(predictor, **kinds)
        if self.bucket:
            self._fetch(self._record)
        predicted, self._recorded = read_record(self._record, set(self.names))
        in_the_way = list[str]()
        for name, file in zip(self.names, self.files, strict=True):
            written = self.file_names(name)
            there = [path for path in (*written, *self.other_mask(name, file)) if path in existing]
            earlier = predicted.get(name)
            if self.settings.overwrite or not there:
                pass
            elif earlier is None:
                self._unrecorded[name] = there
                in_the_way += there if self._recorded != self._settings else []
            elif earlier.settings != self._settings:
                default = DEFAULTS.look
                other = changed_settings(default | earlier.settings, default | self._settings)
                raise ConfigError(
                    f"{self.place} holds predictions with other settings: {other}. Give the "
                    "earlier options, use --overwrite, or choose another folder with -o."
                )
            elif earlier.version == version_of(file):
                complete = len(there) == len(written)
                if complete and (self.panoptic is None or self.panoptic.lists(name)):
                    self.resumed.add(name)
                    continue
            elif earlier.image != image_place(file):
                in_the_way += there
            self.waiting.append((name, file))
        if in_the_way:
            shown, number = self._shown(in_the_way[0]), counted(len(in_the_way), "file")
            raise ConfigError(
                f"{shown} exists, {number} in all. Use --overwrite, or another folder with -o."
            )
        self._check_formats()

    def _check_formats(self) -> None:
        """Find out which formats an earlier command wrote: they are complete, or in the way."""
        if self.settings.to and self.bucket:
            raise ConfigError(
                "--to writes folders on this machine's disk, not into a bucket. Choose one with -o."
            )
        for folder in (self.folder / name for name in self.settings.to):
            if not os.path.lexists(folder):
                continue
            written = folder.stat().st_mtime_ns
            masks = [self.mask_file(name).stat().st_mtime_ns for name in self.resumed]
            if self.waiting or max(masks, default=0) > written:
                raise ConfigError(
                    f"{folder} exists, and does not contain all images. Delete it, or choose "
                    "another folder with -o."
                )
            self.formats_there.add(folder.name)

    def mask_file(self, name: str) -> Path:
        """Return the mask of an image that is written: a TIFF at the place of a GeoTIFF."""
        placed = self.folder / f"{name}_mask.tif"
        return placed if placed.is_file() else self.folder / self.file_names(name)[0]

    def file_names(self, name: str) -> list[str]:
        """Return the files of one image, relative to the folder, the mask first."""
        if self.submission:
            return [f"{name}.png"]
        kinds = KINDS[:1] if self.settings.masks else KINDS
        files = [f"{name}_{kind}.png" for kind in kinds]
        if self.settings.probabilities:
            files.append(name + SOFT_FILES[self.settings.probabilities][1])
        return [*files, f"{PANOPTIC}/{name}.png"] if self.panoptic else files

    def other_mask(self, name: str, file: ImageFile) -> list[str]:
        """Return the other name that the mask may have: a TIFF at the place of a GeoTIFF."""
        is_tiff = os.path.splitext(file.name)[1].lower() in TIFF_SUFFIXES
        return [f"{name}_mask.tif"] if is_tiff and not self.submission else []

    def save(self, result: Prediction, image: ReadImage, *, ends_group: bool = True) -> None:
        """Write the files of an image, and record it.

        Images that were predicted together are recorded together, because in another group an
        image may differ in a few pixels.

        Raises:
            ConfigError: A file exists that neither this command nor an earlier one wrote.
        """
        if self._settings != self._recorded:
            append_rows(self._record, [{"settings": self._settings}])
            self._recorded = self._settings
        if there := self._unrecorded.get(image.name):
            self._compare(result, image, there)
        self._write(self.folder, self.panoptic, result, image)
        first, *others = self.file_names(image.name)
        mask = first if self.submission else result.file_names(image.name)[0]
        if self.bucket:
            self._put([self.folder / file for file in (mask, *others)])
        # The mask has another name if the image has got a place on the map, or has lost it
        for file in {first, *self.other_mask(image.name, image.file)} - {mask}:
            (self.folder / file).unlink(missing_ok=True)
        self._together.append(image)
        if ends_group:
            rows = (
                {"name": name, "image": image_place(file), "status": DONE, **version._asdict()}
                for name, file, version in self._together
            )
            append_rows(self._record, rows)
            self._together, self._record_changed = [], True
        if time.monotonic() >= self._list_at:
            self.finish()

    def finish(self) -> None:
        """Write the files that there is one of for all images; `save` calls it now and then."""
        began = time.monotonic()
        if self.panoptic and self.panoptic.added:
            listed = self.panoptic.finish()
            if self.bucket:
                self._put([listed])
        if self.bucket and self._record_changed:
            write_whole(self._shown(MANIFEST), self._record.read_bytes())
            self._record_changed = False
        ended = time.monotonic()
        self._list_at = ended + max(LISTED_EVERY, (ended - began) / LISTING_SHARE)

    def _write(
        self, folder: Path, panoptic: "PanopticOutput | None", result: Prediction, image: ReadImage
    ) -> None:
        if self.submission:
            self.submission.save(result.mask, folder, image.name)
        elif self.settings.masks:
            result.save(folder / result.file_names(image.name)[0], **self.settings.look)
        else:
            result.save(folder, image.name, **self.settings.look)
        if self.settings.probabilities and result.soft is not None:
            ending = SOFT_FILES[self.settings.probabilities][1]
            save_soft(result.soft, result.classes, folder / (image.name + ending))
        if panoptic and result.panoptic:
            panoptic.add(image.name, image.file.name, result.panoptic)

    def _compare(self, result: Prediction, image: ReadImage, there: Sequence[str]) -> None:
        """Check that existing files without a record have the content that would be written now.

        A command that was killed between a file and its record leaves such files.

        Raises:
            ConfigError: A file has other content.
        """
        with TemporaryDirectory(prefix="featherseg-") as scratch:
            panoptic = type(self.panoptic)(Path(scratch), result.classes) if self.panoptic else None
            self._write(Path(scratch), panoptic, result, image)
            for file in there:
                stored = self._stored.get(self._shown(file)) if self.bucket else None
                content = stored.read() if stored else (self.folder / file).read_bytes()
                again = Path(scratch, file)
                if not again.is_file() or content != again.read_bytes():
                    raise ConfigError(
                        f"{self._shown(file)} exists, and this command did not write it. Use "
                        "--overwrite, or another folder with -o."
                    )

    def _list(self) -> Collection[str]:
        """Return the existing files, relative to the folder."""
        if self.bucket is not None:
            with suppress(DataNotFound):
                stored = list_files(self.bucket, deep=self.panoptic is not None)
                self._stored = {file.address: file for file in stored}
            return {file.removeprefix(f"{self.bucket}/") for file in self._stored}
        existing = set[str]()
        for inside in ("", f"{PANOPTIC}/") if self.panoptic else ("",):
            with suppress(OSError):  # the folder is new
                existing |= {inside + name for name in os.listdir(self.folder / inside)}
        return existing

    def _fetch(self, file: Path) -> Path:
        """Download an existing file of the bucket to `file`, its place in `folder`."""
        if stored := self._stored.get(self._shown(self._relative(file))):
            file.write_bytes(stored.read())
        return file

    def _put(self, files: Sequence[Path]) -> None:
        """Move files to the bucket; the mask, the first, last: it completes an image."""
        for file in reversed(files):
            if file.is_file():
                write_whole(self._shown(self._relative(file)), file.read_bytes())
                file.unlink()

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _shown(self, file: str) -> str:
        """Return the path or the address of a file of the folder."""
        return joined(self.bucket, file) if self.bucket else str(self.folder / file)


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
