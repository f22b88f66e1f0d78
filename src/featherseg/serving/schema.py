"""Requests and answers, as described in /openapi.json."""

from typing import Any, Literal

from pydantic import Field

from featherseg.core.config import Config
from featherseg.inference.soft_output import SoftKind

Format = Literal["png", "rle", "polygons"]
FileFormat = Literal["coco", "geojson"]


class BatchQuery(Config):
    """Parameters of /v1/segment/batch."""

    format: Literal[Format, FileFormat] = "png"
    model: str | None = None


class SegmentQuery(Config):
    """Parameters of /v1/segment."""

    format: Literal[Format, FileFormat, SoftKind] = "png"
    model: str | None = None


class ClassAnswer(Config):
    name: str
    color: tuple[int, int, int]
    thing: bool


class ModelAnswer(Config):
    """One model; `channels` is the number of channels of its images."""

    name: str
    classes: list[ClassAnswer]
    licence: str
    panoptic: bool
    channels: int


class ModelsAnswer(Config):
    """All models; the first is the default."""

    models: list[ModelAnswer]


class StatusAnswer(Config):
    status: str


class ErrorRecord(Config):
    """code: a word for programs; message: for people."""

    code: str
    message: str


class ErrorAnswer(Config):
    error: ErrorRecord


class ShareAnswer(Config):
    """One class; `share` is its fraction of the image, 0..1."""

    index: int
    name: str
    color: tuple[int, int, int]
    share: float


class RunLengths(Config):
    """COCO's uncompressed run lengths: zeros and ones in turn, column by column, zeros first."""

    size: tuple[int, int]
    counts: list[int]


class SegmentAnswer(Config):
    """All pixels of a class, or of one object; bbox is [x, y, width, height].

    polygons are exterior rings, holes are cut out of them; both are lists of [x, y] at pixel
    corners.
    """

    class_index: int = Field(alias="class")
    name: str
    thing: bool
    id: int | None
    area: int
    bbox: tuple[int, int, int, int]
    rle: RunLengths | None = None
    polygons: list[list[tuple[int, int]]] | None = None
    holes: list[list[tuple[int, int]]] | None = None


class MaskAnswer(Config):
    """One image; size is [height, width].

    If a batch was requested as PNG, it has mask_png (base64) instead of segments.
    """

    model: str
    size: tuple[int, int]
    classes: list[ShareAnswer]
    segments: list[SegmentAnswer] | None = None
    mask_png: str | None = None


class CocoAnswer(Config):
    """The content of a COCO file, as `Prediction.to_coco` returns it."""

    images: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    categories: list[dict[str, Any]]


class GeoJsonAnswer(Config):
    """A FeatureCollection; `crs` is null if the coordinates are pixels."""

    type: Literal["FeatureCollection"]
    name: str
    crs: dict[str, Any] | None
    features: list[dict[str, Any]]


class BatchAnswer(Config):
    """The answers in the order of the images."""

    results: list[MaskAnswer | GeoJsonAnswer | ErrorAnswer]


class RefusedImage(ErrorAnswer):
    """An image of a batch that was not segmented."""

    file_name: str


class CocoBatchAnswer(CocoAnswer):
    """One COCO file of all images; those in `refused` are not among its images."""

    refused: list[RefusedImage]


def multipart(field: str, several: bool = False) -> dict[str, Any]:
    """Return the request body of a form with one file, or several files, in `field`."""
    file = {"type": "string", "format": "binary"}
    content = {"type": "array", "items": file} if several else file
    schema = {"type": "object", "required": [field], "properties": {field: content}}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }
