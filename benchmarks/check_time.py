"""Compare `featherseg check FOLDER` with decoding each image and mask once on as many threads.

python benchmarks/check_time.py FOLDER [ROUNDS]

FOLDER has images and masks and no dataset.toml, so the proposal with all its reads is timed. Both
take turns in one process, without Python's start-up; the ratio is of processor time.
"""

import sys
from pathlib import Path

import paired

from featherseg.core.errors import DataError
from featherseg.data.checks.check import check_data
from featherseg.data.discovery.file_facts import in_threads
from featherseg.data.discovery.proposal import propose
from featherseg.data.images.decoding import read_image, read_mask


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5
    listing = propose(folder).listing
    pairs = [
        pair.files
        for of_split in listing.splits.values()
        for pair in of_split
        if pair.image and pair.mask
    ]
    if not pairs:
        raise DataError(f"{folder} has no image with a mask.")

    def decode(files: tuple[Path, Path]) -> None:
        read_image(files[0], listing.channels)
        read_mask(files[1], listing.label_map.colors)

    functions = {
        "decode": lambda: list(in_threads(decode, pairs)),
        "check": lambda: check_data(str(folder)),
    }
    paired.print_table(paired.compare(functions, rounds=rounds, clock="cpu"))


if __name__ == "__main__":
    main()
