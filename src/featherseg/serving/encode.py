"""Encode a prediction as PNG or JSON."""

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from featherseg.converters.regions import Runs, corner_count, rings, runs_of
from featherseg.data.images.decoding import EncodedImage
from featherseg.data.images.unused_parts import unused_parts
from featherseg.inference import drawing
from featherseg.inference.predictor import Prediction, class_counts
from featherseg.inference.soft_output import confidence_png, probabilities_npz
from featherseg.serving.refusal import Refused
from featherseg.serving.schema import FileFormat, Format
from featherseg.serving.uploads import Upload

MOST_RUNS, MOST_CORNERS = 2_000_000, 500_000
"""Most runs and corners of one mask; beyond, its JSON takes many seconds and 150 MB.

Masks of noise exceed them, masks of things do not.
"""


MOST_FILE_CORNERS = 100_000
"""Most corners for COCO and GeoJSON, whose regions are simplified one by one."""


def mask_png(prediction: Prediction) -> bytes:
    """Return the index mask (H, W) as a PNG, equal to NAME_mask.png of `featherseg predict`."""
    return drawing.png_bytes(drawing.index_image(prediction.mask, prediction.classes))


def encode_soft(prediction: Prediction) -> bytes:
    """Return `Prediction.soft`: an .npz of all classes' probabilities, or a grey PNG of confidence.

    The bytes equal those of `featherseg predict --probabilities`.
    """
    assert prediction.soft is not None
    if prediction.soft.ndim == 3:
        return probabilities_npz(prediction.soft, prediction.classes)
    return confidence_png(prediction.soft)


def encoder(model: str, format: Format) -> Callable[[Prediction], bytes]:
    """Return a function that encodes a prediction as JSON, with a base64 PNG, runs or polygons.

    The function raises Refused (413) for a mask with too many runs or corners.
    """
    if format == "png":
        return lambda prediction: _json(
            _head(model, prediction) | {"mask_png": b64encode(mask_png(prediction)).decode("ascii")}
        )
    draw_part = {"rle": _rle, "polygons": _polygons}[format]
    check = {"rle": _check_runs, "polygons": _check_corners}[format]

    def encode(prediction: Prediction) -> bytes:
        numbers, parts = _parts(prediction)
        check(numbers)
        runs = runs_of(numbers)
        segments = [
            _about(part, prediction, runs) | draw_part(numbers, part.number, runs) for part in parts
        ]
        return _json(_head(model, prediction) | {"segments": segments})

    return encode


def file_encoder(format: FileFormat, upload: Upload) -> Callable[[Prediction], bytes]:
    """Return a function that encodes a prediction as a COCO file or as GeoJSON.

    The function raises Refused (413) for a mask with too many corners.

    Args:
        format: coco or geojson.
        upload: The image, which may be a GeoTIFF, and its name, which the answer contains.
    """

    def encode(prediction: Prediction) -> bytes:
        _check_corners(prediction.mask, MOST_FILE_CORNERS)
        if format == "coco":
            return _json(replace(prediction, file_name=upload.name).to_coco())
        place, _ = unused_parts(EncodedImage(upload.content), prediction.image.shape[2])
        named = replace(prediction, file_name=upload.name, georeference=place)
        return _json(named.to_geojson())

    return encode


class CocoPart(NamedTuple):
    """What one image adds to the lists of a COCO file, as JSON without their brackets."""

    images: bytes
    annotations: bytes
    categories: bytes


def batch_encoders(
    model: str, format: Format | FileFormat, uploads: Sequence[Upload]
) -> list[Callable[[Prediction], bytes | CocoPart]]:
    """Return a function for each image of a batch; `batch_answer` joins what they return.

    The functions raise Refused (413) for a mask with too many runs or corners.
    """
    if format == "coco":
        return [_coco_part_encoder(upload, number) for number, upload in enumerate(uploads, 1)]
    if format == "geojson":
        return [file_encoder(format, upload) for upload in uploads]
    return [encoder(model, format)] * len(uploads)


def batch_answer(
    format: Format | FileFormat,
    uploads: Sequence[Upload],
    answers: Sequence[bytes | CocoPart | Refused],
) -> bytes:
    """Return the JSON of a batch: one COCO file, or `results` with an answer for each image."""
    if format != "coco":
        results = [
            _json({"error": answer.record}) if isinstance(answer, Refused) else answer
            for answer in answers
        ]
        return b'{"results":[%s]}' % b",".join(results)  # type: ignore[arg-type]
    parts = [answer for answer in answers if isinstance(answer, CocoPart)]
    refused = [
        {"file_name": upload.name, "error": answer.record}
        for upload, answer in zip(uploads, answers, strict=True)
        if isinstance(answer, Refused)
    ]
    return b'{"images":[%s],"annotations":[%s],"categories":[%s],"refused":%s}' % (
        b",".join(part.images for part in parts),
        b",".join(part.annotations for part in parts if part.annotations),
        parts[0].categories if parts else b"",
        _json(refused),
    )


def _coco_part_encoder(upload: Upload, number: int) -> Callable[[Prediction], CocoPart]:
    """Return a function that encodes the image with the id `number`, from 1 on."""

    def encode(prediction: Prediction) -> CocoPart:
        _check_corners(prediction.mask, MOST_FILE_CORNERS)
        content = replace(prediction, file_name=upload.name).to_coco()
        content["images"][0]["id"] = number
        for annotation in content["annotations"]:
            annotation["image_id"] = number
            # A region has four corners at least, so that the ids of two images never meet
            annotation["id"] += (number - 1) * MOST_FILE_CORNERS
        return CocoPart(*(_json(content[key])[1:-1] for key in CocoPart._fields))

    return encode


class _Part(NamedTuple):
    """One segment: its number in the map, its class, and its object (None: no object)."""

    number: int
    category: int
    object_id: int | None


def _parts(prediction: Prediction) -> tuple[np.ndarray, Sequence[_Part]]:
    """Return a map of numbers (H, W) and its segments: objects and regions, or classes."""
    if prediction.panoptic is None:
        return prediction.mask, [
            _Part(number, number, None) for number in np.unique(prediction.mask).tolist()
        ]
    ids, segments = prediction.panoptic
    things = [info.thing for info in prediction.classes]
    parts = [(segment["id"], segment["category_id"]) for segment in segments]
    return ids, [
        _Part(number, category, number if things[category] else None) for number, category in parts
    ]


def _head(model: str, prediction: Prediction) -> dict[str, Any]:
    shares = class_counts(prediction.mask, len(prediction.classes)) / prediction.mask.size
    classes = [
        {"index": index, "name": info.name, "color": info.color, "share": float(shares[index])}
        for index, info in enumerate(prediction.classes)
    ]
    return {"model": model, "size": list(prediction.mask.shape), "classes": classes}


def _about(part: _Part, prediction: Prediction, runs: dict[int, Runs]) -> dict[str, Any]:
    info, runs_of_part = prediction.classes[part.category], runs[part.number]
    return {
        "class": part.category,
        "name": info.name,
        "thing": info.thing,
        "id": part.object_id,
        "area": runs_of_part.area,
        "bbox": runs_of_part.box,
    }


def _rle(numbers: np.ndarray, number: int, runs: dict[int, Runs]) -> dict[str, Any]:
    return {"rle": {"size": list(numbers.shape), "counts": runs[number].counts()}}


def _polygons(numbers: np.ndarray, number: int, runs: dict[int, Runs]) -> dict[str, Any]:
    x, y, width, height = runs[number].box
    outside, holes = rings(numbers[y : y + height, x : x + width] == number)
    for ring in (*outside, *holes):
        for point in ring:
            point[0] += x
            point[1] += y
    return {"polygons": outside, "holes": holes}


def _check_runs(numbers: np.ndarray) -> None:
    runs = np.count_nonzero(numbers[1:] != numbers[:-1]) + numbers.shape[1]
    if runs > MOST_RUNS:
        raise Refused(
            413,
            "ragged",
            f"The mask has {runs:,} runs, the limit is {MOST_RUNS:,}. Ask for format=png.",
        )


def _check_corners(numbers: np.ndarray, most: int | None = None) -> None:
    corners, most = corner_count(numbers), most or MOST_CORNERS
    if corners > most:
        raise Refused(
            413,
            "ragged",
            f"The mask has {corners:,} corners, the limit is {most:,}. Ask for format=png or rle.",
        )


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
