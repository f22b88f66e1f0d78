"""The metadata of an exported file of a model that never was, for tests of what runs files."""

from featherseg.inference.runtimes.file_metadata import FORMAT_VERSION

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
