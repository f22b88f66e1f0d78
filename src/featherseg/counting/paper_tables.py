"""`check_paper`: every row and sentence of a paper that holds a number, beside what is counted here, with a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from featherseg.core.errors import unknown
from featherseg.core.types import Size
from featherseg.core.wording import size_text
from featherseg.counting.cost import CONVENTIONS, cost
from featherseg.counting.deeplab import beside_deeplabv3
from featherseg.counting.paper_counts import (
    FURTHER,
    VERDICTS,
    Count,
    Verdict,
    gmacs,
    meeting,
    parameters,
    verdict,
)
from featherseg.counting.paper_rows import (
    CGRSEG,
    FRM,
    RSP,
    CountClaim,
    Counting,
    Difference,
    Paper,
    PublishedRow,
    PublishedTable,
    Sentence,
    ShareClaim,
)

NOT_RECOUNTED = "published, not recounted"
"""Of a row whose model is not built here."""

PAPERS: dict[str, Paper] = {"frm": FRM, "cgrseg": CGRSEG, "rsp": RSP}


@dataclass(frozen=True)
class CheckedFigure:
    """A printed figure; ours by the yardstick at the printed size, None where nothing was counted.

    verdict: None where nothing is printed; met_by: every count that is the printed figure; words: the figures.
    """

    printed: str
    ours: Count | None
    verdict: Verdict | None
    met_by: tuple[Count, ...]
    words: str


@dataclass(frozen=True)
class CheckedRow:
    """A row, and its figures one by one: M parameters, G, what was measured in the order of the table's headings."""

    row: PublishedRow
    params: CheckedFigure
    gflops: CheckedFigure
    measured: tuple[CheckedFigure, ...]


@dataclass(frozen=True)
class CheckedTable:
    """A table with its rows."""

    table: PublishedTable
    rows: tuple[CheckedRow, ...]


@dataclass(frozen=True)
class Ratio:
    """Two models at the same image (H, W) and number of classes: parameters, and MACs by `macs`."""

    model: str
    beside: str
    size: Size
    classes: int
    params: int
    macs: int
    beside_params: int
    beside_macs: int

    @property
    def macs_share(self) -> float:
        """MACs of `model` divided by those of `beside`."""
        return self.macs / self.beside_macs

    @property
    def params_share(self) -> float:
        """Parameters of `model` divided by those of `beside`."""
        return self.params / self.beside_params


@dataclass(frozen=True)
class CheckedSentence:
    """A sentence, its verdict (the worst of its claims that can be counted), the arithmetic, models in proportion."""

    sentence: Sentence
    verdict: Verdict
    words: str
    ratios: tuple[Ratio, ...]


@dataclass(frozen=True)
class PaperCheck:
    """A paper checked: its title, tables and sentences in its own order."""

    title: str
    tables: tuple[CheckedTable, ...]
    sentences: tuple[CheckedSentence, ...]


def check_paper(name: str) -> PaperCheck:
    """Count every model of a paper's tables and sentences that is in the catalogue, on shapes alone.

    Raises UnknownName for a paper that is not one of PAPERS.
    """
    if name not in PAPERS:
        raise unknown("paper", name, PAPERS)
    paper = PAPERS[name]
    tables = tuple(CheckedTable(table, tuple(map(check_row, table.rows))) for table in paper.tables)
    return PaperCheck(paper.title, tables, tuple(map(check_sentence, paper.sentences)))


def check_row(row: PublishedRow) -> CheckedRow:
    """One row. Raises UnknownName for a model that is not in the catalogue."""
    measured = tuple(_untested(printed, "no dataset or weights here") for printed in row.measured)
    if row.counting is None:
        return CheckedRow(row, _untested(row.params, NOT_RECOUNTED), _untested(row.gflops, NOT_RECOUNTED), measured)
    rounded = row.counting.rounded
    params = _check(row.params, [parameters(row.counting)], rounded)
    return CheckedRow(row, params, _check(row.gflops, gmacs(row.counting), rounded), measured)


def check_sentence(sentence: Sentence) -> CheckedSentence:
    """One sentence. Raises UnknownName for a model that is not in the catalogue."""
    checks = [_check_claim(claim) for claim in sentence.claims]
    pairs = tuple(_ratio(*pair) for pair in sentence.beside)
    deeplabs = _deeplab_ratios(sentence.beside_deeplabs)
    words = [
        *(
            f"{claim.printed} {claim.unit}: {check.words}."
            for claim, check in zip(sentence.claims, checks, strict=True)
        ),
        *map(_difference_in_words, sentence.differences),
        *map(_ratio_in_words, pairs),
    ]
    if deeplabs:
        fewer = sum(ratio.macs_share <= 0.25 for ratio in deeplabs)
        words.append(f"Of ours, {fewer} of {len(deeplabs)} pairs have at least 75 % fewer, by macs.")
    verdicts = [check.verdict for check in checks if check.verdict]
    worst: Verdict = max(verdicts, key=list(VERDICTS).index) if verdicts else "not testable here"
    return CheckedSentence(sentence, worst, " ".join([*words, sentence.remark]).strip(), pairs + deeplabs)


def _check(printed: str, counts: Sequence[Count], rounded: bool = False) -> CheckedFigure:
    if printed == "-":
        return CheckedFigure(printed, counts[0], None, (), "nothing printed")
    met = meeting(printed, counts, rounded)
    return CheckedFigure(printed, counts[0], verdict(printed, counts, rounded), tuple(met), _words(counts, met))


def _untested(printed: str, why: str) -> CheckedFigure:
    if printed == "-":
        return CheckedFigure(printed, None, None, (), "nothing printed")
    return CheckedFigure(printed, None, "not testable here", (), why)


def _words(counts: Sequence[Count], met: Sequence[Count]) -> str:
    """Ours by the yardstick, behind what meets the figure if it does not; everything counted if nothing does."""
    ours = counts[0]
    if ours in met:
        shown: Sequence[Count] = [ours]
    else:
        shown = [met[0], ours] if met else counts
    words, before = [], None
    for one in shown:
        setting = (one.size, one.classes)
        where = "" if setting == before else f", {size_text(one.size)}, {one.classes} classes"
        arithmetic = f" = {one.arithmetic}" if one.arithmetic else ""
        words.append(f"{one.value:.3f}{arithmetic} ({one.by}{where})")
        before = setting
    return "; ".join(words)


def _check_claim(claim: CountClaim | ShareClaim) -> CheckedFigure:
    if isinstance(claim, CountClaim):
        return _check(claim.printed, gmacs(claim.of), claim.of.rounded)
    return _check(claim.printed, [share for other in claim.beside for share in _shares(claim, other)])


def _shares(claim: ShareClaim, beside: Counting) -> list[Count]:
    """A model's share of another, in %, by every convention that both are counted by, or of the parameters."""
    ours, theirs = ([parameters(c)] if claim.params else gmacs(c) for c in (claim.of, beside))
    other = {one.setting(): one.value for one in theirs}
    shares = []
    for one in ours:
        if one.setting() in other:
            share = 100 * one.value / other[one.setting()]
            arithmetic = f"100 x {one.value:.3f} / {other[one.setting()]:.3f} of {beside.model}"
            if claim.fewer:
                share, arithmetic = 100 - share, f"100 - {arithmetic}"
            shares.append(Count(share, *one.setting(), arithmetic))
    return shares


def _difference_in_words(difference: Difference) -> str:
    """What the paper's own accuracies say of a difference that it prints."""
    found = Decimal(difference.of) - Decimal(difference.less)
    agrees = "as printed" if found == Decimal(difference.printed) else f"where {difference.printed} is printed"
    return f"The paper's own figures: {difference.of} - {difference.less} = {found} points, {agrees}."


def _ratio_in_words(ratio: Ratio) -> str:
    return (
        f"Of {ratio.beside}, {ratio.model} has {ratio.macs_share:.1%} of the MACs ({ratio.macs / 1e9:.3f} / "
        f"{ratio.beside_macs / 1e9:.3f} G, macs) and {ratio.params_share:.1%} of the parameters."
    )


def _ratio(model: Counting, beside: Counting) -> Ratio:
    ours = cost(model.model, model.size, model.classes)
    theirs = cost(beside.model, model.size, model.classes)
    return Ratio(
        ours.model,
        theirs.model,
        ours.size,
        ours.classes,
        ours.params,
        ours.macs["macs"],
        theirs.params,
        theirs.macs["macs"],
    )


def _deeplab_ratios(countings: Sequence[Counting]) -> tuple[Ratio, ...]:
    """Each beside every DeepLabV3; all have one image size and number of classes."""
    costs = [cost(counting.model, counting.size, counting.classes) for counting in countings]
    deeplabs = beside_deeplabv3(costs[0]) if costs else []
    return tuple(
        Ratio(ours.model, row.name, ours.size, ours.classes, ours.params, ours.macs["macs"], row.params, row.macs)
        for row in deeplabs
        for ours in costs
    )


def to_json(check: PaperCheck) -> dict[str, Any]:
    """For programs: sizes as [H, W], figures of ours as numbers in the unit of the printed figure (M, G)."""
    return {
        "paper": check.title,
        "yardstick": "macs",
        "conventions": CONVENTIONS | {name: further.meaning for name, further in FURTHER.items()},
        "verdicts": dict(VERDICTS),
        "tables": [
            {"title": checked.table.title, "rows": [_row_json(checked.table, row) for row in checked.rows]}
            for checked in check.tables
        ],
        "sentences": [_sentence_json(checked) for checked in check.sentences],
    }


def _row_json(table: PublishedTable, checked: CheckedRow) -> dict[str, Any]:
    row = checked.row
    return {
        "method": row.method,
        "backbone": row.backbone,
        "size_printed": row.size,
        "model": row.counting.model if row.counting else None,
        "params_m": _figure_json(checked.params),
        "gflops": _figure_json(checked.gflops),
        "measured": dict(zip(table.measured, map(_figure_json, checked.measured), strict=True)),
        "remark": row.remark,
    }


def _figure_json(figure: CheckedFigure) -> dict[str, Any]:
    return {
        "printed": figure.printed,
        "verdict": figure.verdict,
        "ours": _count_json(figure.ours) if figure.ours else None,
        "met_by": [_count_json(one) for one in figure.met_by],
        "words": figure.words,
    }


def _count_json(one: Count) -> dict[str, Any]:
    return {"value": float(one.value), "by": one.by, "size": list(one.size), "classes": one.classes}


def _sentence_json(checked: CheckedSentence) -> dict[str, Any]:
    return {
        "where": checked.sentence.where,
        "text": checked.sentence.text,
        "verdict": checked.verdict,
        "words": checked.words,
        "ratios": [
            asdict(ratio)
            | {"size": list(ratio.size), "macs_share": ratio.macs_share, "params_share": ratio.params_share}
            for ratio in checked.ratios
        ],
    }
