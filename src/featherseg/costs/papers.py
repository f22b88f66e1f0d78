"""The tables and claims of papers, recounted.

papers.toml contains every row and every sentence with a number as the paper prints it. A printed
figure is compared with our count by the convention `macs`. If they differ, the other conventions
are tried and, if a row's label is in doubt, other image sizes and numbers of classes.
"""

import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from featherseg import models
from featherseg.core.config import Config, parse
from featherseg.core.errors import ConfigError, unknown
from featherseg.core.types import SegOutput, Size
from featherseg.core.wording import size_text
from featherseg.costs.cost import (
    CONVENTIONS,
    Cost,
    Counts,
    by_convention,
    cost,
    count_layers,
    count_parameters,
)
from featherseg.costs.deeplab import beside_deeplabv3, on_same_backbone
from featherseg.layers.model import SegmentationModel

Verdict = Literal[
    "equal",
    "other convention",
    "mislabelled",
    "not reproducible",
    "not testable here",
]

VERDICTS: dict[Verdict, str] = {  # from best to worst; a sentence has the worst of its claims
    "equal": "the count by `macs` is the printed figure, rounded or cut off at its digits",
    "other convention": "another way to count, at the same image size, is the printed figure",
    "mislabelled": "a count at another image size is the printed figure",
    "not reproducible": "no count is the printed figure",
    "not testable here": "no dataset, no weights, or a model that is not built here",
}

ABSTRACT_SHARE = 0.25
"""MACs of RSP's model beside those of DeepLabV3: its abstract has "75% fewer"."""

READINGS = {
    "allowed": "the backbone alone costs less than 25 % of it: with a head it can have 75 % fewer",
    "refuted": "the backbone alone costs more than 25 % of it: no head can have 75 % fewer",
}
"""What counts say of "75% fewer" if a DeepLabV3 on RSP's backbone is meant, whatever the head."""

NOT_RECOUNTED = "published, not recounted"
"""Shown for a row whose model is not built here."""

COLUMNS = ("method", "backbone", "measured", "size", "gflops", "params_m", "counting", "remark")
"""Keys of a row, in the order of its entries in papers.toml."""


def _conv_bias(name: str, layer: nn.Module, counts: Counts) -> int:
    return counts.ptflops if isinstance(layer, nn.Conv2d) else 0


def _conv_bias_relu(name: str, layer: nn.Module, counts: Counts) -> int:
    # the projections of SegFormer's head are linear layers in its Eq. 4 and 1x1 convolutions here
    biased = isinstance(layer, nn.Conv2d) and not name.startswith("decoder.project.")
    return counts.ptflops if biased or isinstance(layer, nn.ReLU) else counts.macs


def _syncbn(name: str, layer: nn.Module, counts: Counts) -> int:
    if name.startswith("context.") and isinstance(layer, nn.BatchNorm2d):
        return 0
    return counts.ptflops


Rule = Callable[[str, nn.Module, Counts], int]
"""(a layer's name, the layer, its counts) -> its figure."""

# What the authors of one paper count: meaning and rule.
AUTHORS_CONVENTIONS: dict[str, tuple[str, Rule]] = {
    "conv-bias": ("convolutions with their bias", _conv_bias),
    "conv-bias-relu": (
        "macs, and 1 for every output element of a ReLU or a biased convolution",
        _conv_bias_relu,
    ),
    "ptflops-0.6-syncbn": (
        "ptflops-0.6 without DAPPM's norms (SyncBatchNorm in DDRNet's code, unknown to ptflops)",
        _syncbn,
    ),
}


class Counting(Config):
    """How a printed figure is counted: catalogue's model, image size (H, W), number of classes.

    `conventions` are names of AUTHORS_CONVENTIONS to try as well, `elsewhere` other (H, W, classes)
    that may be meant. `rounded`: the authors are known to round, so cutting off is no match.
    `auxiliary`: the auxiliary heads, which only training uses, may be in the figure.
    """

    model: str
    size: Size
    classes: int = 19
    conventions: tuple[str, ...] = ()
    elsewhere: tuple[tuple[int, int, int], ...] = ()
    rounded: bool = False
    auxiliary: bool = False


@dataclass(frozen=True)
class Count:
    """One count of ours: `value`, exact, in the unit of the printed figure (G, M or %).

    It is by the convention `by`, for an image of `size` (H, W). `arithmetic` shows how a share was
    worked out; it is empty for a plain count.
    """

    value: Decimal
    by: str
    size: Size
    classes: int
    arithmetic: str = ""

    def setting(self) -> tuple[str, Size, int]:
        """Return what the count depends on: convention, image size, number of classes."""
        return self.by, self.size, self.classes


@cache
def read_content() -> dict[str, Any]:
    """Return papers.toml as it stands; its head explains the keys."""
    return tomllib.loads((Path(__file__).parent / "papers.toml").read_text(encoding="utf-8"))


def read_paper(name: str, table_number: int | None = None) -> dict[str, Any]:
    """Return what a paper prints: "title", "tables" with a dict by COLUMNS for a row, "sentences".

    A row's "measured" is {heading: printed figure}, and the "trained" of a table {heading: data of
    the recipe}. `table_number`: only this table, counted from 1, and no sentences.

    Raises:
        UnknownName: papers.toml has no such paper.
        ConfigError: the paper has no such table.
    """
    papers = read_content()["papers"]
    if name not in papers:
        raise unknown("paper", name, papers)
    paper = {"tables": [], "sentences": [], **papers[name]}
    tables = []
    for table in paper["tables"]:
        rows = [{"remark": "", **dict(zip(COLUMNS, row, strict=False))} for row in table["rows"]]
        for row in rows:
            row["measured"] = dict(zip(table["measured"], row["measured"], strict=True))
        tables.append({"title": table["title"], "trained": table["trained"], "rows": rows})
    if table_number is None:
        return paper | {"tables": tables}
    if not 1 <= table_number <= len(tables):
        raise ConfigError(f"--table {table_number}: {paper['title']} has 1 to {len(tables)} here.")
    return paper | {"tables": [tables[table_number - 1]], "sentences": []}


def read_counting(name: str) -> Counting:
    """Return a counting of papers.toml by its name."""
    return parse(Counting, {"model": name, **read_content()["countings"][name]}, "papers.toml")


def check_paper(name: str, table_number: int | None = None) -> dict[str, Any]:
    """Return every row and sentence of a paper with our counts and a verdict for each figure.

    No model is run: it is counted on shapes alone. The result is ready for JSON: sizes are [H, W],
    our figures are numbers in the unit of the printed one (M, G or %). `table_number` as for
    `read_paper`, which also says what is raised.
    """
    paper = read_paper(name, table_number)
    authors = {by: meaning for by, (meaning, _) in AUTHORS_CONVENTIONS.items()}
    tables = [table | {"rows": list(map(check_row, table["rows"]))} for table in paper["tables"]]
    return {
        "paper": paper["title"],
        "yardstick": "macs",
        "conventions": CONVENTIONS | authors,
        "verdicts": dict(VERDICTS),
        "tables": tables,
        "sentences": list(map(check_sentence, paper["sentences"])),
    }


def check_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with each printed figure checked, in the form of `check_paper`."""
    if row["counting"]:
        counting = read_counting(row["counting"])
        model = counting.model
        millions, giga = [parameters(counting)], gmacs(counting)
        if counting.auxiliary:
            in_training, figures = with_auxiliary(counting)
            millions, giga = [*millions, in_training], [*giga, *figures]
        params = _check(row["params_m"], millions, counting.rounded)
        gflops = _check(row["gflops"], giga, counting.rounded)
    else:
        model = None
        params, gflops = (_not_counted(row[key], NOT_RECOUNTED) for key in ("params_m", "gflops"))
    untested = "no dataset or weights here"
    measured = {name: _not_counted(printed, untested) for name, printed in row["measured"].items()}
    return {
        "method": row["method"],
        "backbone": row["backbone"],
        "size_printed": row["size"],
        "model": model,
        "params_m": params,
        "gflops": gflops,
        "measured": measured,
        "remark": row["remark"],
    }


def check_sentence(sentence: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sentence, the worst verdict of its claims, our arithmetic and ratios of models."""
    words, verdicts = list[str](), list[Verdict]()
    for claim in sentence.get("claims", ()):
        figure, unit = _check_claim(claim), "%" if "share_of" in claim else "G"
        words.append(f"{claim['printed']} {unit}: {figure['words']}.")
        verdicts.append(figure["verdict"])
    for difference in sentence.get("differences", ()):
        of, less, printed = (difference[key] for key in ("of", "less", "printed"))
        points = Decimal(of) - Decimal(less)
        agrees = "as printed" if points == Decimal(printed) else f"but {printed} is printed"
        words.append(f"The paper's own figures: {of} - {less} = {points} points, {agrees}.")
    ratios = []
    for names in sentence.get("beside", ()):
        ours, other = (_cost(read_counting(name)) for name in names)
        ratios.append(_ratio(ours, other.model, other.params, other.macs["macs"]))
        words.append(_ratio_in_words(ratios[-1]))
    if "beside_deeplabs" in sentence:
        costs = [_cost(read_counting(name)) for name in sentence["beside_deeplabs"]]
        deeplabs = [
            _ratio(ours, deeplab.name, deeplab.params, deeplab.macs)
            for deeplab in beside_deeplabv3(costs[0])
            for ours in costs
        ]
        fewer = sum(ratio["macs_share"] <= ABSTRACT_SHARE for ratio in deeplabs)
        words.append(f"{fewer} of {len(deeplabs)} pairs of ours have at least 75 % fewer, by macs.")
        ratios += deeplabs
    readings = []
    if "same_backbone" in sentence:
        counting = read_counting(sentence["same_backbone"])
        pairs = on_same_backbone(counting.model, counting.size, counting.classes)
        readings = [_reading(*pair) for pair in pairs]
        counted = Counter(reading["verdict"] for reading in readings)
        listed = ", ".join(f"{counted[verdict]} {verdict}" for verdict in READINGS)
        words.append(f"{len(readings)} readings with one backbone for both: {listed}.")
    return {
        "where": sentence["where"],
        "text": sentence["text"],
        "verdict": max(verdicts, key=list(VERDICTS).index, default="not testable here"),
        "words": " ".join([*words, sentence.get("remark", "")]).strip(),
        "ratios": ratios,
        "readings": readings,
    }


def verdict(printed: str, counts: Sequence[Count], rounded: bool = False) -> Verdict:
    """Return how a printed figure compares with our counts, the first of which is the yardstick.

    Args:
        printed: as in the paper, "243.87": its digits show how exact it is.
        counts: in the unit of the printed figure.
        rounded: the authors round, so a count that is cut off to the printed figure does not match.
    """
    if not counts:
        return "not testable here"
    yardstick, matches = counts[0], meeting(printed, counts, rounded)
    if any(count.setting() == yardstick.setting() for count in matches):
        return "equal"
    if any(count.size == yardstick.size for count in matches):
        return "other convention"
    return "mislabelled" if matches else "not reproducible"


def meeting(printed: str, counts: Sequence[Count], rounded: bool = False) -> list[Count]:
    """Return the counts that are the printed figure when rounded, or cut off, at its last digit."""
    figure = Decimal(printed)
    ways = (ROUND_HALF_UP,) if rounded else (ROUND_HALF_UP, ROUND_DOWN)
    return [c for c in counts if any(c.value.quantize(figure, way) == figure for way in ways)]


def parameters(counting: Counting) -> Count:
    """Return the millions of parameters of a model."""
    millions = Decimal(_cost(counting).params).scaleb(-6)
    return Count(millions, "parameters", counting.size, counting.classes)


def gmacs(counting: Counting) -> list[Count]:
    """Return the GMACs by each convention, `macs` first: as the row is labelled, then elsewhere."""
    counts = []
    for height, width, classes in ((*counting.size, counting.classes), *counting.elsewhere):
        size = (height, width)
        macs = dict(cost(counting.model, size, classes).macs)
        macs |= {by: _by_authors(counting.model, size, classes, by) for by in counting.conventions}
        counts += [Count(Decimal(n).scaleb(-9), by, size, classes) for by, n in macs.items()]
    return counts


class _InTraining(nn.Module):
    """A model that runs its auxiliary heads, as in training: images (B, 3, H, W) -> SegOutput."""

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> SegOutput:
        return self.model(images, aux=True)


def with_auxiliary(counting: Counting) -> tuple[Count, list[Count]]:
    """Return the counts of a model with its auxiliary heads: M parameters, G by each convention."""
    size, classes = counting.size, counting.classes
    with torch.device("meta"):
        model = models.build(counting.model, classes).eval()
        layers, _ = count_layers(_InTraining(model), torch.empty(1, 3, *size))

    def count(number: int, unit: int, by: str) -> Count:
        value = Decimal(number).scaleb(-unit)
        return Count(value, f"{by}, with auxiliary heads", size, classes)

    figures = [count(macs, 9, by) for by, macs in by_convention(layers).items()]
    return count(count_parameters(model), 6, "parameters"), figures


def _cost(counting: Counting) -> Cost:
    return cost(counting.model, counting.size, counting.classes)


@cache
def _by_authors(model: str, size: Size, classes: int, by: str) -> int:
    """Return a model's figure by a convention of AUTHORS_CONVENTIONS."""
    with torch.device("meta"):
        built = models.build(model, classes).eval()
        layers, _ = count_layers(built, torch.empty(1, 3, *size))
    modules = dict(built.named_modules())
    _, figure = AUTHORS_CONVENTIONS[by]
    return sum(figure(name, modules[name], counts) for name, counts in layers.items())


def _check(printed: str, counts: Sequence[Count], rounded: bool = False) -> dict[str, Any]:
    """Return a printed figure with ours (the first count), the verdict, and all matching counts."""
    figure = _not_counted(printed, "") | {"ours": _count_json(counts[0])}
    if printed == "-":
        return figure
    matches = meeting(printed, counts, rounded)
    return figure | {
        "verdict": verdict(printed, counts, rounded),
        "met_by": list(map(_count_json, matches)),
        "words": _words(counts, matches),
    }


def _not_counted(printed: str, reason: str) -> dict[str, Any]:
    """Return a figure that cannot be checked, with the reason; "-" has no verdict."""
    return {
        "printed": printed,
        "verdict": None if printed == "-" else "not testable here",
        "ours": None,
        "met_by": [],
        "words": "nothing printed" if printed == "-" else reason,
    }


def _count_json(count: Count) -> dict[str, Any]:
    return {
        "value": float(count.value),
        "by": count.by,
        "size": list(count.size),
        "classes": count.classes,
    }


def _words(counts: Sequence[Count], matches: Sequence[Count]) -> str:
    """Return our count if it matches, else a match and ours, or all counts if nothing matches."""
    ours = counts[0]
    if ours in matches:
        shown: Sequence[Count] = [ours]
    else:
        shown = [matches[0], ours] if matches else counts
    texts, before = [], None
    for count in shown:
        setting = (count.size, count.classes)
        where = "" if setting == before else f", {size_text(count.size)}, {count.classes} classes"
        arithmetic = f" = {count.arithmetic}" if count.arithmetic else ""
        texts.append(f"{count.value:.3f}{arithmetic} ({count.by}{where})")
        before = setting
    return "; ".join(texts)


def _check_claim(claim: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checked figure of a claim: the G of a model, or its share of another's in %."""
    ours = read_counting(claim["of"])
    if "share_of" not in claim:
        return _check(claim["printed"], gmacs(ours), ours.rounded)
    shares = list[Count]()
    for other in map(read_counting, claim["share_of"]):
        pair = [[parameters(c)] if claim.get("params") else gmacs(c) for c in (ours, other)]
        divisors = {count.setting(): count.value for count in pair[1]}
        for count in pair[0]:
            if divisor := divisors.get(count.setting()):  # a convention that both are counted by
                share = 100 * count.value / divisor
                arithmetic = f"100 x {count.value:.3f} / {divisor:.3f} of {other.model}"
                if claim.get("fewer"):
                    share, arithmetic = 100 - share, f"100 - {arithmetic}"
                shares.append(Count(share, *count.setting(), arithmetic))
    return _check(claim["printed"], shares)


def _ratio(ours: Cost, beside: str, beside_params: int, beside_macs: int) -> dict[str, Any]:
    """Return a model's size and cost beside another's; MACs are by the convention `macs`."""
    macs = ours.macs["macs"]
    return {
        "model": ours.model,
        "beside": beside,
        "size": list(ours.size),
        "classes": ours.classes,
        "params": ours.params,
        "macs": macs,
        "beside_params": beside_params,
        "beside_macs": beside_macs,
        "macs_share": macs / beside_macs,
        "params_share": ours.params / beside_params,
    }


def _reading(ours: Cost, deeplab: Cost) -> dict[str, Any]:
    """Return the ratio of RSP to a DeepLabV3 on the same backbone, with a key of READINGS."""
    ratio = _ratio(ours, deeplab.model, deeplab.params, deeplab.macs["macs"])
    backbone_share = ours.parts["backbone"].macs / deeplab.macs["macs"]
    verdict = "allowed" if backbone_share < ABSTRACT_SHARE else "refuted"
    return ratio | {"backbone_share": backbone_share, "verdict": verdict}


def _ratio_in_words(ratio: Mapping[str, Any]) -> str:
    return (
        f"{ratio['model']} has {ratio['macs_share']:.1%} of the MACs of {ratio['beside']} "
        f"({ratio['macs'] / 1e9:.3f} / {ratio['beside_macs'] / 1e9:.3f} G, macs) and "
        f"{ratio['params_share']:.1%} of its parameters."
    )
