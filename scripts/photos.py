"""The pictures of the two models that know photographs, of examples/photos.

python scripts/photos.py

photos.webp, at the top of the README: two photographs, and below what the models see. road.webp and
indoor.webp, in docs/models.md: all four photographs of each.
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from featherseg import Predictor

ROOT = Path(__file__).parents[1]
HEIGHT, GAP = 300, 8


def main() -> None:
    """Photographs above, masks below."""
    columns = {}
    for name in ("road", "indoor"):
        predict = Predictor(name, device="cpu")
        photos = sorted((ROOT / "examples" / "photos").glob(f"{name}-*.jpg"))
        columns[name] = [(Image.open(photo), predict(photo).overlay()) for photo in photos]
        write(name, columns[name])
    write("photos", [*columns["road"][1:3], *columns["indoor"][1:3]])


def write(name: str, columns: Sequence[Sequence[Image.Image]]) -> None:
    """Write docs/images/NAME.webp."""
    side_by_side(columns, HEIGHT).save(ROOT / "docs" / "images" / f"{name}.webp", quality=80)


def side_by_side(columns: Sequence[Sequence[Image.Image]], height: int) -> Image.Image:
    """Return columns of two images, one above the other, each scaled to the height in pixels."""
    rows = [
        [image.resize((round(image.width * height / image.height), height)) for image in pair]
        for pair in columns
    ]
    width = sum(above.width + GAP for above, _ in rows) - GAP
    strip, left = Image.new("RGB", (width, 2 * height + GAP), "white"), 0
    for above, below in rows:
        strip.paste(above, (left, 0))
        strip.paste(below, (left, height + GAP))
        left += above.width + GAP
    return strip


if __name__ == "__main__":
    main()
