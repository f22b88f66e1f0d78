"""Every error for users: what was found, what was expected, what to do.

FeathersegError ├── ConfigError       a recipe, a dataset.toml or a --set is wrong ├── UnknownName
a model, dataset, class or target is in no catalogue ("did you mean") ├── DataError         images
or masks │   ├── DataNotFound  a folder or a file is missing │   │   └── NoDataset  a file or a
folder is no dataset │   ├── AmbiguousData a folder can be read in two ways (the message has a
command for each) │   └── TooLarge      an image has more pixels than are decoded ├── WeightsError
a checkpoint does not fit the model ├── RunError          a run folder cannot be read, or must not
be overwritten ├── TrainingError     a training cannot continue: its loss or its weights are not
finite ├── ExportError       a model cannot be written, or a file cannot be run │   └──
UntrustedFile a .pt2 file, which is a program, was opened without `trust` ├── DeviceError       this
machine does not have the device └── MissingExtra      an optional package is not installed (the
message has the `pip install`)

The command line prints the message without a traceback and exits with 2.
"""

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

OTHER_NAMES = {
    "learning_rate": "lr",
    "base_lr": "lr",
    "wd": "weight_decay",
    "imgsz": "crop",
    "image_size": "crop",
    "amp": "precision",
    "early_stopping": "patience",
}
"""Other tools' name for a key of a recipe -> its name here."""


class FeathersegError(Exception):
    """Base of every error whose message is written for a user.

    found: the message without its remedy, for commands that lack the options named in the remedy.
    """

    def __init__(self, found: object = "", remedy: str = "") -> None:
        super().__init__(f"{found} {remedy}" if remedy else found)
        self.found = str(found)


class ConfigError(FeathersegError):
    """A recipe, a dataset.toml or a `--set` contains an unknown key or an impossible value."""


class UnknownName(FeathersegError):
    """A name that is in no catalogue."""


class DataError(FeathersegError):
    """An image or a mask that cannot be used as it is."""


class DataNotFound(DataError):
    """A folder or file of a dataset is not where it should be."""


class NoDataset(DataNotFound):
    """The file or folder `place` is no dataset.

    The command line adds how to convert the annotations in it.
    """

    def __init__(self, found: str, place: Path) -> None:
        super().__init__(found)
        self.place = place


class AmbiguousData(DataError):
    """A folder can be read in several ways; `readings` are (reading, command) pairs."""

    def __init__(self, found: str, readings: Sequence[tuple[str, str]]) -> None:
        super().__init__(
            "\n".join((found, *(f"{reading}:\n    {command}" for reading, command in readings)))
        )
        self.found, self.readings = found, readings


class TooLarge(DataError):
    """An image has more pixels than are decoded."""


class WeightsError(FeathersegError):
    """Weights are missing, or do not fit the model they are meant for."""


class RunError(FeathersegError):
    """A run folder cannot be read, or is in the way."""


class TrainingError(FeathersegError):
    """A training cannot continue: its loss, weights or optimiser state are not finite."""


class ExportError(FeathersegError):
    """A model cannot be exported, or an exported file cannot be run."""


class UntrustedFile(ExportError):
    """A .pt2 file was opened without `trust`."""

    def __init__(self, path: object) -> None:
        found = f"{path} is a program: opening a .pt2 file runs the code that it contains."
        super().__init__(found, "If you trust its origin, pass trust=True.")


class DeviceError(FeathersegError):
    """This machine does not have the requested device."""


class MissingExtra(FeathersegError):
    """An optional package is not installed."""


def did_you_mean(name: str, known: Iterable[str], *, here: bool = False) -> str:
    """Return ` Did you mean 'epochs'?` for a close known name, else all known names, else "".

    With `here` the names in the working folder are known, too.
    """
    known = list(known)
    if OTHER_NAMES.get(name) in known:
        return f" Did you mean {OTHER_NAMES[name]!r}?"
    close = get_close_matches(name, [*known, *(_names_in(Path()) if here else ())], n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""


def near_path(path: Path) -> str:
    """Return ` Did you mean 'neu/dataset.toml'?` if one part of a path is misspelled, else ""."""
    if os.path.exists(path):
        return ""
    missing = next(
        (part for part in (*reversed(path.parents), path) if not os.path.exists(part)), path
    )
    for name in get_close_matches(missing.name, _names_in(missing.parent), cutoff=0.6):
        if os.path.exists(near := missing.parent / name / path.relative_to(missing)):
            return f" Did you mean {str(near)!r}?"
    return ""


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def unknown(kind: str, name: str, known: Iterable[str], *, here: bool = False) -> UnknownName:
    """Return the error for a name: `unknown model 'frm-lite'. Did you mean 'frm-lite0'?`"""
    return UnknownName(f"unknown {kind} {name!r}.{did_you_mean(name, known, here=here)}")


def missing_torch(purpose: str, package: str = "torch") -> MissingExtra:
    """Return the error where a package of [torch], which exported files do without, is missing."""
    return MissingExtra(
        f"{purpose} needs the package {package!r}, which is not installed here. Install it with: "
        "pip install 'featherseg[train]'\n"
        "Exported files (model.onnx) need only: pip install 'featherseg[runtime]'"
    )


OF_TORCH = ("torch", "scipy")
"""The packages of the extra [torch]."""


def require_installed(package: str, extra: str, purpose: str) -> None:
    """Raise MissingExtra if an optional package is missing, without importing it."""
    if find_spec(package) is None:
        require(package, extra, purpose)


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or raise MissingExtra with the command that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        from featherseg.core.installation import ELSEWHERE, SYSTEM, requirements

        package = module.split(".")[0]
        if any(row.module == package and not row.published for row in requirements()):
            raise MissingExtra(
                f"{purpose} needs the package {package!r}, which is not published for {SYSTEM}: "
                f"{ELSEWHERE}."
            ) from error
        raise MissingExtra(
            f"{purpose} needs the package {package!r}, which is not installed here ({error}). "
            f"Install it with: pip install 'featherseg[{extra}]'"
        ) from error
