"""The files that `predict` writes for each image into a folder, on a disk or in a bucket."""

import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from featherseg.core.config import refuse_unused
from featherseg.core.errors import ConfigError, DataNotFound, unknown
from featherseg.core.files import refuse_links, unique_names
from featherseg.core.storage import StoredFile, joined, list_files, write_whole
from featherseg.core.wording import changed_settings, counted
from featherseg.data.images.georeference import TIFF_SUFFIXES
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
from featherseg.inference.manifest import DONE, MANIFEST, PANOPTIC
from featherseg.inference.predictor import (
    KINDS,
    Prediction,
    Predictor,
    check_alpha,
)
from featherseg.inference.soft_output import SOFT_FILES, check_soft, save_soft

if TYPE_CHECKING:
    from featherseg.inference.submissions import PanopticOutput, Submission

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
