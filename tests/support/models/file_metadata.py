"""The metadata of an exported file of a model that never was, for tests of what runs files."""

import json
from pathlib import Path

from featherseg.inference.runtimes.file_metadata import FORMAT_VERSION, FileFacts, FileRuntime

METADATA = {
    "format_version": FORMAT_VERSION,
    "model": "pixelwise",
    "classes": ["road", "sky"],
    "colors": [[128, 64, 128], [70, 130, 180]],
    "things": [False, True],
    "mean": [1.0, 2.0, 3.0],
    "std": [4.0, 5.0, 6.0],
    "channels": 3,
    "size_divisor": 32,
    "minimum_size": 64,
    "align_corners": True,
    "licence": "Apache-2.0",
    "peak_bytes_per_pixel": 20.0,
}


class ChannelsFile(FileRuntime):
    """A file of three classes whose logits are the image's channels; `seen`: sizes of its runs."""

    def __init__(self, **facts) -> None:
        colors = ([128, 64, 128], [70, 130, 180], [0, 0, 142])
        facts = {
            "classes": ["a", "b", "c"], "colors": colors, "things": [False] * 3,
            "size_divisor": 1, "minimum_size": 1, "mean": [0.0] * 3, "std": [1.0] * 3,
            "align_corners": False, **facts,
        }  # fmt: skip
        super().__init__(
            Path("file.xml"), FileFacts.model_validate_json(json.dumps(METADATA | facts))
        )
        self.seen = []

    def run(self, images):
        self.seen.append(images.shape[2:])
        return [images]
