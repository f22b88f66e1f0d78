"""`featherseg fit`: data and a budget in, the best verified model for the device out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from featherseg.cli.options import DataRoot, Device, out_option, parse_size
from featherseg.core.errors import ConfigError, require
from featherseg.core.types import Size
from featherseg.core.wording import one_line

MODES = {
    "--show": ("--max-ms",),
    "--measure": ("--data", "--format", "--image-size", "--data-root"),
    "--confirm": (),
}
"""The options that replace a fit, and what else they take beside --out."""


def fit(
    out: Annotated[
        Path,
        out_option("The folder to write: in the end a run. Must be new, except with --resume."),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="A dataset's name, a dataset.toml or its folder, or what a tool exported; needed "
            "to begin a fit."
        ),
    ] = None,
    max_ms: Annotated[
        float | None,
        typer.Option(
            "--max-ms",
            help="Latency limit in ms, from a decoded image to its mask; 10% are kept to spare.",
        ),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            help="Time limit of the whole command [default: 1]; with --resume the new total."
        ),
    ] = None,
    percentile: Annotated[
        int | None,
        typer.Option(
            help="Percentile of the latency that --max-ms limits: 50 or 95 [default: 50]."
        ),
    ] = None,
    max_mib: Annotated[
        float | None, typer.Option("--max-mib", help="Memory limit of the process, MiB.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Of the exported file: onnx, openvino, onnx-int8 and so on [default: onnx]."
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            "--image-size",
            metavar="HxW",
            help="Of images to predict [default: as those to train with].",
        ),
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the stopped fit in --out, as begun; where there is none, begin it.",
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="local|ADDRESS", help="Train candidates side by side by Ray, here or there."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates at once, with --cluster [default: one a machine]."),
    ] = None,
    loggers: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME]",
            help="Follow the trainings there as well: tensorboard, mlflow, wandb.",
        ),
    ] = "",
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images without masks: the chosen model labels them, and learns from "
            "all in a second training."
        ),
    ] = None,
    show: Annotated[
        bool,
        typer.Option(
            "--show", help="Choose again from what --out has trained, for another --max-ms."
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Write --out, a .zip that times the candidates on another device."
        ),
    ] = False,
    latency: Annotated[
        Path | None,
        typer.Option(
            help="A latency.json measured on another device: the choice is made for that one."
        ),
    ] = None,
    confirm: Annotated[
        Path | None,
        typer.Option(help="A latency.json of the delivered model, by its own measure.zip."),
    ] = None,
) -> None:
    """Find, train, export and verify the most accurate model that is fast enough on this device.

    Candidates, models at input scales, are timed before any trains. Those that keep the limit train
    by successive halving; the last one gets at least half of the time. If no candidate keeps the
    limit, fit ends within a minute on an idle machine. In the end --out is a run with its exported
    file in export/, its score on images that nothing was chosen by, fit.html and fit.json. Kill it
    at any time: `featherseg fit --resume --out OUT` goes on.

    Exit code 0: a model within the limit. 1: the hours ended with a model over it, which is
    delivered; fit.json (limit_kept, latency_over_ms) and fit.html give the excess. 2: nothing was
    delivered, because the hours were too short to train anything or no candidate keeps the limit.
    """
    size = None if image_size is None else parse_size(image_size, "--image-size")

    # Options that --show, --measure or --confirm ignore are refused; None: not given
    given = {
        "--data": data,
        "--max-ms": max_ms,
        "--hours": hours,
        "--max-mib": max_mib,
        "--image-size": image_size,
        "--data-root": data_root,
        "--cluster": cluster,
        "--workers": workers,
        "--loggers": loggers or None,
        "--unlabelled": unlabelled,
        "--latency": latency,
        "--confirm": confirm,
        "--format": format,
        "--percentile": percentile,
        "--device": None if device == "auto" else device,
        "--show": show or None,
        "--measure": measure or None,
        "--resume": resume or None,
    }
    for mode, used in MODES.items():
        unused = [
            word for word, value in given.items() if value is not None and word not in (mode, *used)
        ]
        if given[mode] is not None and unused:
            raise ConfigError(f"{mode} makes no use of {', '.join(unused)}: leave it out.")

    # These three need no package that trains
    if show:
        _show(out, max_ms)
        return
    if measure:
        _measure(out, data, format or "onnx", size, data_root)
        return
    if confirm is not None:
        _confirm(out, confirm)
        return

    # A fit
    require("lightning", "train", "`featherseg fit`")
    import featherseg
    from featherseg.cli.train import TrainingProgress
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.fitting.fit import FitSettings
    from featherseg.fitting.results import over_text, summary

    keep_freed_memory()
    followed = tuple(filter(None, loggers.split(",")))
    settings = FitSettings(
        percentile, max_mib, data_root, device, cluster, workers, followed, unlabelled
    )
    with TrainingProgress() as progress:
        result = featherseg.fit(
            data,
            max_ms,
            out=out,
            hours=hours,
            format=format,
            image_size=size,
            latency=latency,
            resume=resume,
            settings=settings,
            progress=progress,
        )
    print(one_line(summary(result.facts)))
    print(one_line(f"the exported file is {result.file}; what was tried: {result.page}"))
    if not result.limit_kept:
        over = over_text(result.facts)
        print(
            one_line(f"the limit is not kept: {over}. Time the file again when nothing else runs:")
        )
        print(one_line(f"featherseg fit --resume --out {shlex.quote(str(out))}"))
        raise typer.Exit(1)


def _measure(
    out: Path, data: str | None, format: str, size: Size | None, data_root: Path | None
) -> None:
    """Write a bundle of candidates and print what to do with it."""
    from featherseg.cli.progress import progress_bar
    from featherseg.cli.terminal import Console
    from featherseg.fitting.elsewhere import bundle_candidates

    console = Console(highlight=False, markup=False, soft_wrap=True)
    with progress_bar(console) as progress:
        formats = list(dict.fromkeys(word.strip() for word in format.split(",")))

        def on_progress(doing: str, done: int, total: int | None) -> None:
            progress(doing, done, total)
            if not console.is_terminal:
                console.print(one_line(f"{doing} ({done + 1} of {total})"))

        try:
            errors = bundle_candidates(out, data, formats, size, data_root, on_progress)
        except KeyboardInterrupt:
            console.print("nothing of it is kept: the same command begins anew")
            raise
    for error in errors:
        console.print(f"left out: {one_line(str(error))}", style="yellow")
    console.print(f"unpack {one_line(str(out))} on the device and run there: python measure.py")


def _confirm(run: Path, latency: Path) -> None:
    """Record the device's latency of the delivered file; exit code 1 if it is over the limit."""
    from featherseg.fitting.bundle import confirm
    from featherseg.fitting.results import read_fit

    confirmed, facts = confirm(run, latency), read_fit(run)
    device, latency_ms = confirmed["device"], confirmed["latency_ms"][f"p{facts['percentile']}"]
    text = f"{device}: {latency_ms:.1f} ms, limit {facts['limit_ms']:g} ms"
    if (max_mib := facts.get("max_mib")) is not None:
        text += f"; {confirmed['memory_mib'] or '?'} MiB, limit {max_mib:g}"
    print(one_line(text))
    if device != (chosen_for := facts.get("device", device)):
        text = (
            f"the candidates were measured on {chosen_for}: of another machine this tells nothing"
        )
        print(one_line(text))
    if not confirmed["keeps_limit"]:
        text = f"over the limit: featherseg fit --show --max-ms X --out {run} lists what is faster"
        print(one_line(text))
        raise typer.Exit(1)


def _show(out: Path, max_ms: float | None) -> None:
    """Print the choice for another limit and the candidates that keep it, without torch."""
    from featherseg.core.wording import SELECTED
    from featherseg.fitting.halving import SPARE
    from featherseg.fitting.results import UNDELIVERED, choose_again, latency_text, read_fit

    facts = read_fit(out)
    limit = facts["limit_ms"] if max_ms is None else max_ms
    rows = choose_again(facts, limit)
    if not rows:
        raise ConfigError(
            f"no candidate that was trained in {out} keeps {limit:g} ms (with {SPARE:.0%} to "
            "spare). Fit again with that limit."
        )
    for row in rows:
        score = f"validation mIoU {100 * row['miou_val']:.2f} % ({SELECTED})"
        text = f"{row['model']} at {row['scale']:g}: {latency_text(row, facts)} ms, {score}, "
        text += f"trained for {row['seconds_trained']:.0f} s, {row['status']}"
        print(one_line(text))
    best = rows[0]
    if best["status"] == "chosen":
        text = f"the choice for {limit:g} ms is the one that is delivered: {out / facts['file']}"
        print(one_line(text))
        return
    ended = best["status"].startswith(UNDELIVERED)
    training = "trained to its end, without a file" if ended else "which was not trained to its end"
    print(one_line(f"the choice for {limit:g} ms is the run {out / best['run']}, {training}"))
