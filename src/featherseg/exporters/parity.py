"""Parity: the exported file must give what its model gives, at sizes that it was not exported at.

A file that does not is told where it begins to differ: at the first stage (exporters/stages.py), or in its metadata.
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
"""Largest error that passes, as a share of the range (maximum - minimum) of the model's logits."""

SAME_CLASS, SIGNAL_DB = 0.9, 10.0
"""Of a quantised file: the least share of positions with the same highest class, and the least signal-to-noise ratio
of the logits, in dB (10: noise of a tenth of the signal's power)."""

ROUNDED_DB = 50.0
"""About the signal-to-noise ratio of what is rounded to 8 bits and nothing else."""

SHAPES = ((1, 64, 96), (1, 97, 131), (3, 65, 99), (1, 128, 72), (1, 33, 70), (1, 7, 300))
"""(batch, height, width) of the images: odd, even, shorter than the 64 pixels that a model may pad to, and longer
than 256, the coarsest stride of any."""

STATED = ("mean", "std", "image_range", "channels", "align_corners", "size_divisor", "minimum_size")
"""What a model states about itself and a file must state alike."""

Figures = tuple[float, float, float, float]
"""max_error, relative_error, same_class and signal_db of a ParityRow."""

NOTHING_ALIKE: Figures = (inf, inf, 0.0, -inf)
"""The figures of a row where the file cannot be run, or gives maps of another shape."""


@dataclass(frozen=True)
class ParityRow:
    """One batch of images through both.

    max_error is that of the map that is farthest off (logits, or a panoptic model's centres or offsets; infinite
    where the shapes differ or the file cannot be run), relative_error its share of the range of the model's own map,
    same_class the fraction of positions whose highest class is the same, signal_db the signal-to-noise ratio of the
    noisiest map. Of a file that gives masks, max_error is how far its scores must at least be off to give that mask.
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
        """Within TOLERANCE, or, quantised, within SAME_CLASS and SIGNAL_DB; a NaN is not."""
        if self.quantised:
            return self.same_class >= SAME_CLASS and self.signal_db >= SIGNAL_DB
        return self.relative_error <= TOLERANCE


@dataclass(frozen=True)
class ParityReport:
    """The rows of one comparison.

    first_difference is where the file begins to differ: "metadata: mean", or the first stage, in order of execution,
    that is off by more than TOLERANCE (of a quantised file that at which most noise comes in); None where all is within
    its limits. `export` fills in what else was measured, None what was not: mIoU (0..1) of model and file on a
    labelled split, milliseconds an image.
    """

    rows: tuple[ParityRow, ...]
    first_difference: str | None = None
    model_miou: float | None = None
    file_miou: float | None = None
    latency_ms: float | None = None

    @property
    def ok(self) -> bool:
        """Every row is within its limits, and nothing was found to differ."""
        return self.first_difference is None and all(row.ok for row in self.rows)

    @property
    def worst(self) -> ParityRow:
        """The row that is farthest off."""
        return max(self.rows, key=lambda row: inf if row.relative_error != row.relative_error else row.relative_error)

    def as_dict(self) -> dict[str, Any]:
        """{"tolerance", "ok", "rows": [{"batch", "height", "width", ..., "ok"}], "first_difference", ...}.

        signal_db is None where it was not measured, as of masks, and where there is no noise at all.
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
    """Run an exported file beside its model, on the CPU, on seeded noise of (batch, height, width).

    The model must be in eval mode, in fp32, on the CPU. The file is run as `predict` and `evaluate` run it, at its
    own size alone where that is fixed; its metadata must be the model's, and the classes those of `facts` where
    given. A `quantised` file has limits of its own, and is run on `calibration`, normalised float32 (1, C, H, W),
    such as it was calibrated for but not the same; without any, on noise. Raises MissingExtra where its runtime is not
    installed, ExportError where the runtime refuses it.
    """
    runtime = open_file(file, "cpu", trust=True)  # this process has just written it
    channels, rows = len(model.mean), list[ParityRow]()
    stated = {key: channels if key == "channels" else getattr(model, key) for key in STATED}
    difference = next((f"metadata: {key}" for key in STATED if getattr(runtime, key) != stated[key]), None)
    classes_differ = len(runtime.classes) != model.classes or (facts is not None and runtime.classes != facts.classes)
    if difference is None and classes_differ:
        difference = "metadata: classes"

    # Normalised images (B, C, H, W): seeded noise, or the calibration's
    if runtime.fixed_size:
        shapes = [(batch, *runtime.fixed_size) for batch in (1, 3)]
    inputs: Iterable[Tensor] = (
        torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(seed))
        for seed, (batch, *size) in enumerate(shapes)
    )
    if quantised and calibration:
        inputs = _cuttings(calibration)

    # One batch after the other through both; the first that differs tells where
    for images in inputs:
        images = _as_pixels(images, model) if runtime.masks else images
        row = _compare(model, runtime, images, quantised)
        if difference is None and not row.ok:
            difference = _locate(model, file, images, runtime, quantised)
        rows.append(row)
    return ParityReport(tuple(rows), difference)


def _cuttings(images: Sequence[Tensor]) -> Iterator[Tensor]:
    """The first image three times in one batch; then each in a size of its own, up to 15 pixels smaller."""
    yield images[0].repeat(3, 1, 1, 1)
    for i, image in enumerate(images):
        yield image[:, :, i % 16 :, (i + 5) % 16 :].contiguous()


def _as_pixels(images: Tensor, model: SegmentationModel) -> Tensor:
    """Normalised images (B, C, H, W) -> the uint8 images (B, H, W, C) that they come from, nearly."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (model.mean, model.std))
    return (images * std + mean).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def _compare(model: SegmentationModel, runtime: FileRuntime, images: Tensor, quantised: bool) -> ParityRow:
    """One batch, as the file takes it, through both."""
    batch, height, width = images.shape[:3] if runtime.masks else (len(images), *images.shape[2:])
    with torch.no_grad():
        expected: Any = mask_stages(model, images) if runtime.masks else model(images)
    row = partial(ParityRow, batch, height, width, quantised=quantised)
    try:
        found: Any = torch.from_numpy(runtime.run(images.numpy())[0]) if runtime.masks else runtime(images)
    except Exception:  # of the runtime, each raises its own kinds: it cannot run the file at this size
        return row(*NOTHING_ALIKE)
    if runtime.masks:
        return row(*_compare_masks(found, expected))
    theirs, ours = ([x for name in OUTPUTS if (x := getattr(out, name)) is not None] for out in (found, expected))
    if [x.shape for x in theirs] != [x.shape for x in ours] or found.padded_size != expected.padded_size:
        return row(*NOTHING_ALIKE)
    errors = [relative_error(a, b) for a, b in zip(theirs, ours, strict=True)]
    error, relative = max(errors, key=lambda pair: inf if pair[1] != pair[1] else pair[1])
    same = (found.logits.argmax(1) == expected.logits.argmax(1)).float().mean().item()
    return row(error, relative, same, min(signal_to_noise_db(a, b) for a, b in zip(theirs, ours, strict=True)))


def _compare_masks(masks: Tensor, scores: Tensor) -> Figures:
    """The file's masks (B, H, W) uint8 beside the model's scores (B, K, H, W).

    To give a class that the model scores lower by d than its own, a score must be off by d / 2.
    """
    if masks.shape != scores[:, 0].shape or masks.max() >= scores.shape[1]:
        return NOTHING_ALIKE
    lead = scores.amax(1) - scores.gather(1, masks.long()[:, None])[:, 0]  # (B, H, W), 0 where the class is the same
    error, spread = lead.max().item() / 2, (scores.max() - scores.min()).item()
    same = (masks == scores.argmax(1)).float().mean().item()
    return error, error / spread if spread > 0 else error, same, inf


def _locate(model: SegmentationModel, file: Path, images: Tensor, runtime: FileRuntime, quantised: bool) -> str:
    """The stage at which a file that differs begins to; where it names none, or none does, what it gives: "logits".

    Of a quantised file, in which every stage is off, the one at which most noise comes in: whose signal-to-noise ratio
    lies farthest below the lowest before it.
    """
    with torch.no_grad(), Stages(model) as stages:
        out = mask_stages(model, images, stages.note) if runtime.masks else model(images)
    outputs = {} if isinstance(out, Tensor) else {name: getattr(out, name) for name in OUTPUTS}
    tensors = _tensors(stages.values, outputs, set(tensor_names(file)))
    found = run_tensors(file, images.numpy(), list(tensors.values())) if tensors else {}
    lowest, drops = ROUNDED_DB, {}
    for stage, tensor in tensors.items():
        expected, values = stages.values[stage], found.get(tensor)
        if values is None or values.shape != tuple(expected.shape):
            return stage
        value = torch.from_numpy(values)
        if not quantised and not relative_error(value, expected)[1] <= TOLERANCE:
            return stage
        signal_db = signal_to_noise_db(value, expected)
        drops[stage] = lowest - signal_db if signal_db == signal_db else inf
        lowest = min(lowest, signal_db)
    return max(drops, key=lambda stage: drops[stage]) if quantised and drops else runtime.outputs[0]


def _tensors(stages: dict[str, Tensor], outputs: dict[str, Tensor], known: set[str]) -> dict[str, str]:
    """Stage -> its tensor in a file, for those that it has, in the order of execution; an output has its own name."""
    names = {}
    for stage, value in stages.items():
        names[stage] = next((name for name, output in outputs.items() if output is value), PREFIX + stage)
    return {stage: name for stage, name in names.items() if name in known}


def perturb(model: nn.Module) -> nn.Module:
    """Fill a model with seeded noise, in place, so that nothing is at its initial value; -> the model in eval mode.

    A zero gate or a fresh batch norm hides what an export gets wrong behind it. Every entry is drawn by its own name:
    kernels N(0, 1 / fan_in), scales of norms and running variances U(0.5, 1.5), layer scales U(0.02, 0.1) (a deep
    model would run out of fp32 with larger ones), all else (biases, gates, running means) N(0, 0.1^2).
    """
    layer_scales = {f"{name}.weight" for name, layer in model.named_modules() if isinstance(layer, LayerScale)}
    with torch.no_grad():
        for key, value in model.state_dict().items():  # shares its memory with the model
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
