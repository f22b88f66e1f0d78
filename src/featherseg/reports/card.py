"""The card of a run: what it is, what it was trained on, how well it does, what it must not be used for."""

import re
from contextlib import suppress
from typing import Any

from featherseg.core.files import load_json, write_text
from featherseg.core.wording import counted, marks, one_line, size_text
from featherseg.costs.cost import count_parameters
from featherseg.costs.published import HEADS, compare
from featherseg.recipe.tables import Recipe, shown_data
from featherseg.runs.run import ENVIRONMENT, Run, parts_of


def write_card(run: Run) -> None:
    """Write card.md: the facts of a run in a page, with the figures of metrics.jsonl and evaluations.jsonl."""
    write_text(run.path / "card.md", card(run))


def card(run: Run) -> str:
    """The text of card.md."""
    info, recipe = run.info, run.recipe
    model = run.untrained_model()
    parameters = (count_parameters(model) - count_parameters(model.aux_heads)) / 1e6
    validated = {
        step: record
        for step, record in run.metrics().items()
        if isinstance(record.get("val_miou"), float | int)
        and isinstance(record.get("val_pq"), float | int | None)
    }
    lines = [
        *_front_matter(run, model.panoptic),
        f"# {_text(run.name)}",
        "",
        f"`{recipe.model.name}`, {parameters:.2f} M parameters, {len(info.classes)} classes, {_origin(run)}.",
        "",
        f"- Licence: {_text(info.licence)}",
        f"- Images: {size_text(info.image_size)} (height x width), {info.channels} channels",
        f"- Classes: {', '.join(_text(row.name) for row in info.classes)}",
    ]
    if not run.imported:
        started = info.loaded.get("file") or (
            run.init if info.loaded.get("init") else "random weights"
        )
        lines += [
            f"- Started from: {_text(started)}",
            *(
                f"- Taught by: {_text(row.name)} ({_code(row.model)}, sha256 {row.weights[:12]}; {_text(row.licence)})"
                for row in info.teachers
            ),
            f"- Settings: {_length(recipe)}, batch {recipe.train.batch_size}, seed {recipe.train.seed}, "
            f"{recipe.train.precision}; all of them in resolved.json",
            *_loss(run),
        ]
    if validated:
        judged = (
            "val_pq"
            if any(record.get("val_pq") is not None for record in validated.values())
            else "val_miou"
        )
        best = max(validated, key=lambda step: validated[step].get(judged) or 0.0)
        kept = best if recipe.train.keep == "best" else max(validated)
        figures = _figures(validated[kept].get("val_pq"), validated[kept]["val_miou"])
        told = marks(
            selected=run.selected_on(recipe.data.val_split), trained_on=run.validated_on_training
        )
        told = f"; {told}" if told else ""
        lines += [
            f"- {figures} on split {_code(recipe.data.val_split)} of the kept weights (step {kept}){told}"
        ]
    lines += _scored(run)
    lines += _paper(run)
    if not run.imported and recipe.data.name == "shapes":
        lines += ["- It was trained on synthetic scenes only: on photographs it is often wrong"]
    lines += [
        "",
        "Results on one dataset say little about another camera, place or season: evaluate the run on your own images.",
    ]
    return "\n".join(lines) + "\n"


LICENCES = (
    "apache-2.0",
    "mit",
    "bsd-2-clause",
    "bsd-3-clause",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
)
"""Those that the hub knows by such a name; another is `other`, and the card states it."""


def _front_matter(run: Run, objects: bool) -> list[str]:
    """What the Hugging Face Hub reads of a card (YAML): by it runs are found there."""
    stated = run.licence.strip().lower().replace(" ", "-")
    known = stated in LICENCES
    data = re.sub(r"[^A-Za-z0-9._/-]+", "-", run.recipe.data.shown)[:96].strip("-/")
    return [
        "---",
        f"license: {stated if known else 'other'}",
        *([] if known else ["license_name: stated-in-the-card", "license_link: README.md"]),
        "library_name: featherseg",
        "pipeline_tag: image-segmentation",
        "tags:",
        "- semantic-segmentation",
        *(["- panoptic-segmentation"] if objects else []),
        *(["datasets:", f'- "{data}"'] if data else []),
        "metrics:",
        "- mean_iou",
        "---",
        "",
    ]


def _length(recipe: Recipe) -> str:
    settings = recipe.train
    text = counted(settings.epochs, "epoch") if settings.epochs else f"{settings.steps} steps"
    return f"{text} (found for {settings.minutes:g} minutes)" if settings.minutes else text


def _origin(run: Run) -> str:
    """Where the weights come from."""
    data = run.recipe.data
    if run.imported:
        return (
            f"as {_code(data.shown)} has them; imported from {_code(run.imported)} "
            f"(sha256 {_text(run.info.loaded.get('sha256'))}), "
            f"not trained here"
        )
    version, split = _text(run.info.featherseg), _code(data.train_split)
    return f"trained by featherseg {version} on {_code(data.shown)} (split {split})"


def _loss(run: Run) -> list[str]:
    """What the training images lost when they were prepared."""
    found: Any = None
    with suppress(OSError, ValueError):  # a damaged file costs its line alone
        found = load_json(run.path / ENVIRONMENT)
    known = isinstance(found, dict) and "prepared_data" in found
    return [f"- Prepared data: trained on {_text(found['prepared_data'])}"] if known else []


def _scored(run: Run) -> list[str]:
    """The last score of every split and settings, and how often the split was evaluated."""
    evaluations = [
        evaluation
        for evaluation in run.evaluations()
        if all(isinstance(evaluation.get(key), kind) for key, kind in _EVALUATION.items())
    ]
    evaluations = [
        evaluation
        for evaluation in evaluations
        if isinstance(evaluation.get("pq"), float | int | None)
    ]
    current = run.current_evaluations()
    latest = {
        (evaluation["data"], evaluation["split"], evaluation["inference"]): evaluation
        for evaluation in evaluations
        if evaluation in current
    }

    def times(data: str, split: str) -> int:
        return sum(
            e["data"] == data and bool(parts_of(e["split"]) & parts_of(split)) for e in evaluations
        )

    return [
        f"- {_figures(evaluation.get('pq'), evaluation['miou'])} on {_code(shown_data(data))}, split {_code(split)}, "
        f"{counted(evaluation['images'], 'image')} ({_text(inference)}); this run was evaluated on the split "
        f"{counted(times(data, split), 'time')}"
        f"{f'; {told}' if (told := run.marks_of(evaluation)) else ''}"
        for (data, split, inference), evaluation in latest.items()
    ]


_EVALUATION = {"data": str, "split": str, "inference": str, "images": int, "miou": float | int}
"""What a record of evaluations.jsonl holds; others are passed over."""


def _text(value: Any) -> str:
    """A name or sentence that may come from others, as Markdown shows it letter by letter: no HTML, link or table."""
    return re.sub(
        r"([\\`<>&|\[\]*~]|(?<![^\W_])_|_(?![^\W_])|(?<=[a-z]):(?=//))",
        r"\\\1",
        one_line(str(value)),
    )


def _code(value: Any) -> str:
    return f"`{one_line(str(value)).replace('`', chr(39))}`"


def _figures(pq: float | None, miou: float) -> str:
    """`PQ 45.10 %, mIoU 66.72 %`, the first where objects were scored."""
    return (f"PQ {100 * pq:.2f} %, " if pq is not None else "") + f"mIoU {100 * miou:.2f} %"


def _paper(run: Run) -> list[str]:
    """The row of the paper that the recipe names, beside the run's own figures."""
    comparison = compare(run)
    if comparison is None:
        return []
    rows = [HEADS, ("---",) * len(HEADS), *(figure.texts() for figure in comparison.figures)]
    table = [f"| {' | '.join(map(_text, row))} |" for row in rows]
    return ["", f"Published in {_text(comparison.row)}, and this run:", "", *table]
