"""Requests and answers, as /openapi.json describes them."""

from typing import Any, Literal

from pydantic import Field

from featherseg.core.config import Config
from featherseg.inference.soft_output import SoftKind

Format = Literal["png", "rle", "polygons"]


class BatchQuery(Config):
    """Of /v1/segment/batch."""

    format: Format = "png"
    model: str | None = None


class SegmentQuery(Config):
    """Of /v1/segment."""

    format: Literal[Format, SoftKind] = "png"
    model: str | None = None


class ClassAnswer(Config):
    name: str
    color: tuple[int, int, int]
    thing: bool


class ModelAnswer(Config):
    """One model; `channels` of the images that it takes."""

    name: str
    classes: list[ClassAnswer]
    licence: str
    panoptic: bool
    channels: int


class ModelsAnswer(Config):
    """The first is the default."""

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
    """One class; `share` of the image, 0..1."""

    index: int
    name: str
    color: tuple[int, int, int]
    share: float


class RunLengths(Config):
    """COCO's uncompressed form: lengths of zeros and ones in turn, column by column, the first of zeros."""

    size: tuple[int, int]
    counts: list[int]


class SegmentAnswer(Config):
    """All pixels of a class, or of one object; bbox is [x, y, width, height].

    polygons are exterior rings, holes what is cut out of them, both lists of [x, y] at corners of pixels.
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
    """One image; size is [height, width]. mask_png (base64) in place of segments where PNG was asked of a batch."""

    model: str
    size: tuple[int, int]
    classes: list[ShareAnswer]
    segments: list[SegmentAnswer] | None = None
    mask_png: str | None = None


class BatchAnswer(Config):
    """In the order of the images."""

    results: list[MaskAnswer | ErrorAnswer]


def multipart(field: str, several: bool = False) -> dict[str, Any]:
    """The request body of a form with one file, or several files, in `field`."""
    file = {"type": "string", "format": "binary"}
    content = {"type": "array", "items": file} if several else file
    schema = {"type": "object", "required": [field], "properties": {field: content}}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
