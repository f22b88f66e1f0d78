"""What an evaluation leaves in its run: a line for every evaluation, the card, the last scores, images.

Choosing by a test split is the mistake that this counts: reports say how often it was scored.
"""

from datetime import UTC, datetime

from featherseg.core.errors import FeathersegError, RunError
from featherseg.core.files import append_line, check_folder, refuse_links, write_json
from featherseg.core.types import SegmentationData
from featherseg.evaluation.scoring import Scores, number
from featherseg.inference.runtimes import Runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.card import write_card
from featherseg.reports.examples import FOLDER, draw_examples
from featherseg.runs import EVALUATIONS, Run, parts_of

SCORES = "scores.json"


def check_recordable(run: Run) -> None:
    """Raises RunError where an evaluation could not be recorded in the run: asked before the data is scored."""
    try:
        check_folder(run.path)
        refuse_links(run.path, EVALUATIONS, FOLDER)
    except FeathersegError as error:
        raise RunError(f"evaluations are counted in their run. {error} Or score a copy of the run.") from None


def record(
    run: Run, runtime: Runtime, data: SegmentationData, split: str, inference: InferenceSettings, scores: Scores
) -> None:
    """Append a line to evaluations.jsonl, write scores.json, draw examples/.

    The line comes first: no score is shown that was not counted. Raises what `check_recordable` does.
    """
    check_recordable(run)
    where = log_evaluation(run, data, split, inference, scores)
    per_image = {key: number(miou) for key, miou in scores.per_image.items()}
    own = {"per_image": per_image, "weights_sha256": run.weights_sha256}
    write_json(run.path / SCORES, {**where, **scores.as_dict(), **own})
    draw_examples(run.path, runtime, data, scores.per_image, inference)


def log_evaluation(
    run: Run, data: SegmentationData, split: str, inference: InferenceSettings, scores: Scores
) -> dict[str, str]:
    """Append the line of one evaluation to evaluations.jsonl and write the card; -> what was scored, and how."""
    where = {"data": data.name, "split": split, "inference": str(inference)}
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **where,
        "images": scores.images,
        "miou": number(scores.miou),
        **({"pq": number(scores.panoptic["pq"])} if scores.panoptic else {}),
        "selected": scores.selected,
        **({"trained_on": True} if scores.trained_on else {}),
        "notes": list(scores.notes),
        "weights_sha256": run.weights_sha256,
    }
    append_line(run.path / EVALUATIONS, line)
    write_card(run)
    return where


def times_scored(run: Run, split: str, data: str | None = None) -> int:
    """How often a split, alone or among others, was scored with this run, of one dataset (by its name) or of all."""
    own = (line for line in run.evaluations() if data in (None, line.get("data")))
    return sum(split in parts_of(str(line.get("split"))) for line in own)
