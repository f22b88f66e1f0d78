"""What an evaluation leaves in its run: a line for every evaluation, the card, the last scores, images.

Choosing by a test split is the mistake that this counts: reports say how often it was scored.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from featherseg.core.errors import DataError, FeathersegError, RunError
from featherseg.core.files import append_line, check_folder, refuse_links, write_json
from featherseg.core.types import SegmentationData
from featherseg.core.wording import counted
from featherseg.data import LabelledImages
from featherseg.data.cache.fingerprint import TEST, named_pairs, read_fingerprint
from featherseg.evaluation.scoring import Scores, number
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.card import write_card
from featherseg.reports.examples import FOLDER, draw_examples
from featherseg.runs.run import DATA, EVALUATIONS, Run, parts_of

SCORES = "scores.json"


def check_recordable(run: Run) -> None:
    """Raises RunError where an evaluation could not be recorded in the run: asked before the data is scored."""
    try:
        check_folder(run.path)
        refuse_links(run.path, EVALUATIONS, FOLDER)
    except FeathersegError as error:
        raise RunError(
            f"evaluations are counted in their run. {error} Or score a copy of the run."
        ) from None


def record(
    run: Run,
    runtime: Runtime,
    data: SegmentationData,
    split: str,
    inference: InferenceSettings,
    scores: Scores,
) -> None:
    """Append a line to evaluations.jsonl, write scores.json, draw examples/.

    The line comes first: no score is shown that was not counted. Raises what `check_recordable` does.
    """
    check_recordable(run)
    where = log_evaluation(run, data, split, inference, scores)
    per_image = {key: number(miou) for key, miou in scores.per_image.items()}
    own = {"per_image": per_image, "weights_sha256": run.weights_sha256}
    write_json(run.path / SCORES, {**scores.as_dict(), **where, **own})
    draw_examples(run.path, runtime, data, scores.per_image, inference)


def log_evaluation(
    run: Run, data: SegmentationData, split: str, inference: InferenceSettings, scores: Scores
) -> dict[str, str]:
    """Append the line of one evaluation to evaluations.jsonl and write the card; -> what was scored, and how."""
    where = {"data": data.name, "split": split, "inference": str(inference)}
    found = {
        "images": scores.images,
        "miou": number(scores.miou),
        **({"pq": number(scores.panoptic["pq"])} if scores.panoptic else {}),
        "selected": scores.selected,
        **({"trained_on": True} if scores.trained_on else {}),
        "notes": list(scores.notes),
    }
    log_look(run, where | found)
    return where


def log_look(run: Run, found: Mapping[str, Any]) -> None:
    """Append the line of one look at images to evaluations.jsonl, and write the card."""
    time = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    append_line(run.path / EVALUATIONS, time | dict(found) | {"weights_sha256": run.weights_sha256})
    write_card(run)


def times_scored(run: Run, split: str, data: str | None = None) -> int:
    """How often a split, alone or among others, was scored with this run, of one dataset (by its name) or of all."""
    own = (line for line in run.evaluations() if data in (None, line.get("data")))
    return sum(split in parts_of(str(line.get("split"))) for line in own)


def learned_from(run: Run, images: SegmentationData, labelled: LabelledImages) -> dict[str, str]:
    """Key -> the key in training of those of these images that a run learned from.

    By what their files hold, or by name where it is the same dataset; labelled is where the images are from.
    """
    if run.imported:
        return {}
    table, found = run.recipe.data, dict[str, str]()
    try:
        known = read_fingerprint(run.path / DATA)
        found |= known.trained_on(images) if known else {}
        if labelled.is_of(table.name):
            learned = replace(
                labelled, split=table.train_split, size=table.train_size, split_by=table.split_by
            )
            found |= {key: key for key in set(learned.open().keys) & set(images.keys)}
    except FeathersegError:  # that split is not on this machine
        pass
    return found


def refuse_as_test(run: Run, seen: Mapping[str, str], images: SegmentationData, split: str) -> None:
    """Raises DataError where images of a split that is called test were seen in training: the run remembers them."""
    if seen and TEST in parts_of(split):
        raise DataError(
            f"{told_seen(run, seen, images)}. So they are no test. `featherseg check DATA --fix OUT` writes a copy in "
            "which no image is in two splits; a split of another name is scored all the same."
        )


def told_seen(run: Run, seen: Mapping[str, str], images: SegmentationData) -> str:
    """`runs/a was trained on 1 of these 20 images: b (c)`."""
    return f"{run.name} was trained on {len(seen)} of these {counted(len(images), 'image')}: {named_pairs(seen)}"
