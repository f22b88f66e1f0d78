"""Which files are images: by their ending, in folders, in buckets, among the inputs."""

import os
from collections.abc import Sequence
from pathlib import Path

from featherseg.core.errors import ConfigError, DataNotFound, near_path
from featherseg.core.storage import StoredFile, address, is_remote, list_files
from featherseg.data.images.unread import unread_endings, unread_note, warn_once

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".avif", ".gif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings (in lower case) of files that are images or masks."""


def is_image(path: Path | str) -> bool:
    """Whether a name ends like an image's; hidden files ("._a.png") are no images."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")


def images_in(folder: Path) -> list[Path]:
    """Return the images directly inside a folder, by name; a warning counts unreadable formats.

    Raises:
        DataNotFound: There is none.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file())
    images, unread = list(filter(is_image, files)), unread_endings(map(str, files))
    if unread and images:
        warn_once(f"{folder}: {unread_note(unread)}")
    if images:
        return images
    deeper = folders_of_images(folder)
    hint = f"; {deeper[0]} has: name folders of images" if deeper else ""
    skipped = f"{unread_note(unread)}. " if unread else ""
    raise DataNotFound(
        f"{folder} has no images{hint}. {skipped}Expected files ending in "
        f"{', '.join(IMAGE_SUFFIXES)}; for videos, name the files, as in {folder}/*.mp4."
    )


def folders_of_images(folder: Path) -> list[Path]:
    """Return the folders in a folder with images directly inside, by name, without hidden ones."""
    return sorted({file.parent for file in folder.glob("[!.]*/*") if is_image(file)})


def stored_images(place: str) -> list[StoredFile]:
    """Return the images directly in a folder of a bucket, by name; or the image at this address.

    Raises:
        DataNotFound: There is none.
        DataError: The bucket cannot be listed.
    """
    files = list(list_files(address(place)))
    images = [file for file in files if is_image(file.name)]
    unread = unread_endings(file.name for file in files)
    if not images:
        skipped = f"{unread_note(unread)}. " if unread else ""
        raise DataNotFound(
            f"{place} has no images. {skipped}Expected files ending in {', '.join(IMAGE_SUFFIXES)}."
        )
    if unread:
        warn_once(f"{place}: {unread_note(unread)}")
    return images


def find_images(paths: Sequence[Path], output: Path) -> list[Path | StoredFile]:
    """Return the files among `paths`, and the images directly inside the folders, by name.

    Raises:
        DataNotFound, DataError: A path is missing, or cannot be read.
        ConfigError: `output`, the place for results, is one of the folders.
    """
    files: list[Path | StoredFile] = []
    for path in paths:
        if is_remote(path):
            if is_remote(output) and address(path) == address(output):
                raise ConfigError(
                    f"-o {address(output)} is the folder of the images itself. Choose another "
                    "folder."
                )
            files += stored_images(str(path))
            continue
        if not os.path.exists(path):  # Path.exists raises for names that are too long
            raise DataNotFound(
                f"{path} does not exist.{near_path(path)} Expected an image or a folder of images."
            )
        if not path.is_dir():
            files.append(path)
            continue
        if not is_remote(output) and output.resolve() == path.resolve():
            raise ConfigError(
                f"-o {output} is the folder of the images itself. Choose another folder."
            )
        files += images_in(path)
    return files
