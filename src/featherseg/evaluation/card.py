"""The card of a run: what it is, what it was trained on, how well it does, what it must not be used for."""

from typing import Any

from featherseg.core.files import read_lines, write_text
from featherseg.evaluation.cost import count_parameters
from featherseg.runs import EVALUATIONS, Run, build_network


def write_card(run: Run) -> None:
    """Write card.md: the facts of a run in a page, with the figures of metrics.jsonl and evaluations.jsonl."""
    write_text(run.path / "card.md", card(run))


def card(run: Run) -> str:
    """The text of card.md."""
    info, recipe = run.info, run.recipe
    parameters = count_parameters(build_network(info)) / 1e6
    validated = {step: record for step, record in run.metrics().items() if record.get("val_miou") is not None}
    lines = [
        f"# {run.name}",
        "",
        f"`{recipe.model.name}`, {parameters:.2f} M parameters, {len(info.classes)} classes, "
        f"trained by featherseg {info.featherseg} on `{recipe.data.name}` (split `{recipe.data.train_split}`).",
        "",
        f"- Licence: {info.licence}",
        f"- Started from: {info.loaded.get('file') or info.loaded.get('init') or 'random weights'}",
        f"- Pictures: {info.image_size[0]}x{info.image_size[1]} (height x width), {info.channels} channels",
        f"- Classes: {', '.join(row.name for row in info.classes)}",
        f"- Settings: {recipe.train.epochs} epochs, batch {recipe.train.batch_size}, seed {recipe.train.seed}, "
        f"{recipe.train.precision}; all of them in resolved.json",
    ]
    if validated:
        last = max(validated)
        best = max(validated, key=lambda step: validated[step]["val_miou"])
        kept = best if recipe.train.keep == "best" else last
        lines += [
            f"- mIoU on split `{recipe.data.val_split}` of the kept weights (step {kept}): "
            f"{100 * validated[kept]['val_miou']:.2f} %",
        ]
    lines += _scored(read_lines(run.path / EVALUATIONS))
    lines += [
        "",
        "Figures on one dataset say little about another camera, place or season: score the run on pictures of yours.",
    ]
    return "\n".join(lines) + "\n"


def _scored(looks: list[dict[str, Any]]) -> list[str]:
    """The last score of every split and mode, and how often the split was looked at."""
    latest = {(look["data"], look["split"], look["mode"]): look for look in looks if look.get("miou") is not None}
    return [
        f"- mIoU on `{data}`, split `{split}`, {look['images']} pictures ({mode}): {100 * look['miou']:.2f} %; "
        f"the split was looked at {sum(look['split'] == split for look in looks)} times by this run"
        for (data, split, mode), look in latest.items()
    ]
