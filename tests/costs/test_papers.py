"""The papers' tables: all rows exist, our counts are the known integers, verdicts follow them."""

import json
import re
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from support.golden.golden_make import FIGURE, GOLDEN, quoted, sha256
from torch.utils.flop_counter import FlopCounterMode

from featherseg import backbones
from featherseg.core.errors import UnknownName
from featherseg.costs.cost import CONVENTIONS
from featherseg.costs.deeplab import deeplabs
from featherseg.costs.papers import (
    AUTHORS_CONVENTIONS,
    VERDICTS,
    Count,
    Counting,
    check_paper,
    check_row,
    check_sentence,
    gmacs,
    meeting,
    parameters,
    read_content,
    read_counting,
    read_paper,
    verdict,
)
from featherseg.models import MODELS, configure

CITYSCAPES, BDD100K = (1024, 2048), (720, 1280)
PAPERS = ("frm", "cgrseg", "rsp")
PRINTED = json.loads((GOLDEN / "papers.json").read_text())

COUNTS = [
    ("sfnet-r18", CITYSCAPES, 19, "ptflops-0.6", 243_866_546_688),
    ("sfnet-r18", BDD100K, 19, "ptflops-0.6", 107_340_509_440),
    ("frm-van-s", CITYSCAPES, 19, "ptflops-0.6", 214_818_357_760),
    ("frm-van-s", CITYSCAPES, 19, "macs", 214_728_704_000),
    ("frm-van-s", BDD100K, 19, "ptflops-0.6", 94_556_983_260),
    ("frm-van-s-ppm", CITYSCAPES, 19, "ptflops-0.6", 213_214_179_840),
    ("frm-van-s-dappm", CITYSCAPES, 19, "ptflops-0.6", 214_826_716_160),
    ("frm-van-s-dappm", CITYSCAPES, 19, "ptflops-0.6-syncbn", 214_812_230_656),
    ("cgrseg-t", (512, 512), 150, "conv-bn", 4_024_062_208),
    ("cgrseg-b", (512, 512), 150, "conv-bn", 7_649_544_704),
    ("cgrseg-l", (512, 512), 150, "conv-bn", 14_975_967_744),
]
"""Measured by ptflops 0.6.9 or an operation count on the authors' code, or for FRM by hand."""

GIGA = [
    ("ddrnet-23", CITYSCAPES, 19, "conv-bias", "143.103"),
    ("ddrnet-23", CITYSCAPES, 19, "macs", "143.061"),
    ("ddrnet-39", CITYSCAPES, 19, "conv-bias", "281.159"),
    ("ddrnet-39", CITYSCAPES, 19, "macs", "281.116"),
    ("pidnet-m", CITYSCAPES, 19, "ptflops-0.6", "178.089"),
    ("pidnet-m", CITYSCAPES, 19, "macs", "177.329"),
    ("segformer-b1", CITYSCAPES, 150, "conv-bias-relu", "243.73"),
    ("segformer-b1", CITYSCAPES, 19, "macs", "239.130"),
    ("segformer-b1", (1024, 1024), 19, "macs", "86.279"),
    ("seaformer-large", (512, 512), 150, "macs", "6.340"),
    ("segnext-t", (512, 512), 150, "macs", "6.404"),
    ("bialignnet-df2", CITYSCAPES, 19, "conv-bias", "115.949"),
    ("nrd-r50", CITYSCAPES, 19, "ptflops-0.6", "235.629"),
    ("hanet-r101", CITYSCAPES, 19, "macs", "765.531"),
    ("pfnet-r50", BDD100K, 19, "ptflops-0.6", "302.102"),
    ("bialignnet-df2", CITYSCAPES, 19, "ptflops-0.6", "116.372"),
]
"""The same of the other models, to the digits that are known."""

PARAMETERS = {
    "sfnet-r18": "12.869715",
    "frm-van-s": "16.477525",
    "frm-van-s-ppm": "15.229395",
    "frm-van-s-dappm": "15.979987",
    "ddrnet-23": "20.149",
    "ddrnet-39": "32.360",
    "pidnet-m": "28.539",
    "segformer-b1": "13.682",  # the authors' 13.685 has 2,451 of a layer that nothing uses
    "rtformer-base": "17.766",
    "bialignnet-df2": "18.901",
    "ifa-r50": "25.400",
    "hanet-r101": "60.693",  # the authors' 60.696 has 2,482 of tables that never change
    "nrd-r50": "43.573",
    "pfnet-r50": "32.994774",
}
"""Millions, 19 classes."""

VERDICTS_OF_FRM = [
    ("SFNet", "equal", "other convention"),
    ("SegFormer", "equal", "mislabelled"),
    ("NRD", "not reproducible", "not reproducible"),
    ("BiAlignNet", "not reproducible", "not reproducible"),
    ("SFANet", "not testable here", "not testable here"),
    ("IFA", "other convention", "other convention"),
    ("RTFormer", "not reproducible", None),
    ("DDRNet", "equal", "equal"),  # 143.061 rounds to 143.1, as 143.103 with biases does
    ("DDRNet", "equal", "other convention"),
    ("PIDNet", "equal", "other convention"),
    ("FRM", "equal", "other convention"),
    ("FRM", "equal", "other convention"),
    ("PPM", "equal", "other convention"),
    ("DAPPM", "equal", "other convention"),
    ("HANet", "other convention", None),
    ("SFNet", "equal", "other convention"),
    ("PFNet", "equal", "other convention"),
    ("FRM", "equal", "not reproducible"),
]


@pytest.fixture(scope="module")
def frm():
    return check_paper("frm")


@pytest.fixture(scope="module")
def cgrseg():
    return check_paper("cgrseg")


def count(value: str, by: str = "macs", size: tuple[int, int] = (8, 8), classes: int = 19) -> Count:
    return Count(Decimal(value), by, size, classes)


def find(counting: Counting, by: str) -> Decimal:
    """G of a model by a convention, at the first size and number of classes."""
    return next(one.value for one in gmacs(counting) if one.by == by)


@pytest.mark.parametrize(("model", "size", "classes", "by", "macs"), COUNTS)
def test_counts_are_the_known_integers(model, size, classes, by, macs):
    conventions = tuple(name for name in AUTHORS_CONVENTIONS if name == by)
    counting = Counting(model=model, size=size, classes=classes, conventions=conventions)
    assert find(counting, by).scaleb(9) == macs


@pytest.mark.seconds
@pytest.mark.parametrize(("model", "size", "classes", "by", "printed"), GIGA)
def test_counts_are_the_known_figures_to_their_last_digit(model, size, classes, by, printed):
    conventions = tuple(name for name in AUTHORS_CONVENTIONS if name == by)
    giga = find(Counting(model=model, size=size, classes=classes, conventions=conventions), by)
    assert giga.quantize(Decimal(printed)) == Decimal(printed)


@pytest.mark.seconds
@pytest.mark.parametrize(("model", "millions"), PARAMETERS.items())
def test_parameters_are_the_known_ones_whatever_the_image_s_size(model, millions):
    for size in (CITYSCAPES, (128, 64)):
        counted = parameters(Counting(model=model, size=size)).value
        assert counted.quantize(Decimal(millions)) == Decimal(millions)


def test_every_row_of_the_three_tables_is_there():
    """11, 3 and 4 rows; their figures, in the paper's order, are those that it prints."""
    tables = [table["rows"] for table in read_paper("frm")["tables"]]
    assert [len(rows) for rows in tables] == [11, 3, 4]
    for rows, known in zip(tables, PRINTED["tables"], strict=True):
        assert [
            [*row["measured"].values(), row["gflops"], row["params_m"]] for row in rows
        ] == known["rows"]
        assert known["sizes"] in ([], [row["size"] for row in rows])


@pytest.mark.parametrize("name", PAPERS)
def test_sentences_stand_in_the_text_and_hold_all_its_shares_scores_and_costs(name):
    assert [sha256(sentence) for sentence in quoted(name)] == PRINTED["sentences"][name]
    assert re.findall(FIGURE, " ".join(quoted(name))) == PRINTED["figures"][name]


def test_every_verdict_of_frm_s_rows(frm):
    verdicts = [
        (row["method"], row["params_m"]["verdict"], row["gflops"]["verdict"])
        for table in frm["tables"]
        for row in table["rows"]
    ]
    assert verdicts == VERDICTS_OF_FRM


def test_what_other_way_of_counting_meets_a_figure_is_named(frm):
    met = {
        (row["backbone"], row["gflops"]["printed"]): {
            (count["by"], tuple(count["size"]), count["classes"])
            for count in row["gflops"]["met_by"]
        }
        for row in (*frm["tables"][0]["rows"], *frm["tables"][1]["rows"])
        if row["gflops"]["verdict"] in ("other convention", "mislabelled")
    }
    assert met == {
        ("ResNet-18", "243.87"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("MiT-B1", "243.7"): {("conv-bias-relu", CITYSCAPES, 150)},
        ("ResNet-50", "186.9"): {("ptflops-0.6, with auxiliary heads", (1024, 1024), 19)},
        ("DDRNet-39", "281.2"): {("conv-bias", CITYSCAPES, 19)},
        ("PIDNet-M", "178.1"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("VAN-S", "214.82"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("VAN-S", "213.21"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("VAN-S", "214.81"): {("ptflops-0.6-syncbn", CITYSCAPES, 19)},
    }


def test_a_wrong_label_is_answered_with_the_cost_at_that_size(frm):
    figure = frm["tables"][0]["rows"][1]["gflops"]
    ours = figure["ours"]
    assert (ours["by"], ours["size"], f"{ours['value']:.3f}") == ("macs", [1024, 1024], "86.279")
    assert figure["words"] == (
        "243.727 (conv-bias-relu, 1024x2048, 150 classes); 86.279 (macs, 1024x1024, 19 classes)"
    )


def test_accuracies_and_models_that_are_not_built_are_not_judged(frm):
    rows = [row for table in frm["tables"] for row in table["rows"]]
    for row in rows:
        for figure in row["measured"].values():
            assert figure["verdict"] == (None if figure["printed"] == "-" else "not testable here")
    not_built = [row for row in rows if row["model"] is None]
    assert [row["method"] for row in not_built] == [
        "SFANet",
    ]
    assert {row["params_m"]["words"] for row in not_built} == {"published, not recounted"}
    assert not any(row["params_m"]["ours"] for row in not_built)


def test_a_figure_that_is_not_printed_has_a_count_and_no_verdict(frm):
    rtformer = frm["tables"][0]["rows"][6]["gflops"]
    assert (rtformer["printed"], rtformer["verdict"]) == ("-", None)
    assert rtformer["ours"]["value"] == pytest.approx(139.5, abs=1)


@pytest.mark.parametrize("digit", ["142.9", "143.2", "153.1"])
def test_another_printed_digit_is_another_verdict(digit):
    row = read_paper("frm")["tables"][0]["rows"][7]
    assert check_row(row)["gflops"]["verdict"] == "equal"
    assert check_row(row | {"gflops": digit})["gflops"]["verdict"] != "equal"
    assert check_row(row | {"params_m": "20.2"})["params_m"]["verdict"] == "not reproducible"


@pytest.mark.parametrize("printed", ["214.81", "214.83", "215.82"])
def test_frm_s_own_figure_is_met_by_no_other_digit(printed):
    row = read_paper("frm")["tables"][0]["rows"][10]
    assert check_row(row | {"gflops": printed})["gflops"]["verdict"] == "not reproducible"


def test_rounding_and_cutting_off_are_both_equal():
    for printed in ("14.9", "15.0"):
        assert verdict(printed, [count("14.976")]) == "equal"
    assert verdict("14.8", [count("14.976")]) == "not reproducible"
    assert verdict("15.1", [count("14.976")]) == "not reproducible"


def test_where_figures_are_known_to_be_rounded_cutting_off_is_not_enough():
    assert verdict("94.55", [count("94.557")], rounded=True) == "not reproducible"
    assert verdict("94.56", [count("94.557")], rounded=True) == "equal"
    assert meeting("94.55", [count("94.557")]) == [count("94.557")]


def test_the_verdict_is_by_the_first_count():
    yardstick, other, elsewhere = (
        count("10.0"),
        count("12.0", by="conv-bn"),
        count("14.0", size=(8, 16)),
    )
    counts = [yardstick, other, elsewhere]
    assert verdict("10.0", counts) == "equal"
    assert verdict("12.0", counts) == "other convention"
    assert verdict("14.0", counts) == "mislabelled"
    assert verdict("16.0", counts) == "not reproducible"
    assert verdict("10.0", []) == "not testable here"
    assert verdict("13.0", [yardstick, count("13.0", classes=150)]) == "other convention"


def test_frm_s_sentences(frm):
    verdicts = [sentence["verdict"] for sentence in frm["sentences"]]
    other, no, untested = "other convention", "not reproducible", "not testable here"
    assert verdicts == [other, "equal", untested, no, untested]
    words = [sentence["words"] for sentence in frm["sentences"]]
    assert words[1].startswith(
        "76 %: 76.384 = 100 x 214.729 / 281.116 of ddrnet-39 (macs, 1024x2048, 19 classes). "
        "51 %: 50.919 = 100 x 16.478 / 32.360 of ddrnet-39 (parameters, 1024x2048, 19 classes). "
    )
    assert "80.4 - 79.7 = 0.7 points, as printed" in words[2]
    assert "64.9 - 60.6 = 4.3 points, as printed" in words[4]
    similar = frm["sentences"][4]["ratios"][0]
    assert (similar["macs_share"], similar["params_share"]) == pytest.approx((0.88, 1.28), abs=0.01)
    assert (
        "frm-van-s has 88.1% of the MACs of sfnet-r18 (94.186 / 106.944 G, macs) and 128.0% of its "
        "parameters." in words[4]
    )


def test_a_sentence_has_the_worst_verdict_of_its_claims():
    def verdict_of(*claims: dict) -> str:
        return check_sentence({"where": "", "text": "", "claims": claims})["verdict"]

    share = read_paper("frm")["sentences"][1]["claims"][0]
    wrong = share | {"printed": "77"}
    assert verdict_of(share, share) == "equal"
    assert verdict_of(share, wrong) == "not reproducible"
    assert verdict_of(wrong, share) == "not reproducible"
    assert verdict_of() == "not testable here"


@pytest.mark.slow
def test_cgrseg_s_table_is_another_convention(cgrseg):
    rows = cgrseg["tables"][0]["rows"]
    verdicts = [(row["params_m"]["verdict"], row["gflops"]["verdict"]) for row in rows]
    assert verdicts == [("equal", "other convention")] * 3
    assert all("conv-bn" in [count["by"] for count in row["gflops"]["met_by"]] for row in rows)
    assert [f"{row['gflops']['ours']['value']:.3f}" for row in rows] == ["4.527", "8.525", "16.120"]


def test_cgrseg_s_abstract(cgrseg):
    assert [sentence["verdict"] for sentence in cgrseg["sentences"]] == [
        "other convention",
        "not testable here",
        "other convention",
    ]
    about_38 = cgrseg["sentences"][2]
    assert about_38["words"].startswith(
        "38 %: 37.808 = 100 - 100 x 4.024 / 6.470 "
        "of seaformer-large (conv-bn, 512x512, 150 classes); 28.596 = "
    )
    fewer = {ratio["beside"]: 1 - ratio["macs_share"] for ratio in about_38["ratios"]}
    assert list(fewer) == ["seaformer-large", "segnext-t", "segnext-s"]
    assert fewer["seaformer-large"] == pytest.approx(1 - 4.527 / 6.340, abs=1e-3)
    assert fewer["segnext-t"] == pytest.approx(1 - 4.527 / 6.404, abs=1e-3)


@pytest.mark.slow
def test_rsp_s_abstract_cannot_be_tested_and_ours_are_put_beside_every_deeplabv3():
    rsp = check_paper("rsp")
    assert rsp["tables"] == []
    assert [sentence["verdict"] for sentence in rsp["sentences"]] == ["not testable here"] * 2
    claim = rsp["sentences"][1]
    shares = {(ratio["model"], ratio["beside"]): ratio["macs_share"] for ratio in claim["ratios"]}
    assert len(shares) == 6 * 7
    assert shares["rsp-lite0", "deeplabv3-r50"] == pytest.approx(22.720 / 1308.6, abs=1e-4)
    assert shares["rsp-b5", "deeplabv3-r50-os16"] == pytest.approx(0.268, abs=5e-4)
    assert shares["rsp-b5", "deeplabv3-r101-mmseg"] == pytest.approx(0.037, abs=5e-4)
    fewer = sum(share <= 0.25 for share in shares.values())
    assert f"{fewer} of 42 pairs of ours" in claim["words"]


@pytest.mark.slow
def test_the_counts_allow_the_readings_whose_backbone_leaves_room_for_a_head():
    """Backbones by torch's counter, which knows nothing of ours."""
    claim = check_paper("rsp")["sentences"][1]
    readings = {reading["beside"]: reading for reading in claim["readings"]}
    assert list(readings) == list(deeplabs())
    for name, reading in readings.items():
        backbone = configure(*deeplabs()[name]).backbone
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            backbones.build(backbone).eval()(torch.empty(1, 3, 1024, 2048))
        share = counter.get_total_flops() / 2 / reading["beside_macs"]
        assert reading["backbone_share"] == pytest.approx(share)
        assert reading["verdict"] == ("allowed" if share < 0.25 else "refuted")
        assert share < reading["macs_share"] == reading["macs"] / reading["beside_macs"]
    both = [readings[name] for name in ("deeplabv3-r50", "deeplabv3-r50-os16")]
    assert [f"{100 * reading['macs_share']:.1f}" for reading in both] == ["13.9", "47.0"]
    assert [reading["verdict"] for reading in both] == ["allowed", "refuted"]
    page = (Path(__file__).parents[2] / "docs" / "papers" / "rsp.md").read_text()
    for reading in readings.values():
        mega = [f"{reading[key] / 1e6:.1f}" for key in ("beside_params", "params")]
        giga = [f"{reading[key] / 1e9:.1f}" for key in ("beside_macs", "macs")]
        shares = [f"{100 * reading[key]:.1f} %" for key in ("macs_share", "backbone_share")]
        cells = (mega[0], giga[0], mega[1], giga[1], *shares, reading["verdict"])
        assert f"| {' | '.join(cells)} |\n" in page
    assert "7 readings with one backbone for both: 4 allowed, 3 refuted." in claim["words"]


def test_countings_are_of_the_catalogue_and_each_is_used():
    names = set(read_content()["countings"])
    countings = [read_counting(name) for name in names]
    assert {counting.model for counting in countings} <= set(MODELS)
    assert all(set(counting.conventions) <= set(AUTHORS_CONVENTIONS) for counting in countings)
    papers = [read_paper(name) for name in PAPERS]
    rows = [
        row["counting"] for paper in papers for table in paper["tables"] for row in table["rows"]
    ]
    sentences = repr([paper["sentences"] for paper in papers])
    assert {name for name in names if name in rows or f"'{name}'" in sentences} == names


def test_the_json_form_holds_all_of_it(frm):
    form = json.loads(json.dumps(frm))
    assert form == frm
    assert list(form) == ["paper", "yardstick", "conventions", "verdicts", "tables", "sentences"]
    assert list(form["conventions"]) == [*CONVENTIONS, *AUTHORS_CONVENTIONS]
    assert list(form["verdicts"]) == list(VERDICTS)
    assert [len(table["rows"]) for table in form["tables"]] == [11, 3, 4]
    segformer = form["tables"][0]["rows"][1]
    assert segformer["size_printed"] == "1024x1024"
    assert segformer["gflops"]["ours"]["size"] == [1024, 1024]
    assert [one["size"] for one in segformer["gflops"]["met_by"]] == [[1024, 2048]]
    assert segformer["measured"]["mIoU val, %"]["printed"] == "78.5"
    assert form["tables"][0]["rows"][4]["gflops"]["ours"] is None
    assert form["sentences"][4]["ratios"][0]["size"] == [720, 1280]


def test_an_unknown_paper_is_refused():
    with pytest.raises(UnknownName, match=r"unknown paper 'frn'\. Did you mean 'frm'"):
        check_paper("frn")
