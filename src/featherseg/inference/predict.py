"""`featherseg.predict`: predictions of images, folders, videos, a camera, shards of a cluster."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.config import refuse_unused, with_given
from featherseg.core.errors import ConfigError, DataError, RunError
from featherseg.core.files import check_folder, name_too_long
from featherseg.core.notebook import progress_or_bar
from featherseg.core.storage import address, is_remote
from featherseg.core.types import Progress
from featherseg.core.wording import counted, size_text
from featherseg.data.images.listing import (
    find_images,
    folders_of_images,
    images_in,
    is_image,
    stored_images,
)
from featherseg.data.images.palettes import recolored
from featherseg.inference.folder import PredictedFolder, write_formats, write_images
from featherseg.inference.output import DEFAULTS, Output, OutputSettings
from featherseg.inference.predictor import Predictor, PredictorOptions
from featherseg.inference.reporter import LoggedReporter, PredictReporter
from featherseg.inference.runtimes import Runtime, refuse_needless_trust
from featherseg.inference.settings import InferenceSettings
from featherseg.inference.tiling import DEFAULT_GB
from featherseg.inference.video.inputs import VideoInputs, check_targets, find_videos, masks_folder
from featherseg.inference.video.parts import parts_folder
from featherseg.inference.video.read import is_video

if TYPE_CHECKING:
    from featherseg.inference.video.camera import Recording
    from featherseg.inference.video.segmentation import VideoResult
    from featherseg.runs.run import Run


def predict(
    model: "Predictor | Run | Runtime | str | Path",
    inputs: Any,
    *,
    out: str | Path | None = None,
    device: str = "auto",
    batch: int = 1,
    inference: InferenceSettings | Mapping[str, Any] | None = None,
    memory_gb: float = DEFAULT_GB,
    max_side: int | None = None,
    threads: int | None = None,
    settings: OutputSettings | Mapping[str, Any] = DEFAULTS,
    trust: bool = False,
    cluster: str | None = None,
    workers: int | None = None,
    progress: Progress | PredictReporter | None = None,
) -> Any:
    """Segment images, and with `out` write the results of images, videos or a camera to disk.

    Without `out` each `Prediction` holds the mask, and can draw and save it. For one image after
    the other keep a `featherseg.Predictor`: it opens the model once.

        featherseg.predict("runs/photos", "street.jpg").save("masks")
        featherseg.predict("runs/photos", "new", out="masks")

    Args:
        model: A Run, a run folder, the name of one, an exported file, or a Predictor (which has
            options of its own).
        inputs: Without `out` a path, a PIL image, an (H, W, C) uint8 or uint16 array, a (C, H, W)
            tensor; a list of them, an iterator (read as it is used), or a folder, also in a bucket:
            the images directly inside, by name. With `out` paths of images, folders and videos, or
            a list of them; or "camera" or "camera:N", which is recorded until Ctrl-C.
        out: The folder to write, also s3://BUCKET/FOLDER; for one video or a camera also a .mp4 or
            .webm. Only one result at a time is in memory.
        device: auto, cpu, cuda, cuda:N or mps.
        batch: How many images of one size go through the model at a time.
        inference: How images are processed, or what differs from how the run was validated:
            {"flip": True}.
        memory_gb: Memory to stay within; larger images are cut into tiles.
        max_side: Shrink longer images to this side for the model, scales on top; masks keep the
            full size.
        threads: Threads of the CPU. Default: torch's, at most the cores that may be used.
        settings: Which files are written for an image, in which colours, and whether existing ones
            are replaced; or {"masks": True}, which also writes the masks of a video, a PNG per
            frame.
        trust: Open a .pt2 file, which runs the code that it contains.
        cluster: Write the masks of one folder by many processes, by Ray: "local", "auto" or
            HOST:PORT.
        workers: Number of processes of the cluster. Default: this machine's cores.
        progress: With `out`, called with (what is being done, images done, images in all), or a
            `PredictReporter`. Default: a bar in a notebook.

    Returns:
        Prediction for one image, a list of them for a list or a folder, an iterator for an
        iterator. With `out` a PredictedFolder, which lists what was written, and why other images
        and videos were skipped; a Recording for a camera; a PredictedShards for a cluster.

    Raises:
        RunError, ExportError, DeviceError: The model or the camera cannot be used.
        DataError, DataNotFound: An input is missing or cannot be read.
        ConfigError: A value is out of range or without effect, an image needs more than
            `memory_gb`, files are in the way.
        MissingExtra: A video needs PyAV, a cluster Ray.
    """
    settings = with_given(DEFAULTS, settings, "settings")
    refuse_needless_trust(model, trust)
    options = PredictorOptions(device, batch, inference, memory_gb, max_side, threads, trust)
    if workers is not None and (cluster is None or workers < 1):
        raise ConfigError(
            f"--workers {workers}: expected at least 1, together with --cluster local or an "
            "address."
        )

    # Nothing is written: the predictions are returned
    if out is None:
        given = {"settings": settings != DEFAULTS, "progress": progress is not None}
        refuse_unused(given | {"cluster": cluster is not None}, "without out nothing is written")
        return open_predictor(model, options)(images_of(inputs))

    # Many processes write the masks of one folder
    paths, out = input_paths(inputs), Path(out)
    reporter: PredictReporter = (
        progress
        if isinstance(progress, PredictReporter)
        else LoggedReporter(progress_or_bar(progress))
    )
    bucket = address(out) if is_remote(out) else None
    if is_image(out.name) and not os.path.isdir(out):
        raise ConfigError(
            f"-o {bucket or out} names an image: expected a folder, for all results. Leave out the "
            "ending."
        )
    if cluster is not None:
        from featherseg.inference.cluster import predict_shards

        return predict_shards(model, paths, out, cluster, workers, settings, options, reporter)

    # Everything that would be in the way is refused before the model works
    videos = find_videos(paths, out, settings.submission)
    files = find_images([path for path in paths if path not in videos.paths], out)
    if files and bucket is None:
        check_folder(out)
    scratch = nullcontext(out) if bucket is None else TemporaryDirectory(prefix="featherseg-")
    with scratch as folder:
        output = Output(Path(folder), files, settings, bucket)
        if videos.paths:
            if settings.to:
                raise ConfigError("--to is for images: leave it out for videos and cameras.")
            soft = settings.probabilities is not None
            check_targets(videos, masks=settings.masks, overwrite=settings.overwrite, soft=soft)
        elif settings.masks:
            refuse_unused(settings.look_given | {"palette": False}, "masks are written alone")
        predictor = open_predictor(model, options)
        recolored(predictor.classes, settings.palette)
        output.check(predictor)
        if predictor.runtime.how_far:
            reporter.message(f"NOTE: {predictor.runtime.how_far}.")
        report_unused(paths, out, reporter)

        # Images first, then videos
        if videos.camera is not None:
            return record_camera(
                predictor, videos.camera, videos.targets[0], settings.look, reporter
            )
        result = PredictedFolder(output.place, ())
        if files:
            alone = len(paths) == len(files) == 1 and not os.path.isdir(paths[0])
            result = write_images(predictor, output, reporter, alone=alone)
            if settings.to:
                result = write_formats(output, result, reporter)
        if videos.videos:
            written, skipped = write_videos(predictor, videos, settings, reporter)
            left_out = (*result.left_out, *skipped)
            result = replace(result, videos=tuple(written), left_out=left_out)
        return result


def open_predictor(
    model: "Predictor | Run | Runtime | str | Path", options: PredictorOptions
) -> Predictor:
    """Return the model as a Predictor with these options.

    Raises:
        ConfigError: A Predictor is given together with options.
    """
    if isinstance(model, Predictor):
        default = PredictorOptions()
        names = [field.name for field in fields(PredictorOptions)]
        given = {name: getattr(options, name) != getattr(default, name) for name in names}
        refuse_unused(given, "a Predictor was made with options of its own")
        return model
    return Predictor(model, **vars(options))


def images_of(inputs: Any) -> Any:
    """Return the images of a folder, also in a bucket; other inputs are returned unchanged."""
    if isinstance(inputs, str | Path) and is_remote(inputs) and not is_image(inputs):
        return stored_images(str(inputs))
    if isinstance(inputs, str | Path) and os.path.isdir(inputs):
        return images_in(Path(inputs))
    return inputs


def input_paths(inputs: Any) -> list[Path]:
    """Return the paths that are given.

    Raises:
        ConfigError: An input is no path.
    """
    paths = inputs if isinstance(inputs, list | tuple) else [inputs]
    if not all(isinstance(path, str | Path) for path in paths):
        raise ConfigError(
            "with out, images are paths of images or folders: what is written is named like them."
        )
    return [Path(path) for path in paths]


def report_unused(paths: Sequence[Path], out: Path, reporter: PredictReporter) -> None:
    """Report videos and folders inside the folders of images: they are not predicted."""
    for folder in [path for path in paths if not is_remote(path) and os.path.isdir(path)]:
        if videos := sum(is_video(file) for file in folder.iterdir()):
            reporter.message(
                f"{folder}: only images are predicted, not {counted(videos, 'video')}; name videos "
                "as files"
            )
        if inside := [f for f in folders_of_images(folder) if f.resolve() != out.resolve()]:
            folders = f"{counted(len(inside), 'folder')} in it ({inside[0].name})"
            reporter.message(
                f"{folder}: images in {folders} are not predicted; name each folder of images"
            )


def write_videos(
    predictor: Predictor, inputs: VideoInputs, settings: OutputSettings, reporter: PredictReporter
) -> tuple[list["VideoResult"], list[str]]:
    """Write the videos; return their results, and why others are skipped.

    Raises:
        DataError, ConfigError, RunError: A video that is the only input cannot be written.
    """
    from featherseg.inference.video.segmentation import VideoJob, segment_video

    keep_freed_memory()
    results, skipped = list["VideoResult"](), list[str]()
    for source, target in zip(inputs.videos, inputs.targets, strict=True):
        masks = masks_folder(target) if settings.masks else None
        job = VideoJob(source, target, masks, settings.look)
        try:
            if name_too_long(parts_folder(target)):
                raise ConfigError(f"{source}: its name is too long for what it would become")
            result = segment_video(predictor, job, named(reporter.progress, target))
        except (ConfigError, DataError, RunError) as error:
            if inputs.single:
                raise
            skipped.append(str(error))
            reporter.skipped(skipped[-1])
            continue
        except KeyboardInterrupt:
            reporter.message(
                f"{target.name} is not finished: the same command goes on where it was stopped."
            )
            raise
        results.append(result)
        report_video(result, reporter)
    return results, skipped


def report_video(result: "VideoResult", reporter: PredictReporter) -> None:
    """Report what a video became, and which frames could not be read."""
    facts, job = result.facts, result.job
    sound = "; its sound is left out" if facts.sound else ""
    again = f"; the first {result.resumed} were there already" if result.resumed else ""
    reporter.message(
        f"{job.target}: {result.frames} frames, {size_text(facts.size)}, "
        f"{float(facts.rate):.4g} frames/s, {result.how}{sound}{again}"
    )
    if job.masks:
        last = f"{result.frames - 1:06d}.png"
        reporter.message(f"their masks: 000000.png to {last} in {job.masks}")
    if result.unreadable:
        frames = counted(result.unreadable, "frame")
        reporter.message(f"{frames} could not be read: the video is damaged, the result lacks them")
    if result.damaged:
        frames = counted(result.damaged, "frame")
        reporter.message(f"{frames} could be read only in part, and show what could be")


def record_camera(
    predictor: Predictor,
    camera: str,
    target: Path,
    look: Mapping[str, Any],
    reporter: PredictReporter,
) -> "Recording":
    """Record a camera until Ctrl-C, which ends it in good order; a second Ctrl-C stops at once."""
    from featherseg.inference.video.camera import record

    keep_freed_memory()
    with interrupt_event() as stop:
        reporter.message(f"recording camera {camera} to {target}; Ctrl-C ends it")
        progress = named(reporter.progress, target)
        recording = record(predictor, camera, target, stop, progress, look=look)
    reporter.message(f"{target}: {recording.frames} frames, {size_text(recording.size)}")
    if recording.dropped:
        frames = counted(recording.dropped, "frame")
        reporter.message(f"{frames} came while the model was busy: left out")
    return recording


@contextmanager
def interrupt_event() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets.

    Raises:
        ConfigError: This is not the main thread, which alone receives Ctrl-C.
    """
    if threading.current_thread() is not threading.main_thread():
        raise ConfigError("a camera is recorded in the main thread alone, which Ctrl-C interrupts.")
    stop, before = threading.Event(), signal.getsignal(signal.SIGINT)

    def finish(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    signal.signal(signal.SIGINT, finish)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def named(progress: Progress, target: Path) -> Progress:
    """Return a progress of the frames of `target`."""
    return lambda doing, done, total: progress(f"{target.name}, {doing}", done, total)
