"""The sections of the report, each a function of the evidence that gives HTML. Every text from outside is escaped."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from featherseg.core.errors import RunError
from featherseg.core.types import Color
from featherseg.core.wording import size_text
from featherseg.counting.cost import CONVENTIONS, Cost
from featherseg.counting.published import HEADS, Comparison
from featherseg.evaluation.panoptic_quality import quality
from featherseg.reports.charts import loss_chart, miou_chart
from featherseg.reports.examples import PANELS, Example, panel_file
from featherseg.reports.page import percent, section
from featherseg.runs import Run

SHOWN_MIXES = 12  # of the most frequent confusions
MATRIX_LIMIT = 40  # with more classes the matrix is left out and only the most frequent confusions are listed


@dataclass(frozen=True)
class Evidence:
    """What a run folder holds, read. scores is scores.json, parity is parity.json; None = not there yet.
    A cost that is a text says why it was not counted.

    test_evaluations: how often the test split was scored. comparison: None where the recipe names no row of a paper.
    """

    run: Run
    metrics: Mapping[int, Mapping[str, Any]]
    scores: Mapping[str, Any] | None
    test_evaluations: int
    parity: Mapping[str, Any] | None
    cost: Cost | str
    comparison: Comparison | None
    environment: Mapping[str, Any]
    examples: Sequence[Example]


def head(e: Evidence) -> str:
    """Name, one sentence, the figures to remember."""
    recipe, height_width = e.run.recipe, e.run.info.image_size
    figures: dict[str, str] = {}
    if e.scores is None:  # the best validation of the training, where there was one
        validated = [r["val_miou"] for r in e.metrics.values() if isinstance(r.get("val_miou"), float)]
        figures |= {"mIoU in training's best validation, %": percent(max(validated))} if validated else {}
    else:
        figures |= {f"PQ{_where(e.scores)}, %": percent(_number(_objects(e), "pq"))} if _objects(e) else {}
        figures |= {
            f"mIoU{_where(e.scores)}, %": percent(_number(e.scores, "miou")),
            "pixel accuracy, %": percent(_number(e.scores, "pixel_accuracy")),
            "boundary F, %": percent(_number(e.scores, "boundary_f")),
        }
    if not isinstance(e.cost, str):
        figures |= {
            "parameters": f"{e.cost.params / 1e6:.2f} M",
            f"GMACs (“macs”), {size_text(height_width)}": f"{e.cost.macs['macs'] / 1e9:.2f}",
        }
    figures["classes"] = str(len(e.run.classes))
    cells = "".join(f'<div class="figure"><dd>{v}</dd><dt>{escape(k)}</dt></div>' for k, v in figures.items())
    times = (
        f" The test split was scored {e.test_evaluations} time{'s' * (e.test_evaluations != 1)}."
        if e.test_evaluations
        else ""
    )
    return f"""<header>
<p class="kicker">featherseg report · {datetime.now(UTC).date().isoformat()}</p>
<h1>{escape(e.run.name)}</h1>
<p class="lead">{escape(recipe.model.name)}, {escape(_origin(e.run))}.
Weights: {escape(e.run.licence)}.{times}</p>
{"" if e.scores else _missing("Not scored yet:", f"featherseg evaluate {e.run.spelling}")}
<dl class="figures">{cells}</dl>
</header>"""


def curves(e: Evidence) -> str:
    """Loss and validation mIoU by step."""
    if e.run.imported:
        return section("Training", _missing("Imported, not trained here: how it was trained is not recorded."))
    charts = [chart for chart in (loss_chart(e.metrics), miou_chart(e.metrics)) if chart]
    if not charts:
        return section("Training", _missing("No step was logged yet."))
    last = max(e.metrics)
    return section("Training", f'<p>{last:,} steps.</p><div class="charts">{"".join(charts)}</div>')


def classes(e: Evidence) -> str:
    """IoU of each class as a table with bars."""
    if e.scores is None:
        return section("Classes", _missing("Not scored yet:", f"featherseg evaluate {e.run.spelling}"))
    shares = _shares(e.scores)
    rows = [
        f'<tr><th scope="row">{_swatch(info.color)}{escape(info.name)}</th>'
        f'<td class="number">{percent(iou)}</td><td class="track">{_bar(iou, info.color)}</td>'
        f'<td class="number optional">{percent(share)}</td></tr>'
        for info, iou, share in zip(e.run.classes, e.scores["iou"], shares, strict=True)
    ]
    table = f"""<table class="classes"><caption>Intersection over union of each class, in %. Classes that occur in
neither ground truth nor prediction have none and do not count in the mean.</caption>
<thead><tr><th scope="col">class</th><th scope="col" class="number">IoU</th><th scope="col" class="track"></th>
<th scope="col" class="number optional">share of pixels</th></tr></thead>
<tbody>{"".join(rows)}</tbody>
<tfoot><tr><th scope="row">mean</th><td class="number">{percent(_number(e.scores, "miou"))}</td><td></td>
<td class="optional"></td></tr></tfoot></table>"""
    return section("Classes", table)


def objects(e: Evidence) -> str:
    """Panoptic quality of each class, where objects were scored."""
    found = _objects(e)
    if found is None:
        return ""
    kinds = (("things", found["things"]), ("stuff", found["stuff"]), ("all", found))
    rows = [
        _object_row(f"{_swatch(info.color)}{escape(info.name)}", quality(counts), counts)
        for info, counts in zip(e.run.classes, found["per_category"].values(), strict=True)
    ]
    rows += [_object_row(f"{name} ({mean['n']})", mean, {}) for name, mean in kinds]
    heads = "".join(f'<th scope="col" class="number">{head}</th>' for head in ("PQ", "SQ", "RQ"))
    heads += "".join(f'<th scope="col" class="number optional">{head}</th>' for head in ("found", "false", "missed"))
    table = f"""<table class="classes"><caption>Panoptic quality of each class, in %, and how many of its objects and
regions were found, made up and missed.</caption>
<thead><tr><th scope="col">class</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>"""
    return section("Objects", table)


def confusion(e: Evidence) -> str:
    """Truth x prediction as a row-normalised heat map, and the most frequent mistakes."""
    if e.scores is None:
        return ""
    names = [info.name for info in e.run.classes]
    rows = row_shares(e.scores["confusion"], e.scores["void"])
    matrix = _matrix(names, rows) if len(names) <= MATRIX_LIMIT else ""
    mixes = _pairs(
        (names[t], f"{percent(share)} % taken for {names[p]}") for share, t, p in most_mixed(rows)[:SHOWN_MIXES]
    )
    intro = "<p>Where the pixels of each true class (row) went (column), in % of the row.</p>"
    return section("Confusion", f"{intro}{matrix}<h3>Most frequent mistakes</h3>{mixes}")


def examples(e: Evidence) -> str:
    """The best and the worst images: image, ground truth, prediction."""
    if not e.examples:
        return section("Images", _missing("None drawn yet:", f"featherseg evaluate {e.run.spelling}"))
    legend = "".join(f"<li>{_swatch(info.color)}{escape(info.name)}</li>" for info in e.run.classes)
    groups = "".join(
        f"<h3>{title}</h3>" + "".join(_triple(e.run.path, x) for x in e.examples if x.name.startswith(kind))
        for kind, title in (("worst", "Worst"), ("best", "Best"))
    )
    return section("Images", f'<ul class="legend">{legend}<li>{_swatch((0, 0, 0))}not labelled</li></ul>{groups}')


def cost(e: Evidence) -> str:
    """Parameters and multiply-accumulates of each part, and the total by every convention."""
    if isinstance(e.cost, str):
        return section("Cost", _missing(f"Not counted: {escape(e.cost)}"))
    rows = [(name, f"{p.params:,}", f"{p.macs / 1e9:.3f}") for name, p in e.cost.parts.items()]
    total = ("total", f"{e.cost.params:,}", f"{e.cost.macs['macs'] / 1e9:.3f}")
    parts = _table(
        f"For one image of {size_text(e.cost.counted_size)} (height x width). GMACs by the convention "
        f"“macs”: {CONVENTIONS['macs']}.",
        ("part", "parameters", "GMACs"),
        rows,
        total,
    )
    conventions = _table(
        "The same model by every convention; a published figure is one of these.",
        ("convention", "GMACs", "counts"),
        [(name, f"{e.cost.macs[name] / 1e9:.3f}", text) for name, text in CONVENTIONS.items()],
        numbers=(1,),
    )
    return section("Cost", parts + "<h3>Conventions</h3>" + conventions)


def paper(e: Evidence) -> str:
    """The published row that the recipe names, beside the run's figures; nothing where it names none."""
    if e.comparison is None:
        return ""
    rows = [figure.texts() for figure in e.comparison.figures]
    caption = f"Published in {e.comparison.row}, as printed, beside this run. A dash: not measured here."
    return section("The paper beside ours", _table(caption, HEADS, rows, numbers=range(1, 4)))


def parity(e: Evidence) -> str:
    """Whether the exported files compute what the run computes."""
    if not e.parity:
        command = f"featherseg export {e.run.spelling} --format onnx -o {e.run.name}.onnx"
        return section("Export", _missing("Not exported yet:", command))
    records = {e.parity["format"]: e.parity} if "format" in e.parity else e.parity  # one record: as of older exports
    return section("Export", "".join(_exported_file(record) for record in records.values()))


def _exported_file(file: Mapping[str, Any]) -> str:
    """One file beside the run: in a sentence, and in a table of what was compared."""
    name, megabytes, found = Path(file["path"]).name, file["bytes"] / 1e6, file["parity"]
    words = f"{escape(name)} ({escape(file['format'])}, {megabytes:.1f} MB)"
    if found is None:
        return f"<p>{words} was written, but not tested: nothing here could run it.</p>"
    if file.get("quantised"):
        return f"<p>{words} is in int8. {_quantised(found)}</p>" + _parity_table(found, "")
    verdict = "gives the model's logits" if found["ok"] else "does not give the model's logits"
    allowed = f" (at most {found['tolerance']:g} is allowed)"
    return f"<p>{words} {verdict}.</p>" + _parity_table(found, allowed)


def _quantised(found: Mapping[str, Any]) -> str:
    """What int8 cost."""
    if found.get("file_miou") is None or found.get("model_miou") is None:
        return "Its mIoU was not measured."
    return f"It scores {100 * found['file_miou']:.2f} mIoU, the model {100 * found['model_miou']:.2f}."


def _parity_table(found: Mapping[str, Any], allowed: str) -> str:
    rows = [
        (
            size_text((row["height"], row["width"])),
            str(row["batch"]),
            f"{row['max_error']:.1e}",
            f"{row['relative_error']:.1e}",
            f"{100 * row['same_class']:.2f}",
        )
        for row in found["rows"]
    ]
    return _table(
        f"The file beside the model, on the same images. Largest error of a logit, alone and as a share of the "
        f"logits' range{allowed}; positions with the same class, in %.",
        ("height x width", "batch", "largest error", "share of range", "same class"),
        rows,
        numbers=range(1, 5),
    )


def settings(e: Evidence) -> str:
    """Every setting of the recipe."""
    pairs = [
        (f"{table}.{key}", value)
        for table, values in e.run.recipe.model_dump(mode="json", exclude={"paper"}).items()
        for key, value in values.items()
        if value is not None
    ]
    note = "Of featherseg's own recipe for such a model: the imported weights were not trained with them."
    return section("Settings", (_missing(note) if e.run.imported else "") + _pairs(pairs))


def environment(e: Evidence) -> str:
    """The machine and the versions of the training, or of the import."""
    if not e.environment:
        return section("Environment", _missing("Not recorded."))
    return section("Environment", _pairs(_flat(e.environment)))


SECTIONS = (head, curves, classes, objects, confusion, examples, paper, cost, parity, settings, environment)
"""In the order of the page."""


def _origin(run: Run) -> str:
    """Where the weights come from."""
    data = run.recipe.data
    if run.imported:
        return f"imported from {run.imported}, not trained here; its classes are as {data.shown} has them"
    return f"trained on {data.shown} ({data.train_split}), seed {run.recipe.train.seed}"


def row_shares(counts: Sequence[Sequence[float]], void: Sequence[float]) -> list[list[float]]:
    """Each row of a confusion matrix (label x prediction) as shares of its labelled pixels, 0..1; zeros for none."""
    totals = [sum(row) + missed for row, missed in zip(counts, void, strict=True)]
    return [[n / total if total else 0.0 for n in row] for row, total in zip(counts, totals, strict=True)]


def most_mixed(rows: Sequence[Sequence[float]]) -> list[tuple[float, int, int]]:
    """(share of the truth's pixels, ground truth, prediction) of every mistake that occurs, the largest share first."""
    mistakes = [(share, t, p) for t, row in enumerate(rows) for p, share in enumerate(row) if t != p and share > 0]
    return sorted(mistakes, key=lambda mistake: (-mistake[0], mistake[1:]))


def _missing(text: str, command: str = "") -> str:
    return f'<p class="note">{text}{f" <code>{escape(command)}</code>" if command else ""}</p>'


def _matrix(names: Sequence[str], rows: Sequence[Sequence[float]]) -> str:
    heads = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(_cell(v, t == p) for p, v in enumerate(row))}</tr>'
        for t, (name, row) in enumerate(zip(names, rows, strict=True))
    )
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix"><table class="confusion">
<caption>Confusion matrix</caption>
<thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table></div>"""


def _cell(share: float, right: bool) -> str:
    kind = "right" if right else "nil" if share < 0.0005 else "wrong"
    text = "·" if share < 0.0005 else f"{100 * share:.1f}"
    return f'<td class="{kind}" style="--share:{60 * share:.1f}%">{text}</td>'


def _triple(run_path: Path, example: Example) -> str:
    images = "".join(
        f'<div><img src="{_data_uri(panel_file(run_path, example, panel))}" alt="{panel} of {escape(example.key)}" '
        f'loading="lazy"><small>{panel}</small></div>'
        for panel in PANELS
    )
    caption = f"{escape(example.key)} <span>mIoU {percent(example.miou)} %, of this image alone</span>"
    return f'<figure class="triple"><figcaption>{caption}</figcaption>{images}</figure>'


def _data_uri(path: Path) -> str:
    return f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    total: Sequence[str] = (),
    numbers: Sequence[int] = (1, 2),
) -> str:
    """A table whose first column heads the rows; `numbers` are the columns that are set flush right."""

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        tds = (f"<td{_flush(i, numbers)}>{escape(text)}</td>" for i, text in enumerate(rest, 1))
        return f'<tr><th scope="row">{escape(first)}</th>{"".join(tds)}</tr>'

    columns = "".join(f'<th scope="col"{_flush(i, numbers)}>{escape(text)}</th>' for i, text in enumerate(heads))
    foot = f"<tfoot>{line(total)}</tfoot>" if total else ""
    body = "".join(line(row) for row in rows)
    return f"""<div class="scroll"><table><caption>{escape(caption)}</caption>
<thead><tr>{columns}</tr></thead><tbody>{body}</tbody>{foot}</table></div>"""


def _flush(column: int, numbers: Sequence[int]) -> str:
    return ' class="number"' if column in numbers else ""


def _pairs(pairs: Iterable[tuple[str, Any]]) -> str:
    cells = "".join(f"<div><dt>{escape(str(key))}</dt><dd>{escape(_text(v))}</dd></div>" for key, v in pairs)
    return f'<dl class="pairs">{cells}</dl>'


def _flat(values: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested tables as pairs with dotted keys."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        pairs += _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else [(f"{above}{key}", value)]
    return pairs


def _text(value: Any) -> str:
    """A value of JSON in words: 480 x 360 for sizes and lists, yes and no, floats to four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return "none" if value is None else str(value)


def _shares(scores: Mapping[str, Any]) -> list[float]:
    """Share of each class in the labelled pixels."""
    totals = [sum(row) + missed for row, missed in zip(scores["confusion"], scores["void"], strict=True)]
    return [total / (sum(totals) or 1) for total in totals]


def _number(scores: Mapping[str, Any] | None, key: str) -> float | None:
    value = (scores or {}).get(key)
    return float(value) if isinstance(value, int | float) else None


def _object_row(name: str, figures: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    """A row of the table of objects; `name` is HTML."""
    cells = [f'<td class="number">{percent(_number(figures, key))}</td>' for key in ("pq", "sq", "rq")]
    cells += [f'<td class="number optional">{counts.get(key, "")}</td>' for key in ("tp", "fp", "fn")]
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'


def _objects(e: Evidence) -> Mapping[str, Any] | None:
    """What was scored of objects, None where nothing was. Raises RunError where it is of other classes."""
    found = e.scores.get("panoptic") if e.scores else None
    if found is not None and len(found.get("per_category", ())) != len(e.run.classes):
        raise RunError(f"{e.run.path}: its scores of objects are of other classes than the run's. Score it again.")
    return found


def _where(scores: Mapping[str, Any] | None) -> str:
    named = [str(scores[key]) for key in ("data", "split") if key in scores] if scores else []
    return f" on {' '.join(named)}" if named else ""


def _swatch(color: Color) -> str:
    return f'<span class="swatch" style="--color:{_css(color)}"></span>'


def _bar(share: float | None, color: Color) -> str:
    if share is None or math.isnan(share):
        return '<span class="note">does not occur</span>'
    return f'<span class="rail"><span class="bar" style="--color:{_css(color)};width:{100 * share:.1f}%"></span></span>'


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
