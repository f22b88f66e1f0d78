"""Videos and cameras among the inputs of `featherseg.predict`, and the files that they become."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherseg.core.errors import ConfigError
from featherseg.core.files import check_folder, name_too_long, unique_names
from featherseg.core.storage import is_remote
from featherseg.inference.video.parts import parts_folder
from featherseg.inference.video.read import VIDEO_SUFFIXES, is_video
from featherseg.inference.video.write import check_ending


@dataclass(frozen=True)
class VideoInputs:
    """Videos, or one camera, each with the file that it becomes.

    Args:
        videos: The videos.
        camera: Number or name of the camera, or None.
        targets: The file of each video, or of the camera.
        paths: The inputs that are videos or cameras.
        single: Whether there is no other input.
    """

    videos: tuple[Path, ...]
    camera: str | None
    targets: tuple[Path, ...]
    paths: frozenset[Path]
    single: bool


def find_videos(paths: Sequence[Path], out: Path, submission: str | None) -> VideoInputs:
    """Return the videos and the camera among `paths`.

    Raises:
        ConfigError: They do not go together, or do not go with `out` or with a submission.
    """
    cameras = [path for path in paths if camera_name(str(path)) is not None]
    # os.path.isdir, because Path.is_dir raises for names that are too long
    videos = [path for path in paths if is_video(path) and not os.path.isdir(path)]
    one_file = out.suffix.lower() in VIDEO_SUFFIXES and not os.path.isdir(out)
    if submission and (videos or cameras):
        first = (videos or cameras)[0]
        raise ConfigError(f"--submission {submission} takes images, but {first} is none.")
    if cameras and (len(paths) > 1 or not one_file):
        raise ConfigError(
            f"{cameras[0]} is recorded by itself and into a file: name it, as in "
            f"-o {cameras[0]}.mp4."
        )
    if one_file and not cameras and (len(videos), len(paths)) != (1, 1):
        raise ConfigError(
            f"-o {out} names a video, which one video or a camera becomes. Name a folder for these."
        )
    targets = [out] if one_file else [out / f"{n}_overlay.mp4" for n in unique_names(videos)]
    for target in targets:
        check_ending(target)
    return VideoInputs(
        videos=tuple(videos),
        camera=camera_name(str(cameras[0])) if cameras else None,
        targets=tuple(targets),
        paths=frozenset([*videos, *cameras]),
        single=len(paths) == 1,
    )


def check_targets(inputs: VideoInputs, *, masks: bool, overwrite: bool, soft: bool) -> None:
    """Refuse options that are not for videos, and files in the way of a result.

    Raises:
        ConfigError: An option is for images, or a file would be replaced unasked.
    """
    if any(map(is_remote, (*inputs.paths, *inputs.targets))):
        raise ConfigError(
            "videos are read from and written to this machine's disk alone: copy them, or name "
            "images."
        )
    if soft:
        raise ConfigError(
            "--probabilities is for images: save a video's frames as images to get theirs."
        )
    if inputs.camera is not None and masks:
        raise ConfigError(
            "--masks is for videos: of a camera, predict the recording's frames afterwards."
        )
    sources = {os.path.realpath(path) for path in inputs.paths}
    for target in inputs.targets:
        if os.path.realpath(target) in sources:
            raise ConfigError(f"{target} is one of the videos itself. Choose another name with -o.")
        check_folder(target.parent)
        if name_too_long(parts_folder(target)):
            if inputs.single:
                raise ConfigError(f"{target} is too long a name for a file. Name another with -o.")
            continue  # it is skipped, the others are written
        if os.path.exists(target) and not overwrite:
            raise ConfigError(f"{target} exists. Use --overwrite, or another name with -o.")
        # Masks beside unfinished parts are those of an interrupted command, which continues
        folder, begun = masks_folder(target), parts_folder(target).is_dir()
        if masks and not begun and not overwrite and folder.is_dir() and any(folder.iterdir()):
            raise ConfigError(f"{folder} holds files. Use --overwrite, or another name with -o.")


def camera_name(path: str) -> str | None:
    """Return "0" for `camera`, "2" for `camera:2`, None for a file that exists or another name."""
    match = None if os.path.exists(path) else re.fullmatch(r"camera(?::(.+))?", path)
    return None if match is None else match[1] or "0"


def masks_folder(target: Path) -> Path:
    """Return the folder of a video's masks: clip_seg_masks for clip_seg.mp4."""
    return target.with_name(f"{target.stem}_masks")
