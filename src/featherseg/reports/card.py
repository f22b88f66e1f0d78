"""Write the card of a run: model, data, settings, scores and limits, as Markdown."""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from featherseg.core.files import load_json, write_text
from featherseg.core.wording import counted, marks, one_line, size_text
from featherseg.costs.cost import count_parameters
from featherseg.costs.published import DIFFERENCE_HEADS, HEADS, compare
from featherseg.recipe.tables import shown_data
from featherseg.runs.run import ENVIRONMENT, SHIPPED_LIMITS, Run, parts_of


def write_card(run: Run) -> None:
    """Write card.md: the facts of a run, with figures from metrics.jsonl and evaluations.jsonl."""
    write_text(run.path / "card.md", card(run))


def card(run: Run, address: str = "", picture: str = "") -> str:
    """Return the text of card.md.

    Args:
        run: The run.
        address: hf://ORG/NAME, for the commands that use it from there.
        picture: The file beside the card that shows an image with its prediction.
    """
    # What the model is
    info, recipe = run.info, run.recipe
    model = run.untrained_model()
    parameters = (count_parameters(model) - count_parameters(model.aux_heads)) / 1e6
    lines = [
        *_front_matter(run, model.panoptic),
        f"# {_text(run.name)}",
        "",
        f"`{recipe.model.name}`, {parameters:.2f} M parameters, {len(info.classes)} classes, "
        f"{_origin(run)}.",
        "",
        *([f"![An image and its prediction]({picture})", ""] if picture else []),
        *(_usage(address) if address else []),
        f"- Licence: {_text(info.licence)}",
        f"- Images: {size_text(info.image_size)} (height x width), {info.channels} channels",
        f"- Classes: {', '.join(_text(row.name) for row in info.classes)}",
    ]

    # How it was trained
    if not run.imported:
        train = recipe.train
        length = counted(train.epochs, "epoch") if train.epochs else f"{train.steps} steps"
        length += f" (found for {train.minutes:g} minutes)" if train.minutes else ""
        last = max(run.metrics(), default=0)
        if isinstance(train.steps, int) and 0 < last < train.steps:  # the time was over
            length += f", {last} taken"
        initial = info.loaded.get("file") or (
            run.init if info.loaded.get("init") else "random weights"
        )
        if terms := info.loaded.get("licence"):
            initial = f"{initial}; {terms}"
        lines += [
            f"- Started from: {_text(initial)}",
            *(
                ["- Images without masks: labelled by a first training on the masks alone"]
                if recipe.data.unlabelled
                else []
            ),
            f"- Settings: {length}, batch {train.batch_size}, seed {train.seed}, "
            f"{train.precision}; all of them in resolved.json",
            *_prepared_data(run),
        ]

    # How well it does: in validation, in evaluations, and in its paper
    validated = {
        step: record
        for step, record in run.metrics().items()
        if isinstance(record.get("val_miou"), float | int)
        and isinstance(record.get("val_pq"), float | int | None)
    }
    if validated:
        has_pq = any(record.get("val_pq") is not None for record in validated.values())
        criterion = "val_pq" if has_pq else "val_miou"
        best = max(validated, key=lambda step: validated[step].get(criterion) or 0.0)
        kept = best if recipe.train.keep == "best" else max(validated)
        figures = _figures(validated[kept].get("val_pq"), validated[kept]["val_miou"])
        remarks = marks(
            selected=run.selected_on(recipe.data.val_split), trained_on=run.validated_on_training
        )
        lines += [
            f"- {figures} on split {_code(recipe.data.val_split)} of the kept weights (step {kept})"
            f"{f'; {remarks}' if remarks else ''}"
        ]
    lines += _evaluations(run)
    lines += _paper(run)
    if not run.imported and recipe.data.name == "shapes":
        lines += ["- It was trained on synthetic scenes only: on photographs it is often wrong"]
    elif run.name in SHIPPED_LIMITS and run.shipped:
        lines += [f"- It {SHIPPED_LIMITS[run.name]}"]
    lines += [
        "",
        "Results on one dataset say little about another camera, place or season: evaluate the run "
        "on your own images.",
    ]
    return "\n".join(lines) + "\n"


HUB_LICENCES = (
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
"""Licences that the Hugging Face Hub knows; any other is `other`, and the card states it."""


def _front_matter(run: Run, panoptic: bool) -> list[str]:
    """Return the YAML head of the card, by which the Hugging Face Hub finds and lists runs."""
    stated = run.licence.strip().lower().replace(" ", "-")
    known = stated in HUB_LICENCES
    data = _word(run.recipe.data.shown)
    return [
        "---",
        f"license: {stated if known else 'other'}",
        *([] if known else ["license_name: stated-in-the-card", "license_link: README.md"]),
        "library_name: featherseg",
        "pipeline_tag: image-segmentation",
        "tags:",
        "- semantic-segmentation",
        *(["- panoptic-segmentation"] if panoptic else []),
        *(["datasets:", f'- "{data}"'] if data else []),
        "metrics:",
        "- mean_iou",
        *_model_index(run),
        "---",
        "",
    ]


def _model_index(run: Run) -> list[str]:
    """Return the scores as the Hugging Face Hub lists them; texts in quotes, as in JSON."""
    lines = []
    for evaluation in _latest_evaluations(run):
        data, split = (
            json.dumps(_word(text))
            for text in (shown_data(evaluation["data"]), evaluation["split"])
        )
        remarks = run.marks_of(evaluation)
        lines += [
            "  - task:",
            "      type: image-segmentation",
            "    dataset:",
            f"      name: {data}",
            f"      type: {data}",
            f"      split: {split}",
            "    metrics:",
            "    - type: mean_iou",
            f"      value: {evaluation['miou']:.4f}",
            f"      name: {json.dumps(f'mIoU ({remarks})' if remarks else 'mIoU')}",
        ]
    return (
        ["model-index:", f"- name: {json.dumps(_word(run.name))}", "  results:", *lines]
        if lines
        else []
    )


def _word(text: str) -> str:
    """Return a name from others without what YAML or Markdown would read."""
    return re.sub(r"[^A-Za-z0-9._/+-]+", "-", text)[:96].strip("-/")


def _usage(address: str) -> list[str]:
    """Return how the run is used from the hub."""
    return [
        "```python",
        "import featherseg",
        "",
        f'featherseg.predict("{address}", "photo.jpg").save("out")',
        "```",
        "",
        "```sh",
        f"featherseg predict {address} photos -o out",
        f"featherseg serve {address}",
        "```",
        "",
    ]


def _origin(run: Run) -> str:
    """Return where the weights come from."""
    data = run.recipe.data
    if run.imported:
        return (
            f"as {_code(data.shown)} has them; imported from {_code(run.imported)} "
            f"(sha256 {_text(run.info.loaded.get('sha256'))}), not trained here"
        )
    version, split = _text(run.info.featherseg), _code(data.train_split)
    return f"trained by featherseg {version} on {_code(data.shown)} (split {split})"


def _prepared_data(run: Run) -> list[str]:
    """Return a line if the training images were stored as JPEGs by `prepare`."""
    with suppress(OSError, ValueError):  # a damaged file costs only this line
        environment = load_json(run.path / ENVIRONMENT)
        if isinstance(environment, dict) and "prepared_data" in environment:
            return [f"- Prepared data: trained on {_text(environment['prepared_data'])}"]
    return []


def _evaluations(run: Run) -> list[str]:
    """Return a line per split and settings: the last score, and how often it was evaluated."""
    evaluations, lines = _complete_evaluations(run), []
    for evaluation in _latest_evaluations(run):
        data, split, inference = (evaluation[key] for key in ("data", "split", "inference"))
        times = sum(
            e["data"] == data and bool(parts_of(e["split"]) & parts_of(split)) for e in evaluations
        )
        remarks = run.marks_of(evaluation)
        lines.append(
            f"- {_figures(evaluation.get('pq'), evaluation['miou'])} on {_code(shown_data(data))}, "
            f"split {_code(split)}, {counted(evaluation['images'], 'image')} ({_text(inference)}); "
            f"this run was evaluated on the split {counted(times, 'time')}"
            f"{f'; {remarks}' if remarks else ''}"
        )
    return lines


def _complete_evaluations(run: Run) -> list[dict[str, Any]]:
    return [
        evaluation
        for evaluation in run.evaluations()
        if all(isinstance(evaluation.get(key), kind) for key, kind in _EVALUATION.items())
    ]


def _latest_evaluations(run: Run) -> list[dict[str, Any]]:
    """Return the last evaluation of the present weights per data, split and settings."""
    current = run.current_evaluations()
    latest = {
        (evaluation["data"], evaluation["split"], evaluation["inference"]): evaluation
        for evaluation in _complete_evaluations(run)
        if evaluation in current
    }
    return list(latest.values())


_EVALUATION = {
    "data": str,
    "split": str,
    "inference": str,
    "images": int,
    "miou": float | int,
    "pq": float | int | None,
}
"""Keys of a record in evaluations.jsonl and the types of their values; others are skipped."""


def _text(value: Any) -> str:
    """Escape a text from others so that Markdown shows it literally: no HTML, link or table."""
    return re.sub(
        r"([\\`<>&|\[\]*~]|(?<![^\W_])_|_(?![^\W_])|(?<=[a-z]):(?=//))",
        r"\\\1",
        one_line(str(value)),
    )


def _code(value: Any) -> str:
    return f"`{one_line(str(value)).replace('`', chr(39))}`"


def _figures(pq: float | None, miou: float) -> str:
    """Return `PQ 45.10 %, mIoU 66.72 %`, or mIoU alone if no objects were scored."""
    return (f"PQ {100 * pq:.2f} %, " if pq is not None else "") + f"mIoU {100 * miou:.2f} %"


def _paper(run: Run) -> list[str]:
    """Return the paper's row next to the run's figures, and what the run did otherwise."""
    comparison = compare(run)
    if comparison is None:
        return []
    figures = _table(HEADS, [figure.texts() for figure in comparison.figures])
    lines = ["", f"Published in {_text(comparison.row)}, and this run:", "", *figures, ""]
    if rows := comparison.difference_rows():
        return [*lines, f"{_text(comparison.differs)}:", "", *_table(DIFFERENCE_HEADS, rows)]
    return [*lines, f"{_text(comparison.differs)}."]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    return [f"| {' | '.join(map(_text, row))} |" for row in (heads, ("---",) * len(heads), *rows)]
