"""Write test scenes of a drawn dataset as PNG files: python examples/write_scenes.py FOLDER COUNT"""

import sys
from pathlib import Path

from PIL import Image

from featherseg.data import open_dataset

folder, count = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
scenes = open_dataset("shapes", "test", size=count)
for key, sample in zip(scenes.keys, scenes, strict=True):
    Image.fromarray(sample.image).save(folder / f"{key.replace('/', '_')}.png")
