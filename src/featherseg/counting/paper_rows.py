"""What the papers print: the rows of their tables, their sentences with numbers, and how each is counted here.

A figure is kept as text, as it was printed: its digits say how exact it is, and "-" that nothing is printed. The papers
write an image's size as width x height; a size of ours is (height, width).
"""

from dataclasses import dataclass
from typing import ClassVar

from featherseg.core.types import Size


@dataclass(frozen=True)
class Counting:
    """How a printed figure is counted here: a model of the catalogue, the image's (H, W), the number of classes.

    further: names of counting.paper_counts.FURTHER, conventions that its authors may have used besides those of
    counting.cost; elsewhere: other ((H, W), classes) that may be meant; rounded: other figures from the same hand
    show that it rounds, so that cutting off explains nothing.
    """

    model: str
    size: Size
    classes: int = 19
    further: tuple[str, ...] = ()
    elsewhere: tuple[tuple[Size, int], ...] = ()
    rounded: bool = False


@dataclass(frozen=True)
class PublishedRow:
    """One row: mIoU in % and what else was measured, in the order of its table's `measured`; G; M parameters.

    counting is None for a model that is not built here; remark: what a reader of the row should know.
    """

    method: str
    backbone: str
    measured: tuple[str, ...]
    size: str
    gflops: str
    params: str
    counting: Counting | None = None
    remark: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """A table's title, the headings of what was measured, its rows from top to bottom."""

    title: str
    measured: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class CountClaim:
    """A sentence names the G that a model costs."""

    unit: ClassVar[str] = "G"
    printed: str
    of: Counting


@dataclass(frozen=True)
class ShareClaim:
    """A sentence names a model's share, in %, of another's G (or parameters), or how much less than it that is.

    beside: the models that may be meant; one that meets the figure is enough.
    """

    unit: ClassVar[str] = "%"
    printed: str
    of: Counting
    beside: tuple[Counting, ...]
    params: bool = False
    fewer: bool = False


@dataclass(frozen=True)
class Difference:
    """A sentence names the difference of two accuracies (points) that the paper prints: `of` less `less`."""

    printed: str
    of: str
    less: str


@dataclass(frozen=True)
class Sentence:
    """A sentence with numbers, or the part of one that makes a claim; where it stands.

    beside: pairs of models whose costs put it in proportion; beside_deeplabs: models to be put beside every
    DeepLabV3; remark: what cannot be counted.
    """

    where: str
    text: str
    claims: tuple[CountClaim | ShareClaim, ...] = ()
    differences: tuple[Difference, ...] = ()
    beside: tuple[tuple[Counting, Counting], ...] = ()
    beside_deeplabs: tuple[Counting, ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class Paper:
    """What a paper prints: its tables (none where they are not known to us) and its sentences with numbers."""

    title: str
    tables: tuple[PublishedTable, ...]
    sentences: tuple[Sentence, ...]


CITYSCAPES, BDD100K, ADE20K = (1024, 2048), (720, 1280), (512, 512)
"""(H, W) of the images that the papers count at."""

_SFNET = Counting("sfnet-r18", CITYSCAPES, rounded=True)
_SFNET_BDD = Counting("sfnet-r18", BDD100K, rounded=True)
_SEGFORMER = Counting(
    "segformer-b1",
    (1024, 1024),
    further=("conv-bias-relu",),
    elsewhere=(((1024, 1024), 150), (CITYSCAPES, 19), (CITYSCAPES, 150)),
)
_DDRNET_23 = Counting("ddrnet-23", CITYSCAPES, further=("conv-bias",))
_DDRNET_39 = Counting("ddrnet-39", CITYSCAPES, further=("conv-bias",))
_RTFORMER = Counting("rtformer-base", CITYSCAPES)
_PIDNET = Counting("pidnet-m", CITYSCAPES)
_FRM = Counting("frm-van-s", CITYSCAPES, rounded=True)
_FRM_BDD = Counting("frm-van-s", BDD100K, rounded=True)
_PPM = Counting("frm-van-s-ppm", CITYSCAPES, rounded=True)
_DAPPM = Counting("frm-van-s-dappm", CITYSCAPES, further=("ptflops-0.6-syncbn",), rounded=True)

_BIAS = "Its authors count convolutions with their bias, as DDRNet-39 shows: 143.103, which is the same when rounded."
_CODE = "Its published code, with its own Cityscapes settings, has the parameters counted here."
_ACCURACY = "The accuracy is not testable here."
_SLIP = "The authors round (214.818 is printed as 214.82, 16.478 as 16.48), and 94.557 does not round to 94.55."

FRM = Paper(
    "FRM, arXiv:2412.08670",
    (
        PublishedTable(
            "Table 1, Cityscapes",
            ("mIoU val, %", "mIoU test, %"),
            (
                PublishedRow("SFNet", "ResNet-18", ("-", "78.9"), "2048x1024", "243.87", "12.87", _SFNET),
                PublishedRow("SegFormer", "MiT-B1", ("78.5", "-"), "1024x1024", "243.7", "13.7", _SEGFORMER),
                PublishedRow("NRD", "ResNet-50", ("-", "78.9"), "2048x1024", "234.6", "36.6"),
                PublishedRow("BiAlignNet", "DFNet2", ("78.7", "77.1"), "2048x1024", "108.73", "19.2"),
                PublishedRow("SFANet", "ResNet-18", ("-", "78.1"), "2048x1024", "99.6", "14.6"),
                PublishedRow("IFA", "ResNet-50", ("78.0", "-"), "1024x1024", "186.9", "27.8"),
                PublishedRow("RTFormer", "RTFormer-Base", ("79.3", "-"), "2048x1024", "-", "16.8", _RTFORMER, _CODE),
                PublishedRow("DDRNet", "DDRNet-23", ("79.5", "79.4"), "2048x1024", "143.1", "20.1", _DDRNET_23, _BIAS),
                PublishedRow("DDRNet", "DDRNet-39", ("80.4", "80.4"), "2048x1024", "281.2", "32.3", _DDRNET_39),
                PublishedRow("PIDNet", "PIDNet-M", ("79.9", "79.8"), "2048x1024", "178.1", "28.5", _PIDNET),
                PublishedRow("FRM", "VAN-S", ("80.8", "80.4"), "2048x1024", "214.82", "16.48", _FRM),
            ),
        ),
        PublishedTable(
            "Table 2, Cityscapes test",
            ("mIoU test, %",),
            (
                PublishedRow("FRM", "VAN-S", ("80.4",), "2048x1024", "214.82", "16.48", _FRM),
                PublishedRow("PPM", "VAN-S", ("79.7",), "2048x1024", "213.21", "15.23", _PPM),
                PublishedRow("DAPPM", "VAN-S", ("79.1",), "2048x1024", "214.81", "15.98", _DAPPM),
            ),
        ),
        PublishedTable(
            "Table 3, BDD100K val",
            ("mIoU val, %",),
            (
                PublishedRow("HANet", "ResNet-101", ("64.56",), "1280x720", "-", "65.4"),
                PublishedRow("SFNet", "ResNet-18", ("60.6",), "1280x720", "107.34", "12.87", _SFNET_BDD),
                PublishedRow("PFNet", "ResNet-50", ("62.7",), "1280x720", "302.1", "33.0"),
                PublishedRow("FRM", "VAN-S", ("64.9",), "1280x720", "94.55", "16.48", _FRM_BDD, _SLIP),
            ),
        ),
    ),
    (
        Sentence(
            "abstract",
            "... especially for Cityscapes test set where 80.4% mIoU is achieved and only 214.82 GFLOPs are required.",
            (CountClaim("214.82", _FRM),),
            remark=_ACCURACY,
        ),
        Sentence(
            "section 3.3",
            "When comparing to the SOTA lightweight network DDRNet-39, the proposed method achieves same 80.4% mIoU "
            "with only 76% of computational cost and 51% of params number.",
            (ShareClaim("76", _FRM, (_DDRNET_39,)), ShareClaim("51", _FRM, (_DDRNET_39,), params=True)),
            remark=f"The two printed figures are of different conventions: 214.82 / 281.2 = 76.4 %. {_ACCURACY}",
        ),
        Sentence(
            "section 3.3",
            "Compare with PPM, our feature refinement module increases mIoU by 0.7% with a small extra calculation "
            "burden.",
            differences=(Difference("0.7", "80.4", "79.7"),),
            beside=((_FRM, _PPM),),
            remark="How many runs stand behind the figure is not said.",
        ),
        Sentence(
            "section 3.3",
            "The proposed method achieves 64.9% mIoU on the Bdd100K val set with 94.55 GFLOPs.",
            (CountClaim("94.55", _FRM_BDD),),
            remark=f"{_SLIP} {_ACCURACY}",
        ),
        Sentence(
            "section 3.3",
            "There is a 4.3% increase in mIOU when comparing to SFNet with similar GFLOPs and Params.",
            differences=(Difference("4.3", "64.9", "60.6"),),
            beside=((_FRM_BDD, _SFNET_BDD),),
            remark="The backbones differ too (VAN-S, ResNet-18).",
        ),
    ),
)

_CGRSEG_T = Counting("cgrseg-t", ADE20K, 150)
_CGRSEG_B = Counting("cgrseg-b", ADE20K, 150)
_CGRSEG_L = Counting("cgrseg-l", ADE20K, 150)
_S1, _S2, _L = "EfficientFormerV2-S1", "EfficientFormerV2-S2", "EfficientFormerV2-L"
_FIVE = "With five blocks in its context; the committed configuration has six (cgrseg-b6)."
_SEAFORMERS = tuple(Counting(f"seaformer-{size}", ADE20K, 150) for size in ("tiny", "small", "base", "large"))
_SEGNEXTS = tuple(Counting(f"segnext-{size}", ADE20K, 150) for size in ("t", "s"))

CGRSEG = Paper(
    "CGRSeg, arXiv:2405.06228",
    (
        PublishedTable(
            "README of the authors' code, May 2024",
            ("mIoU ADE20K, %", "mIoU COCO-Stuff 10k, %", "mIoU Pascal Context at several scales, %", "images/s"),
            (
                PublishedRow("CGRSeg-T", _S1, ("43.6", "42.2", "54.1", "138.4"), "-", "4.0", "9.4", _CGRSEG_T),
                PublishedRow("CGRSeg-B", _S2, ("45.5", "43.5", "56.5", "98.4"), "-", "7.6", "18.1", _CGRSEG_B, _FIVE),
                PublishedRow("CGRSeg-L", _L, ("48.3", "46.0", "58.5", "73.0"), "-", "14.9", "35.7", _CGRSEG_L),
            ),
        ),
        PublishedTable(
            "Models that the abstract compares with; of which size is not in it",
            ("mIoU ADE20K, %",),
            (
                PublishedRow("SeaFormer-T", "", ("-",), "-", "-", "-", _SEAFORMERS[0]),
                PublishedRow("SeaFormer-S", "", ("-",), "-", "-", "-", _SEAFORMERS[1]),
                PublishedRow("SeaFormer-B", "", ("-",), "-", "-", "-", _SEAFORMERS[2]),
                PublishedRow("SeaFormer-L", "", ("-",), "-", "-", "-", _SEAFORMERS[3]),
                PublishedRow("SegNeXt-T", "", ("-",), "-", "-", "-", _SEGNEXTS[0]),
                PublishedRow("SegNeXt-S", "", ("-",), "-", "-", "-", _SEGNEXTS[1]),
            ),
        ),
    ),
    (
        Sentence(
            "abstract",
            "... it achieves 43.6% mIoU on ADE20K with only 4.0 GFLOPs, ...",
            (CountClaim("4.0", _CGRSEG_T),),
            remark=_ACCURACY,
        ),
        Sentence(
            "abstract",
            "... which is 0.9% and 2.5% mIoU better than SeaFormer and SegNeXt ...",
            remark="Points. The rows compared with, 43.6 - 0.9 = 42.7 and 43.6 - 2.5 = 41.1, are not in the abstract.",
        ),
        Sentence(
            "abstract",
            "... but with about 38.0% fewer GFLOPs.",
            (ShareClaim("38", _CGRSEG_T, (_SEAFORMERS[3], *_SEGNEXTS), fewer=True),),
            beside=tuple((_CGRSEG_T, other) for other in (_SEAFORMERS[3], *_SEGNEXTS)),
            remark="Than which, and by which count, is not in the abstract. 'About' is taken as whole per cents.",
        ),
    ),
)

RSP = Paper(
    "RSP, arXiv:2106.01744",
    (),
    (
        Sentence(
            "abstract",
            "It outperforms DeeplabV3 [1] by 0.7% ...",
            remark="Points or a share? It does not say. Their model and their DeepLabV3 are not known to us.",
        ),
        Sentence(
            "abstract",
            "... with 75% fewer FLOPs (multiply-adds) in the semantic segmentation task.",
            beside_deeplabs=tuple(
                Counting(name, CITYSCAPES) for name in ("rsp-lite0", "rsp-lite0-w128", "rsp-lite2", "rsp-b3", "rsp-b5")
            ),
            remark="Their model and their DeepLabV3 are not known to us; ours is a reconstruction.",
        ),
    ),
)
