"""A run is passed on: what of its folder goes to the hub, and what stays here."""

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
from featherseg.reports.card import card
from featherseg.runs.run import EVALUATIONS, RESOLVED, WEIGHTS, Run, load_run

log = logging.getLogger("featherseg")

NAMES = ("classes", "licence")
"""Keys of a record below which no text is a path, whatever it begins with."""


def push(run: Run | str | Path, address: str, *, public: bool = False) -> str:
    """Write a run to the Hugging Face Hub, in one commit: recipe, record, kept weights, metrics, scores and card.

    Images, checkpoints, exports, notes of evaluations and what is known of the data's files and the machine stay here;
    of paths in the record and the scores the last two parts are passed on, of addresses of buckets those below the
    bucket. recipe.toml goes as it is otherwise. Such files of an earlier run that this one does not have are deleted
    there.

    Args:
        run: A Run, a run folder, or the name of one.
        address: hf://ORG/NAME, or hf://ORG/NAME@BRANCH. A repository or branch that is not there yet is made.
        public: Whether a new repository is for all to see. One that is there stays as it is.

    Returns:
        str: The address of the commit's page.

    Raises:
        RunError: There is no such run, it has no weights yet, or the hub refuses.
        ConfigError: The address cannot be right.
    """
    hub.parse_address(address)
    run = run if isinstance(run, Run) else load_run(run)
    if not (run.path / WEIGHTS).is_file():
        raise RunError(
            f"{run.path} holds no {WEIGHTS} yet: train it to its first validation before it is passed on."
        )
    if not run.address:  # whose links are the hub's own
        refuse_links(run.path, *hub.SHARED)
    files: dict[str, bytes | Path] = {}
    for name, most in hub.SHARED.items():
        path = run.path / name
        if not path.is_file():
            continue
        if path.stat().st_size > most:
            raise RunError(
                f"{path} has {path.stat().st_size:,} bytes; at most {most:,} are passed on."
            )
        files[name] = path if name == WEIGHTS else read_bounded(path, most)
    if EVALUATIONS in files:  # whose notes name files of the data
        lines = [
            _without_paths({**line, "notes": []}) for line in read_lines(run.path / EVALUATIONS)
        ]
        files[EVALUATIONS] = "".join(
            f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines
        ).encode()
    record = _without_paths(load_json(run.path / RESOLVED))
    record["recipe"]["data"]["root"] = None  # else it would be looked for below the working folder
    record |= {"fitted": True} if (run.path / FIT).is_file() else {}  # which itself stays here
    files[RESOLVED] = json.dumps(record, indent=2, ensure_ascii=False).encode()
    files["card.md"] = files[hub.README] = card(run).encode(errors="replace")
    for name, content in files.items():
        if isinstance(content, bytes):
            files[name] = without_buckets(content.decode(errors="surrogateescape")).encode(
                errors="surrogateescape"
            )
    scores = [
        f"mIoU {percent(e.get('miou'))} % on {e.get('split')}{f' ({told})' if (told := run.marks_of(e)) else ''}"
        for e in run.current_evaluations()[-1:]
    ]
    page = hub.upload(
        files,
        address,
        ", ".join([f"{run.recipe.model.name} by featherseg", *scores]),
        public=public,
    )
    log.info("%s is at %s; licence: %s", run.name, page, run.licence)
    return page


def _without_paths(value: Any) -> Any:
    """A record without where things lie on this machine: of an absolute path its last two parts; names stay."""
    if isinstance(value, dict):
        return {key: one if key in NAMES else _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    absolute = isinstance(value, str) and (
        os.path.isabs(value) or PureWindowsPath(value).is_absolute()
    )
    return last_parts(value) if absolute else value
