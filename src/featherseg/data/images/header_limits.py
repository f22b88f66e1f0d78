"""What reading a header may cost, for every format."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from featherseg.core.errors import TooLarge

MOST_STEPS, SEGMENT_STEPS = 2**18, 16
"""Most steps in one file, and the steps of a JPEG segment.

A step is a tag, or in a JPEG a byte between segments: Python reads each, here and in Pillow. Pillow
keeps an object of each segment. Photographs have up to some hundred segments.
"""


@dataclass
class Steps:
    """The steps that are left for the header of the file `name`."""

    name: str
    left: int = MOST_STEPS

    def take(self, steps: int = 1) -> None:
        """Use up steps. Raises TooLarge if too few are left."""
        self.left -= steps
        if self.left < 0:
            limit = f"{MOST_STEPS // SEGMENT_STEPS:,} segments or {MOST_STEPS:,} tags"
            raise too_large(self.name, "too many segments of JPEG, or tags", limit)


def number(big_endian: bytes) -> int:
    return int.from_bytes(big_endian, "big")


def too_large(name: str, content: str, limit: str) -> TooLarge:
    """Return the error for a file with this content."""
    return TooLarge(
        f"{name} is too large: it holds {content}, the limit is {limit}. Save it again with "
        "another program."
    )


def boxes(file: BinaryIO, steps: Steps) -> Iterator[tuple[bytes, int, int | None]]:
    """Yield (type, place of the content, its bytes; None: to the end) of an ISO file's boxes."""
    place = 0
    while True:
        steps.take(SEGMENT_STEPS)
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack_from(">I4s", head)
        inside = 16 if length == 1 else 8
        length = number(head[8:16]) if length == 1 else length
        if length == 0:
            yield kind, place + inside, None
        if not inside <= length < 2**62:
            return
        yield kind, place + inside, length - inside
        place += length
