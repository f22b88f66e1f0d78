"""Decoders' messages on damaged files are hidden; ours on unreadable files is the only one."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

CODE = """
import sys
from contextlib import suppress
from pathlib import Path
from featherseg.core.errors import DataError
from featherseg.data.images.decoding import read_image
with suppress(DataError):  # spoiled JPEG and fax data are read as other pixels
    read_image(Path(sys.argv[1]))
"""


def spoil(content: bytearray, compression: str) -> bytearray:
    """Change bytes in the middle of the pixel data; twelve samples per pixel if uncompressed."""
    if compression == "raw":
        entry = content.index(b"\x15\x01\x03\x00")  # tag 277, SamplesPerPixel
        content[entry + 8] = 12
    else:
        content[200:260] = b"\xff" * 60
    return content


@pytest.mark.parametrize(
    "compression",
    [
        "jpeg",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "group4")
        ),
    ],
)
def test_decoders_print_nothing(tmp_path, compression):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    path = tmp_path / "damaged.tif"
    Image.fromarray(pixels).convert("1" if compression == "group4" else "RGB").save(
        path, compression=compression
    )
    path.write_bytes(spoil(bytearray(path.read_bytes()), compression))
    done = subprocess.run(
        [sys.executable, "-c", CODE, path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
