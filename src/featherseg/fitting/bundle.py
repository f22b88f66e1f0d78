"""Latency on another device: a bundle of exported candidates, and its answer, latency.json.

The bundle is a .zip. It contains measure.py (needs only Python, numpy and a runtime), the timing
engine latency.py, processors.py for the name of the device, an image (H, W, C) uint8 as image.npy,
bundle.json with the list of candidates, and their files. onnx and openvino files take any size, so
all scales of a model share a file; an ncnn file has one size.
"""

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Annotated, Any, BinaryIO, Literal
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import torch
from pydantic import AfterValidator, Field, model_validator

from featherseg import models
from featherseg._version import __version__
from featherseg.core.config import Config, parse
from featherseg.core.errors import (
    ConfigError,
    DataNotFound,
    ExportError,
    RunError,
    require,
    unknown,
)
from featherseg.core.files import (
    FIT,
    PLAN,
    check_writable,
    parse_json,
    read_bounded,
    refuse_links,
    write_atomic,
    write_json,
)
from featherseg.core.notebook import progress_or_bar
from featherseg.core.types import Progress, Resize, Size
from featherseg.core.wording import counted, one_line, size_text
from featherseg.exporters.formats import EXPORTERS
from featherseg.exporters.job import Facts, Job
from featherseg.exporters.onnx import graph_form, to_onnx
from featherseg.fitting.halving import Milliseconds, keeps_limits, name_of
from featherseg.fitting.page import write_page
from featherseg.fitting.plan import read_plan
from featherseg.layers.model import SegmentationModel, merge_paths
from featherseg.layers.resize import padding
from featherseg.layers.sizes import resize_factor, scaled_size
from featherseg.recipe.tables import ImageSize

FORMAT_VERSION = 1
"""Version of bundle.json and latency.json."""

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
"""Formats that measure.py runs -> the package that each needs on the device."""

SCRIPTS = (
    files("featherseg.fitting") / "bundle_files" / "measure.py",
    files("featherseg.costs") / "latency.py",
    files("featherseg.core") / "processors.py",
)
"""Files that run on the device: the script, and the two that it imports."""

MOST_BYTES = 2**22
"""Largest size of a latency.json."""

README = """\
Measure the latency of these models on the device that will run them.
Unpack everything into one folder there, install the packages and run the script:
    python -m pip install numpy {packages}     (Python 3.9 or newer)
    python measure.py     (about {minutes} min; after Ctrl-C the same command resumes)
It writes latency.json: the latency of each model from a decoded image to its mask, and the memory
of its process. Bring latency.json back:
    featherseg fit --latency latency.json --data DATA --max-ms X --hours H --out OUT
"""

LAST_CHECK = """\
Check that the delivered model keeps its limit on the device that it was chosen for.
Unpack everything into a new folder there, install the packages and run the script:
    python -m pip install numpy {packages}     (Python 3.9 or newer)
    python measure.py --threads {threads}     (a minute; as many threads as for the candidates)
It writes latency.json: the latency of the model from a decoded image to its mask, and the memory of
its process. Bring this latency.json back (RUN is the run of measure.zip):
    featherseg fit --confirm latency.json --out RUN
"""


@dataclass(frozen=True)
class BundleItem:
    """A model in one format, at several scales of its input.

    Args:
        model: in eval mode.
        name: as in the catalogue and in latency.json.
        resizes: scale -> how images are resized; None: not at all.
    """

    model: SegmentationModel
    name: str
    facts: Facts
    resizes: Mapping[float, Resize | None]
    format: str


def write_bundle(
    out: Path,
    items: Sequence[BundleItem],
    image: np.ndarray,
    progress: Progress | None = None,
    threads: int | None = None,
) -> list[ExportError]:
    """Write a bundle of the items that can be exported; return the errors of the others.

    The same models, image and versions give the same candidates and names; file times are fixed.

    Args:
        out: the .zip.
        image: (H, W, C) uint8, decoded, RGB if it has three channels.
        threads: for the check of a delivered model, the threads it was chosen for; None for
            candidates.

    Raises:
        ConfigError: measure.py cannot run a format, a name cannot name a file, or the image does
            not fit a model.
        MissingExtra: the package that exports a format is missing.
        ExportError: no item can be exported, or the disk refuses.
    """
    # Refuse what cannot be measured
    if not items:
        raise ConfigError("there is no candidate to measure: expected at least one.")
    for item in items:
        if item.format not in RUNTIMES:
            raise ConfigError(
                f"--format {item.format}: another device measures {', '.join(RUNTIMES)} alone. "
                "Choose one of these."
            )
        for package in EXPORTERS[item.format].packages:
            require(package, EXPORTERS[item.format].extra, f"A bundle with {item.format}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", item.name):
            raise ConfigError(
                f"model {item.name!r}: expected letters, digits, '-', '_' and '.', to name files."
            )
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != len(item.model.mean):
            raise ConfigError(
                f"the image is {image.dtype} {image.shape}: {item.name} expects "
                f"(H, W, {len(item.model.mean)}) uint8."
            )
    check_writable(out)

    tell, errors, rows = progress_or_bar(progress), list[ExportError](), list[dict[str, Any]]()
    size = (image.shape[0], image.shape[1])
    try:
        with TemporaryDirectory() as draft:
            # Export the items
            for number, item in enumerate(items):
                tell(f"{item.name}: writing {item.format}", number, len(items))
                try:
                    rows += _write_item(item, size, Path(draft))
                except ExportError as error:
                    errors.append(ExportError(f"{item.name} as {item.format}: {error}"))
                tell(f"{item.name}: {item.format}", number + 1, len(items))
            if not rows:
                raise errors[0]

            # Describe the candidates; the id says to which bundle an answer belongs
            buffer = BytesIO()
            np.save(buffer, np.ascontiguousarray(image), allow_pickle=False)
            drafts = sorted({name for row in rows for name in row["files"]})
            digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode() + buffer.getvalue())
            for name in drafts:
                digest.update((Path(draft) / name).read_bytes())
            bundle = {
                "format_version": FORMAT_VERSION,
                "id": digest.hexdigest()[:16],
                "featherseg": __version__,
                "image_size": size,
                "candidates": rows,
            }
            formats = {row["format"] for row in rows}
            packages = " ".join(RUNTIMES[format] for format in RUNTIMES if format in formats)
            readme = (README if threads is None else LAST_CHECK).format(
                packages=packages, minutes=max(1, len(rows) // 10), threads=threads
            )
            texts = {
                "README.txt": readme.encode(),
                "bundle.json": json.dumps(bundle, indent=2).encode(),
                "image.npy": buffer.getvalue(),
                **{path.name: path.read_bytes() for path in SCRIPTS},
            }
            write_atomic(out, partial(_write_zip, texts, [Path(draft) / name for name in drafts]))
    except OSError as error:
        raise ExportError(
            f"cannot write to {gettempdir()}, where files are drafted: {error.strerror or error}. "
            f"Make room there, or name another folder in TMPDIR. {out} was not written."
        ) from error
    return errors


def _write_item(item: BundleItem, size: Size, draft: Path) -> list[dict[str, Any]]:
    """Write the files of an item to `draft`; return its rows of bundle.json. Raises ExportError."""
    model = deepcopy(item.model).to("cpu", torch.float32).eval()
    merge_paths(model)
    rows, row = list[dict[str, Any]](), EXPORTERS[item.format]
    names: tuple[str, ...] = ()
    for scale, resize in item.resizes.items():
        seen = scaled_size(size, resize_factor(size, resize))
        facts = replace(item.facts, test_resize=None)
        if item.format == "ncnn":
            facts = replace(facts, image_size=seen)
        if item.format == "ncnn" or not names:
            form = graph_form(model, channels_last=True)
            form = form if row.channels_last else graph_form(form)
            with TemporaryDirectory(dir=draft) as folder:
                graph = partial(to_onnx, form, facts, row.masks)
                row.write(Job(model, facts, Path(folder), graph, masks=row.masks))
                stem = item.name + (f"-at-{scale:g}" if item.format == "ncnn" else "")
                written = sorted(
                    Path(folder).iterdir(), key=lambda file: (file.name != row.main, file.name)
                )
                names = tuple(stem + file.name.removeprefix("model") for file in written)
                for file, name in zip(written, names, strict=True):
                    file.rename(draft / name)
        candidate = {
            "model": item.name,
            "scale": scale,
            "format": item.format,
            "files": names,
            "input_size": seen,
        }
        if item.format == "ncnn":
            padded = [side + padding(side, model.size_divisor, model.minimum_size) for side in seen]
            normalised = {"mean": tuple(model.mean), "std": tuple(model.std)}
            candidate |= normalised | {"padded_size": padded, "align_corners": model.align_corners}
        rows.append(candidate)
    return rows


def _write_zip(texts: Mapping[str, bytes], drafts: Sequence[Path], target: BinaryIO) -> None:
    """Write the .zip: the texts, then the models."""
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for name, content in texts.items():
            archive.writestr(_entry(name), content)
        for draft in drafts:
            with draft.open("rb") as source, archive.open(_entry(draft.name), "w") as into:
                shutil.copyfileobj(source, into, 2**20)


def _entry(name: str) -> ZipInfo:
    """Return an entry of the .zip that is the same on every day (1980-01-01) and system (Unix)."""
    entry = ZipInfo(name)
    entry.compress_type, entry.external_attr, entry.create_system = ZIP_DEFLATED, 0o644 << 16, 3
    return entry


Words = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(one_line)]
"""Text from a device that is not trusted: it is only shown."""


class Latency(Config):
    """Milliseconds of an image: p50 with its 95 % interval, and p95."""

    p50: Milliseconds
    p95: Milliseconds
    interval: tuple[Milliseconds, Milliseconds]

    @model_validator(mode="after")
    def _ordered(self) -> "Latency":
        if not self.interval[0] <= self.p50 <= self.interval[1] or self.p50 > self.p95:
            raise ValueError(
                f"expected p50 = {self.p50:g} within its interval and not above p95 = {self.p95:g}"
            )
        return self


class MeasuredCandidate(Config):
    """A candidate on the device; memory_mib: peak of its process, None if not reported."""

    model: Annotated[str, Field(max_length=100)]
    scale: Annotated[float, Field(gt=0, le=16)]
    format: Literal["onnx", "openvino", "ncnn"]
    latency_ms: Latency
    memory_mib: Annotated[float, Field(gt=0, le=1e8)] | None
    file_mib: Annotated[float, Field(gt=0, le=1e6)]
    passes: Annotated[int, Field(ge=1, le=10**6)]


class MeasuredLatency(Config):
    """The content of latency.json; image_size: (height, width), bundle: the id of the bundle."""

    format_version: Literal[1]
    device: Words
    threads: Annotated[int, Field(ge=1, le=4096)]
    runtimes: Annotated[
        dict[Literal["onnx", "openvino", "ncnn"], Words], Field(max_length=len(RUNTIMES))
    ]
    date: Words
    image_size: ImageSize
    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    candidates: Annotated[tuple[MeasuredCandidate, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _once_each(self) -> "MeasuredLatency":
        names = [f"{name_of(row.model, row.scale)}, {row.format}" for row in self.candidates]
        if twice := [name for name, times in Counter(names).items() if times > 1]:
            raise ValueError(f"{twice[0]} is listed twice")
        return self

    def find(self, model: str, scale: float, format: str) -> MeasuredCandidate | None:
        """Return a candidate; None if it was not measured."""
        for row in self.candidates:
            if (row.model, row.scale, row.format) == (model, scale, format):
                return row
        return None


def read_latency(path: Path) -> MeasuredLatency:
    """Read the latency.json of a device, which is not trusted.

    Raises:
        DataNotFound: the file does not exist.
        ConfigError: it is damaged, or has another version.
        UnknownName: a model is not in the catalogue.
    """
    remedy = (
        "Run measure.py in the unpacked bundle again, and bring back its latency.json as it is."
    )
    try:
        values = parse_json(read_bounded(path, MOST_BYTES).decode())
    except FileNotFoundError:
        raise DataNotFound(
            f"{path} does not exist. It is written on the device, by `python measure.py`."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}. {remedy}") from None
    version = values.get("format_version") if isinstance(values, dict) else None
    if type(version) is not int:
        raise ConfigError(
            f"{path} has no format_version: it was not written by measure.py. {remedy}"
        )
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path} is of a bundle of format {version}; this featherseg {__version__} reads "
            f"{FORMAT_VERSION}. Write a new bundle: featherseg fit --measure -o bundle.zip"
        )
    try:
        measured = parse(MeasuredLatency, values, str(path))
    except ConfigError as error:
        raise ConfigError(f"{one_line(str(error).splitlines()[0])} {remedy}") from None
    for row in measured.candidates:
        if row.model not in models.MODELS:
            raise unknown("model", row.model, models.MODELS)
    return measured


class _Chosen(Config):
    model: str
    scale: float
    format: str


class _FitFacts(Config):
    """The keys of fit.json that `confirm` reads; threads: of the candidates' timings."""

    chosen: _Chosen
    limit_ms: Milliseconds
    percentile: Literal[50, 95]
    image_size: ImageSize
    threads: Annotated[int, Field(ge=1)] | None = None
    max_mib: Annotated[float, Field(gt=0)] | None = None
    bundle: Annotated[str, Field(max_length=100)] | None = None


def confirm(run_folder: Path, latency: Path) -> dict[str, Any]:
    """Record the latency of the delivered model on the device, as `confirmed` in fit.json.

    Returns:
        {"device", "threads", "latency_ms": {"p50", "p95", "interval"}, "memory_mib",
        "keeps_limit"}; the last one includes the limit of memory, if there is one and the device
        reports memory.

    Raises:
        RunError: `fit` did not write the folder.
        ConfigError: the fit was timed on this machine, or latency.json is of another model, scale,
            format, bundle, image size or number of threads; or as `read_latency`.
    """
    # Read both files
    measured, file = read_latency(latency), run_folder / FIT
    refuse_links(run_folder, FIT, PLAN)
    try:
        content = parse_json(read_bounded(file).decode())
        wanted = {key: content[key] for key in ("limit_ms", "percentile", "image_size")}
        wanted |= {key: content.get(key) for key in ("bundle", "max_mib", "threads")}
        wanted["chosen"] = {key: content["chosen"][key] for key in ("model", "scale", "format")}
        config = parse(_FitFacts, wanted, str(file))
    except FileNotFoundError:
        raise RunError(
            f"{file} does not exist: expected a run folder that `featherseg fit` has written."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise RunError(
            f"{file} is damaged ({error}): expected it as `featherseg fit` has written it."
        ) from None

    # Refuse an answer that is not of the delivered model
    chosen = config.chosen
    if config.bundle is None:
        raise ConfigError(
            f"{run_folder} was timed on the machine that trained it: there is no measure.zip to "
            "confirm. To choose by the latency of another device: featherseg fit --measure, then "
            "featherseg fit --latency latency.json"
        )
    row = measured.find(chosen.model, chosen.scale, chosen.format)
    if row is None:
        others = "; ".join(
            f"{row.model} at {row.scale:g}, {row.format}" for row in measured.candidates[:5]
        )
        raise ConfigError(
            f"{latency} does not contain {chosen.model} at {chosen.scale:g}, {chosen.format}, the "
            f"choice of {file}, but {others}. Run the measure.py that was delivered with it."
        )
    if config.bundle != measured.bundle:
        raise ConfigError(
            f"{latency} is of another bundle than the delivered model, such as that of the "
            "candidates before the training. Run the measure.py that was delivered with the model, "
            "and bring its answer back."
        )
    if config.image_size != measured.image_size:
        raise ConfigError(
            f"{latency} is of images of {size_text(measured.image_size)}, {file} of "
            f"{size_text(config.image_size)}. Run the measure.py that was delivered with the "
            "model, and bring back its latency.json as it is."
        )
    if config.threads not in (None, measured.threads):
        raise ConfigError(
            f"{latency} was measured on {counted(measured.threads, 'thread')}, and the candidates "
            f"on {config.threads}. Run there: python measure.py --threads {config.threads}"
        )

    # Record the latency in fit.json and on its page
    latency_ms = row.latency_ms.p50 if config.percentile == 50 else row.latency_ms.p95
    confirmed = {
        "device": measured.device,
        "threads": measured.threads,
        "latency_ms": row.latency_ms.model_dump(mode="json"),
        "memory_mib": row.memory_mib,
        "keeps_limit": keeps_limits(
            latency_ms, row.memory_mib, config.limit_ms, config.max_mib, spare=0
        ),
    }
    facts = content | {"confirmed": confirmed}
    plan = read_plan(run_folder / PLAN).schedule if (run_folder / PLAN).is_file() else None
    write_json(file, facts)
    if plan is not None:
        write_page(run_folder, facts, plan)
    return confirmed
