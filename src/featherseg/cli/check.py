"""`featherseg check DATA`: look through every file of a dataset; `--fix OUT` writes a mended copy."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featherseg.cli.options import AsJson, DataRoot
from featherseg.cli.progress import progress_bar
from featherseg.core.errors import AmbiguousData, ConfigError
from featherseg.core.wording import counted, json_text, one_line, visible

if TYPE_CHECKING:
    from rich.table import Table

    from featherseg.cli.terminal import Console
    from featherseg.data.checks.check import CheckReport, SplitReport
    from featherseg.data.discovery.proposal import Proposal

SHOWN_FAULTS = 20
"""How many faults of one kind, or values of masks, are printed before "and N more"."""

SHOWN_LINES = 150
"""How many lines of a proposed dataset.toml are printed: one of many folders has thousands."""

SHOWN_CHANNELS = 12
"""How many channels are printed with their range."""

SHOWN_SIZES = 4
"""How many sizes of images are printed for a split."""


def check(
    data: Annotated[
        str,
        typer.Argument(help="A dataset's name, a dataset.toml, or a folder of images and masks."),
    ],
    data_root: DataRoot = None,
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="Write the proposed dataset.toml; one that was edited is never replaced.",
        ),
    ] = False,
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="VALUE=NAME",
            help="Name the class of a mask value or folder; may be repeated.",
        ),
    ] = None,
    masks: Annotated[
        str | None, typer.Option(help="The folder of masks to take, where there are several.")
    ] = None,
    classes_from_folders: Annotated[
        bool,
        typer.Option(
            "--classes-from-folders", help="Each folder of masks is a class, named after it."
        ),
    ] = False,
    groups_from_folders: Annotated[
        bool,
        typer.Option(
            "--groups-from-folders", help="Folders are no classes; each stays in one split."
        ),
    ] = False,
    fix: Annotated[
        Path | None, typer.Option(help="Write a corrected copy to this new folder.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --fix: what the page of `featherseg audit` saved."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find missing pairs, wrong sizes, stray mask values, unreadable files and images in two splits; count the classes.

    For a folder without a dataset.toml one is proposed, whatever its folders and files are called, and with --write
    written. Exit code 0: clean. 1: faults were found, or a single class (and it was written all the same), or the
    folder can be read in two ways (nothing was written). 2: the dataset could not be opened.
    """
    import featherseg
    from featherseg.cli.terminal import Console

    if classes_from_folders and groups_from_folders:
        raise ConfigError(
            "--classes-from-folders and --groups-from-folders exclude each other. Leave out one of them."
        )
    console = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    try:
        with progress_bar(Console(stderr=True)) as progress:
            report = featherseg.check(
                data,
                data_root,
                write=write,
                names=_parse_names(names or ()),
                masks=masks,
                folders="classes"
                if classes_from_folders
                else "groups"
                if groups_from_folders
                else None,
                fix=fix,
                decisions=decisions,
                progress=progress,
            )
    except AmbiguousData as question:
        if as_json:
            readings = [{"what": what, "command": how} for what, how in question.readings]
            print(
                json_text(
                    {
                        "clean": False,
                        "question": question.found,
                        "readings": readings,
                        "written": None,
                    }
                )
            )
        else:
            console.print(f"{visible(str(question))}\nNothing was written.", style="bold yellow")
        raise typer.Exit(1) from None
    if as_json:
        print(json_text(report.as_dict()))
    else:
        _print_report(console, report)
        if report.proposal is not None:
            _print_next(console, report, data)
    if fix is not None and report.mended is not None:
        _print_mended(console, report, fix)
    elif any(fault.key for fault in report.faults) and report.listing is not None:
        console.print(
            f"A copy without these faults: featherseg check {shlex.quote(one_line(data))} --fix OUT"
        )
    raise typer.Exit(0 if report.clean else 1)


def _parse_names(names: Sequence[str]) -> dict[str, str]:
    """["255=crack"] -> {"255": "crack"}. Raises ConfigError."""
    found = {}
    for text in names:
        value, equals, name = text.partition("=")
        if not (value.strip() and equals and name.strip()):
            raise ConfigError(
                f"--name {text!r}: expected VALUE=NAME, such as 255=crack or ff0000=rust."
            )
        found[value.strip()] = name.strip()
    return found


def _print_next(console: Console, report: CheckReport, data: str) -> None:
    """What to look at in a proposal, how else the folder can be read, and what to do now."""
    assert report.proposal is not None
    for note in report.proposal.notes:
        console.print(f"look at: {one_line(note)}", style="yellow")
    command = f"featherseg check {shlex.quote(one_line(data))} --write"
    for what, options in report.proposal.others:
        console.print(f"it can also be read with {one_line(what)}: {command} {one_line(options)}")
    if report.written:
        for name in (*report.proposal.lists, "dataset.toml"):
            console.print(f"wrote {one_line(str(report.written.with_name(name)))}")
        if report.clean:
            console.print(
                f"Train with it: featherseg train frm-lite0-light --data {shlex.quote(one_line(data))} --out RUN"
            )
    else:
        console.print(f"Write it: {command} {one_line(report.proposal.options)}".rstrip())


def _print_report(console: Console, report: CheckReport) -> None:
    from featherseg.data.checks.check import FAULTS

    for kind, heading in FAULTS.items():
        faults = [fault for fault in report.faults if fault.kind == kind]
        if faults:
            console.print(f"{heading}: {len(faults)}", style="bold red")
            for fault in faults[:SHOWN_FAULTS]:
                console.print(f"  {one_line(fault.text)}")
            if len(faults) > SHOWN_FAULTS:
                console.print(f"  and {len(faults) - SHOWN_FAULTS} more")
    if report.proposal is not None:
        _print_proposal(console, report.proposal)
    console.print(_class_table(report))
    for note in report.notes:
        console.print(f"note: {one_line(note)}", style="yellow")
    if report.listing is not None and report.listing.how_split:
        console.print(f"split {one_line(report.listing.how_split)}")
    images = ", ".join(f"{name} {split.images}" for name, split in report.splits.items())
    state = (
        "clean"
        if report.clean
        else counted(len(report.faults), "fault")
        if report.faults
        else "one class alone"
    )
    console.print(
        f"{one_line(report.name)}: {images} images: {state}",
        style="bold green" if report.clean else "bold red",
    )


def _print_proposal(console: Console, proposal: Proposal) -> None:
    """The raw values of the masks and their classes, the most frequent first, and the dataset.toml that reads them."""
    from rich.table import Table

    total = sum(proposal.pixels.values())
    table = Table(
        "raw value", "pixels", "share", "class", title="Values in the masks", title_justify="left"
    )
    for value, count in sorted(proposal.pixels.items(), key=lambda item: -item[1])[:SHOWN_FAULTS]:
        table.add_row(
            value, f"{count:,}", f"{count / total:.2%}", one_line(proposal.meaning(value))
        )
    console.print(table)
    if len(proposal.pixels) > SHOWN_FAULTS:
        console.print(f"  and {len(proposal.pixels) - SHOWN_FAULTS} more values")
    console.print("There is no dataset.toml. This one is proposed:\n")
    lines = proposal.text.splitlines()
    console.print("\n".join(lines[:SHOWN_LINES]))
    if len(lines) > SHOWN_LINES:
        console.print(f"  and {len(lines) - SHOWN_LINES} more lines")
    console.print()


def _class_table(report: CheckReport) -> Table:
    """One row a class: its share of the labelled pixels and the images that hold it, split by split; then the sizes."""
    from rich.table import Table

    splits = report.splits.values()
    table = Table("class", title="Labelled pixels, % (images)", title_justify="left")
    for name in (*report.splits, "weight"):
        table.add_column(name, justify="right")
    for index, info in enumerate(report.classes):
        cells = [
            f"{100 * split.share(index):.2f} ({split.statistics.images[index]})" for split in splits
        ]
        table.add_row(one_line(info.name), *cells, f"{report.weights[index]:.3f}")
    table.add_section()
    table.add_row(
        "ignored, of all pixels", *(f"{100 * split.ignored_share:.2f}" for split in splits), ""
    )
    if any(split.sizes for split in splits):
        table.add_row("height x width", *(_most_frequent(split.sizes) for split in splits), "")
    count = max((len(split.channels) for split in splits), default=0)
    for index in range(min(count, SHOWN_CHANNELS)):
        table.add_row(
            f"channel {index + 1}, range (mean)", *(_range(split, index) for split in splits), ""
        )
    if count > SHOWN_CHANNELS:
        table.add_row(f"and {count - SHOWN_CHANNELS} more channels", *("" for _ in splits), "")
    return table


def _range(split: SplitReport, index: int) -> str:
    """`0 to 4,080 (812)` of a channel of the images of a split."""
    if not split.channels:
        return ""
    channel = split.channels[index]
    return f"{channel.least:,} to {channel.largest:,} ({channel.mean:,.0f})"


def _most_frequent(sizes: dict[str, int]) -> str:
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    lines = [f"{size} ({images})" for size, images in ordered[:SHOWN_SIZES]]
    return "\n".join(
        lines + [f"and {len(ordered) - SHOWN_SIZES} more"] * (len(ordered) > SHOWN_SIZES)
    )


def _print_mended(console: Console, report: CheckReport, out: Path) -> None:
    from featherseg.data.checks.check import FAULTS

    mended, changes = report.mended, report.changes
    assert mended is not None
    console.print(
        f"{one_line(str(out))}: {mended.copied} samples copied, stray values ignored in {len(mended.mended)} of them"
    )
    if mended.resized:
        console.print(
            f"  resized to their image, each pixel from the nearest: {counted(len(mended.resized), 'mask')}"
        )
    for kind, count in mended.left_out.items():
        console.print(f"  left out, {FAULTS.get(kind, kind)}: {count}")
    if changes is not None:
        accepted, kept, skipped = changes.words.values()
        console.print(
            f"  decisions: {accepted} accepted, {kept} kept, {skipped} skipped; "
            f"{counted(sum(mended.changed.values()), 'pixel')} of {counted(len(mended.changed), 'mask')} changed"
        )
    console.print(f"Use it with --data {shlex.quote(one_line(str(out / 'dataset.toml')))}")
