"""Files that hold images but are not read: every verb names them by count and ending."""

import logging
import os
from collections import Counter
from collections.abc import Iterable
from functools import cache

from featherseg.core.wording import counted

UNREAD_SUFFIXES = frozenset(
    {
        *(
            ".heic",
            ".heif",
            ".hif",
            ".jxl",
            ".jxr",
            ".jpx",
            ".npy",
            ".npz",
            ".mat",
            ".tga",
            ".pcx",
            ".ico",
            ".psd",
        ),
        *(".xcf", ".svg", ".eps", ".exr", ".hdr", ".pfm", ".pam", ".dds", ".fits", ".ecw"),
        *(
            ".nii",
            ".dcm",
            ".mha",
            ".nrrd",
            ".czi",
            ".lsm",
            ".nd2",
            ".svs",
        ),  # medicine and microscopes
        *(
            ".raw",
            ".dng",
            ".cr2",
            ".cr3",
            ".nef",
            ".arw",
            ".orf",
            ".rw2",
            ".raf",
            ".pef",
        ),  # cameras
    }
)
"""Endings (in lower case) of images that are not read."""

REMEDY = "to JPEG, PNG or TIFF"

log = logging.getLogger("featherseg")


def unread_endings(names: Iterable[str]) -> Counter[str]:
    """Return {ending: number of files} for endings in UNREAD_SUFFIXES, without hidden files."""
    endings = (
        os.path.splitext(name)[1].lower()
        for name in names
        if not os.path.basename(name).startswith(".")
    )
    return Counter(ending for ending in endings if ending in UNREAD_SUFFIXES)


def unread_note(endings: Counter[str]) -> str:
    """Return `3 files are skipped, because .heic is not read: convert them to ...`; "" for none."""
    if not endings:
        return ""
    total = sum(endings.values())
    files = f"{counted(total, 'file')} {'is' if total == 1 else 'are'} skipped"
    if len(endings) == 1:
        reason = f"{next(iter(endings))} is not read"
    else:
        counts = ", ".join(f"{count} {ending}" for ending, count in endings.items())
        reason = f"these formats are not read: {counts}"
    return f"{files}, because {reason}: convert {'it' if total == 1 else 'them'} {REMEDY}"


@cache
def warn_once(message: str) -> None:
    """Log a warning once per process."""
    log.warning("%s", message)
