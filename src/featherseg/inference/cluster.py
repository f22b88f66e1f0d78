"""The masks of a folder of images by many processes or machines, by Ray Data (docs/decisions/0019).

Ray is imported only where it is started, so that the work on images runs, and is tested, without
it. A task is a share of the waiting images. A worker may be killed at any moment, and another one
repeats its task: a mask appears complete under its name or not at all, and has the same bytes
whoever writes it.
"""

import hashlib
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from featherseg.core.allocator import return_freed_memory
from featherseg.core.cluster import ray_cluster
from featherseg.core.config import with_given
from featherseg.core.errors import (
    ConfigError,
    DataError,
    DataNotFound,
    FeathersegError,
    near_path,
    require,
)
from featherseg.core.files import (
    check_folder,
    load_json,
    name_too_long,
    write_atomic,
    write_bytes,
    write_json,
)
from featherseg.core.machine import usable_cores
from featherseg.core.storage import (
    StoredFile,
    address,
    is_remote,
    joined,
    read_lines,
    stream_files,
    write_file,
    write_whole,
)
from featherseg.core.wording import changed_settings, counted, one_line
from featherseg.data.images.decoding import EncodedImage, image_size
from featherseg.data.images.georeference import TIFF_SUFFIXES, Georeference
from featherseg.data.images.listing import is_image
from featherseg.data.images.unread import unread_endings, unread_note, warn_once
from featherseg.inference.drawing import mask_bytes
from featherseg.inference.inputs import InputImage, read_ahead, read_input
from featherseg.inference.manifest import (
    DONE,
    FAILED,
    MANIFEST,
    MASK,
    PLACED_MASK,
    STOPPED,
    Image,
    Listed,
    Manifest,
    Record,
    read_known,
)
from featherseg.inference.output import OutputSettings
from featherseg.inference.predictor import Predictor, PredictorOptions
from featherseg.inference.reporter import PredictReporter
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.runtimes.digest import model_digest
from featherseg.inference.settings import InferenceSettings, own_settings
from featherseg.runs.run import Run

SETTINGS, MASKS = "settings.json", (MASK, PLACED_MASK)

MOST_TASKS = 20_000
"""Most tasks: Ray's driver keeps some kilobytes of each."""

SMALL_TASK = 16
"""Most images of a task, if there are few images."""


@dataclass(frozen=True)
class Job:
    """The job of every worker. `folder` and `output` are absolute paths or addresses."""

    run: str
    folder: str
    output: str
    device: str
    inference: InferenceSettings
    memory_gb: float
    max_side: int | None
    model: str

    def settings(self) -> dict[str, Any]:
        """Return what the masks depend on: a folder has masks of one such dictionary."""
        how = {
            "inference": str(self.inference),
            "memory_gb": self.memory_gb,
            "max_side": self.max_side,
        }
        return {
            "format_version": 1,
            "model": self.model,
            "images": self.folder,
            "device": self.device,
            **how,
        }


@dataclass(frozen=True)
class PredictedShards:
    """What a cluster wrote: the folder, its number of masks, and of images without one."""

    folder: str
    masks: int
    failed: int

    @property
    def complete(self) -> bool:
        """Whether every image has a mask."""
        return not self.failed

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


Execute = Callable[[Job, Path, int, int], Iterator[list[Record]]]
"""(job, folder of the manifest, number of tasks, images in each) -> records, task by task, in any
order."""

OnTask = Callable[[int, int, int], None]
"""Called with the numbers of images that are done, that have no mask, and in all.

An image has no mask if it is unreadable, or if the model does not take its size.
"""


def predict_shards(
    model: object,
    paths: Sequence[Path],
    out: Path,
    cluster: str,
    workers: int | None,
    settings: OutputSettings,
    options: PredictorOptions,
    reporter: PredictReporter,
) -> PredictedShards:
    """Write NAME_mask.png of every image in a folder, and predictions.jsonl, by many processes.

    Raises:
        ConfigError, DataNotFound, MissingExtra: Nothing is started before all is checked.
    """
    # Refuse what a cluster cannot do
    unfit = {
        "--batch": options.batch != 1,
        "--submission": settings.submission is not None,
        "--overwrite": settings.overwrite,
        "--threads": options.threads is not None,
        "--probabilities": settings.probabilities is not None,
        **{f"--{name}": is_given for name, is_given in settings.look_given.items()},
        "--to": bool(settings.to),
    }
    if names := [name for name, is_given in unfit.items() if is_given]:
        raise ConfigError(
            f"{', '.join(names)} cannot go with --cluster, which writes masks one by one, each "
            "worker on one processor, and continues an earlier command."
        )
    model = model.path if isinstance(model, Run) else model
    if not isinstance(model, str | Path):
        raise ConfigError(
            "--cluster takes a run or an exported file, which every worker opens, not a "
            f"{type(model).__name__}."
        )
    folder, place = shard_folders(paths, out)
    device = options.device
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"--device {device}: every worker finds its own; with --cluster expected auto, cpu or "
            "cuda."
        )
    require("ray.data", "cluster", "prediction over a cluster")

    # The model is opened once here, so that a wrong one is refused before Ray starts
    runtime = open_runtime(model, "cpu", trust=options.trust)
    if runtime.panoptic:
        raise ConfigError(
            f"{runtime.name} sees objects, which are not written over a cluster. Leave out "
            "--cluster."
        )
    run = str(Path(model).resolve()) if os.path.exists(model) else str(model)
    chosen = with_given(own_settings(runtime), options.inference, "inference")
    Predictor(runtime, memory_gb=options.memory_gb, max_side=options.max_side)
    digest = model_digest(runtime)
    if runtime.how_far:
        reporter.message(f"NOTE: {runtime.how_far}.")
    del runtime  # the workers need the memory

    # The workers predict
    done = failed = total = 0

    def on_task(*counts: int) -> None:
        nonlocal done, failed, total
        done, failed, total = counts
        lacking = f", {counted(failed, 'image')} without a mask" if failed else ""
        reporter.progress(f"predicting{lacking}", done + failed, total)

    workers = workers or usable_cores()
    with ray_cluster(cluster, workers, "prediction over a cluster") as there:
        if device == "cuda" and there.gpus < workers:
            raise ConfigError(
                f"--device cuda: {workers} workers, but the cluster has {there.gpus} GPUs. Give "
                "fewer."
            )
        device = "cuda" if device != "cpu" and there.gpus >= workers else "cpu"
        job = Job(run, folder, place, device, chosen, options.memory_gb, options.max_side, digest)
        reporter.message(
            f"{workers} workers, each on one {'GPU' if device == 'cuda' else 'processor'}"
        )
        try:
            masks, failed = predict_folder(job, over_ray(workers), workers, on_task)
        except KeyboardInterrupt:
            reporter.message(
                f"stopped with {done} of {total} images done, {failed} without a mask: what is "
                "done stays; the same command does the rest"
            )
            raise
    reporter.message(f"{masks} masks: NAME_mask.png and predictions.jsonl in {place}")
    if failed:
        reporter.message(f"{counted(failed, 'image')} without a mask: predictions.jsonl says why")
    return PredictedShards(place, masks, failed)


def shard_folders(paths: Sequence[Path], out: Path) -> tuple[str, str]:
    """Return the folders of the images and of the masks, as absolute paths or addresses.

    Raises:
        ConfigError, DataNotFound: There is not one folder of images, or the masks would lie in it.
    """
    if len(paths) != 1:
        raise ConfigError(f"--cluster takes one folder of images, not {len(paths)} paths.")
    (path,) = paths
    if not is_remote(path):
        if not os.path.exists(path):
            raise DataNotFound(
                f"{path} does not exist.{near_path(path)} Expected a folder of images."
            )
        if not path.is_dir():
            raise ConfigError(
                f"{path} is a file: --cluster takes a folder of images. Leave it out for one image."
            )
    folder = address(path) if is_remote(path) else str(path.resolve())
    place = address(out) if is_remote(out) else str(out.resolve())
    inside = folder.rstrip("/") + ("/" if is_remote(folder) else os.sep)
    if place == folder or place.startswith(inside):
        raise ConfigError(f"-o {out} lies in the folder of the images. Choose another folder.")
    return folder, place


def predict_folder(job: Job, execute: Execute, workers: int, on_task: OnTask) -> tuple[int, int]:
    """Write missing masks and predictions.jsonl; return the numbers of masks and of failed images.

    However it ends, what is done stays and is in the manifest; the same call does the rest.

    Raises:
        ConfigError: The output has masks of another model or of other settings.
        FeathersegError: Nothing can be written.
    """
    with TemporaryDirectory(prefix="featherseg-") as scratch, ExitStack() as stack:
        place = Place(job.output)
        place.check(job)
        planned = Manifest.plan(
            Path(scratch), list_images(job.folder), place.masks(), place.known()
        )
        manifest = stack.enter_context(planned)
        if not manifest.total:
            raise DataNotFound(f"{job.folder} has no images.")
        place.write_settings(job)
        there = done = manifest.total - manifest.waiting
        failed = 0
        on_task(done, failed, manifest.total)
        stack.callback(lambda: place.write_manifest(manifest, Path(scratch)))
        size = max(
            -(-manifest.waiting // MOST_TASKS),
            min(SMALL_TASK, -(-manifest.waiting // (4 * workers))),
        )
        if manifest.waiting:
            for records in execute(job, Path(scratch), -(-manifest.waiting // size), size):
                for record in records:
                    if record.status == STOPPED:
                        raise FeathersegError(str(record.reason))
                manifest.record(records)
                failed += (unread := sum(record.status == FAILED for record in records))
                done += len(records) - unread
                on_task(done, failed, manifest.total)
        return there + manifest.count(DONE), manifest.count(FAILED)


def list_images(folder: str) -> Iterator[Listed]:
    """Yield the images directly in a folder, in any order; a warning counts unreadable formats.

    Raises:
        DataNotFound, DataError: The folder cannot be listed.
    """
    unread = Counter[str]()
    if is_remote(folder):
        for file in stream_files(folder):
            unread += unread_endings([file.name])
            if is_image(file.name):
                yield Listed(file.name, file.size)
    else:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    unread += unread_endings([entry.name])
                    if is_image(entry.name) and entry.is_file():
                        yield Listed(entry.name, 0)
        except OSError as error:
            raise DataNotFound(
                f"{folder} cannot be listed: {error.strerror}. Expected a folder of images."
            ) from None
    if unread:
        warn_once(f"{folder}: {unread_note(unread)}")


class Place:
    """The folder of the masks, on a disk or in a bucket."""

    def __init__(self, folder: str) -> None:
        self.folder, self.remote = folder, is_remote(folder)

    def file(self, name: str) -> str:
        """Return the path or address of a file of the folder."""
        return joined(self.folder, name) if self.remote else str(Path(self.folder) / name)

    def masks(self) -> Iterator[str]:
        """Yield NAME of every NAME_mask.png or .tif, in any order."""
        if self.remote:
            yield from (
                file.name[: -len(MASK)]
                for file in stream_files(self.folder)
                if file.name.endswith(MASKS)
            )
        elif os.path.isdir(self.folder):
            with os.scandir(self.folder) as entries:
                yield from (
                    entry.name[: -len(MASK)] for entry in entries if entry.name.endswith(MASKS)
                )

    def known(self) -> Iterator[tuple[str, str]]:
        """Yield (name, sha256) of the masks in its manifest."""
        if self.remote:
            yield from read_known(read_lines(self.file(MANIFEST)))
        elif os.path.isfile(self.file(MANIFEST)):
            with open(self.file(MANIFEST), "rb") as file:
                yield from read_known(file)

    def check(self, job: Job) -> None:
        """Raise ConfigError for masks of another job, FeathersegError if nothing can be written."""
        if not self.remote:
            check_folder(Path(self.folder))
        settings = self._settings()
        if settings is None and (name := next(self.masks(), None)) is not None:
            raise ConfigError(
                f"{self.file(name + MASK)} exists, and no {SETTINGS} says what it was predicted "
                "with. Choose another folder with -o."
            )
        if settings is not None and (other := changed_settings(settings, job.settings())):
            raise ConfigError(
                f"{self.folder} holds masks that were predicted otherwise: {other}. Choose another "
                "folder with -o, or give the same command as then."
            )

    def write_settings(self, job: Job) -> None:
        """Write the job's settings, before the first mask."""
        if self.remote:
            write_whole(self.file(SETTINGS), json.dumps(job.settings(), indent=2).encode())
        else:
            write_json(Path(self.file(SETTINGS)), job.settings())

    def write_manifest(self, manifest: Manifest, scratch: Path) -> None:
        """Write the manifest line by line, because it may be larger than the memory."""
        path = scratch / MANIFEST if self.remote else Path(self.file(MANIFEST))
        write_atomic(path, lambda file: file.writelines(manifest.lines()))
        if self.remote:
            write_file(self.file(MANIFEST), path)

    def existing(self, image: Image) -> bytes | None:
        """Return an image's existing mask, from a killed command or another worker, or None."""
        may_have_place = os.path.splitext(image.file)[1].lower() in TIFF_SUFFIXES
        for ending in MASKS if may_have_place else (MASK,):
            file = self.file(image.name + ending)
            if self.remote:
                if image.there and (content := b"".join(read_lines(file))):
                    return content
            else:
                with suppress(FileNotFoundError):
                    return Path(file).read_bytes()
        return None

    def write(self, name: str, content: bytes) -> None:
        """Write the file of a mask completely or not at all. Raises FeathersegError."""
        if self.remote:
            write_whole(self.file(name), content)
        else:
            write_bytes(Path(self.file(name)), content)

    def _settings(self) -> dict[str, Any] | None:
        try:
            if self.remote:
                text = b"".join(read_lines(self.file(SETTINGS)))
                settings = json.loads(text) if text else None
            else:
                settings = load_json(Path(self.file(SETTINGS)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.file(SETTINGS)} cannot be read: {error}. Choose another folder with -o."
            ) from None
        if settings is not None and not isinstance(settings, dict):
            raise DataError(
                f"{self.file(SETTINGS)} is no record of a prediction. Choose another folder with "
                "-o."
            )
        return settings


class Worker:
    """Predicts shares of a job's images in one process.

    One image at a time goes through the model, so that the bytes of a mask depend only on the
    image.

    Raises:
        ConfigError: The run of this name on this machine is not the job's.
        FeathersegError: As `open_runtime`.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.place = job, Place(job.output)
        runtime = open_runtime(job.run, job.device, trust=True)  # the driver has opened it
        if model_digest(runtime) != job.model:
            raise ConfigError(
                f"{job.run} is not the same on {socket.gethostname()} as where the command was "
                "given. Give every machine the same files."
            )
        self.predictor = Predictor(
            runtime, inference=job.inference, memory_gb=job.memory_gb, max_side=job.max_side
        )
        self._held: tuple[int, Record | Path | EncodedImage] | None = None

    def predict(self, images: Sequence[Image]) -> Iterator[Record]:
        """Yield what became of each image. An existing mask is read, not predicted again.

        The next image is read and the last mask is written while the model works.

        Raises:
            FeathersegError: A mask cannot be written.
        """
        writing: Future[Record] | None = None
        ahead: Iterator[InputImage | Record | FeathersegError] = read_ahead(images, self._read)
        with ThreadPoolExecutor(max_workers=1) as writer:
            for image in images:  # zip would hold an image while the next is read
                outcome = next(ahead)
                if isinstance(outcome, Record):
                    yield outcome
                    continue
                if isinstance(outcome, FeathersegError):
                    yield Record(image.id, FAILED, reason=one_line(str(outcome)))
                    continue
                # An image that is not light needs the memory for itself
                if not self.predictor.is_light(outcome.pixels.shape[:2]):
                    if writing:
                        yield writing.result()
                        writing = None
                    return_freed_memory()
                mask, place = self.predictor(outcome).mask, outcome.georeference
                del outcome
                if writing:
                    yield writing.result()
                writing = writer.submit(self._write, image, mask, place)
                del mask
            if writing:
                yield writing.result()

    def _read(self, image: Image, only_light: bool) -> InputImage | Record | None:
        source = self._source(image)
        if isinstance(source, Record):
            return source
        size = image_size(source)
        if only_light and not self.predictor.is_light(size):
            return None
        self._held = None
        self.predictor.plan(size)  # a too large image is refused before it is decoded
        return read_input(source, self.predictor.runtime.channels)

    def _source(self, image: Image) -> Record | Path | EncodedImage:
        """Return what to read, fetched once for size and pixels; a Record if the mask exists."""
        if self._held and self._held[0] == image.id:
            return self._held[1]
        source: Record | Path | EncodedImage
        mask = self.place.file(image.name + MASK)
        if not self.place.remote and name_too_long(Path(mask)):
            raise DataError(
                f"{image.file}: {image.name + MASK} would be too long a name for a file. Rename "
                "the image."
            )
        if (there := self.place.existing(image)) is not None:
            source = Record(image.id, DONE, sha256=hashlib.sha256(there).hexdigest())
        elif is_remote(self.job.folder):
            stored = StoredFile(joined(self.job.folder, image.file), image.size, "")
            source = EncodedImage(stored.read(), str(stored))
        else:
            source = Path(self.job.folder) / image.file
        self._held = (image.id, source)
        return source

    def _write(self, image: Image, mask: np.ndarray, place: Georeference | None) -> Record:
        content = mask_bytes(mask, self.predictor.classes, place)
        self.place.write(image.name + (MASK if place is None else PLACED_MASK), content)
        return Record(image.id, DONE, sha256=hashlib.sha256(content).hexdigest())


class _RayWorker:
    """A `Worker` for Ray Data: called with the number of a task, it returns a table of records.

    The model is opened at the first task, so that its error comes back as a record. Ray would retry
    an actor's constructor forever.
    """

    def __init__(self, job: Job, shares: Any, size: int) -> None:
        self.job, self.shares, self.size = job, shares, size
        self.worker: Worker | None = None

    def __call__(self, batch: dict[str, np.ndarray]) -> Any:
        import pyarrow
        import ray

        images = ray.get(self.shares.share.remote(int(batch["item"][0]), self.size))
        try:
            self.worker = self.worker or Worker(self.job)
            records = list(self.worker.predict(images))
        except FeathersegError as error:
            records = [Record(-1, STOPPED, reason=str(error))]
        columns = zip(*records, strict=True)
        types = (pyarrow.int64(), pyarrow.string(), pyarrow.string(), pyarrow.string())
        arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, types, strict=True)]
        return pyarrow.table(arrays, names=list(Record._fields))


class _Shares:
    """Sends workers their images from the files beside the driver, so that no list is sent."""

    def __init__(self, folder: str) -> None:
        self.manifest = Manifest(Path(folder))

    def share(self, number: int, size: int) -> list[Image]:
        return self.manifest.share(number, size)


def over_ray(workers: int) -> Execute:
    """Return the Execute that runs in a `ray_cluster`, by this number of workers."""

    def execute(job: Job, folder: Path, tasks: int, size: int) -> Iterator[list[Record]]:
        import ray
        import ray.data
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        lasting = {
            "num_cpus": 0,
            "max_restarts": -1,
            "max_task_retries": -1,
            "scheduling_strategy": here,
        }
        shares = ray.remote(_Shares).options(**lasting).remote(str(folder))
        results = ray.data.from_items(list(range(tasks)), override_num_blocks=tasks).map_batches(
            _RayWorker,
            fn_constructor_kwargs={"job": job, "shares": shares, "size": size},
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=0 if job.device == "cpu" else 1,
        )
        try:
            table: Any  # of pyarrow
            for table in results.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield [Record(**row) for row in table.to_pylist()]
        except (ray.exceptions.RayError, ray.exceptions.RayTaskError) as error:
            raise FeathersegError(
                f"the cluster gave up: {one_line(str(error).strip().splitlines()[-1])}. What is "
                "done stays; the same command continues."
            ) from error

    return execute
