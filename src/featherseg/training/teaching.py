"""Teachers of a training: check them, and compute their outputs for every image once.

The outputs are kept beside the data. Each image goes through a teacher as it would be scored:
untiled, once, at the size that the teacher was validated at.
"""

import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from featherseg.core.arrays import as_float, to_numpy
from featherseg.core.errors import ConfigError, DataError, FeathersegError, RunError
from featherseg.core.files import (
    append_line,
    check_folder,
    file_digest,
    locked,
    refuse_links,
    write_text,
)
from featherseg.core.types import OnMessage, SegmentationData
from featherseg.core.wording import counted, size_text
from featherseg.data import data_folder
from featherseg.data.cache.prepared import (
    INDEX,
    PreparedData,
    Source,
    Stamp,
    aligned,
    cache_folders,
    folder_name,
    stamp_of,
)
from featherseg.data.cache.prepared_writer import FLUSH_BYTES
from featherseg.data.cache.teacher_outputs import (
    FORMAT_VERSION,
    Entry,
    Grid,
    TeacherOutputs,
    Teaching,
    first_free,
    read_outputs,
    stored,
)
from featherseg.data.datasets.unlabelled import UnlabelledImages
from featherseg.data.images.decoding import image_size
from featherseg.data.images.pairs import PairedFiles
from featherseg.inference.runtimes import Runtime, is_exported_file, open_runtime
from featherseg.inference.settings import own_settings
from featherseg.inference.test_time_augmentation import on_device
from featherseg.inference.tiling import plan
from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import scale_images
from featherseg.layers.sizes import scaled_size
from featherseg.recipe.tables import Recipe
from featherseg.runs.run import WEIGHTS, Run, TeacherRow, find_run, open_run
from featherseg.training.memory import available_memory, logits_grid
from featherseg.training.objects import Objects

OUTPUTS = "teacher"
"""The folder in a run for the outputs of images that are no files, or without a cache."""

TRIAL_IMAGES = 3
"""Images, spread over all, by which time and disk space are estimated."""

WAIT_SECONDS = 0.5
"""Seconds between two tries to lock a folder."""

MESSAGE_SECONDS = 60.0
"""Seconds between two messages."""

FLUSH_SECONDS = 30.0
"""Seconds of work that a kill may lose."""

MOST_UNLABELLED = 0.5
"""Largest share of the samples that are images without masks."""


class Teacher(NamedTuple):
    """A run that teaches, and what is kept of it."""

    run: Run
    row: TeacherRow


class _Image(NamedTuple):
    """An image to teach: its key, its file if it has one, its dataset and its index there."""

    key: str
    path: Path | None
    data: SegmentationData
    place: int


def check_pupil(recipe: Recipe, model: SegmentationModel, objects: Objects) -> None:
    """Raise ConfigError if the training cannot have a teacher."""
    if recipe.loss.name or objects.loss:
        raise ConfigError(
            "teacher.runs: a teacher needs the recipe's own loss. Leave out one of them."
        )
    if objects.augment:
        raise ConfigError(
            "teacher.runs: a teacher's outputs cannot follow augment=. Leave out one of them."
        )
    if recipe.augment.progressive:
        raise ConfigError(
            "augment.progressive: a teacher's outputs are for crops of one size. Leave out one of "
            "them."
        )
    if model.panoptic:
        raise ConfigError(
            f"{recipe.model.name} is panoptic, and teachers teach only classes. Leave out "
            "--teacher."
        )


def check_teachers(
    recipe: Recipe, model: SegmentationModel, train: SegmentationData, objects: Objects
) -> list[Teacher]:
    """Return the teachers, opened.

    Raises ConfigError or RunError if a run is missing or cannot teach this training.
    """
    teachers: list[Teacher] = []
    if not recipe.teacher.runs:
        return teachers
    check_pupil(recipe, model, objects)
    for name in recipe.teacher.runs:
        if is_exported_file(name):
            raise ConfigError(
                f"{name} is an exported file. A teacher is a run: the folder that was trained."
            )
        run = open_run(find_run(name))
        if run.untrained_model().panoptic:
            raise ConfigError(
                f"{name} is panoptic ({run.recipe.model.name}): it cannot teach. Name a "
                "semantic one."
            )
        if run.info.channels != train.channels:
            raise ConfigError(
                f"{name} takes images with {run.info.channels} channels; {train.name} has "
                f"{train.channels}. Name a teacher that was trained on such images."
            )
        data_classes, run_classes = (
            [info.name for info in infos] for infos in (train.classes, run.classes)
        )
        if data_classes != run_classes:
            raise ConfigError(
                f"{name} cannot teach {train.name}: it has {len(run_classes)} classes, "
                f"{_shortened(run_classes)}, and the data have {len(data_classes)}, "
                f"{_shortened(data_classes)}. A teacher needs the same classes in the same order."
            )
        teachers.append(Teacher(run, teacher_row(run)))
    return teachers


def _shortened(names: Sequence[str]) -> str:
    """Return the first eight names."""
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def refuse_own_folder(teachers: Sequence[Teacher], out: Path) -> None:
    """Raise ConfigError if a training would write into the folder of its teacher."""
    if any(teacher.run.path.resolve() == out.resolve() for teacher in teachers):
        raise ConfigError(f"{out} is the teacher itself. Choose another folder with --out.")


def teacher_row(run: Run) -> TeacherRow:
    """Return what is kept of a teacher; `outputs` is the digest of all that decides its outputs.

    Raises RunError if it has no weights yet.
    """
    try:
        weights, model = file_digest(run.path / WEIGHTS), run.recipe.model
    except FileNotFoundError:
        raise RunError(
            f"{run.name} has no weights yet: its training has not reached the first validation."
        ) from None
    classes = [row.name for row in run.info.classes]
    resize = run.recipe.data.test_resize
    facts = [FORMAT_VERSION, weights, model.name, model.options, run.info.channels, classes, resize]
    outputs = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return TeacherRow(
        name=run.name, model=model.name, weights=weights, outputs=outputs, licence=run.licence
    )


def open_teaching(
    recipe: Recipe,
    rows: Sequence[TeacherRow],
    train: SegmentationData,
    model: SegmentationModel,
    out: Path,
    on_message: OnMessage,
    *,
    own_data: bool = False,
    unlabelled: UnlabelledImages | None = None,
    began: float | None = None,
) -> Teaching | None:
    """Return the teachers' outputs for all images, None without teachers; compute what is missing.

    Args:
        recipe: With its crop as numbers.
        rows: What is kept of the teachers; their runs are opened only to compute outputs.
        train: The training images.
        model: The model to teach.
        out: The run folder.
        on_message: Shows a message to the user.
        own_data: The data were given as an object, so the recipe does not tell where they lie.
        unlabelled: The recipe's images without masks.
        began: When the command of a new run began, by `time.monotonic`.

    Raises:
        ConfigError, RunError, DataError: the outputs cannot be computed, or not within
            `train.minutes` of `began`.
        FeathersegError: the disk is full.
    """
    if not recipe.teacher.runs:
        return None
    assert recipe.augment.crop is not None
    images = [*_images(train), *(_images(unlabelled) if unlabelled else ())]
    minutes = recipe.train.minutes

    def check_time(seconds: float) -> None:
        if (
            minutes is None
            or began is None
            or (total := time.monotonic() - began + seconds) <= 60 * minutes
        ):
            return
        raise ConfigError(
            f"train.minutes = {minutes:g}: about {total / 60:.1f} minutes pass until the teachers "
            f"have seen every image. Give {math.ceil(total / 60 + minutes)} to train for "
            f"{minutes:g}."
        )

    # Existing outputs, and digests of the images: a file with a known stamp is not read
    places = [out / OUTPUTS] if own_data else _places(recipe, train, out)
    folders = [[place / f"teacher-{row.outputs[:16]}" for place in places] for row in rows]
    existing = [
        [outputs for folder in candidates if (outputs := read_outputs(folder))]
        for candidates in folders
    ]
    digests = {
        key: digest
        for of_teacher in existing
        for outputs in of_teacher
        for key, digest in outputs.digests.items()
    }
    sources = [_source(image, digests) for image in images]

    # Each teacher's outputs; what is missing is computed
    files, entries = [], []
    for name, row, candidates, of_teacher in zip(
        recipe.teacher.runs, rows, folders, existing, strict=True
    ):
        needed = {source.sha256 for source in sources}
        outputs = next((one for one in of_teacher if needed <= one.entries.keys()), None)
        named = [
            (image.key, source.stamp)
            for image, source in zip(images, sources, strict=True)
            if source.stamp
        ]
        if outputs is None or (
            os.access(outputs.folder, os.W_OK) and not outputs.digests.keys() >= set(named)
        ):
            writable = (f for f in candidates[:-1] if _is_writable(f.parent.parent))
            folder = outputs.folder if outputs else next(writable, candidates[-1])
            with _errors_of(folder):
                outputs = _compute(
                    name, row, images, sources, folder, recipe.train.device, on_message, check_time
                )
        on_message(
            f"taught by {row.name} ({row.model}): {counted(len(images), 'image')}, kept in "
            f"{outputs.folder}"
        )
        files.append(outputs.file)
        entries.append(tuple(outputs.entries[source.sha256] for source in sources))
    share = 0.0
    if unlabelled:
        share = min(MOST_UNLABELLED, len(unlabelled) / len(images))
        on_message(
            f"{counted(len(unlabelled), 'image')} without masks: {100 * share:.0f} % of the "
            "samples, drawn at random; only the teacher labels them"
        )
        for split, number in unlabelled.left_out.items():
            on_message(
                f"left out {counted(number, 'image')} of {unlabelled.folder}: also in {split}"
            )
    return Teaching(
        tuple(files), tuple(entries), logits_grid(model, recipe.augment.crop), unlabelled, share
    )


def _images(data: SegmentationData) -> list[_Image]:
    """Return the images of a dataset; for prepared data the original files, which lost nothing."""
    exact = data.data if isinstance(data, PreparedData) else data
    paths = (
        [pair.image for pair in exact.pairs]
        if isinstance(exact, PairedFiles)
        else [None] * len(exact)
    )
    return [
        _Image(key, path, exact, place)
        for place, (key, path) in enumerate(zip(exact.keys, paths, strict=True))
    ]


def _source(image: _Image, digests: dict[tuple[str, Stamp], str]) -> Source:
    """Return the digest of an image's file, or of its values without one. Raises DataError."""
    if image.path is None:
        pixels = image.data[image.place].image
        content = f"{pixels.shape} {pixels.dtype}".encode() + np.ascontiguousarray(pixels).tobytes()
        return Source(None, hashlib.sha256(content).hexdigest())
    try:
        stamp = stamp_of(image.path)
        digest = digests.get((image.key, stamp)) if stamp else None
        return Source(stamp, digest) if digest else Source.of(image.path)
    except OSError as error:
        raise DataError(f"{image.path} cannot be read: {error.strerror or error}.") from None


def _places(recipe: Recipe, train: SegmentationData, out: Path) -> list[Path]:
    """Return where outputs may lie: beside the data's files as prepared data, else in the run."""
    exact = train.data if isinstance(train, PreparedData) else train
    if isinstance(exact, PairedFiles):
        root = None if recipe.data.root is None else Path(recipe.data.root)
        if folders := cache_folders(data_folder(recipe.data.name, root)):
            return [folder / folder_name(exact.name) for folder in folders]
    return [out / OUTPUTS]


def _is_writable(folder: Path) -> bool:
    return os.access(folder if folder.exists() else folder.parent, os.W_OK)


@contextmanager
def _errors_of(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FeathersegError(
            f"cannot write a teacher's outputs to {folder}: {error.strerror or error}. Free disk "
            "space, check the rights, or name another folder with FEATHERSEG_CACHE; then run the "
            "same command again: it continues where it stopped."
        ) from error


@contextmanager
def _alone(folder: Path, on_message: OnMessage) -> Iterator[None]:
    """Let one process write in a folder; another waits, and then finds the outputs."""
    busy = FeathersegError(f"another process writes in {folder}.")
    with ExitStack() as stack:
        for tries in range(10**9):
            try:
                stack.enter_context(locked(folder / ".lock", busy))
                break
            except FeathersegError as error:
                if error is not busy:
                    raise
            if tries == 0:
                on_message(
                    f"another process computes a teacher's outputs in {folder}: waiting for it"
                )
            time.sleep(WAIT_SECONDS)
        yield


def _compute(
    name: str,
    row: TeacherRow,
    images: Sequence[_Image],
    sources: Sequence[Source],
    folder: Path,
    device: str,
    on_message: OnMessage,
    check_time: Callable[[float], None],
) -> TeacherOutputs:
    """Add the missing outputs to `folder`; `check_time` is called with the seconds it will take."""
    cache = folder.parent.parent
    refuse_links(cache, folder.parent.name)
    if cache.name == ".featherseg":  # in the folder of the data, which may belong to others
        refuse_links(cache.parent, cache.name)
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder, on_message):
        outputs = _opened(folder)
        missing = {
            source.sha256: (image, source)
            for image, source in zip(images, sources, strict=True)
            if source.sha256 not in outputs.entries
        }
        if missing:
            runtime = _teacher(name, row, folder, len(missing), device)
            _check_memory(runtime, [image for image, _ in missing.values()])
            _store(runtime, list(missing.values()), outputs, on_message, check_time)
        # Copies and touched files have a known digest and a new stamp
        for image, source in zip(images, sources, strict=True):
            if source.stamp and (image.key, source.stamp) not in outputs.digests:
                append_line(
                    folder / INDEX,
                    {"key": image.key, "stamp": source.stamp, "sha256": source.sha256},
                )
    complete = read_outputs(folder)
    assert complete is not None
    return complete


def _opened(folder: Path) -> TeacherOutputs:
    """Return the folder's outputs without a torn end; an empty file if there are none."""
    outputs = read_outputs(folder)
    if outputs is None or not outputs.file.is_file():
        file = folder / f"logits-{secrets.token_hex(4)}.bin"
        file.touch()
        write_text(
            folder / INDEX, json.dumps({"format_version": FORMAT_VERSION, "file": file.name}) + "\n"
        )
        outputs = TeacherOutputs(folder, file, {}, {})
    os.truncate(outputs.file, max((entry.end for entry in outputs.entries.values()), default=0))
    return outputs


def _teacher(name: str, row: TeacherRow, folder: Path, missing: int, device: str) -> Runtime:
    """Return the teacher, ready to run. Raises RunError if it is missing or has changed."""
    needed = (
        f"The outputs of teacher {row.name} for {counted(missing, 'image')} are not in {folder}"
    )
    try:
        run = open_run(find_run(name))
        same = teacher_row(run).outputs == row.outputs
    except (RunError, OSError) as error:
        raise RunError(f"{needed}, and the teacher itself cannot be opened: {error}") from None
    if not same:
        raise RunError(
            f"{needed}, and {name} has other weights now than the teacher of this training. Put "
            "them back, or start a new run."
        )
    return open_runtime(run, device)


def _check_memory(runtime: Runtime, images: Sequence[_Image]) -> None:
    """Raise ConfigError if the largest image does not fit into the memory untiled."""
    sizes = {image_size(image.path): image.path for image in images if image.path}
    if not sizes:
        return
    largest = max(sizes, key=lambda size: size[0] * size[1])
    free = available_memory(runtime.device) / 1e9
    if plan(runtime, largest, own_settings(runtime), free).inference.window is not None:
        raise ConfigError(
            f"teacher {runtime.name} sees whole images, and the largest, {sizes[largest]} of "
            f"{size_text(largest)}, takes more than the {free:.1f} GB of free memory. Shrink the "
            "images, or name a teacher that was trained with data.test_resize."
        )


def _store(
    runtime: Runtime,
    missing: Sequence[tuple[_Image, Source]],
    outputs: TeacherOutputs,
    on_message: OnMessage,
    check_time: Callable[[float], None],
) -> None:
    """Append the teacher's outputs to the flat file, and their entries to the index once synced."""
    # A few images, spread over all, tell the time and the disk space; their outputs are kept
    step = -(-len(missing) // TRIAL_IMAGES)
    order = [*missing[::step], *(pair for number, pair in enumerate(missing) if number % step)]
    trial, ends = [], [time.monotonic()]
    for image, source in order[: len(missing[::step])]:
        trial.append(_outputs_of(runtime, image, source))
        ends.append(time.monotonic())
    image_seconds = min(later - sooner for sooner, later in pairwise(ends))  # the first warms up
    most = max(aligned(len(content)) for _, content in trial)
    pixel_bytes = max(aligned(len(content)) / math.prod(entry.resized) for entry, content in trial)
    needed = sum(
        _output_bytes(runtime, image.path, pixel_bytes) if image.path else most
        for image, _ in order
    )
    free = shutil.disk_usage(outputs.folder).free
    if needed > free:
        raise FeathersegError(
            f"the outputs of {runtime.name} for {counted(len(order), 'image')} take "
            f"{needed / 1e9:.1f} GB, but the disk of {outputs.folder} has {free / 1e9:.1f} GB "
            "free. Free disk space, or name a folder on another disk with FEATHERSEG_CACHE."
        )
    on_message(
        f"teacher {runtime.name} sees {counted(len(order), 'image')} once: about "
        f"{needed / 1e9:.2f} GB in {outputs.folder}, about "
        f"{max(1, round(len(order) * image_seconds))} s"
    )
    check_time((len(order) - len(trial)) * image_seconds)

    # One image after the other; the index names one only once its logits are on the disk
    waiting: list[dict[str, object]] = []
    with open(outputs.file, "ab") as file:
        flushed, flushed_at, message_at = file.tell(), time.monotonic(), time.monotonic()
        file.write(bytes(first_free(outputs) - file.tell()))
        for done, (image, source) in enumerate(order, start=1):
            entry, content = (
                trial[done - 1] if done <= len(trial) else _outputs_of(runtime, image, source)
            )
            file.write(bytes(aligned(file.tell()) - file.tell()))
            record = entry.record() | {"offset": file.tell()}
            waiting.append(
                {"key": image.key, "stamp": source.stamp, "sha256": source.sha256, **record}
            )
            file.write(content)
            now = time.monotonic()
            if (
                file.tell() - flushed >= FLUSH_BYTES
                or now - flushed_at >= FLUSH_SECONDS
                or done == len(order)
            ):
                file.flush()
                os.fsync(file.fileno())
                for line in waiting:
                    append_line(outputs.folder / INDEX, line)
                flushed, flushed_at, waiting = file.tell(), now, []
            if now - message_at >= MESSAGE_SECONDS:
                message_at = now
                on_message(f"teacher {runtime.name}: {done} of {len(order)} images")


def _output_bytes(runtime: Runtime, path: Path, pixel_bytes: float) -> float:
    """Return the bytes of a teacher's outputs for an image file, by the bytes per pixel."""
    size = image_size(path)
    (factor,) = own_settings(runtime).factors(size)
    return pixel_bytes * math.prod(scaled_size(size, factor))


def _outputs_of(runtime: Runtime, image: _Image, source: Source) -> tuple[Entry, bytes]:
    """Return a teacher's outputs for an image: (entry with offset 0, bytes for the flat file)."""
    pixels = image.data[image.place].image  # (H, W, C)
    if image.path and not source.is_current(image.path, {}):
        raise DataError(
            f"{image.path} changed while it was being read. Run the same command again."
        )
    size = (pixels.shape[0], pixels.shape[1])
    (factor,) = own_settings(runtime).factors(size)
    planes = on_device(runtime, pixels[None])  # (1, C, H, W)
    normal = normalise(planes, runtime.mean, runtime.std, runtime.image_range)
    scaled = scale_images(normal, factor)  # (1, C, H * factor, W * factor)
    out = runtime(scaled)
    logits = to_numpy(as_float(out.logits[0]))  # (K, h, w)
    if not np.isfinite(logits).all():
        raise ConfigError(
            f"teacher {runtime.name} gives values for {image.key!r} that are not finite."
        )
    grid = Grid((logits.shape[1], logits.shape[2]), out.padded_size, out.align_corners)
    resized = (scaled.shape[2], scaled.shape[3])
    return Entry(0, len(logits), grid, size, resized), stored(logits)
