"""`Predictor`, the way in for programs: `Predictor("frm-lite0-camvid")("street.jpg").mask`."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np
from PIL import Image

from featherseg.core.arrays import is_tensor
from featherseg.core.config import with_given
from featherseg.core.errors import ConfigError, FeathersegError, MissingExtra
from featherseg.core.files import write_together
from featherseg.core.storage import is_remote
from featherseg.core.types import ClassInfo
from featherseg.core.wording import brief, counted, size_text
from featherseg.data.images.decoding import EncodedImage, image_size
from featherseg.data.images.georeference import TIFF_SUFFIXES, Georeference
from featherseg.data.images.palettes import recolored
from featherseg.inference import drawing
from featherseg.inference.drawing import overlay_panoptic
from featherseg.inference.inputs import (
    InputImage,
    alike,
    fetched,
    is_open_file,
    read_ahead,
    read_input,
)
from featherseg.inference.masks import predict_masks, predict_panoptic, predict_soft, probabilities
from featherseg.inference.panoptic import Panoptic
from featherseg.inference.range_warning import warn_of_range
from featherseg.inference.runtimes import Runtime, open_runtime
from featherseg.inference.runtimes.file_metadata import FileRuntime
from featherseg.inference.settings import InferenceSettings, own_settings
from featherseg.inference.sliding_window import windows
from featherseg.inference.soft_output import SoftKind, check_soft
from featherseg.inference.tiling import DEFAULT_GB, LARGEST_PASS, Budget, Plan, plan
from featherseg.layers.sizes import resize_factor, scaled_size

if TYPE_CHECKING:
    from torch import nn

    from featherseg.converters.masks import MaskedImage, Masks
    from featherseg.converters.outlines import Polygon
    from featherseg.runs.run import Run

MOST_GB = 1_000_000
"""Most memory that may be asked for, in 10^9 bytes."""

LIGHT_PIXELS, LIGHT_BYTES = 1_000_000, 60
"""Most pixels of a light image, and its bytes per pixel.

`tiling.process_bytes` has room to read or write one light image beside any other image.
"""

TOLERANCE = 1.0
"""Pixels that corners of an outline may be off its polygon; the steps of a slanted edge are 0.7."""

KINDS = ("mask", "color", "overlay")
"""The files of `Prediction.save` in a folder: NAME_mask.png and so on."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of a model for one image.

        prediction = featherseg.predict("runs/photos", "street.jpg")
        prediction.mask, prediction.polygons(), prediction.to_coco()

    Attributes:
        mask: (H, W) uint8, indices into `classes`.
        classes: Names and colours.
        image: (H, W, C). An array that was passed alone or in a list is not copied: overlay and
            save draw on its present content.
        name: The file's name without ending; "image" for an image without a file.
        how: "whole" or "6 tiles of 1024x1024".
        inference: The settings that were used.
        runtime: The model.
        panoptic: For a panoptic model the ids (H, W) of its objects, and their description.
        soft: What `Predictor.soft` asks for.
        georeference: The place of a GeoTIFF; its mask is then a GeoTIFF too.
        file_name: The file's name with its ending; "" for an image without a file.
    """

    mask: np.ndarray
    classes: tuple[ClassInfo, ...]
    image: np.ndarray
    name: str
    how: str
    inference: InferenceSettings
    runtime: Runtime
    panoptic: Panoptic | None = None
    soft: np.ndarray | None = None
    georeference: Georeference | None = None
    file_name: str = ""

    @cached_property
    def shares(self) -> dict[str, float]:
        """Class name -> share of the pixels, 0..1, for every class."""
        counts = class_counts(self.mask, len(self.classes))
        pairs = zip(self.classes, counts, strict=True)
        return {info.name: float(count / self.mask.size) for info, count in pairs}

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with the objects of a panoptic model, without the mask."""
        objects = {} if self.panoptic is None else {"segments": self.panoptic.segments}
        size = list(self.mask.shape)
        return {"name": self.name, "size": size, "how": self.how, "shares": self.shares} | objects

    def __repr__(self) -> str:
        shares = sorted(self.shares.items(), key=lambda item: -item[1])
        largest = [f"{name} {share:.0%}" for name, share in shares[:3] if share >= 0.005]
        return brief(self, self.name, size_text(self.mask.shape), *largest)

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.overlay(legend=True).save(buffer, "PNG")
        return buffer.getvalue()

    def probabilities(self) -> np.ndarray:
        """Run the model again, and return class probabilities (K, H, W) float32, which sum to 1.

        In every pixel the mask's class has the highest one.
        """
        return probabilities(self.runtime, self.image, self.inference)

    def polygons(self, tolerance: float = TOLERANCE) -> "list[Polygon]":
        """Return the outlines of the connected regions of each class, and of objects.

        A class called background has none. Filled, exact outlines give the mask again.

        Args:
            tolerance: Corners of the outline may be this far from the polygon, in pixels. Edges of
                a polygon never cross. 0: the exact outline, along the edges of pixels.

        Raises:
            ConfigError: The tolerance is negative, or no number.
        """
        from featherseg.converters.masks import parts_of
        from featherseg.converters.outlines import Polygon

        image, masks = self._masked_image(tolerance)
        return [
            Polygon(part.class_id, part.name, part.number or None, exterior, holes)
            for part in parts_of(image, masks)
            for exterior, holes in part.outlines(tolerance)
        ]

    def to_coco(self, tolerance: float = TOLERANCE) -> dict[str, Any]:
        """Return the content of a COCO file: images, annotations and categories.

        A region without holes is a polygon, other regions are exact run lengths. See `polygons`.
        """
        from featherseg.converters.coco import documents

        _, masks = self._masked_image(tolerance)
        return documents(masks)[""]

    def to_geojson(self, tolerance: float = TOLERANCE) -> dict[str, Any]:
        """Return a FeatureCollection with a feature for each region or object. See `polygons`.

        Coordinates are pixels [x, y], or those of the image's reference system, which `crs` names,
        if it is a GeoTIFF. The tolerance is in pixels.
        """
        from featherseg.converters.geojson import document

        return document(*self._masked_image(tolerance))

    def to_supervision(self) -> Any:
        """Return `supervision.Detections`: a mask for each object, else for each class.

        A class called background has none. The package supervision must be installed.

        Raises:
            MissingExtra: It is not installed.
        """
        from featherseg.converters.masks import regions_of

        if find_spec("supervision") is None:
            raise MissingExtra(
                "to_supervision needs the package 'supervision', which is not installed here. "
                "Install it with: pip install supervision"
            )
        from supervision import Detections

        parts = list(regions_of(*self._masked_image(0)))
        boxes = [
            (p.left, p.top, p.left + p.inside.shape[1], p.top + p.inside.shape[0]) for p in parts
        ]
        size = self.mask.shape
        masks = [part.whole((size[0], size[1])) for part in parts]
        return Detections(
            xyxy=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            mask=np.array(masks, dtype=bool).reshape(-1, *size),
            class_id=np.array([part.class_id for part in parts], dtype=int),
            data={"class_name": np.array([part.name for part in parts], dtype=str)},
        )

    def show(self) -> None:
        """Show the overlay with its legend: below the cell of a notebook, else in a window."""
        self.overlay(legend=True).show(self.name)

    def _masked_image(self, tolerance: float) -> "tuple[MaskedImage, Masks]":
        from featherseg.converters.masks import MaskedImage, Masks

        if not 0 <= tolerance < math.inf:
            raise ConfigError(f"tolerance = {tolerance}: expected pixels, from 0 on.")
        objects = None
        if self.panoptic is not None:
            things = [i for i, info in enumerate(self.classes) if info.thing]
            objects = np.where(np.isin(self.mask, things), self.panoptic.ids, 0)
        name = self.file_name or f"{self.name}.png"
        image = MaskedImage(name, None, self.mask, objects, georeference=self.georeference)
        return image, Masks(self.classes, iter([image]), 1, tolerance=tolerance)

    def overlay(
        self,
        alpha: float = 0.5,
        *,
        contour: bool = True,
        palette: str | None = None,
        legend: bool = False,
    ) -> Image.Image:
        """Return the image under the colours of its classes, outlined; objects are named too.

        Pixels of a class named background, and of a class in black, are unchanged.

        Args:
            alpha: Opacity of the colours inside the outlines: 0 (the image) to 1 (the colours).
            contour: Outline the classes, or the objects of a panoptic model.
            palette: Other colours: "bright", which readers with any colour vision tell apart, or
                "CLASS=#rrggbb,..." for some classes.
            legend: Add a legend below.

        Raises:
            ConfigError: alpha is out of range, or the palette is malformed.
        """
        check_alpha(alpha)
        classes, image_range = recolored(self.classes, palette), self.runtime.image_range
        if self.panoptic is None:
            image = drawing.overlay(
                self.image, self.mask, classes, alpha, image_range, contour=contour
            )
        else:
            image = overlay_panoptic(
                self.image, *self.panoptic, classes, alpha, image_range, contour=contour
            )
        return drawing.with_legend(image, classes, self.shares) if legend else image

    def save(
        self,
        to: str | Path,
        name: str | None = None,
        *,
        alpha: float = 0.5,
        contour: bool = True,
        palette: str | None = None,
    ) -> list[Path]:
        """Write the mask to a .png or .tif file, or mask, colours and overlay into a folder.

        In a folder the files are NAME_mask.png (indices with a palette), NAME_color.png and
        NAME_overlay.png (with a legend). The mask of a GeoTIFF is NAME_mask.tif at the same place;
        a .png has no place.

        Args:
            to: The file or folder.
            name: NAME; `to` is then a folder, whatever its ending.
            alpha: As for `overlay`.
            contour: As for `overlay`.
            palette: As for `overlay`, also of the mask and the colours.

        Returns:
            The files.

        Raises:
            ConfigError: `to` is an address in a bucket, or a .tif for an image without a place; or
                as `overlay`.
        """
        if is_remote(to):
            raise ConfigError(
                f"save({str(to)!r}): expected a folder or a .png on this machine's disk. "
                "`featherseg predict RUN IMAGES -o s3://BUCKET/FOLDER` writes into buckets."
            )
        path, tiff_or_png = Path(to), (".png", *TIFF_SUFFIXES)
        as_file = name is None and path.suffix.lower() in tiff_or_png
        files = [path] if as_file else [path / file for file in self.file_names(name or self.name)]
        place = self.georeference if files[0].suffix.lower() in TIFF_SUFFIXES else None
        if place is None and files[0].suffix.lower() in TIFF_SUFFIXES:
            raise ConfigError(
                f"{path}: {self.name} has no place on the map, so its mask is a PNG. Name a .png."
            )
        # Each is drawn when it is written, so that one at a time is in memory
        check_alpha(alpha)
        classes, png = recolored(self.classes, palette), drawing.png_bytes
        draw = partial(self.overlay, alpha, contour=contour, palette=palette, legend=True)
        writers: tuple[Callable[[BinaryIO], object], ...] = (
            lambda file: file.write(drawing.mask_bytes(self.mask, classes, place)),
            lambda file: file.write(png(drawing.color_mask(self.mask, classes))),
            lambda file: file.write(png(draw())),
        )
        write_together(dict(zip(files, writers, strict=False)))
        return files

    def file_names(self, name: str) -> list[str]:
        """Return the files of `save` in a folder: mask (.tif with a place), colours, overlay."""
        ending = ".png" if self.georeference is None else ".tif"
        return [f"{name}_mask{ending}", *(f"{name}_{kind}.png" for kind in KINDS[1:])]


def check_alpha(alpha: float) -> None:
    """Raise ConfigError for an opacity out of range."""
    if not 0 <= alpha <= 1:
        raise ConfigError(f"alpha = {alpha}: expected 0 (the image) to 1 (the colours).")


def class_counts(mask: np.ndarray, classes: int) -> np.ndarray:
    """Return the pixels of every class in a mask (H, W) uint8: (K,) int64."""
    return np.array(Image.fromarray(mask).histogram()[:classes])  # numpy takes 8 bytes per pixel


@dataclass(frozen=True)
class PredictorOptions:
    """The options with which `featherseg.predict`, which describes them, opens a model."""

    device: str = "auto"
    batch: int = 1
    inference: InferenceSettings | Mapping[str, Any] | None = None
    memory_gb: float = DEFAULT_GB
    max_side: int | None = None
    threads: int | None = None
    trust: bool = False


class Predictor:
    """A model that takes images in any form and returns `Prediction`s.

    A Predictor can be pickled; for an exported file the copy opens the file again. A program that
    predicts several images at the same time sets `share` and `largest`, as for `tiling.plan`. With
    `soft` = "probabilities" each Prediction has `soft`, (K, H, W) float16; with "confidence"
    (H, W) uint8, round(255 p) of the mask's class.

        predictor = featherseg.Predictor("runs/photos")
        predictor("street.jpg").save("masks")

    Args:
        run: A run folder, the name of one, a Run, an exported file, a Runtime, which has its
            device, or a module of torch as `featherseg.train` takes it.
        device: auto, cpu, cuda, cuda:N or mps.
        batch: How many images of one size go through the model at a time.
        classes: For a module: the names of its classes, in the order of its logits.
        bgr: Arrays are blue, green, red, as OpenCV reads them. Files are not affected; `image` of
            a Prediction is RGB.
        inference: How images are processed, or what differs from the default: {"flip": True}. By
            default the whole image is processed at the size of the run's validation
            (data.test_resize), so that masks are those that were scored.
        memory_gb: Memory of the process in 10^9 bytes; larger images are cut into overlapping
            tiles.
        max_side: Shrink longer images to this side for the model, scales on top; masks keep the
            full size.
        threads: Threads of the CPU. Default: torch's, at most the cores that may be used.
        trust: Open a .pt2 file, which runs the code that it contains.

    Raises:
        RunError, WeightsError, ExportError, DeviceError: The model cannot be opened.
        ConfigError: An option is out of range.
    """

    def __init__(
        self,
        run: "Run | Runtime | nn.Module | str | Path",
        device: str = "auto",
        batch: int = 1,
        *,
        classes: Sequence[str | ClassInfo] | None = None,
        bgr: bool = False,
        inference: InferenceSettings | Mapping[str, Any] | None = None,
        memory_gb: float = DEFAULT_GB,
        max_side: int | None = None,
        threads: int | None = None,
        trust: bool = False,
    ) -> None:
        if batch < 1:
            raise ConfigError(f"batch = {batch}: expected at least 1.")
        if not 0 < memory_gb <= MOST_GB:
            raise ConfigError(
                f"memory_gb = {memory_gb}: expected a number above 0, at most {MOST_GB:,} "
                "(--memory-gb)."
            )
        if max_side is not None and max_side < 32:
            raise ConfigError(f"max_side = {max_side}: expected at least 32 pixels.")
        self.runtime = open_runtime(run, device, threads, trust=trust, classes=classes)
        if bgr and self.runtime.channels != 3:
            raise ConfigError(
                f"bgr is for images of 3 channels; this model takes {self.runtime.channels}."
            )
        self.bgr = bgr
        self.inference = with_given(own_settings(self.runtime), inference, "inference")
        self.batch, self.memory_gb, self.max_side = batch, memory_gb, max_side
        self.share, self.largest = 1.0, LARGEST_PASS
        self.soft: SoftKind | None = None
        self.classes = self.runtime.classes

    def __repr__(self) -> str:
        size = getattr(self.runtime, "fixed_size", None) or self.runtime.image_size
        device, classes = self.runtime.device or "cpu", counted(len(self.classes), "class")
        return brief(self, self.runtime.name, classes, size_text(size or ()), device)

    @overload
    def __call__(self, x: str | Path | Image.Image | np.ndarray) -> Prediction: ...
    @overload
    def __call__(self, x: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...
    @overload
    def __call__(self, x: Iterator[Any]) -> Iterator[Prediction]: ...
    @overload
    def __call__(self, x: Any) -> Any: ...
    def __call__(self, x: Any) -> Any:
        """Return a Prediction of an image, a list for a list or tuple, an iterator for an iterator.

        An iterator is read as it is used. Its arrays and tensors are copied, so that it may refill
        the same one for each frame.

        Args:
            x: A path, an address in a bucket, a file opened in binary mode (io.BytesIO), a PIL
                image, an (H, W, C) uint8 or uint16 array (RGB for three channels), or a (C, H, W)
                tensor: uint8, uint16, or float 0..1. Or several of these.

        Raises:
            DataError: Anything else, or an image that cannot be read.
        """
        if isinstance(x, list | tuple):
            return [prediction for group in self.in_groups(self._ahead(x)) for prediction in group]
        if isinstance(x, Iterator) and not is_open_file(x):
            return (prediction for group in self.in_groups(x) for prediction in group)
        return self._together([x if isinstance(x, InputImage) else self._read(x)])[0]

    def plan(self, size: tuple[int, int]) -> Plan:
        """Return how an image of (height, width) will be predicted: whole or in tiles.

        Raises:
            ConfigError: The memory is too small.
            DataError: The model is a file for images of another size.
        """
        inference, longest = self.inference, max(size)
        if self.max_side and resize_factor(size, inference.resize) * longest > self.max_side:
            inference = replace(inference, resize=(self.max_side, self.max_side))
        # Checked first: for an image of another size no memory is enough
        if isinstance(self.runtime, FileRuntime):
            window = windows(size, inference.window, inference.overlap)[0]  # all have one size
            for factor in inference.factors(size):
                self.runtime.check_size(scaled_size((window.height, window.width), factor))
        chosen = plan(
            self.runtime,
            size,
            inference,
            self.memory_gb,
            share=self.share,
            largest=self.largest,
            batch=self.batch,
        )
        if self.soft != "probabilities":
            return chosen
        # Probabilities, in float16, exist twice while they are written
        needed = 2 * 2 * len(self.classes) * size[0] * size[1]
        budget = Budget(self.memory_gb, self.share)
        at_once = int(budget.free / needed)
        if not at_once:
            raise ConfigError(
                f"the probabilities of {len(self.classes)} classes for an image of "
                f"{size_text(size)} (height x width) need a memory of {budget.gb_for(needed):.1f} "
                "GB. Give it with --memory-gb, or write the confidence (png) alone."
            )
        return replace(chosen, at_once=min(chosen.at_once, at_once))

    def is_light(self, size: tuple[int, int]) -> bool:
        """Whether the memory has room for the next and the last image beside one of this size."""
        soft = 2 * len(self.classes) if self.soft == "probabilities" else 0  # bytes per pixel
        light = LIGHT_PIXELS * LIGHT_BYTES // (LIGHT_BYTES + soft)
        return size[0] * size[1] <= light or self.plan(size).at_once >= 3

    def in_groups(self, images: Iterable[Any]) -> Iterator[list[Prediction]]:
        """Yield lists of predictions that were made together; images are read as they are used.

        Neighbours of one size and type go through the model together, at most `batch` of them.
        """
        waiting: list[InputImage] = []
        for x in images:
            image = x if isinstance(x, InputImage) else self._read(x, copy=True)
            del x  # what was predicted is held by nobody while the next is read
            if waiting and not alike(waiting[0].pixels, image.pixels):
                yield self._together(waiting)
                waiting = []
            waiting.append(image)
            if len(waiting) >= min(self.batch, self.plan(image.pixels.shape[:2]).at_once):
                del image
                yield self._together(waiting)
                waiting = []
        if waiting:
            yield self._together(waiting)

    def _ahead(self, items: Sequence[Any]) -> Iterator[InputImage]:
        """Read the images of a list; files are read ahead, and the first error is raised."""

        def read(x: Any, only_light: bool) -> InputImage | None:
            is_file = isinstance(x, str | Path) and os.path.isfile(x)
            if only_light and not (is_file and self.is_light(image_size(Path(x)))):
                return None
            return self._read(x)

        for image in read_ahead(items, read):
            if isinstance(image, FeathersegError):
                raise image
            yield image

    def _read(self, x: Any, *, copy: bool = False) -> InputImage:
        x = fetched(x)
        if isinstance(x, EncodedImage) or (isinstance(x, str | Path) and not os.path.isdir(x)):
            source = x if isinstance(x, EncodedImage) else Path(x)
            self.plan(image_size(source))  # a too large image is refused before it is decoded
        if self.bgr and isinstance(x, np.ndarray) and x.ndim == 3:
            x = np.ascontiguousarray(x[:, :, ::-1])  # RGB
        image = read_input(x, self.runtime.channels)
        if copy and (isinstance(x, np.ndarray) or is_tensor(x)):
            return replace(image, pixels=image.pixels.copy())
        return image

    def _together(self, images: Sequence[InputImage]) -> list[Prediction]:
        """Predict images of one size and type, as many at a time as the memory allows."""
        height, width = images[0].pixels.shape[:2]
        chosen = self.plan((height, width))
        for image in images:
            warn_of_range(self.runtime, image.pixels, image.name)
        groups = [images[i : i + chosen.at_once] for i in range(0, len(images), chosen.at_once)]
        stacks = (
            np.stack([p.pixels for p in g]) if len(g) > 1 else g[0].pixels[None] for g in groups
        )  # (B, H, W, C)
        try:
            predicted = [s for stack in stacks for s in self._predict(stack, chosen.inference)]
        finally:
            if not chosen.keeps and (release := getattr(self.runtime, "release_memory", None)):
                release()
        return [
            Prediction(
                mask=mask,
                classes=self.classes,
                image=image.pixels,
                name=image.name,
                how=chosen.how,
                inference=chosen.inference,
                runtime=self.runtime,
                panoptic=panoptic,
                soft=soft,
                georeference=image.georeference,
                file_name=image.file_name,
            )
            for (mask, panoptic, soft), image in zip(predicted, images, strict=True)
        ]

    def _predict(
        self, images: np.ndarray, inference: InferenceSettings
    ) -> Iterable[tuple[np.ndarray, Panoptic | None, np.ndarray | None]]:
        """Return (mask, objects or None, `soft` or None) of each image (B, H, W, C)."""
        if self.soft:
            check_soft(self.runtime)
            soft = predict_soft(self.runtime, images, inference, self.soft)
            return [(mask, None, values) for mask, values in soft]
        if self.runtime.panoptic:
            objects = predict_panoptic(self.runtime, images, inference)
            return [(mask, panoptic, None) for mask, panoptic in objects]
        return [(mask, None, None) for mask in predict_masks(self.runtime, images, inference)]
