"""Record evaluations in their run: a line for each, the card, the last scores, example images.

The lines count how often a test split was scored, because choosing a model by it is a mistake.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from featherseg.core.errors import FeathersegError, RunError
from featherseg.core.files import append_line, check_folder, refuse_links, write_json
from featherseg.core.types import SegmentationData
from featherseg.evaluation.scoring import Scores, number
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.card import write_card
from featherseg.reports.examples import FOLDER, draw_examples
from featherseg.runs.run import EVALUATIONS, Run

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
