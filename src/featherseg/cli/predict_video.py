"""What `featherseg predict` does with videos and cameras: where their results go, progress, what is said at the end."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featherseg.core.errors import ConfigError, DataError, RunError
from featherseg.core.wording import counted, one_line, size_text

if TYPE_CHECKING:
    from featherseg.cli.terminal import Console
    from featherseg.core.types import Progress
    from featherseg.inference.predictor import Predictor
    from featherseg.inference.video.segmentation import VideoResult

NO_RATE = "-"


@dataclass(frozen=True)
class Moving:
    """The videos among the paths, each with the file it becomes, or the one camera (by number or name) with its file.

    paths: those of the command line that this takes; single: nothing else was given.
    """

    videos: tuple[Path, ...]
    camera: str | None
    targets: tuple[Path, ...]
    paths: frozenset[Path]
    single: bool

    def check(self, masks: bool, overwrite: bool) -> None:
        """Raises ConfigError where a result is in the way and was not asked to be replaced."""
        from featherseg.core.files import check_folder, name_too_long
        from featherseg.inference.video.parts import parts_folder

        if self.camera is not None and masks:
            raise ConfigError("--masks is for videos: of a camera, predict the recording's frames afterwards.")
        inputs = {os.path.realpath(path) for path in self.paths}
        for target in self.targets:
            if os.path.realpath(target) in inputs:
                raise ConfigError(f"{target} is one of the videos itself. Choose another name with -o.")
            check_folder(target.parent)
            if name_too_long(parts_folder(target)):
                if self.single:
                    raise ConfigError(f"{target} is too long a name for a file. Name another with -o.")
                continue  # it is left out, the others are written
            folder = masks_folder(target)
            begun = parts_folder(target).is_dir()
            if os.path.exists(target) and not overwrite:
                raise ConfigError(f"{target} exists. Use --overwrite, or another name with -o.")
            if masks and not begun and not overwrite and folder.is_dir() and any(folder.iterdir()):
                raise ConfigError(f"{folder} holds files. Use --overwrite, or another name with -o.")

    def run(self, predictor: Predictor, run: str, masks: bool, console: Console) -> int:
        """Write all of them; -> how many could not be read, or only in part."""
        from featherseg.core.allocator import keep_freed_memory

        keep_freed_memory()
        if self.camera is not None:
            _record(predictor, run, self.camera, self.targets[0], console)
            return 0
        pairs = zip(self.videos, self.targets, strict=True)
        return sum(not self._segment(predictor, run, pair, masks, console) for pair in pairs)

    def _segment(self, predictor: Predictor, run: str, pair: tuple[Path, Path], masks: bool, console: Console) -> bool:
        """Write one video; -> whether all of it could be read. A single one that cannot be read at all is an error."""
        from rich.markup import escape

        from featherseg.core.files import name_too_long
        from featherseg.inference.video.parts import parts_folder
        from featherseg.inference.video.segmentation import VideoJob, run_digest, segment_video

        source, target = pair
        if name_too_long(parts_folder(target)):
            console.print(
                f"[red]left out[/] {escape(one_line(str(source)))}: its name is too long for what it would become"
            )
            return False
        job = VideoJob(source, target, run_digest(run), masks_folder(target) if masks else None)
        try:
            with _progress(console, target.name) as progress:
                result = segment_video(predictor, job, progress)
        except (ConfigError, DataError, RunError) as error:
            if self.single:
                raise
            console.print(f"[red]left out[/] {escape(one_line(str(error)))}")
            return False
        except KeyboardInterrupt:
            console.print(
                f"{escape(one_line(target.name))} is not finished: the same command goes on where it was stopped."
            )
            raise
        _print_result(console, result, job.target, job.masks)
        return not result.unreadable


def find_moving(paths: Sequence[Path], output: Path, submission: str | None) -> Moving:
    """The videos and the camera among `paths`. Raises ConfigError where they or `output` do not go together."""
    from featherseg.core.files import unique_names
    from featherseg.inference.video.read import VIDEO_SUFFIXES, is_video

    cameras = [path for path in paths if camera_name(str(path)) is not None]
    videos = [path for path in paths if is_video(path) and not os.path.isdir(path)]  # Path's raise of long names
    one_file = output.suffix.lower() in VIDEO_SUFFIXES and not os.path.isdir(output)
    if submission and (videos or cameras):
        raise ConfigError(f"--submission {submission} takes images, but {(videos or cameras)[0]} is none.")
    if cameras and (len(paths) > 1 or not one_file):
        raise ConfigError(f"{cameras[0]} is recorded by itself and into a file: name it, as in -o {cameras[0]}.mp4.")
    if one_file and not cameras and (len(videos), len(paths)) != (1, 1):
        raise ConfigError(f"-o {output} names a video, which one video or a camera becomes. Name a folder for these.")
    targets = [output] if one_file else [output / f"{name}_overlay.mp4" for name in unique_names(videos)]
    return Moving(
        videos=tuple(videos),
        camera=camera_name(str(cameras[0])) if cameras else None,
        targets=tuple(_written(target) for target in targets),
        paths=frozenset([*videos, *cameras]),
        single=len(paths) == 1,
    )


def camera_name(path: str) -> str | None:
    """`camera` -> "0", `camera:2` -> "2" (or a name, where the system has names); None for what exists, or else."""
    match = None if os.path.exists(path) else re.fullmatch(r"camera(?::(.+))?", path)
    return None if match is None else match[1] or "0"


def masks_folder(target: Path) -> Path:
    """Where the masks of `target` go: clip_seg.mp4 -> clip_seg_masks."""
    return target.with_name(f"{target.stem}_masks")


def _written(target: Path) -> Path:
    """The target itself, if its ending is one that is written."""
    from featherseg.inference.video.write import check_ending

    check_ending(target)
    return target


@contextmanager
def _progress(console: Console, name: str) -> Iterator[Progress]:
    """A line on a terminal: frames, frames a second, time that remains. What was resumed counts for no speed."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} frames/s"),
        TimeRemainingColumn(),
    )
    begun: list[tuple[int, float]] = []
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(escape(one_line(name)), total=None, rate=NO_RATE)

        def progress(doing: str, done: int, total: int | None) -> None:
            now = time.monotonic()
            if not begun:
                begun.append((done, now))
            first, start = begun[0]
            rate = f"{(done - first) / (now - start):.1f}" if done > first and now > start else NO_RATE
            bar.update(task, completed=done, total=total, rate=rate)

        yield progress


def _print_result(console: Console, result: VideoResult, target: Path, masks: Path | None) -> None:
    from rich.markup import escape

    facts = result.facts
    sound = "; its sound is left out" if facts.sound else ""
    again = f"; the first {result.resumed} were there already" if result.resumed else ""
    console.print(
        f"{escape(one_line(str(target)))}: {result.frames} frames, {size_text(facts.size)}, "
        f"{float(facts.rate):.4g} frames/s, {result.how}{sound}{again}"
    )
    if masks:
        console.print(f"their masks: 000000.png to {result.frames - 1:06d}.png in {escape(one_line(str(masks)))}")
    if result.unreadable:
        lacking = counted(result.unreadable, "frame")
        console.print(f"[red]{lacking} could not be read[/]: the video is damaged, the result lacks them")
    if result.damaged:
        partly = counted(result.damaged, "frame")
        console.print(f"[yellow]{partly} could be read only in part[/], and show what could be")


def _record(predictor: Predictor, run: str, camera: str, target: Path, console: Console) -> None:
    """Record until Ctrl-C, which ends it in good order; a second one stops at once."""
    from rich.markup import escape

    from featherseg.inference.video.camera import record
    from featherseg.inference.video.segmentation import run_digest

    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def finish(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop.set()

    signal.signal(signal.SIGINT, finish)
    console.print(f"recording camera {escape(camera)} to {escape(one_line(str(target)))}; Ctrl-C ends it")
    try:
        with _progress(console, target.name) as progress:
            recording = record(predictor, camera, target, stop, progress, model=run_digest(run))
    finally:
        signal.signal(signal.SIGINT, before)
    console.print(f"{escape(one_line(str(target)))}: {recording.frames} frames, {size_text(recording.size)}")
    if recording.dropped:
        console.print(f"{counted(recording.dropped, 'frame')} came while the model was busy: left out")
