"""Images in, a folder of predictions out, on a disk or in a bucket: masks, colours, overlays, objects, submissions.

`open_output` and `Output.check` refuse what can be refused; then `write_predictions` keeps model and disk busy at once.
"""

import copy
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from featherseg.core.allocator import return_freed_memory
from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, unknown
from featherseg.core.files import check_folder, name_too_long, unique_names
from featherseg.core.notebook import html_table
from featherseg.core.storage import StoredFile, address, is_remote, joined, list_files, write_whole
from featherseg.core.wording import changed_settings, counted
from featherseg.data.images.decoding import EncodedImage, image_size, read_image
from featherseg.data.images.georeference import TIFF_SUFFIXES
from featherseg.data.images.unused_parts import unused_notes, unused_parts
from featherseg.inference.folder_record import (
    FolderRecord,
    ImageFile,
    Settings,
    Version,
    image_place,
    settings_of,
    version_of,
)
from featherseg.inference.inputs import InputImage, read_ahead
from featherseg.inference.manifest import MANIFEST
from featherseg.inference.predictor import KINDS, Prediction, Predictor
from featherseg.inference.soft_output import SOFT_FILES, check_soft, save_soft
from featherseg.inference.submissions import FOLDER as PANOPTIC
from featherseg.inference.submissions import SUBMISSIONS, PanopticOutput

if TYPE_CHECKING:
    from featherseg.inference.video.segmentation import VideoResult

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
        probabilities: Also, as "npz", NAME_probabilities.npz: those of all classes, (K, H, W) float16; or, as "png",
            NAME_confidence.png: that of the mask's class, 255 = certain.

    Raises:
        ConfigError: A submission and other files are both asked for, or probabilities of another kind.
    """

    masks: bool = False
    submission: str | None = None
    overwrite: bool = False
    probabilities: str | None = None

    def __post_init__(self) -> None:
        if (self.masks or self.probabilities) and self.submission is not None:
            raise ConfigError("a submission holds masks alone. Leave out masks and probabilities.")
        if self.probabilities not in (None, *SOFT_FILES):
            raise ConfigError(
                f"probabilities {self.probabilities!r}: expected {' or '.join(SOFT_FILES)}."
            )


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
    """

    folder: str
    names: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    resumed: int = 0
    notes: tuple[str, ...] = ()
    videos: tuple["VideoResult", ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing was skipped and every frame of the videos could be read."""
        return not self.left_out and not any(video.unreadable for video in self.videos)

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        videos = [video.as_dict() for video in self.videos]
        return asdict(replace(self, videos=())) | {"videos": videos}

    def _repr_html_(self) -> str:
        title = f"{self.folder}: {counted(len(self.names), 'image')}"
        return html_table(
            title, ("image",), [(name,) for name in self.names[:20]], (*self.left_out, *self.notes)
        )


class Output:
    """The folder to write into, and what becomes of each of `files` there, under its name in `names`.

    After `check`, `waiting` are the images to predict, and `resumed` are the names of those that are predicted.
    Of a folder in a `bucket`, `folder` holds the files until they are put there. Raises UnknownName for a benchmark,
    ConfigError where two images would be one file of a submission.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[ImageFile],
        settings: OutputSettings,
        bucket: str | None = None,
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
        self.record = FolderRecord(folder / MANIFEST)
        self.waiting: list[tuple[str, ImageFile]] = []
        self.resumed: set[str] = set()
        self._predicted_as: Settings = {}
        self._unrecorded: dict[
            str, list[str]
        ] = {}  # name -> its files that are there, perhaps of a killed command
        self._stored: dict[str, StoredFile] = {}  # by address
        self._together: list[ReadImage] = []
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
        return ", ".join(self.file_names("NAME")) + (" and panoptic.json" if self.panoptic else "")

    def check(self, predictor: Predictor) -> None:
        """Sort out the images that wait. Raises ConfigError where other files, or an image itself, would be replaced.

        So it does where images were predicted with other settings. DataError where panoptic.json, which goes on listing
        earlier images, cannot be read or has other classes.
        """
        if not self.files:
            return
        if predictor.runtime.panoptic and not self.submission:
            self.panoptic = PanopticOutput(self.folder, predictor.runtime.classes)
        if self.settings.probabilities:
            check_soft(predictor.runtime)
        there = self._list()
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
            pairs = zip(self.names, self.files, strict=True)
            for own in (
                own
                for name, file in pairs
                for own in (*self.file_names(name), *self.other_mask(name, file))
            ):
                if os.path.join(folder, own.replace("/", os.sep)) in images:
                    raise ConfigError(
                        f"{self._shown(own)} is one of the images itself. Choose another folder with -o."
                    )
        if self.panoptic:
            listed = self._fetch(self.panoptic.writer.path)
            if listed.exists():
                exists = (
                    (lambda file: self._relative(file) in there) if self.bucket else Path.is_file
                )
                self.panoptic.keep(self.names, exists, self._shown(self._relative(listed)))
        what = {
            name: getattr(self.settings, name) for name in ("masks", "submission", "probabilities")
        }
        self._predicted_as = settings_of(predictor, **what)
        self._fetch(self.record.path)
        predicted, in_the_way = self.record.read(set(self.names)), list[str]()
        for name, file in zip(self.names, self.files, strict=True):
            written = self.file_names(name)
            found = [path for path in (*written, *self.other_mask(name, file)) if path in there]
            if self.settings.overwrite:
                found = []
            earlier = predicted.get(name)
            if not found:
                pass
            elif earlier is None:
                self._unrecorded[name] = found
                in_the_way += found if self.record.settings != self._predicted_as else []
            elif earlier.settings != self._predicted_as:
                other = changed_settings(earlier.settings, self._predicted_as)
                raise ConfigError(
                    f"{self.place} holds predictions with other settings: {other}. Give the earlier options, use "
                    "--overwrite, or choose another folder with -o."
                )
            elif earlier.version == version_of(file):
                if len(found) == len(written) and (
                    self.panoptic is None or self.panoptic.lists(name)
                ):
                    self.resumed.add(name)
                    continue
            elif earlier.image != image_place(file):
                in_the_way += found
            self.waiting.append((name, file))
        if in_the_way:
            shown, files = self._shown(in_the_way[0]), counted(len(in_the_way), "file")
            raise ConfigError(
                f"{shown} exists, {files} in all. Use --overwrite, or another folder with -o."
            )

    def file_names(self, name: str) -> list[str]:
        """The files of an image, relative to the folder, the mask first; without what there is one of for all."""
        if self.submission:
            return [f"{name}.png"]
        kinds = KINDS[:1] if self.settings.masks else KINDS
        files = [f"{name}_{kind}.png" for kind in kinds]
        if self.settings.probabilities:
            files.append(name + SOFT_FILES[self.settings.probabilities][1])
        return [*files, f"{PANOPTIC}/{name}.png"] if self.panoptic else files

    def other_mask(self, name: str, file: ImageFile) -> list[str]:
        """What the mask may be instead of the first of `file_names`: a TIFF at the place of an image that has one."""
        is_tiff = os.path.splitext(file.name)[1].lower() in TIFF_SUFFIXES
        return [f"{name}_mask.tif"] if is_tiff and not self.submission else []

    def save(self, result: Prediction, image: ReadImage, *, ends_group: bool = True) -> None:
        """Write the files of an image; with the last one of those that were predicted together, all are recorded.

        Predicted in other groups, an image may differ in a few pixels: so no group is continued in its middle.
        Raises ConfigError where a file is there that neither this command nor one before it wrote.
        """
        self.record.begin(self._predicted_as)
        if found := self._unrecorded.get(image.name):
            self._compare(result, image, found)
        self._write(self.folder, self.panoptic, result, image)
        first, *others = self.file_names(image.name)
        mask = first if self.submission else result.file_names(image.name)[0]
        self._put([self.folder / file for file in (mask, *others)])
        of_another_kind = {first, *self.other_mask(image.name, image.file)} - {
            mask
        }  # the image had a place, or none
        for file in of_another_kind:
            (self.folder / file).unlink(missing_ok=True)
        self._together.append(image)
        if ends_group:
            self.record.add(self._together)
            self._together = []
        if time.monotonic() >= self._list_at:
            self.finish()

    def finish(self) -> None:
        """Write what there is one of for all images, where any was saved; called by `save` too, from time to time."""
        began = time.monotonic()
        if self.panoptic and self.panoptic.added:
            self._put([self.panoptic.finish()])
        if self.bucket and self.record.changed:
            write_whole(self._shown(MANIFEST), self.record.path.read_bytes())
            self.record.changed = False
        ended = time.monotonic()
        self._list_at = ended + max(LISTED_EVERY, (ended - began) / LISTING_SHARE)

    def _write(
        self, folder: Path, panoptic: PanopticOutput | None, result: Prediction, image: ReadImage
    ) -> None:
        if self.submission:
            self.submission.save(result.mask, folder, image.name)
        elif self.settings.masks:
            result.save(folder / result.file_names(image.name)[0])
        else:
            result.save(folder, image.name)
        if self.settings.probabilities and result.soft is not None:
            ending = SOFT_FILES[self.settings.probabilities][1]
            save_soft(result.soft, result.classes, folder / (image.name + ending))
        if panoptic and result.panoptic:
            panoptic.add(image.name, image.file.name, result.panoptic)

    def _compare(self, result: Prediction, image: ReadImage, found: Sequence[str]) -> None:
        """Raises ConfigError where a file that is there and is not recorded is not what is written in its place.

        A command that was killed between a file and its record has left such files.
        """
        with TemporaryDirectory(prefix="featherseg-") as scratch:
            panoptic = PanopticOutput(Path(scratch), result.classes) if self.panoptic else None
            self._write(Path(scratch), panoptic, result, image)
            for file in found:
                stored = self._stored.get(self._shown(file)) if self.bucket else None
                content = stored.read() if stored else (self.folder / file).read_bytes()
                again = Path(scratch, file)
                if not again.is_file() or content != again.read_bytes():
                    raise ConfigError(
                        f"{self._shown(file)} exists, and this command did not write it. Use --overwrite, or another "
                        "folder with -o."
                    )

    def _list(self) -> Collection[str]:
        """The files that are there, relative to the folder."""
        if self.bucket is not None:
            with suppress(DataNotFound):
                self._stored = {
                    file.address: file
                    for file in list_files(self.bucket, deep=self.panoptic is not None)
                }
            return {file.removeprefix(f"{self.bucket}/") for file in self._stored}
        there = set[str]()
        for inside in ("", f"{PANOPTIC}/") if self.panoptic else ("",):
            with suppress(OSError):  # not there yet
                there |= {inside + name for name in os.listdir(self.folder / inside)}
        return there

    def _fetch(self, file: Path) -> Path:
        """A file that there is one of for all images: of a bucket a copy, if it is there."""
        if stored := self._stored.get(self._shown(self._relative(file))):
            file.write_bytes(stored.read())
        return file

    def _put(self, files: Sequence[Path]) -> None:
        """Bring files to the bucket, where it is one; the mask, the first, last: with it an image is done."""
        for file in reversed(files if self.bucket else ()):
            if file.is_file():
                write_whole(self._shown(self._relative(file)), file.read_bytes())
                file.unlink()

    def _relative(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _shown(self, file: str) -> str:
        """The path or the address of a file of the folder."""
        return joined(self.bucket, file) if self.bucket else str(self.folder / file)


@contextmanager
def open_output(
    place: Path, files: Sequence[ImageFile], settings: OutputSettings
) -> Iterator[Output]:
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


def write_predictions(
    predictor: Predictor, output: Output, told: Told, *, alone: bool = False
) -> PredictedFolder:
    """Write what can be read, and is of a size that the model takes. Other images are told and left out.

    alone: nothing else was asked for than this image, so that its error is raised. The next image is read and the last
    is written while the model works, where the memory has room for them. Raises ConfigError where the model's classes
    are not the benchmark's, FeathersegError where nothing can be written.
    """
    if output.submission:
        output.submission.check(predictor.runtime.name, predictor.classes)
    if output.settings.probabilities:
        predictor = copy.copy(predictor)
        predictor.soft = SOFT_FILES[output.settings.probabilities][0]
    try:
        with Writer() as writer:
            readable, saved = ReadableOnly(predictor, output, writer, told, alone), set[str]()
            for group in predictor.in_groups(iter(readable)):
                while group:
                    result, image = group.pop(0), readable.given[len(saved)]
                    saved.add(image.name)
                    save = partial(output.save, result, image, ends_group=not group)
                    if predictor.is_light(result.mask.shape):
                        writer.write(save)
                    else:
                        writer.wait()  # one image is saved at a time
                        save()
                    told(image.name, result)
                    del result, save  # its image and mask are not held while the next is read
            writer.wait()
    finally:  # also of a command that is stopped: what it wrote is listed
        output.finish()
    names = tuple(name for name in output.names if name in saved or name in output.resumed)
    notes = unused_notes(readable.unused)
    return PredictedFolder(
        output.place, names, tuple(readable.left_out), len(output.resumed), notes
    )


class ReadableOnly:
    """Reads the images that wait, one after the other; those that cannot be read are told and left out.

    So are those of a size that the model does not take, and those whose name is too long for the files that `output`
    would write. `given` are the images that were given out. Before an image that needs the
    memory for itself, what `writer` has in hand is written.
    """

    def __init__(
        self, predictor: Predictor, output: Output, writer: "Writer", told: Told, alone: bool
    ) -> None:
        self.predictor, self.output, self.writer, self.told, self.alone = (
            predictor,
            output,
            writer,
            told,
            alone,
        )
        self.given: list[ReadImage] = []
        self.left_out: list[str] = []
        self.unused = Counter[str]()
        self._fetched: tuple[StoredFile, EncodedImage] | None = None

    def __iter__(self) -> Iterator[InputImage]:
        waiting = self.output.waiting
        ahead = read_ahead(waiting, self._read, self._is_light)
        for name, file in waiting:  # not by zip, which would hold an image while the next is read
            found = next(ahead)
            if isinstance(found, FeathersegError):
                if self.alone or not isinstance(found, DataError | ConfigError):
                    raise found
                self.left_out.append(str(found))
                self.told(name, found)
                continue
            image, version = found
            if not self.predictor.is_light(image.pixels.shape[:2]):
                self.writer.wait()
                return_freed_memory()  # each thread has a heap of its own, which keeps some
            self.given.append(ReadImage(name, file, version))
            del found  # not held while the next is read
            yield image
            del image

    def _read(self, waiting: tuple[str, ImageFile]) -> tuple[InputImage, Version]:
        name, file = waiting
        written = map(Path, self.output.file_names(name))
        if too_long := [path.name for path in written if name_too_long(self.output.folder / path)]:
            raise DataError(
                f"{file}: {too_long[0]} would be too long a name for a file. Rename the image."
            )
        version = version_of(file)  # before it is read: a later change is seen
        source, self._fetched = self._source(file), None
        size = image_size(source)
        with _naming(file):
            self.predictor.plan(
                size
            )  # what the memory or the model does not take is said before it is decoded
        channels = self.predictor.runtime.channels
        georeference, unused = unused_parts(source, channels)
        pixels = read_image(source, channels)
        if not self.output.other_mask(name, file):
            georeference = None
        self.unused.update(unused if georeference is None else (*unused, "place"))
        return InputImage(pixels, name, georeference), version

    def _is_light(self, waiting: tuple[str, ImageFile]) -> bool:
        size = image_size(self._source(waiting[1]))
        with _naming(waiting[1]):
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
