"""Bad arguments for a Predictor: arrays, tensors and others of wrong types, shapes and values."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from support.bad_inputs.case import DEEP, GREY, RGB, saved

CHW = torch.from_numpy(RGB.copy()).permute(2, 0, 1)
"""(3, H, W) uint8, not contiguous."""


@dataclass(frozen=True)
class BadObject:
    """make() gives the thing; pixels (H, W, 3) it stands for, None where it must be refused."""

    name: str
    make: Callable[[], Any]
    pixels: np.ndarray | None = None


def objects() -> list[BadObject]:
    """For a model of three channels."""
    return [
        *_clear_arrays(),
        *_clear_tensors(),
        *_arrays(),
        *_tensors(),
        *_pil_images(),
        *_others(),
    ]


def _clear_arrays() -> list[BadObject]:
    wide = np.repeat(np.repeat(RGB, 2, axis=0), 2, axis=1)
    frozen = RGB.copy()
    frozen.flags.writeable = False
    planes = np.ascontiguousarray(RGB.transpose(2, 0, 1))
    bgr = np.ascontiguousarray(RGB[:, :, ::-1])
    upside_down = np.ascontiguousarray(RGB[::-1, ::-1])
    arrays = {
        "as it should be": (RGB, RGB),
        "16 bits": (DEEP, DEEP),
        "16 bits, swapped": (DEEP.astype(">u2"), DEEP),
        "negative strides": (upside_down[::-1, ::-1], RGB),
        "channels from the last to the first": (bgr[:, :, ::-1], RGB),
        "every second pixel": (wide[::2, ::2], RGB),
        "columns first in memory": (np.asfortranarray(RGB), RGB),
        "planes in memory": (planes.transpose(1, 2, 0), RGB),
        "one value everywhere": (np.broadcast_to(np.uint8(7), RGB.shape), np.full_like(RGB, 7)),
        "grey, repeated without a copy": (
            np.broadcast_to(GREY[:, :, None], RGB.shape),
            np.dstack([GREY] * 3),
        ),
        "read-only": (frozen, RGB),
        "masked": (np.ma.masked_array(RGB, RGB > 99), RGB),
        "one pixel": (RGB[:1, :1], RGB[:1, :1]),
        "one row": (RGB[:1], RGB[:1]),
        "one column": (RGB[:, :1], RGB[:, :1]),
        "as wide as three channels": (RGB[:, :3], RGB[:, :3]),
    }
    return [
        BadObject(f"array, {name}", lambda x=x: x, pixels) for name, (x, pixels) in arrays.items()
    ]


def _clear_tensors() -> list[BadObject]:
    real = CHW.double() / 255
    with torch.inference_mode():
        inferred = CHW / 255
    tensors = {
        "not contiguous": CHW,
        "contiguous": CHW.contiguous(),
        "every second pixel": CHW.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, ::2, ::2],
        "float": real.float(),
        "double": real,
        "with a gradient": real.float().requires_grad_(),
        "a parameter": torch.nn.Parameter(real.float()),
        "of inference mode": inferred,
        "expanded": torch.full((1, 1, 1), 7, dtype=torch.uint8).expand(3, *RGB.shape[:2]),
    }
    cases = [
        BadObject(f"tensor, {name}", lambda x=x: x, RGB)
        for name, x in tensors.items()
        if name != "expanded"
    ]
    cases.append(BadObject("tensor, expanded", lambda: tensors["expanded"], np.full_like(RGB, 7)))
    deep = torch.from_numpy(DEEP.copy()).permute(2, 0, 1)
    cases.append(BadObject("tensor, 16 bits", lambda: deep, DEEP))
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        short = real.to(dtype)
        exact = np.floor(short.double().permute(1, 2, 0).numpy() * 255 + 0.5).astype(np.uint8)
        cases.append(BadObject(f"tensor, {dtype}", lambda x=short: x, exact))
    return cases


def _arrays() -> list[BadObject]:
    kinds = "bool int8 int16 int32 int64 uint32 uint64 float16 float32 float64 "
    kinds += "complex64 complex128 object"
    cases = {f"of {kind}": RGB.astype(kind) for kind in kinds.split()}
    cases["of text"] = RGB.astype("U3")
    cases["of bytes"] = RGB.astype("S3")
    cases["of dates"] = RGB.astype("datetime64[s]")
    cases["of records"] = np.zeros((24, 33, 3), dtype=[("r", "u1")])
    cases["of NaN"] = np.full(RGB.shape, np.nan, np.float32)
    cases["of infinities"] = np.full(RGB.shape, np.inf, np.float32)
    cases |= {
        f"of shape {shape}": np.zeros(shape, np.uint8)
        for shape in [
            *(
                (),
                (3,),
                (24, 33),
                (3, 24, 33),
                (1, 24, 33),
                (24, 33, 0),
                (24, 33, 1),
                (24, 33, 2),
                (24, 33, 4),
            ),
            *((1, 24, 33, 3), (2, 24, 33, 3), (24, 33, 3, 1), (1, 1, 24, 33, 3)),
            *((0, 33, 3), (24, 0, 3), (0, 0, 3), (0, 0, 0), (0,)),
        ]
    }
    return [BadObject(f"array {name}", lambda x=x: x) for name, x in cases.items()]


def _tensors() -> list[BadObject]:
    real = CHW.float() / 255
    kinds = (
        torch.bool,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint32,
        torch.complex64,
    )
    cases: dict[str, torch.Tensor] = {f"of {kind}": CHW.to(kind) for kind in kinds}
    cases |= {
        "of floats to 255": CHW.float(),
        "normalised": real * 2 - 1,
        "just below zero": real - real.min() - 1e-3,
        "just above one": real / real.max() + 1e-3,
        "of NaN": torch.full_like(real, float("nan")),
        "with one NaN": torch.where(
            torch.arange(real.numel()).reshape(real.shape) == 5, float("nan"), real
        ),
        "of infinities": torch.full_like(real, float("inf")),
        "with one infinity": torch.where(real == real.max(), float("inf"), real),
        "below zero without bound": torch.full_like(real, float("-inf")),
        "that is sparse": real.to_sparse(),
        "without memory": torch.empty((3, 24, 33), device="meta"),
        "of tensors": torch.nested.nested_tensor([real, real[:, :9]], layout=torch.jagged),
    }
    cases |= {
        f"of shape {shape}": torch.zeros(shape, dtype=torch.uint8)
        for shape in [
            (),
            (3,),
            (24, 33),
            (24, 33, 3),
            (1, 24, 33),
            (4, 24, 33),
            (1, 3, 24, 33),
            (3, 0, 33),
            (3, 24, 0),
        ]
    }
    cases["of no floats"] = torch.zeros(3, 0, 33)
    return [BadObject(f"tensor {name}", lambda x=x: x) for name, x in cases.items()]


def _pil_images() -> list[BadObject]:
    def cut_short() -> Image.Image:
        return Image.open(io.BytesIO(saved(RGB, "PNG")[:900]))

    def closed() -> Image.Image:
        image = Image.open(io.BytesIO(saved(RGB, "PNG")))
        image.close()
        return image

    refused: dict[str, Callable[[], Image.Image]] = {
        "cut short": cut_short,
        "closed": closed,
        "of mode F": lambda: Image.fromarray(np.full((24, 33), np.nan, np.float32)),
        "of mode I": lambda: Image.fromarray(GREY.astype(np.int32)),
        "of mode LAB": lambda: Image.frombytes("LAB", (33, 24), RGB.tobytes()),
        "of no pixels": lambda: Image.new("RGB", (0, 0)),
        "of no width": lambda: Image.new("RGB", (0, 9)),
    }
    deep = DEEP[:, :, 0]
    clear: dict[str, tuple[Callable[[], Image.Image], np.ndarray]] = {
        "of 16-bit grey": (lambda: Image.fromarray(deep), np.dstack([deep] * 3)),
        "of grey": (lambda: Image.fromarray(GREY), np.dstack([GREY] * 3)),
        "of one bit": (
            lambda: Image.fromarray(GREY > 99),
            np.dstack([(GREY > 99) * np.uint8(255)] * 3),
        ),
        "with alpha": (lambda: Image.fromarray(np.dstack([RGB, GREY])), RGB),
        "of grey with alpha": (
            lambda: Image.fromarray(np.dstack([GREY, GREY])),
            np.dstack([GREY] * 3),
        ),
        "of mode RGBX": (lambda: Image.fromarray(np.dstack([RGB, GREY]), "RGBX"), RGB),
        "of CMYK": (lambda: Image.fromarray(np.dstack([255 - RGB, GREY * 0]), "CMYK"), RGB),
        "animated": (
            lambda: Image.open(io.BytesIO(saved(RGB, "GIF"))),
            np.array(Image.open(io.BytesIO(saved(RGB, "GIF"))).convert("RGB")),
        ),
    }
    cases = [BadObject(f"PIL image {name}", make) for name, make in refused.items()]
    return cases + [
        BadObject(f"PIL image {name}", make, pixels) for name, (make, pixels) in clear.items()
    ]


def _others() -> list[BadObject]:
    content = saved(RGB, "PNG")
    things: dict[str, Any] = {
        "None": None,
        "a number": 7,
        "NaN": float("nan"),
        "a truth": True,
        "the bytes of a file": content,
        "the bytes of a file, to be changed": bytearray(content),
        "a view of bytes": memoryview(content),
        "a file of text": io.StringIO("a.png"),
        "an empty file": io.BytesIO(),
        "a dict": {"image": RGB},
        "a set": {1, 2},
        "a class": np.ndarray,
        "a function": len,
        "nested lists of numbers": [[1, 2], [3, 4]],
        "a list with a hole": [RGB, None],
        "a list in a list": [[RGB]],
        "no path": "",
        "a path of spaces": "   ",
        "a path with a zero": "a\0b.png",
        "a path of 5000 letters": "x" * 5000,
        "a path below a file": f"{__file__}/a.png",
        "a folder": ".",
        "an address": "https://example.com/a.png",
        "a device": "/dev/null",
        "this program": __file__,
    }
    open_file = BadObject("a file", lambda: io.BytesIO(content), RGB)
    return [open_file, *(BadObject(name, lambda x=x: x) for name, x in things.items())]
