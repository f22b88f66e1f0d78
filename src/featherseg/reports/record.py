"""Record evaluations in their run: a line for each, the card, the last scores, example images.

The lines count how often a test split was scored, because choosing a model by it is a mistake.
"""

from collections.abc import Mapping
from contextlib import suppress
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
    """Raise RunError if evaluations cannot be written to the run; called before scoring."""
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

    The line comes first, so that no score is shown that was not counted. Raises the errors of
    `check_recordable`.
    """
    check_recordable(run)
    content = {
        **scores.as_dict(),
        **log_evaluation(run, data, split, inference, scores),
        "per_image": {key: number(miou) for key, miou in scores.per_image.items()},
        "weights_sha256": run.weights_sha256,
    }
    write_json(run.path / SCORES, content)
    draw_examples(run.path, runtime, data, scores.per_image, inference)


def log_evaluation(
    run: Run, data: SegmentationData, split: str, inference: InferenceSettings, scores: Scores
) -> dict[str, str]:
    """Append an evaluation to evaluations.jsonl and write the card.

    Returns its data, split and inference settings.
    """
    scored = {"data": data.name, "split": split, "inference": str(inference)}
    results = {
        "images": scores.images,
        "miou": number(scores.miou),
        **({"pq": number(scores.panoptic["pq"])} if scores.panoptic else {}),
        "selected": scores.selected,
        **({"trained_on": True} if scores.trained_on else {}),
        "notes": list(scores.notes),
    }
    log_look(run, scored | results)
    return scored


def log_look(run: Run, look: Mapping[str, Any]) -> None:
    """Append a line about one look at labelled images to evaluations.jsonl, and write the card."""
    time = {"time": datetime.now(UTC).isoformat(timespec="seconds")}
    append_line(run.path / EVALUATIONS, time | dict(look) | {"weights_sha256": run.weights_sha256})
    write_card(run)


def times_scored(run: Run, split: str, data: str | None = None) -> int:
    """Return how often this run was scored on a split, alone or among others.

    data: the name of a dataset. Default: all datasets.
    """
    lines = (line for line in run.evaluations() if data in (None, line.get("data")))
    return sum(split in parts_of(str(line.get("split"))) for line in lines)


def learned_from(run: Run, images: SegmentationData, labelled: LabelledImages) -> dict[str, str]:
    """Return key -> key in training, for the images that a run was trained on.

    Images are compared by the content of their files, and by name if the dataset is the same.
    labelled: the labelled set that the images belong to.
    """
    if run.imported:
        return {}
    table, training_key = run.recipe.data, dict[str, str]()
    with suppress(FeathersegError):  # the training split is not on this machine
        fingerprint = read_fingerprint(run.path / DATA)
        training_key |= fingerprint.trained_on(images) if fingerprint else {}
        if labelled.is_of(table.name):
            learned = replace(
                labelled, split=table.train_split, size=table.train_size, split_by=table.split_by
            )
            training_key |= {key: key for key in set(learned.open().keys) & set(images.keys)}
    return training_key


def refuse_as_test(run: Run, seen: Mapping[str, str], images: SegmentationData, split: str) -> None:
    """Raise DataError if a split called test has images that were seen in training."""
    if seen and TEST in parts_of(split):
        raise DataError(
            f"{overlap_message(run, seen, images)}. So they are no test: score a split of another "
            "name, or write a copy in which no image is in two splits:\nfeatherseg check DATA "
            "--fix OUT"
        )


def overlap_message(run: Run, seen: Mapping[str, str], images: SegmentationData) -> str:
    """Return such as `runs/a was trained on 1 of these 20 images: b (c)`."""
    total = counted(len(images), "image")
    return f"{run.name} was trained on {len(seen)} of these {total}: {named_pairs(seen)}"
