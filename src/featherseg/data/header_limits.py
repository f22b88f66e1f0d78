"""What reading a header may cost, whatever the format."""

from dataclasses import dataclass

from featherseg.core.errors import TooLarge

MOST_STEPS, SEGMENT_STEPS = 2**18, 16
"""Tags of one file, and in a JPEG bytes between its segments: Python goes over each, here and in Pillow. A segment, of
which Pillow keeps an object, counts as 16; photographs have up to some hundred.
"""


@dataclass
class Steps:
    """What the header of the file `name` may still cost: see MOST_STEPS."""

    name: str
    left: int = MOST_STEPS

    def take(self, steps: int = 1) -> None:
        """Raises TooLarge where they are not left."""
        self.left -= steps
        if self.left < 0:
            limit = f"{MOST_STEPS // SEGMENT_STEPS:,} segments or {MOST_STEPS:,} tags"
            raise too_large(self.name, "too many segments of JPEG, or tags", limit)


def number(big_endian: bytes) -> int:
    return int.from_bytes(big_endian, "big")


def too_large(name: str, found: str, limit: str) -> TooLarge:
    return TooLarge(f"{name} is too large: it holds {found}, the limit is {limit}. Save it again with another program.")
