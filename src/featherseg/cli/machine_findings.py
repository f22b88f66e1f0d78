"""What this machine offers to featherseg: processor, devices, compiled loops, folders, free space.

`core.installation` runs this module in the process that has imported the core packages; it then
prints its findings, one a line.
"""

import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from featherseg.core.installation import Finding

SHARED_MEMORY = Path("/dev/shm")
HAS_TORCH = find_spec("torch") is not None
NOT_COMPILED = Path(__file__).parents[1] / "kernels/not_compiled.txt"
"""The compiler's first error, if compiling the extension failed: setup.py writes it."""

NO_COMPILER = (
    "install a C compiler and Python's headers (on Debian: gcc and python3-dev), then featherseg "
    "from its source: pip install --force-reinstall --no-deps . (in a checkout with .venv: -e .)"
)

LITTLE_DISK_GIB = 2.0
"""Free space in GiB below which a warning says that a run or prepared data may not fit."""


def system() -> list[Finding]:
    """Return all findings except those of the packages, in the order of printing."""
    return [
        finding
        for section in (_machine, _devices, _kernels, _models, _disks, _shared_memory)
        for finding in _guarded(section)
    ]


def _guarded(section: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Return the findings of a section, or one that says why it failed."""
    try:
        return list(section())
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
        remedy = "install featherseg again, from its wheel or its source"
        return [Finding("system", section.__name__.strip("_"), fault, "broken", remedy)]


def _machine() -> Iterator[Finding]:
    import psutil

    from featherseg.core.machine import processor, usable_cores

    facts = processor()
    yield Finding("machine", "processor", facts["processor"])
    yield Finding(
        "machine",
        "instructions",
        ", ".join(facts["flags"]) or "none known that models run faster with",
    )
    yield Finding("machine", "cores", f"{usable_cores()} usable")
    yield Finding("machine", "memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB")


def _devices() -> Iterator[Finding]:
    if not HAS_TORCH:
        enough = "not here: on a board an exported file and onnxruntime, or ncnn, are enough"
        yield Finding("devices", "torch", enough)
        return
    import torch

    yield Finding("devices", "cpu", f"{torch.get_num_threads()} threads")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    for number, device in enumerate(names):
        yield Finding(
            "devices", f"cuda:{number}", f"{device.name}, {device.total_memory / 2**30:.1f} GiB"
        )
    if not names:
        yield Finding(
            "devices", "cuda", f"none: {_why_no_cuda([str(warning.message) for warning in caught])}"
        )
    if sys.platform == "darwin":
        works = torch.backends.mps.is_available()
        state = "available" if works else "none: this torch or this system has no Metal"
        yield Finding("devices", "mps", state)


def _why_no_cuda(messages: list[str]) -> str:
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not shutil.which("nvidia-smi"):
        return (
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, but there is no "
            "NVIDIA driver here"
        )
    build = f"torch {torch.__version__}, built for CUDA {torch.version.cuda}, sees no device"
    return "; ".join([build, *messages])


def _kernels() -> Iterator[Finding]:
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.kernels import native

    if chosen := native():
        yield Finding("kernels", "compiled loops", f"in use ({chosen})")
    elif os.environ.get("FEATHERSEG_NO_EXT") == "1":
        yield Finding(
            "kernels",
            "compiled loops",
            "disabled, numpy is used instead: FEATHERSEG_NO_EXT=1 is set",
        )
    else:
        state = f"none, numpy is used instead, slower with the same results: {_why_no_extension()}"
        yield Finding("kernels", "compiled loops", state, "warning", NO_COMPILER)
    if keep_freed_memory():
        state = "glibc keeps freed memory during work (FEATHERSEG_ALLOCATOR=off leaves it as it is)"
    elif os.environ.get("FEATHERSEG_ALLOCATOR") == "off":
        state = "left as it is: FEATHERSEG_ALLOCATOR=off is set"
    else:
        state = "left as it is: only glibc on Linux can be set to keep freed memory"
    yield Finding("kernels", "allocator", state)


def _why_no_extension() -> str:
    if NOT_COMPILED.is_file():
        return f"they were not compiled, {NOT_COMPILED.read_text(encoding='utf-8')}"
    try:
        from featherseg.kernels import _native  # noqa: F401
    except ImportError as error:
        return str(error)
    return "it was not loaded"


def _models() -> Iterator[Finding]:
    if not HAS_TORCH:
        return
    from featherseg.backbones.weights import PRETRAINED, weights_folder
    from featherseg.data.cache.prepared import cache_folders
    from featherseg.runs.run import runs_by_name

    here = [
        name for name, source in PRETRAINED.items() if (path := source.path()) and path.is_file()
    ]
    weights = f"{', '.join(here) or 'none'}; others are looked for in {weights_folder()}"
    yield Finding("places", "ImageNet weights", weights)
    home = os.environ.get("FEATHERSEG_HOME")
    hint = f"including those in {home}" if home else "$FEATHERSEG_HOME may name a folder of yours"
    runs = f"{', '.join(sorted(runs_by_name())) or 'none'}; {hint}"
    yield Finding("places", "runs by name", runs)
    caches = [
        f"below {place.parent}" if place.parent.name == "data" else str(place)
        for place in cache_folders(Path("DATA"))
    ]
    prepared = ", else ".join(caches) or "not read: FEATHERSEG_CACHE=off is set"
    yield Finding("places", "prepared data", prepared)


def _disks() -> Iterator[Finding]:
    for name, path in (
        ("here", Path.cwd()),
        ("home", Path.home()),
        ("temporary files", Path(tempfile.gettempdir())),
    ):
        if path.is_dir():
            yield _disk(name, path)


def _disk(name: str, path: Path) -> Finding:
    free = shutil.disk_usage(path).free / 2**30
    little = free < LITTLE_DISK_GIB
    remedy = "make room there, or work elsewhere" if little else None
    return Finding(
        "places",
        f"disk: {name}",
        f"{free:.1f} GiB free in {path}",
        "warning" if little else "ok",
        remedy,
    )


def _shared_memory() -> Iterator[Finding]:
    """Loader workers pass batches through /dev/shm; containers often have 64 MiB of it."""
    if not SHARED_MEMORY.is_dir() or not HAS_TORCH:
        return
    from featherseg.recipe.reading import shipped_recipes

    needed, recipe = max((loader_bytes(name), name) for name in shipped_recipes())
    size = shutil.disk_usage(SHARED_MEMORY).total
    sizes = (
        f"{size / 2**20:,.0f} MiB; the loader of {recipe}, the largest, uses up to "
        f"{needed / 2**20:,.0f} MiB there"
    )
    if size >= needed:
        yield Finding("places", str(SHARED_MEMORY), sizes)
    else:
        gib = -(-needed // 2**30)
        remedy = f"docker run --shm-size={gib}g, or --set data.workers=0 for such recipes"
        yield Finding("places", str(SHARED_MEMORY), sizes, "warning", remedy)


def loader_bytes(recipe: str) -> int:
    """Return the shared memory that the ready batches of loader workers need, in bytes.

    A batch has 8-bit images and their labels.
    """
    from featherseg.data.pipeline.loader import PREFETCH
    from featherseg.recipe.reading import parse_recipe, read_recipe
    from featherseg.training.batches import loader_workers

    settings = parse_recipe(read_recipe(recipe))
    # Without a crop, batches are as large as the images, which are not known here
    height, width = settings.augment.crop or (0, 0)
    images = settings.train.batch_size
    if isinstance(images, str):  # "auto": found with the crop
        images = 1
    return loader_workers(settings) * PREFETCH * images * height * width * 4


if __name__ == "__main__":
    for finding in system():
        print(json.dumps(asdict(finding)))
