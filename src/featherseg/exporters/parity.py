"""Parity: an exported file must give the same as its model, also at other sizes.

If it differs, the report names where: the first stage that differs (exporters/stages.py), or a key
of its metadata.
"""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import inf, prod, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from featherseg.core.types import SegOutput
from featherseg.core.wording import finite
from featherseg.exporters.job import Facts
from featherseg.exporters.masks import mask_stages
from featherseg.exporters.stages import (
    PREFIX,
    Stages,
    relative_error,
    run_tensors,
    signal_to_noise_db,
    tensor_names,
)
from featherseg.inference.runtimes import open_file
from featherseg.inference.runtimes.file_metadata import OUTPUTS, FileRuntime
from featherseg.layers.model import SegmentationModel
from featherseg.layers.scale import LayerScale

TOLERANCE = 1e-4
"""Largest accepted error, as a share of the range (maximum - minimum) of the model's logits."""

SAME_CLASS, SIGNAL_DB = 0.9, 10.0
"""Limits of a quantised file: least share of positions with the same class, least SNR in dB.

10 dB: noise of a tenth of the signal's power.
"""

ROUNDED_DB = 50.0
"""About the signal-to-noise ratio in dB of a tensor that was only rounded to 8 bits."""

SHAPES = ((1, 64, 96), (1, 97, 131), (3, 65, 99), (1, 128, 72), (1, 33, 70), (1, 7, 300))
"""The (batch, height, width) of the test images.

They are odd, even, below the 64 pixels that a model may pad to, and above 256, the coarsest stride
of any model.
"""

STATED = ("mean", "std", "image_range", "channels", "align_corners", "size_divisor", "minimum_size")
"""The attributes of a model that a file must state alike."""

Figures = tuple[float, float, float, float]
"""max_error, relative_error, same_class and signal_db of a ParityRow."""

NOTHING_ALIKE: Figures = (inf, inf, 0.0, -inf)
"""The figures of a row if the file cannot be run, or gives maps of another shape."""


@dataclass(frozen=True)
class ParityRow:
    """One batch of images through model and file.

    max_error is that of the worst map (logits, or a panoptic model's centres or offsets; infinite
    if the shapes differ or the file cannot be run), relative_error its share of the range of the
    model's map, same_class the fraction of positions with the same highest class, signal_db the
    signal-to-noise ratio of the noisiest map. For a file of masks, max_error is the least error of
    scores that explains its masks.
    """

    batch: int
    height: int
    width: int
    max_error: float
    relative_error: float
    same_class: float
    signal_db: float = inf
    quantised: bool = False

    @property
    def ok(self) -> bool:
        """Whether it is within TOLERANCE or, if quantised, SAME_CLASS and SIGNAL_DB; NaN is not."""
        if self.quantised:
            return self.same_class >= SAME_CLASS and self.signal_db >= SIGNAL_DB
        return self.relative_error <= TOLERANCE


@dataclass(frozen=True)
class ParityReport:
    """The rows of one comparison.

    first_difference is where the file begins to differ: "metadata: mean", or the first stage in
    order of execution whose error exceeds TOLERANCE (for a quantised file, the stage that adds most
    noise); None if all is within its limits. `export` adds further measurements, None if not
    measured: mIoU (0..1) of model and file on a labelled split, milliseconds per image.
    """

    rows: tuple[ParityRow, ...]
    first_difference: str | None = None
    model_miou: float | None = None
    file_miou: float | None = None
    latency_ms: float | None = None

    @property
    def ok(self) -> bool:
        """Whether every row is within its limits, and no difference was located."""
        return self.first_difference is None and all(row.ok for row in self.rows)

    @property
    def worst(self) -> ParityRow:
        """The row with the largest error."""
        return max(
            self.rows,
            key=lambda row: inf if row.relative_error != row.relative_error else row.relative_error,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return {"tolerance", "ok", "rows": [{"batch", "height", "width", ..., "ok"}], ...}.

        signal_db is None if it was not measured, as for masks, or if there is no noise at all.
        """
        rows = [{**asdict(row), "ok": row.ok} for row in self.rows]
        return {"tolerance": TOLERANCE, "ok": self.ok, **finite({**asdict(self), "rows": rows})}


def verify(
    model: SegmentationModel,
    file: Path,
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    facts: Facts | None = None,
    *,
    quantised: bool = False,
    calibration: Sequence[Tensor] = (),
) -> ParityReport:
    """Compare an exported file with its model on the CPU, on noise of (batch, height, width).

    The model must be in eval mode, in fp32, on the CPU. The file is run as by `predict` and
    `evaluate`, only at its own size if that is fixed. Its metadata must equal the model's, and the
    classes those of `facts`, if given. The noise is seeded. A `quantised` file has its own limits,
    and is run on `calibration`: normalised float32 images (1, C, H, W), similar to those it was
    calibrated with, but others; without them, on noise. Raises MissingExtra if its runtime is not
    installed, ExportError if the runtime refuses it.
    """
    runtime = open_file(file, "cpu", trust=True)  # safe: this process has just written it
    channels, rows = len(model.mean), list[ParityRow]()
    stated = {key: channels if key == "channels" else getattr(model, key) for key in STATED}
    difference = next(
        (f"metadata: {key}" for key in STATED if getattr(runtime, key) != stated[key]), None
    )
    classes_differ = len(runtime.classes) != model.classes or (
        facts is not None and runtime.classes != facts.classes
    )
    if difference is None and classes_differ:
        difference = "metadata: classes"

    # Normalised images (B, C, H, W): seeded noise, or calibration images
    if runtime.fixed_size:
        shapes = [(batch, *runtime.fixed_size) for batch in (1, 3)]
    inputs: Iterable[Tensor] = (
        torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
        for seed, (batch, *size) in enumerate(shapes)
    )
    if quantised and calibration:
        inputs = _cuttings(calibration)

    # Compare batch by batch; locate the difference on the first batch that differs
    for images in inputs:
        images = _as_pixels(images, model) if runtime.masks else images
        row = _compare(model, runtime, images, quantised)
        if difference is None and not row.ok:
            difference = _locate(model, file, images, runtime, quantised)
        rows.append(row)
    return ParityReport(tuple(rows), difference)


def _cuttings(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield the first image three times in one batch, then each cropped by up to 15 pixels."""
    yield images[0].repeat(3, 1, 1, 1)
    for i, image in enumerate(images):
        yield image[:, :, i % 16 :, (i + 5) % 16 :].contiguous()


def _as_pixels(images: Tensor, model: SegmentationModel) -> Tensor:
    """Convert normalised images (B, C, H, W) back to nearly the uint8 images (B, H, W, C)."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.mean, model.std))
    return (images * std + mean).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _compare(
    model: SegmentationModel, runtime: FileRuntime, images: Tensor, quantised: bool
) -> ParityRow:
    """Compare model and file on one batch in the file's input form."""
    batch, height, width = images.shape[:3] if runtime.masks else (len(images), *images.shape[2:])
    with torch.no_grad():
        expected: Any = mask_stages(model, images) if runtime.masks else model(images)
    row = partial(ParityRow, batch, height, width, quantised=quantised)
    try:
        output: Any = (
            torch.from_numpy(runtime.run(images.numpy())[0])
            if runtime.masks
            else as_tensors(runtime(images.numpy()))
        )
    except Exception:  # each runtime raises its own kinds: it cannot run the file at this size
        return row(*NOTHING_ALIKE)
    if runtime.masks:
        return row(*_compare_masks(output, expected))
    theirs, ours = (
        [x for name in OUTPUTS if (x := getattr(out, name)) is not None]
        for out in (output, expected)
    )
    if [x.shape for x in theirs] != [
        x.shape for x in ours
    ] or output.padded_size != expected.padded_size:
        return row(*NOTHING_ALIKE)
    errors = [relative_error(a, b) for a, b in zip(theirs, ours, strict=True)]
    error, relative = max(errors, key=lambda pair: inf if pair[1] != pair[1] else pair[1])
    same = (output.logits.argmax(1) == expected.logits.argmax(1)).float().mean().item()
    return row(
        error,
        relative,
        same,
        min(signal_to_noise_db(a, b) for a, b in zip(theirs, ours, strict=True)),
    )


def as_tensors(out: SegOutput) -> SegOutput:
    """Return the output of an exported file as tensors."""
    maps: dict[str, Any] = {name: getattr(out, name) for name in OUTPUTS}
    tensors: Any = {name: torch.from_numpy(x) for name, x in maps.items() if x is not None}
    return out._replace(**tensors)


def _compare_masks(masks: Tensor, scores: Tensor) -> Figures:
    """Compare the file's masks (B, H, W) uint8 with the model's scores (B, K, H, W).

    To give a class that the model scores lower by d than its own, a score must be wrong by d / 2.
    """
    if masks.shape != scores[:, 0].shape or masks.max() >= scores.shape[1]:
        return NOTHING_ALIKE
    lead = (
        scores.amax(1) - scores.gather(1, masks.long()[:, None])[:, 0]
    )  # (B, H, W), 0 if the class is the same
    error, spread = lead.max().item() / 2, (scores.max() - scores.min()).item()
    same = (masks == scores.argmax(1)).float().mean().item()
    return error, error / spread if spread > 0 else error, same, inf


def _locate(
    model: SegmentationModel, file: Path, images: Tensor, runtime: FileRuntime, quantised: bool
) -> str:
    """Return the first stage at which a file differs; "logits" if it names none, or none differs.

    In a quantised file every stage differs. There it is the stage that adds most noise: its
    signal-to-noise ratio is farthest below the lowest one before it.
    """
    with torch.no_grad(), Stages(model) as stages:
        out = mask_stages(model, images, stages.note) if runtime.masks else model(images)
    outputs = {} if isinstance(out, Tensor) else {name: getattr(out, name) for name in OUTPUTS}
    tensors = _tensors(stages.values, outputs, set(tensor_names(file)))
    tensor_values = run_tensors(file, images.numpy(), list(tensors.values())) if tensors else {}
    lowest, drops = ROUNDED_DB, {}
    for stage, tensor in tensors.items():
        expected, values = stages.values[stage], tensor_values.get(tensor)
        if values is None or values.shape != tuple(expected.shape):
            return stage
        value = torch.from_numpy(values)
        if not quantised and not relative_error(value, expected)[1] <= TOLERANCE:
            return stage
        signal_db = signal_to_noise_db(value, expected)
        drops[stage] = lowest - signal_db if signal_db == signal_db else inf
        lowest = min(lowest, signal_db)
    return max(drops, key=lambda stage: drops[stage]) if quantised and drops else runtime.outputs[0]


def _tensors(
    stages: dict[str, Tensor], outputs: dict[str, Tensor], known: set[str]
) -> dict[str, str]:
    """Return stage -> its tensor in a file, in order of execution; outputs have their own names."""
    names = {}
    for stage, value in stages.items():
        names[stage] = next(
            (name for name, output in outputs.items() if output is value), PREFIX + stage
        )
    return {stage: name for stage, name in names.items() if name in known}


def perturb(model: nn.Module) -> nn.Module:
    """Fill a model with seeded noise in place, and return it in eval mode.

    A zero gate or a fresh batch norm would hide export errors behind it. Every entry is drawn by
    its own name: kernels N(0, 1 / fan_in), scales of norms and running variances U(0.5, 1.5), layer
    scales U(0.02, 0.1) (with larger ones a deep model overflows fp32), all else (biases, gates,
    running means) N(0, 0.1^2).
    """
    layer_scales = {
        f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, LayerScale)
    }
    with torch.no_grad():
        for key, value in model.state_dict().items():  # the tensors share memory with the model
            generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
            kind = key.rsplit(".", 1)[-1]
            if kind == "num_batches_tracked":
                continue
            if key in layer_scales:
                value.uniform_(0.02, 0.1, generator=generator)
            elif kind == "weight" and value.dim() > 1:
                value.normal_(0, 1 / sqrt(prod(value.shape[1:])), generator=generator)
            elif kind in ("weight", "running_var"):
                value.uniform_(0.5, 1.5, generator=generator)
            else:
                value.normal_(0, 0.1, generator=generator)
    return model.eval()
