"""GeoJSON, one file per image: a feature for each object and each connected region of a class.

Coordinates are pixels [x, y] from the upper left corner, or those of the image's reference system
if the image is a GeoTIFF. The member `crs` names that system, or is null; QGIS and GDAL read it.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from featherseg.converters.masks import MaskedImage, Masks, parts_of
from featherseg.converters.regions import Ring
from featherseg.data.images.georeference import affine, epsg

TITLE = "GeoJSON"

PIXELS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""The affine transform of an image without a place."""


def write(folder: Path, masks: Masks, copy: bool) -> None:
    """Write NAME.geojson for each image."""
    for image in masks.images:
        path = folder / image.split / f"{image.name.rpartition('.')[0]}.geojson"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document(image, masks), ensure_ascii=False), encoding="utf-8")


def document(image: MaskedImage, masks: Masks) -> dict[str, Any]:
    """Return the FeatureCollection of an image. `area` and `bbox` are pixels of the mask."""
    place = image.georeference
    transform = affine(place) if place else None
    code = epsg(place) if place and transform else None
    named = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{code}"}}
    return {
        "type": "FeatureCollection",
        "name": image.name,
        "crs": named if code else None,
        "features": list(_features(image, masks, transform or PIXELS)),
    }


def _features(
    image: MaskedImage, masks: Masks, transform: tuple[float, ...]
) -> Iterator[dict[str, Any]]:
    for part in parts_of(image, masks):
        height, width = part.inside.shape
        polygons = [
            [_closed(exterior, transform, 1), *(_closed(hole, transform, -1) for hole in holes)]
            for exterior, holes in part.outlines(masks.tolerance)
        ]
        single = len(polygons) == 1
        yield {
            "type": "Feature",
            "properties": {
                "class": part.class_id,
                "name": part.name,
                "id": part.number or None,
                "area": int(part.inside.sum()),
                "bbox": [part.left, part.top, width, height],
            },
            "geometry": {
                "type": "Polygon" if single else "MultiPolygon",
                "coordinates": polygons[0] if single else polygons,
            },
        }


def _closed(ring: Ring, transform: tuple[float, ...], turn: int) -> list[list[float]]:
    """Return a ring in map coordinates with its first point repeated.

    It turns counterclockwise for turn = 1, and clockwise for -1, as RFC 7946 asks.
    """
    a, b, c, d, e, f = transform
    x, y = np.array([*ring, ring[0]], dtype=float).T
    points = np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)  # (N + 1, 2)
    to_x, to_y = (points - points[0]).T  # large offsets would cancel digits
    area = float((to_x[:-1] * to_y[1:] - to_x[1:] * to_y[:-1]).sum())
    values: list[list[float]] = (points if area * turn > 0 else points[::-1]).tolist()
    return values
