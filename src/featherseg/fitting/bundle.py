"""Latency on a device that does not train: a bundle of exported candidates, and the answer, latency.json.

The bundle is a .zip with bundle_files/measure.py, which needs Python, numpy and a runtime alone; image.npy, an image
(H, W, C) uint8; bundle.json, which tells the candidates; and their files. onnx and openvino take any size, so that all
scales of a model share a file; an ncnn file is of one size.
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
from featherseg.layers.model import SegmentationModel
from featherseg.layers.resize import padding, resize_factor, scaled_size
from featherseg.recipe.tables import ImageSize

FORMAT_VERSION = 1
"""Of bundle.json and of latency.json."""

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
"""Formats that measure.py runs, and the package that each needs on the device."""

SCRIPTS = (
    files("featherseg.fitting") / "bundle_files" / "measure.py",
    files("featherseg.costs") / "latency.py",
)
"""What runs on the device: the script, and the timing engine that it imports."""

MOST_BYTES = 2**22
"""Of a latency.json."""

README = """\
How fast are these models here? Unpack everything into one folder on the device that will run them.
There: python -m pip install numpy {packages}     (Python 3.9 or newer)
Then:  python measure.py     (some {minutes} min; Ctrl-C keeps what was measured, the same command goes on)
It writes latency.json: what each model takes here from a decoded image to its mask, and the memory of its process.
Bring latency.json back: featherseg fit --latency latency.json --data DATA --max-ms X --hours H --out OUT
"""

LAST_CHECK = """\
Does the delivered model keep its limit? Unpack everything into a folder of its own on the device it was chosen for.
There: python -m pip install numpy {packages}     (Python 3.9 or newer)
Then:  python measure.py --threads {threads}     (a minute; as many threads as the candidates were measured on)
It writes latency.json: what the model takes here from a decoded image to its mask, and the memory of its process.
Bring this latency.json back: featherseg fit --confirm latency.json --out RUN     (RUN: where measure.zip is from)
"""


@dataclass(frozen=True)
class BundleItem:
    """A model in one format, at the scales of its input that are measured.

    model in eval mode; name as latency.json and the catalogue have it; resizes: of each scale what images are brought
    to fit, None for their own size.
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
    """Write the .zip at `out`, of items that can be exported; -> the errors of those that cannot.

    The same models, image and versions give the same candidates and names; times of files are fixed.

    Args:
        image: (H, W, C) uint8, decoded, RGB for three channels: what is measured begins with it.
        threads: of a delivered model, those that it was chosen for, as a last check takes them; None: of candidates.

    Raises:
        ConfigError: a format that measure.py does not run, a name that is none for a file, an image of another form.
        MissingExtra: for the package that a format is exported with.
        ExportError: not one item can be exported, or the disk refuses.
    """
    # Refuse first
    if not items:
        raise ConfigError("there is no candidate to measure: expected at least one.")
    for item in items:
        if item.format not in RUNTIMES:
            raise ConfigError(
                f"--format {item.format}: another device measures {', '.join(RUNTIMES)} alone. Choose one of these."
            )
        for package in EXPORTERS[item.format].packages:
            require(package, EXPORTERS[item.format].extra, f"A bundle with {item.format}")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", item.name):
            raise ConfigError(
                f"model {item.name!r}: expected letters, digits, '-', '_' and '.', to name files."
            )
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != len(item.model.mean):
            raise ConfigError(
                f"the image is {image.dtype} {image.shape}: {item.name} expects (H, W, {len(item.model.mean)}) uint8."
            )
    check_writable(out)

    tell, errors, rows = progress_or_bar(progress), list[ExportError](), list[dict[str, Any]]()
    size = (image.shape[0], image.shape[1])
    try:
        with TemporaryDirectory() as draft:
            for number, item in enumerate(items):
                tell(f"{item.name}: writing {item.format}", number, len(items))
                try:
                    rows += _write_item(item, size, Path(draft))
                except ExportError as error:
                    errors.append(ExportError(f"{item.name} as {item.format}: {error}"))
                tell(f"{item.name}: {item.format}", number + 1, len(items))
            if not rows:
                raise errors[0]

            # What the candidates are, and the id by which the answer is known
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
            used = {row["format"] for row in rows}
            packages = " ".join(package for format, package in RUNTIMES.items() if format in used)
            readme = README if threads is None else LAST_CHECK
            readme = readme.format(
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
            f"cannot write to {gettempdir()}, where files are drafted: {error.strerror or error}. Make room there, or "
            f"name another folder in TMPDIR. {out} was not written."
        ) from error
    return errors


def _write_item(item: BundleItem, size: Size, draft: Path) -> list[dict[str, Any]]:
    """The files of an item in `draft`; -> its candidates, as bundle.json has them. Raises ExportError."""
    model = deepcopy(item.model).to("cpu", torch.float32).eval()
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
        found = {
            "model": item.name,
            "scale": scale,
            "format": item.format,
            "files": names,
            "input_size": seen,
        }
        if item.format == "ncnn":
            padded = [side + padding(side, model.size_divisor, model.minimum_size) for side in seen]
            normalised = {"mean": tuple(model.mean), "std": tuple(model.std)}
            found |= normalised | {"padded_size": padded, "align_corners": model.align_corners}
        rows.append(found)
    return rows


def _write_zip(texts: Mapping[str, bytes], drafts: Sequence[Path], target: BinaryIO) -> None:
    """What explains itself first, then the models; no time of today."""
    with ZipFile(target, "w", ZIP_DEFLATED) as archive:
        for name, content in texts.items():
            archive.writestr(_entry(name), content)
        for draft in drafts:
            with draft.open("rb") as source, archive.open(_entry(draft.name), "w") as into:
                shutil.copyfileobj(source, into, 2**20)


def _entry(name: str) -> ZipInfo:
    found = ZipInfo(name)  # of 1980-01-01
    found.compress_type, found.external_attr, found.create_system = ZIP_DEFLATED, 0o644 << 16, 3
    return found


Words = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(one_line)]
"""For people, from a device that may be anybody's: shown, and nothing else."""


class Latency(Config):
    """Milliseconds of an image: its median and the 95 % interval of that, and what 95 of 100 stay within."""

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
    """A candidate on the device; memory_mib is the peak of its process, None where the system does not tell it."""

    model: Annotated[str, Field(max_length=100)]
    scale: Annotated[float, Field(gt=0, le=16)]
    format: Literal["onnx", "openvino", "ncnn"]
    latency_ms: Latency
    memory_mib: Annotated[float, Field(gt=0, le=1e8)] | None
    file_mib: Annotated[float, Field(gt=0, le=1e6)]
    passes: Annotated[int, Field(ge=1, le=10**6)]


class MeasuredLatency(Config):
    """What measure.py wrote; image_size is (H, W) in pixels, bundle the id of the bundle it was run in."""

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
        """That candidate, where it was measured."""
        rows = (
            row
            for row in self.candidates
            if (row.model, row.scale, row.format) == (model, scale, format)
        )
        return next(rows, None)


def read_latency(path: Path) -> MeasuredLatency:
    """The latency.json of a device, as data from others.

    Raises DataNotFound; ConfigError where it is broken or of another version; UnknownName for a model that is none.
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
            f"{path} is of a bundle of format {version}; this featherseg {__version__} reads {FORMAT_VERSION}. Write "
            "the bundle anew with: featherseg fit --measure -o bundle.zip"
        )
    try:
        found = parse(MeasuredLatency, values, str(path))
    except ConfigError as error:
        raise ConfigError(f"{one_line(str(error).splitlines()[0])} {remedy}") from None
    for row in found.candidates:
        if row.model not in models.MODELS:
            raise unknown("model", row.model, models.MODELS)
    return found


class _Chosen(Config):
    model: str
    scale: float
    format: str


class _FitFacts(Config):
    """What `confirm` needs of fit.json; threads: those of the candidates' timings."""

    chosen: _Chosen
    limit_ms: Milliseconds
    percentile: Literal[50, 95]
    image_size: ImageSize
    threads: Annotated[int, Field(ge=1)] | None = None
    max_mib: Annotated[float, Field(gt=0)] | None = None
    bundle: Annotated[str, Field(max_length=100)] | None = None


def confirm(run_folder: Path, latency: Path) -> dict[str, Any]:
    """What the delivered model takes on the device, into fit.json of the run as `confirmed` and its page; -> that.

    It is {"device", "threads", "latency_ms": {"p50", "p95", "interval"}, "memory_mib", "keeps_limit"}; the limit is
    that of memory as well, where there is one and the device tells it.

    Raises RunError for a folder that `fit` did not write, ConfigError where the fit was timed here or latency.json does
    not hold exactly the chosen model, scale and format, is of another bundle or image size than the delivered one or of
    other threads than the candidates' timings, and as `read_latency`.
    """
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
    chosen = config.chosen
    if config.bundle is None:
        raise ConfigError(
            f"{run_folder} was timed on the machine that trained it: there is no measure.zip to confirm. For another "
            "device fit by what that measures: featherseg fit --measure, then featherseg fit --latency latency.json"
        )
    row = measured.find(chosen.model, chosen.scale, chosen.format)
    if row is None:
        others = "; ".join(
            f"{row.model} at {row.scale:g}, {row.format}" for row in measured.candidates[:5]
        )
        raise ConfigError(
            f"{latency} does not hold {chosen.model} at {chosen.scale:g}, {chosen.format}, the choice of {file}. "
            f"It holds {others}. Run the measure.py that was delivered with it."
        )
    if config.bundle != measured.bundle:
        raise ConfigError(
            f"{latency} is not of the model that was delivered, but of another bundle, such as that of the candidates "
            "before the training. Run the measure.py that was delivered with the model, and bring that answer back."
        )
    if config.image_size != measured.image_size:
        raise ConfigError(
            f"{latency} is of images of {size_text(measured.image_size)}, {file} of {size_text(config.image_size)}. "
            "Run the measure.py that was delivered with the model, and bring back its latency.json as it is."
        )
    if config.threads not in (None, measured.threads):
        raise ConfigError(
            f"{latency} was measured on {counted(measured.threads, 'thread')}, and the candidates on {config.threads}: "
            f"the limit is for these. Run there: python measure.py --threads {config.threads}"
        )
    taken = row.latency_ms.p50 if config.percentile == 50 else row.latency_ms.p95
    confirmed = {
        "device": measured.device,
        "threads": measured.threads,
        "latency_ms": row.latency_ms.model_dump(mode="json"),
        "memory_mib": row.memory_mib,
        "keeps_limit": keeps_limits(
            taken, row.memory_mib, config.limit_ms, config.max_mib, spare=0
        ),
    }
    facts = content | {"confirmed": confirmed}
    plan = read_plan(run_folder / PLAN).schedule if (run_folder / PLAN).is_file() else None
    write_json(file, facts)
    if plan is not None:
        write_page(run_folder, facts, plan)
    return confirmed
