"""Options that several verbs share, each declared once, and the parsers of their texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import OptionInfo

from featherseg.core.errors import ConfigError
from featherseg.core.types import Resize, Size

RunOrFile = Annotated[
    str, typer.Argument(help="A run (folder or name) or an exported file.", metavar="RUN")
]
RunFolder = Annotated[str, typer.Argument(help="A run (folder or name).")]
RunsAndFiles = Annotated[
    list[str], typer.Argument(help="Runs (folders or names) and exported files.", metavar="RUN...")
]
Dataset = Annotated[
    str, typer.Argument(metavar="DATA", help="A dataset's name, a dataset.toml or its folder.")
]
AnyDataset = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A dataset's name, a dataset.toml or its folder, or what a tool exported: a folder, "
        "a zip, a data.yaml.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A dataset's name, a dataset.toml or its folder, or what a tool exported: a folder, "
        "a zip, a data.yaml [default: the run's or recipe's].",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option("--data-root", help="The folder that contains the dataset."),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Split of the dataset [default: the validation split of the training]."
    ),
]
ScoreSplit = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split of the dataset [default: that of the paper's row, else test if it has masks, "
        "else val].",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
TrainingDevice = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps; sets train.device.")
]
Tta = Annotated[
    str | None,
    typer.Option(
        "--tta", metavar="flip", help="Test-time augmentation: average with the flipped image."
    ),
]
Scales = Annotated[
    str, typer.Option("--scales", help="Average over several scales, such as 0.75,1,1.25.")
]
Window = Annotated[
    str | None,
    typer.Option(
        "--window", metavar="HxW", help="Sliding window of this size; overlaps are blended."
    ),
]
ResizeTo = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="SHORTxLONG",
        help="Resize images to fit SHORTxLONG pixels, or `off` [default: the run's "
        "data.test_resize].",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Number of CPU threads [default: torch's, at most the usable cores].",
    ),
]
MemoryGb = Annotated[
    float, typer.Option("--memory-gb", help="Memory limit; larger images are tiled.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a key of the recipe, such as train.epochs=40; may be repeated; the last "
        "value of a key counts.",
    ),
]
MaxMs = Annotated[
    float | None,
    typer.Option("--max-ms", help="Recommend the best model within this latency (p50, in ms)."),
]
MaxMib = Annotated[
    float | None,
    typer.Option("--max-mib", help="Recommend the best model within this peak memory, in MiB."),
]
Costs = Annotated[bool, typer.Option("--costs/--no-costs", help="Also measure latency and memory.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Open .pt2 files, which are programs: only if you trust their origin."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def out_option(help: str) -> OptionInfo:
    """Return the option `-o`, `--out`; `help` says what is written there."""
    option: OptionInfo = typer.Option("-o", "--out", help=help)
    return option


def check_settings(
    overrides: Sequence[str] | None, given: Mapping[str, tuple[str, object]]
) -> list[str]:
    """Return the texts of --set. Raises ConfigError if an option already sets one of the keys.

    given: key of the recipe -> (the option that sets it, its value or None if it was not given).
    """
    for text in overrides or ():
        option, value = given.get(key := text.partition("=")[0].strip(), ("", None))
        if value is not None:
            raise ConfigError(
                f"{key} is given twice, by {option} and by --set {text}. Leave one of them out."
            )
    return [*(overrides or ())]


def parse_inference(
    window: str | None, scales: str, tta: str | None, resize: str | None = None
) -> dict[str, Any]:
    """Return the fields of InferenceSettings that differ from how the run was validated.

    `--window 512x512 --scales 0.75,1 --tta flip --resize 512x2048` gives all four. Raises
    ConfigError.
    """
    from featherseg.inference.settings import InferenceSettings

    if tta not in (None, "flip"):
        raise ConfigError(
            f"--tta {tta!r}: expected flip. Several scales are given as --scales 0.75,1,1.25."
        )
    given = InferenceSettings(
        window=parse_size(window, "--window") if window else None,
        scales=parse_scales(scales),
        flip=tta == "flip",
        resize=None if resize in (None, "off") else parse_resize(str(resize)),
    )
    default = asdict(InferenceSettings())
    changes = {name: value for name, value in asdict(given).items() if value != default[name]}
    return changes | ({"resize": given.resize} if resize else {})


def parse_resize(text: str) -> Resize:
    """Return "512x2048" as (512, 2048), short side first. Raises ConfigError."""
    short, long = parse_size(text, "--resize", "SHORTxLONG")
    if short > long:
        raise ConfigError(
            f"--resize {text!r}: expected the short side first, such as {long}x{short}."
        )
    return short, long


def parse_size(text: str, option: str, pattern: str = "HEIGHTxWIDTH") -> Size:
    """Return "512x1024" as (512, 1024), height first. Raises ConfigError.

    option, pattern: the names of the option and of its form, for the message.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text.strip())
    if match is None:
        raise ConfigError(
            f"{option} {text!r}: expected {pattern} in pixels, each at least 1, such as 512x1024."
        )
    return int(match[1]), int(match[2])


def parse_scales(text: str) -> tuple[float, ...]:
    """Return "0.75,1,1.25" as (0.75, 1.0, 1.25). Raises ConfigError."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--scales {text!r}: expected factors separated by commas, such as 0.75,1,1.25."
        ) from None
