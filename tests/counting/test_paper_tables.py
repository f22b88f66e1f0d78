"""The papers' tables: every row is there, our counts are the known integers, and verdicts follow from the counts."""

import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest
from golden_make import FIGURE, GOLDEN, quoted, sha256

from featherseg.core.errors import UnknownName
from featherseg.counting.cost import CONVENTIONS
from featherseg.counting.paper_counts import FURTHER, VERDICTS, Count, gmacs, meeting, parameters, verdict
from featherseg.counting.paper_rows import FRM, Counting, Sentence, ShareClaim
from featherseg.counting.paper_tables import PAPERS, check_paper, check_row, check_sentence, to_json
from featherseg.models import MODELS

CITYSCAPES, BDD100K = (1024, 2048), (720, 1280)
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
"""Found by running ptflops 0.6.9, or a count of operations, on the authors' code (CGRSeg, SFNet) or by hand (FRM)."""

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
}
"""Millions, 19 classes."""

VERDICTS_OF_FRM = [
    ("SFNet", "equal", "other convention"),
    ("SegFormer", "equal", "mislabelled"),
    ("NRD", "not testable here", "not testable here"),
    ("BiAlignNet", "not testable here", "not testable here"),
    ("SFANet", "not testable here", "not testable here"),
    ("IFA", "not testable here", "not testable here"),
    ("RTFormer", "not reproducible", None),
    ("DDRNet", "equal", "equal"),  # 143.061 rounds to 143.1, as 143.103 with biases does
    ("DDRNet", "equal", "other convention"),
    ("PIDNet", "equal", "other convention"),
    ("FRM", "equal", "other convention"),
    ("FRM", "equal", "other convention"),
    ("PPM", "equal", "other convention"),
    ("DAPPM", "equal", "other convention"),
    ("HANet", "not testable here", None),
    ("SFNet", "equal", "other convention"),
    ("PFNet", "not testable here", "not testable here"),
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
    further = tuple(name for name in FURTHER if name == by)
    assert find(Counting(model, size, classes, further), by).scaleb(9) == macs


@pytest.mark.parametrize(("model", "size", "classes", "by", "printed"), GIGA)
def test_counts_are_the_known_figures_to_their_last_digit(model, size, classes, by, printed):
    further = tuple(name for name in FURTHER if name == by)
    found = find(Counting(model, size, classes, further), by)
    assert found.quantize(Decimal(printed)) == Decimal(printed)


@pytest.mark.parametrize(("model", "millions"), PARAMETERS.items())
def test_parameters_are_the_known_ones_whatever_the_image_s_size(model, millions):
    for size in (CITYSCAPES, (128, 64)):
        found = parameters(Counting(model, size)).value
        assert found.quantize(Decimal(millions)) == Decimal(millions)


def test_every_row_of_the_three_tables_is_there():
    """11, 3 and 4 rows; their figures, in the paper's order, are those that it prints."""
    assert [len(table.rows) for table in FRM.tables] == [11, 3, 4]
    for table, known in zip(FRM.tables, PRINTED["tables"], strict=True):
        assert [[*row.measured, row.gflops, row.params] for row in table.rows] == known["rows"]
        assert known["sizes"] in ([], [row.size for row in table.rows])


@pytest.mark.parametrize("name", PAPERS)
def test_sentences_stand_in_the_text_and_hold_all_its_shares_scores_and_costs(name):
    assert [sha256(sentence) for sentence in quoted(name)] == PRINTED["sentences"][name]
    assert re.findall(FIGURE, " ".join(quoted(name))) == PRINTED["figures"][name]


def test_every_verdict_of_frm_s_rows(frm):
    found = [
        (checked.row.method, checked.params.verdict, checked.gflops.verdict)
        for table in frm.tables
        for checked in table.rows
    ]
    assert found == VERDICTS_OF_FRM


def test_what_other_way_of_counting_meets_a_figure_is_named(frm):
    met = {
        (checked.row.backbone, checked.row.gflops): {(one.by, one.size, one.classes) for one in checked.gflops.met_by}
        for checked in (*frm.tables[0].rows, *frm.tables[1].rows)
        if checked.gflops.verdict in ("other convention", "mislabelled")
    }
    assert met == {
        ("ResNet-18", "243.87"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("MiT-B1", "243.7"): {("conv-bias-relu", CITYSCAPES, 150)},
        ("DDRNet-39", "281.2"): {("conv-bias", CITYSCAPES, 19)},
        ("PIDNet-M", "178.1"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("VAN-S", "214.82"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("VAN-S", "213.21"): {("ptflops-0.6", CITYSCAPES, 19)},
        ("VAN-S", "214.81"): {("ptflops-0.6-syncbn", CITYSCAPES, 19)},
    }


def test_a_wrong_label_is_answered_with_the_cost_at_that_size(frm):
    figure = frm.tables[0].rows[1].gflops
    assert (figure.ours.by, figure.ours.size, f"{figure.ours.value:.3f}") == ("macs", (1024, 1024), "86.279")
    assert figure.words == ("243.727 (conv-bias-relu, 1024x2048, 150 classes); 86.279 (macs, 1024x1024, 19 classes)")


def test_accuracies_and_models_that_are_not_built_are_not_judged(frm):
    rows = [checked for table in frm.tables for checked in table.rows]
    for checked in rows:
        for figure in checked.measured:
            assert figure.verdict == (None if figure.printed == "-" else "not testable here")
    not_built = [checked for checked in rows if checked.row.counting is None]
    assert [checked.row.method for checked in not_built] == ["NRD", "BiAlignNet", "SFANet", "IFA", "HANet", "PFNet"]
    assert {checked.params.words for checked in not_built} == {"published, not recounted"}
    assert not any(checked.params.ours for checked in not_built)


def test_a_figure_that_is_not_printed_has_a_count_and_no_verdict(frm):
    rtformer = frm.tables[0].rows[6].gflops
    assert (rtformer.printed, rtformer.verdict) == ("-", None)
    assert float(rtformer.ours.value) == pytest.approx(139.5, abs=1)


@pytest.mark.parametrize("digit", ["142.9", "143.2", "153.1"])
def test_another_printed_digit_is_another_verdict(digit):
    row = FRM.tables[0].rows[7]
    assert check_row(row).gflops.verdict == "equal"
    assert check_row(replace(row, gflops=digit)).gflops.verdict != "equal"
    assert check_row(replace(row, params="20.2")).params.verdict == "not reproducible"


@pytest.mark.parametrize("printed", ["214.81", "214.83", "215.82"])
def test_frm_s_own_figure_is_met_by_no_other_digit(printed):
    assert check_row(replace(FRM.tables[0].rows[10], gflops=printed)).gflops.verdict == "not reproducible"


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
    yardstick, other, elsewhere = count("10.0"), count("12.0", by="conv-bn"), count("14.0", size=(8, 16))
    counts = [yardstick, other, elsewhere]
    assert verdict("10.0", counts) == "equal"
    assert verdict("12.0", counts) == "other convention"
    assert verdict("14.0", counts) == "mislabelled"
    assert verdict("16.0", counts) == "not reproducible"
    assert verdict("10.0", []) == "not testable here"
    assert verdict("13.0", [yardstick, count("13.0", classes=150)]) == "other convention"


def test_frm_s_sentences(frm):
    verdicts = [checked.verdict for checked in frm.sentences]
    other, no, untested = "other convention", "not reproducible", "not testable here"
    assert verdicts == [other, "equal", untested, no, untested]
    words = [checked.words for checked in frm.sentences]
    assert words[1].startswith(
        "76 %: 76.384 = 100 x 214.729 / 281.116 of ddrnet-39 (macs, 1024x2048, 19 classes). "
        "51 %: 50.919 = 100 x 16.478 / 32.360 of ddrnet-39 (parameters, 1024x2048, 19 classes). "
    )
    assert "80.4 - 79.7 = 0.7 points, as printed" in words[2]
    assert "64.9 - 60.6 = 4.3 points, as printed" in words[4]
    similar = frm.sentences[4].ratios[0]
    assert (similar.macs_share, similar.params_share) == pytest.approx((0.88, 1.28), abs=0.01)
    assert "has 88.1% of the MACs (94.186 / 106.944 G, macs) and 128.0% of the parameters." in words[4]


def test_a_sentence_has_the_worst_verdict_of_its_claims():
    share = FRM.sentences[1].claims[0]
    wrong = replace(share, printed="77")
    assert isinstance(share, ShareClaim)
    assert check_sentence(Sentence("", "", (share, share))).verdict == "equal"
    assert check_sentence(Sentence("", "", (share, wrong))).verdict == "not reproducible"
    assert check_sentence(Sentence("", "", (wrong, share))).verdict == "not reproducible"
    assert check_sentence(Sentence("", "")).verdict == "not testable here"


def test_cgrseg_s_table_is_another_convention(cgrseg):
    rows = cgrseg.tables[0].rows
    assert [(row.params.verdict, row.gflops.verdict) for row in rows] == [("equal", "other convention")] * 3
    assert all("conv-bn" in [one.by for one in row.gflops.met_by] for row in rows)
    assert [f"{row.gflops.ours.value:.3f}" for row in rows] == ["4.527", "8.525", "16.120"]


def test_cgrseg_s_abstract(cgrseg):
    assert [checked.verdict for checked in cgrseg.sentences] == [
        "other convention",
        "not testable here",
        "other convention",
    ]
    assert cgrseg.sentences[2].words.startswith(
        "38 %: 37.808 = 100 - 100 x 4.024 / 6.470 of seaformer-large (conv-bn, 512x512, 150 classes); 28.596 = "
    )
    fewer = {ratio.beside: 1 - ratio.macs_share for ratio in cgrseg.sentences[2].ratios}
    assert list(fewer) == ["seaformer-large", "segnext-t", "segnext-s"]
    assert fewer["seaformer-large"] == pytest.approx(1 - 4.527 / 6.340, abs=1e-3)
    assert fewer["segnext-t"] == pytest.approx(1 - 4.527 / 6.404, abs=1e-3)


def test_rsp_s_abstract_cannot_be_tested_and_ours_are_put_beside_every_deeplabv3():
    rsp = check_paper("rsp")
    assert rsp.tables == ()
    assert [checked.verdict for checked in rsp.sentences] == ["not testable here"] * 2
    ratios = rsp.sentences[1].ratios
    shares = {(ratio.model, ratio.beside): ratio.macs_share for ratio in ratios}
    assert len(shares) == 5 * 7
    assert shares["rsp-lite0", "deeplabv3-r50"] == pytest.approx(22.720 / 1308.6, abs=1e-4)
    assert shares["rsp-b5", "deeplabv3-r50-os16"] == pytest.approx(0.268, abs=5e-4)
    assert shares["rsp-b5", "deeplabv3-r101-mmseg"] == pytest.approx(0.037, abs=5e-4)
    fewer = sum(share <= 0.25 for share in shares.values())
    assert f"Of ours, {fewer} of 35 pairs" in rsp.sentences[1].words


def test_the_models_of_rows_are_of_the_catalogue():
    for paper in PAPERS.values():
        rows = [row for table in paper.tables for row in table.rows if row.counting]
        assert {row.counting.model for row in rows} <= set(MODELS)
        assert all(set(row.counting.further) <= set(FURTHER) for row in rows)
        assert all(len(row.measured) == len(table.measured) for table in paper.tables for row in table.rows)


def test_the_json_form_holds_all_of_it(frm):
    form = json.loads(json.dumps(to_json(frm)))
    assert list(form) == ["paper", "yardstick", "conventions", "verdicts", "tables", "sentences"]
    assert list(form["conventions"]) == [*CONVENTIONS, *FURTHER]
    assert list(form["verdicts"]) == list(VERDICTS)
    assert [len(table["rows"]) for table in form["tables"]] == [11, 3, 4]
    segformer = form["tables"][0]["rows"][1]
    assert segformer["size_printed"] == "1024x1024"
    assert segformer["gflops"]["ours"]["size"] == [1024, 1024]
    assert [one["size"] for one in segformer["gflops"]["met_by"]] == [[1024, 2048]]
    assert segformer["measured"]["mIoU val, %"]["printed"] == "78.5"
    assert form["tables"][0]["rows"][2]["gflops"]["ours"] is None
    assert form["sentences"][4]["ratios"][0]["size"] == [720, 1280]


def test_an_unknown_paper_is_refused():
    with pytest.raises(UnknownName, match=r"unknown paper 'frn'\. Did you mean 'frm'"):
        check_paper("frn")
