"""`featherseg rank`: measure every unlabelled image, choose, and write the list, the page and masks to correct."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.converters import WRITERS, check_writer
from featherseg.converters.masks import MaskedImage, Masks
from featherseg.core.errors import ConfigError, DataError, DataNotFound, FeathersegError, near_path, unknown
from featherseg.core.files import check_folder, check_writable, new_folder, numbered, refuse_used, write_text
from featherseg.core.notebook import html_table, progress_or_bar
from featherseg.core.types import Progress
from featherseg.core.wording import counted
from featherseg.data import is_own, open_dataset, own_config
from featherseg.data.fingerprint import read_fingerprint
from featherseg.data.sequences import sequence_names
from featherseg.data.unlabelled import UnlabelledImages
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes import Runtime, is_exported_file, open_runtime
from featherseg.ranking.measurer import Measurer, measuring
from featherseg.ranking.measures import backbone_of
from featherseg.ranking.page import write_page
from featherseg.ranking.selection import RANKED_BY, select
from featherseg.runs import DATA, Run, load_run

MOST_LABELLED = 2000
"""Labelled images that are measured, evenly spread: of more the nearest one is hardly another."""


@dataclass(frozen=True)
class RankedImage:
    """An image to annotate: its path, its score when its turn came and what that is made of, its sequence.

    uncertainty 0..1; distance 0..2, None where it was not asked for.
    """

    image: str
    score: float
    uncertainty: float
    distance: float | None
    sequence: str


COLUMNS = ("rank", "image", "score", "uncertainty", "distance", "sequence")


@dataclass(frozen=True)
class RankedImages:
    """What to annotate, the first first; by: how it was scored; left_out: why images were not ranked, a message each.

    to is the folder of predicted masks for an annotation tool, None where none was asked for.
    """

    name: str
    by: str
    images: list[RankedImage]
    out: Path
    page: Path
    to: Path | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        paths = {"out": str(self.out), "page": str(self.page)} | ({"to": str(self.to)} if self.to else {})
        rows = [{"rank": number, **asdict(row)} for number, row in enumerate(self.images, start=1)]
        told = {"left_out": list(self.left_out), "notes": list(self.notes)}
        return {"name": self.name, "by": self.by, "images": rows, **paths, **told}

    def _repr_html_(self) -> str:
        rows = [(row.image, f"{row.score:.3f}", row.sequence) for row in self.images[:20]]
        return html_table(f"{self.name}: to annotate next", ("image", "score", "sequence"), rows, self.notes)


def rank(
    run: str | Path | Run,
    folder: str | Path,
    out: str | Path = "to_label.csv",
    *,
    top: int = 50,
    by: str | None = None,
    to_format: str | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> RankedImages:
    """List the images of a folder that are worth annotating next: those uncertain to the model, unlike labelled ones.

    The score of an image is how uncertain the model is of its regions (0..1) times the distance of its features to
    the nearest image that is labelled or higher on the list (0..2). Of a sequence no two near frames are listed.
    Images whose files hold the same as labelled ones of the run are left out. Kill it at any time: the same call goes
    on where it was.

    In a simulation training on such lists was not shown to give better models than on images drawn at random, frames
    apart (docs/data/rank.md).

    Args:
        run: A Run, a run folder, the name of one, or an exported file (which gives no features).
        folder: Images, also in folders below it.
        out: The list, a .csv file: rank, image, score, uncertainty, distance, sequence. A page of thumbnails is
            written beside it, and a folder that ends in .rank with what was measured, which may be deleted.
        top: How many images.
        by: "both", "uncertainty" or "diversity" (the distance) alone. Default: both, of a model without features the
            uncertainty.
        to_format: Write the listed images with their predicted masks for an annotation tool, ready to correct: labelme,
            cvat, coco or yolo. The new folder lies beside `out` and ends in this name.
        data_root: Where the dataset lies that the run was trained on.
        device: auto, cpu, cuda, cuda:N or mps.
        progress: Called with (what is being done, images done, images in all). Default: a bar in a notebook.

    Returns:
        RankedImages: the list, what was left out, and where all is written.

    Raises:
        RunError, ExportError, DeviceError: The model cannot be used.
        UnknownName, ConfigError: An option is not known, or has no effect.
        DataNotFound, DataError: There are no images to rank.
        FeathersegError: Nothing can be written there.
        KeyboardInterrupt: It was stopped; the same call goes on.
    """
    folder, out, progress = Path(folder), Path(out), progress_or_bar(progress)

    # What is wrong is said before any work: the options and where all is written
    if top < 1:
        raise ConfigError(f"top = {top}: expected at least 1 image.")
    if by is not None and by not in RANKED_BY:
        raise unknown("criterion", by, RANKED_BY)
    if out.suffix.lower() != ".csv":
        raise ConfigError(f"{out} does not end in .csv. Name the list to write, such as {out.with_suffix('.csv')}.")
    page, kept = out.with_suffix(".html"), out.with_suffix(".rank")
    for path in (out, page):
        check_writable(path)
    check_folder(kept)
    to = None
    if to_format is not None:
        check_writer(to_format)
        to = out.with_suffix(f".{to_format}")
        refuse_used(to, "What is corrected there is not written over: move it away, or name another list with --out.")
    _check_images(folder, to)

    # The model, and whether the options are of use with it
    opened = run if isinstance(run, Run) else None if is_exported_file(run) else load_run(run)
    predictor = Predictor(open_runtime(opened or run, device))
    runtime, notes = predictor.runtime, list[str]()
    if to is not None and runtime.channels != 3:
        raise ConfigError(f"{runtime.name} takes images of {runtime.channels} channels: no annotation tool shows them.")
    by = _by(by, runtime, notes)
    if data_root is not None and (by == "uncertainty" or opened is None):
        raise ConfigError("data_root would have no effect: no labelled images are looked at. Leave it out.")

    # How uncertain each image is and what features it has; those of labelled images
    paths = _unlabelled(folder, runtime, opened, notes)
    left_out = dict[int, str]()
    with measuring(predictor, run, kept) as measurer:
        labelled = None
        if by != "uncertainty" and opened is not None:
            labelled = _labelled(measurer, opened, data_root, notes, progress)
        rows = measurer.images(paths, left_out, progress)
    usable = np.flatnonzero(~np.isnan(rows[:, 0]))
    if not len(usable):
        raise DataError(f"no image of {folder} can be used, first: {next(iter(left_out.values()))}")
    if len(usable) < top:
        notes.append(f"{counted(len(usable), 'image')} can be ranked, fewer than {top}: all are listed")

    # The choice: each the next one, near no other that is chosen or labelled
    groups = _groups_of(opened)
    names = [os.path.splitext(paths[i].relative_to(folder).as_posix())[0] for i in usable]
    whole = len(usable) == len(rows)  # then the features stay on the disk
    features = None if by == "uncertainty" else rows[:, 1:] if whole else rows[usable, 1:]
    picks = select(top, by, rows[usable, 0].astype(float), features, labelled, names, groups)
    sequences = sequence_names(names, groups)
    images = [
        RankedImage(
            paths[usable[pick.number]].as_posix(),
            pick.score,
            float(rows[usable[pick.number], 0]),
            pick.distance,
            sequences[pick.number],
        )
        for pick in picks
    ]

    # The list, the page of it, masks to correct
    ranked = RankedImages(str(folder), by, images, out, page, to, tuple(left_out.values()), tuple(notes))
    write_text(out, _csv(images))
    write_page(ranked, predictor, len(paths), progress)
    if to is not None:
        _write_masks(predictor, folder, images, str(to_format), to, progress)
    return ranked


def _check_images(folder: Path, to: Path | None) -> None:
    """Raises where the folder holds more than images, or is to hold what is written."""
    if not os.path.isdir(folder):
        raise DataNotFound(f"{folder} is no folder.{near_path(folder)} Expected one of unlabelled images.")
    if (folder / "dataset.toml").is_file():
        raise DataError(f"{folder} is a dataset: its masks would be ranked, too. Name a folder of images alone.")
    if to is not None and to.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{to} lies in {folder}: the next ranking would find its images twice. Name a list elsewhere with --out."
        )


def _by(by: str | None, runtime: Runtime, notes: list[str]) -> str:
    """How images are scored. Raises ConfigError where that needs features that the model does not give."""
    if backbone_of(runtime) is not None:
        return by or "both"
    if by not in (None, "uncertainty"):
        raise ConfigError(f"{runtime.name} gives no features to rank by {by}. Use the run itself, or --by uncertainty.")
    if by is None:
        notes.append(f"{runtime.name} gives no features: ranked by uncertainty alone")
    return "uncertainty"


def _unlabelled(folder: Path, runtime: Runtime, run: Run | None, notes: list[str]) -> list[Path]:
    """The images without those that the run knows with masks, by what their files hold. Raises DataError for none."""
    images = UnlabelledImages(folder, runtime)
    known = None if run is None else read_fingerprint(run.path / DATA)
    if known is None:
        notes.append(f"which images are labelled is not known of {runtime.name}: none is left out for that")
        return [pair.image for pair in images.pairs if pair.image]
    found = {split: known.trained_on(images, split) for split in known.splits if split != "unlabelled"}
    labelled = {key for keys in found.values() for key in keys}
    if len(labelled) == len(images):
        raise DataError(f"all images of {folder} are labelled: {runtime.name} knows their files with masks.")
    if labelled:
        each = ", ".join(f"{len(keys)} of {split}" for split, keys in found.items() if keys)
        notes.append(f"{counted(len(labelled), 'image')} left out, labelled already: {each}")
    return [pair.image for pair in images.pairs if pair.image and pair.key not in labelled]


def _labelled(
    measurer: Measurer, run: Run, root: str | Path | None, notes: list[str], progress: Progress
) -> np.ndarray | None:
    """Features (M, F) of the run's training images; None, and a note, where these cannot be read."""
    own, unlike = run.recipe.data, "the list is only diverse in itself"
    if "data" in run.info.objects:
        notes.append(f"{run.path} was trained on a dataset of one's own, {own.name}, which is not at hand: {unlike}")
        return None
    base = root or own.root
    try:
        data = open_dataset(
            own.name, own.train_split, None if base is None else Path(base), own.train_size, split_by=own.split_by
        )
    except FeathersegError as error:
        if root is not None:
            raise
        notes.append(f"the labelled images cannot be read ({error}): {unlike}. --data-root says where they lie")
        return None
    found, failed = measurer.labelled(data, MOST_LABELLED, progress)
    if failed:
        notes.append(f"{counted(len(failed), 'labelled image')} cannot be used, first: {failed[0]}")
    if len(data) > MOST_LABELLED:
        notes.append(f"distances are to {MOST_LABELLED} of {len(data)} labelled images, evenly spread")
    return found


def _groups_of(run: Run | None) -> str | None:
    """What tells the sequences of the run's own data."""
    if run is None or "data" in run.info.objects or not is_own(run.recipe.data.name):
        return None
    try:
        return own_config(run.recipe.data.name).groups
    except FeathersegError:
        return None


def _csv(images: Sequence[RankedImage]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, row in enumerate(images, start=1):
        distance = "" if row.distance is None else f"{row.distance:.6f}"
        writer.writerow([number, row.image, f"{row.score:.6f}", f"{row.uncertainty:.6f}", distance, row.sequence])
    return text.getvalue()


def _write_masks(
    predictor: Predictor, folder: Path, images: Sequence[RankedImage], to_format: str, to: Path, progress: Progress
) -> None:
    """The listed images with their predicted masks, as a tool opens them."""
    classes = predictor.classes
    things = [number for number, info in enumerate(classes) if info.thing]

    def predicted() -> Iterator[MaskedImage]:
        paths = [Path(row.image) for row in images]
        names = numbered((path.relative_to(folder).with_suffix("").as_posix() for path in paths), set())
        for number, (path, name) in enumerate(zip(paths, names, strict=True)):
            progress("writing masks to correct", number, len(images))
            found = predictor(path)
            objects = None
            if found.panoptic is not None:
                objects = np.where(np.isin(found.mask, things), found.panoptic.ids, 0)
            yield MaskedImage(name + path.suffix, path, found.mask, objects)  # some tools drop the ending

    with new_folder(to) as new:
        WRITERS[to_format](new, Masks(classes, predicted(), len(images)), False)
