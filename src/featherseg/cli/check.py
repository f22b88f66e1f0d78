"""`featherseg check DATA`: check every file of a dataset; `--fix OUT` writes a corrected copy."""

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
    from featherseg.data.checks.report import CheckReport, SplitReport
    from featherseg.data.discovery.mask_folders import FoldersAs
    from featherseg.data.discovery.proposal import Proposal

SHOWN_FAULTS = 20
"""Number of faults of one kind, or values of masks, that are printed before "and N more"."""

SHOWN_LINES = 150
"""Number of lines of a proposed dataset.toml that are printed; many folders make thousands."""

SHOWN_CHANNELS = 12
"""Number of channels that are printed with their range."""

SHOWN_SIZES = 4
"""Number of image sizes that are printed for a split."""


def check(
    data: Annotated[
        str,
        typer.Argument(
            help="A dataset's name, a dataset.toml, a folder of images and masks, or what a tool "
            "exported."
        ),
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
        str | None, typer.Option(help="The folder of masks to use, if there are several.")
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
            "--groups-from-folders", help="Folders are not classes; each stays in one split."
        ),
    ] = False,
    fix: Annotated[
        Path | None, typer.Option(help="Write a corrected copy to this new folder.")
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --fix: the file that the page of `audit` saved."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find faults in a dataset and count its classes.

    The faults are missing pairs, wrong sizes, stray mask values, unreadable files and images in two
    splits. For a folder without a dataset.toml one is proposed, whatever its folders and files are
    called; --write writes it. Exit code 0: clean. 1: faults were found, or a single class (a
    dataset.toml is written nevertheless), or the folder can be read in two ways (nothing is
    written). 2: the dataset could not be opened.
    """
    import featherseg
    from featherseg.cli.terminal import Console

    if classes_from_folders and groups_from_folders:
        raise ConfigError(
            "--classes-from-folders and --groups-from-folders exclude each other. Leave out one."
        )
    folders: FoldersAs | None = "groups" if groups_from_folders else None
    folders = "classes" if classes_from_folders else folders
    console = Console(stderr=as_json, highlight=False, markup=False, soft_wrap=True)
    try:
        with progress_bar(Console(stderr=True)) as progress:
            report = featherseg.check(
                data,
                data_root,
                write=write,
                names=_parse_names(names or ()),
                masks=masks,
                folders=folders,
                fix=fix,
                decisions=decisions,
                progress=progress,
            )
    except AmbiguousData as question:
        if as_json:
            content = {
                "clean": False,
                "question": question.found,
                "readings": [{"what": what, "command": how} for what, how in question.readings],
                "written": None,
            }
            print(json_text(content))
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
        command = f"featherseg check {shlex.quote(one_line(data))} --fix OUT"
        console.print(f"A copy without these faults: {command}")
    raise typer.Exit(0 if report.clean else 1)


def _parse_names(names: Sequence[str]) -> dict[str, str]:
    """Return ["255=crack"] as {"255": "crack"}. Raises ConfigError."""
    name_by_value = {}
    for text in names:
        value, equals, name = text.partition("=")
        if not (value.strip() and equals and name.strip()):
            raise ConfigError(
                f"--name {text!r}: expected VALUE=NAME, such as 255=crack or ff0000=rust."
            )
        name_by_value[value.strip()] = name.strip()
    return name_by_value


def _print_next(console: Console, report: CheckReport, data: str) -> None:
    """Print the notes of a proposal, other ways to read the folder, and the next command."""
    assert report.proposal is not None
    folder = shlex.quote(one_line(data))
    command = f"featherseg check {folder} --write"
    for note in report.proposal.notes:
        console.print(f"look at: {one_line(note)}", style="yellow")
    for what, options in report.proposal.others:
        console.print(f"it can also be read with {one_line(what)}: {command} {one_line(options)}")
    if report.written:
        for name in (*report.proposal.lists, "dataset.toml"):
            console.print(f"wrote {one_line(str(report.written.with_name(name)))}")
        if report.clean:
            training = f"featherseg train frm-lite0-light --data {folder}"
            console.print(f"Train with it: {training}")
    else:
        console.print(f"Write it: {command} {one_line(report.proposal.options)}".rstrip())


def _print_report(console: Console, report: CheckReport) -> None:
    """Print faults, the proposal, classes by split, notes, and the verdict."""
    from featherseg.data.checks.report import FAULTS

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
    style = "bold green" if report.clean else "bold red"
    console.print(f"{one_line(report.name)}: {report.summary}", style=style)


def _print_proposal(console: Console, proposal: Proposal) -> None:
    """Print the values in the masks, the most frequent first, and the proposed dataset.toml."""
    from rich.table import Table

    total = sum(proposal.pixels.values())
    table = Table(
        "raw value", "pixels", "share", "class", title="Values in the masks", title_justify="left"
    )
    for value, count in sorted(proposal.pixels.items(), key=lambda item: -item[1])[:SHOWN_FAULTS]:
        name = one_line(proposal.meaning(value))
        table.add_row(value, f"{count:,}", f"{count / total:.2%}", name)
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
    """Return a row per class: its share of labelled pixels and its images in each split.

    Rows about ignored pixels, sizes and channels of the images follow.
    """
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
    """Return the range of a channel in the images of a split, such as `0 to 4,080 (812)`."""
    if not split.channels:
        return ""
    channel = split.channels[index]
    return f"{channel.least:,} to {channel.largest:,} ({channel.mean:,.0f})"


def _most_frequent(sizes: dict[str, int]) -> str:
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    lines = [f"{size} ({images})" for size, images in ordered[:SHOWN_SIZES]]
    if len(ordered) > SHOWN_SIZES:
        lines.append(f"and {len(ordered) - SHOWN_SIZES} more")
    return "\n".join(lines)


def _print_mended(console: Console, report: CheckReport, out: Path) -> None:
    from featherseg.data.checks.report import FAULTS

    mended, changes = report.mended, report.changes
    assert mended is not None
    console.print(
        f"{one_line(str(out))}: {mended.copied} samples copied, stray values ignored in "
        f"{len(mended.mended)} of them"
    )
    if mended.resized:
        masks = counted(len(mended.resized), "mask")
        console.print(f"  resized to their image (nearest neighbour): {masks}")
    for kind, count in mended.left_out.items():
        console.print(f"  left out, {FAULTS.get(kind, kind)}: {count}")
    if changes is not None:
        accepted, kept, skipped = changes.words.values()
        console.print(
            f"  decisions: {accepted} accepted, {kept} kept, {skipped} skipped; "
            f"{counted(sum(mended.changed.values()), 'pixel')} of "
            f"{counted(len(mended.changed), 'mask')} changed"
        )
    console.print(f"Use it with --data {shlex.quote(one_line(str(out / 'dataset.toml')))}")
