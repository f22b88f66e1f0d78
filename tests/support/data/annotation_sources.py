"""Small sources typed by hand, as tools write them: what a test is about stands in the test."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (20, 30)  # height, width


def picture(path: Path, size: tuple[int, int] = SIZE, **save: Any) -> Path:
    """An image of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (90, 120, 60)).save(path, **save)
    return path


def turned(path: Path, orientation: int, size: tuple[int, int] = SIZE) -> Path:
    """An image, stored in `size`, with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture(path, size, exif=exif)


def square(left: float, top: float, right: float, bottom: float) -> list[float]:
    """A rectangle as a polygon of COCO."""
    return [left, top, right, top, right, bottom, left, bottom]


def coco(
    folder: Path,
    shapes: list[tuple[str, Any]],
    names: tuple[str, ...] = ("car", "road"),
    **more: Any,
) -> Path:
    """A COCO file of one image, a.png of 20 x 30, with (class, segmentation) in order."""
    picture(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "category_id": names.index(name) + 1,
                "segmentation": segmentation,
                "iscrowd": 0,
            }
            for i, (name, segmentation) in enumerate(shapes)
        ],
    }
    return write_json(folder / "coco.json", content | more)


def labelme(folder: Path, shapes: list[dict[str, Any]], image: str = "a.png", **more: Any) -> Path:
    """A labelme file of one image, which has to be there."""
    content = {
        "version": "6.3.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": image,
        "imageData": None,
    }
    return write_json(
        folder / "a.json", content | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]} | more
    )


def polygon(label: str, *corners: float) -> dict[str, Any]:
    """A polygon of labelme."""
    points = np.reshape(corners, (-1, 2)).tolist()
    return {
        "label": label,
        "points": points,
        "group_id": None,
        "shape_type": "polygon",
        "flags": {},
    }


def cvat(folder: Path, inside: str, head: str = "") -> Path:
    """A CVAT file of one image, a.png."""
    picture(folder / "images/a.png")
    text = f"""<?xml version="1.0" encoding="utf-8"?>{head}
<annotations><version>1.1</version><meta><task><labels>
<label><name>car</name><color>#ff0000</color></label>\
<label><name>road</name><color>#646464</color></label>
</labels></task></meta>
<image id="0" name="a.png" width="{SIZE[1]}" height="{SIZE[0]}">{inside}</image></annotations>"""
    path = folder / "annotations.xml"
    path.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path, content: Any) -> Path:
    """As tools write it; NaN stays NaN."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def mask(out: Path, stem: str = "a") -> np.ndarray:
    """The values of a mask that was written."""
    return np.array(Image.open(out / "masks" / f"{stem}.png"))


def box(values: np.ndarray, value: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the pixels of a value, half open; they must fill it."""
    rows, columns = np.nonzero(values == value)
    found = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    assert (values[found[0] : found[2], found[1] : found[3]] == value).all()
    return tuple(int(number) for number in found)
