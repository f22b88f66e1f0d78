"""Share a run: which of its files are uploaded to the Hugging Face Hub."""

import json
import logging
import os
from pathlib import Path, PureWindowsPath
from typing import Any

from featherseg import hub
from featherseg.core.errors import RunError
from featherseg.core.files import FIT, load_json, read_bounded, read_lines, refuse_links
from featherseg.core.notebook import percent
from featherseg.core.storage import without_buckets
from featherseg.core.wording import last_parts
from featherseg.inference.drawing import png_bytes
from featherseg.inference.predictor import Predictor
from featherseg.reports.card import card
from featherseg.runs.run import EVALUATIONS, RESOLVED, WEIGHTS, Run, load_run

log = logging.getLogger("featherseg")

NOT_PATHS = ("classes", "licence")
"""Keys of a record below which no text is a path, even if it looks like one."""


def push(
    run: Run | str | Path,
    address: str,
    *,
    public: bool = False,
    image: str | Path | None = None,
) -> str:
    """Write a run to the Hugging Face Hub in one commit.

    The commit contains recipe, record, kept weights, metrics, scores and card. Images, checkpoints,
    exports, notes of evaluations, the fingerprint of the data and facts of the machine stay here.
    Paths in the record and the scores are cut to their last two parts, addresses of buckets to the
    part below the bucket; recipe.toml is otherwise unchanged. Files of an earlier run in the
    repository that this run lacks are deleted.

        featherseg.push("runs/photos", "hf://me/photos")

    Args:
        run: A Run, a run folder, or the name of one.
        address: hf://ORG/NAME, or hf://ORG/NAME@BRANCH. A missing repository or branch is created.
        public: Whether a new repository is public. An existing one stays as it is.
        image: An image to show in the card with its prediction. It is uploaded so, as overlay.png;
            other images are not.

    Returns:
        str: The address of the commit's page.

    Raises:
        RunError: There is no such run, it has no weights yet, or the hub refuses.
        ConfigError: The address is malformed.
        DataError: The image cannot be read.
    """
    # What can be refused before anything is read
    hub.parse_address(address)
    run = run if isinstance(run, Run) else load_run(run)
    if not (run.path / WEIGHTS).is_file():
        raise RunError(
            f"{run.path} has no {WEIGHTS} yet. Train it to its first validation before you push it."
        )
    if not run.address:  # the links in the hub's cache are the hub's own
        refuse_links(run.path, *hub.SHARED)

    # The files, each within its limit
    files: dict[str, bytes | Path] = {}
    for name, max_bytes in hub.SHARED.items():
        path = run.path / name
        if not path.is_file():
            continue
        if path.stat().st_size > max_bytes:
            raise RunError(
                f"{path} has {path.stat().st_size:,} bytes; at most {max_bytes:,} are uploaded."
            )
        files[name] = path if name == WEIGHTS else read_bounded(path, max_bytes)

    # Without notes (they name files of the data), paths, and addresses of buckets
    if EVALUATIONS in files:
        lines = [
            _without_paths({**line, "notes": []}) for line in read_lines(run.path / EVALUATIONS)
        ]
        files[EVALUATIONS] = "".join(
            f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines
        ).encode()
    record = _without_paths(load_json(run.path / RESOLVED))
    record["recipe"]["data"]["root"] = None  # else it is looked for below the working folder
    record |= {"fitted": True} if (run.path / FIT).is_file() else {}  # the file itself stays here
    files[RESOLVED] = json.dumps(record, indent=2, ensure_ascii=False).encode()
    picture = hub.PICTURE if image is not None else ""
    address_there = f"hf://{hub.parse_address(address)[0]}"
    files["card.md"] = card(run).encode(errors="replace")
    files[hub.README] = card(run, address_there, picture).encode(errors="replace")
    for name, content in files.items():
        if isinstance(content, bytes):
            files[name] = without_buckets(content.decode(errors="surrogateescape")).encode(
                errors="surrogateescape"
            )

    if image is not None:
        files[hub.PICTURE] = png_bytes(Predictor(run)(image).overlay(legend=True))

    # One commit, whose message contains the last score
    message = f"{run.recipe.model.name} by featherseg"
    for e in run.current_evaluations()[-1:]:
        remarks = f" ({marks})" if (marks := run.marks_of(e)) else ""
        message += f", mIoU {percent(e.get('miou'))} % on {e.get('split')}{remarks}"
    page = hub.upload(files, address, message, public=public)
    log.info("%s is at %s; licence: %s", run.name, page, run.licence)
    return page


def _without_paths(value: Any) -> Any:
    """Return a record with absolute paths cut to their last two parts."""
    if isinstance(value, dict):
        return {
            key: item if key in NOT_PATHS else _without_paths(item) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    absolute = isinstance(value, str) and (
        os.path.isabs(value) or PureWindowsPath(value).is_absolute()
    )
    return last_parts(value) if absolute else value
