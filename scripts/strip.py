"""The images at the top of the README: drawn street scenes, and what a panoptic model sees in them.

featherseg train rsp-lite0-panoptic_shapes --out runs/objects
python scripts/strip.py runs/objects
"""

import sys
from pathlib import Path

from PIL import Image

from featherseg import Predictor
from featherseg.data import open_dataset

PAGE = Path(__file__).parents[1] / "docs" / "images" / "streets.webp"
SCENES = (1, 4, 7)  # of the test split: a night, trees, a crossing
GAP = 8


def main(run: str) -> None:
    """Images above, objects below."""
    data, predict = open_dataset("shapes", "test"), Predictor(run)
    height, width = data[0].image.shape[:2]
    strip = Image.new("RGB", (len(SCENES) * (width + GAP) - GAP, 2 * height + GAP), "white")
    for column, scene in enumerate(SCENES):
        image, left = data[scene].image, column * (width + GAP)
        strip.paste(Image.fromarray(image), (left, 0))
        strip.paste(predict(image).overlay(0.6), (left, height + GAP))
    PAGE.parent.mkdir(exist_ok=True)
    strip.save(PAGE, quality=80)


if __name__ == "__main__":
    main(sys.argv[1])
