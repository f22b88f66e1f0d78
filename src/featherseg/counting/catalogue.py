"""Parameters and multiply-accumulates of the catalogue, for `featherseg models`, which is to answer at once.

Written down, as counting them all takes ten seconds and more; tests/evaluation/test_catalogue.py counts them again. A
model that is not written down yet is counted when it is asked for.
"""

from featherseg.counting.cost import cost

SIZE = (512, 1024)
"""(height, width) of the image that is counted."""

CLASSES = 19

COUNTS = {
    "cgrseg-t": (9_347_748, 9_715_977_984),
    "cgrseg-b": (18_076_308, 18_038_271_488),
    "cgrseg-b6": (19_081_204, 18_166_199_808),
    "cgrseg-l": (35_644_036, 33_966_431_744),
    "cgrseg-lite0": (8_177_868, 5_000_836_864),
    "ddrnet-23-slim": (5_695_987, 9_070_379_008),
    "ddrnet-23": (20_148_947, 35_765_223_424),
    "ddrnet-39": (32_360_275, 70_279_102_464),
    "deeplabv3-r50": (39_638_355, 327_154_139_136),
    "deeplabv3-r50-os16": (39_638_355, 96_806_633_472),
    "deeplabv3-r101": (58_630_483, 482_309_832_704),
    "deeplabv3-r101-os16": (58_630_483, 135_595_556_864),
    "deeplabv3-lite0": (6_260_499, 13_705_461_760),
    "efficientvit-seg-b0": (706_691, 1_097_859_072),
    "efficientvit-seg-b1": (4_803_443, 6_276_251_648),
    "efficientvit-seg-b2": (15_323_779, 18_410_373_120),
    "efficientvit-seg-b3": (39_603_155, 44_806_963_200),
    "frm-van-t": (5_567_221, 35_778_002_944),
    "frm-van-s": (16_477_525, 53_430_517_760),
    "frm-van-s-ppm": (15_229_395, 52_949_680_128),
    "frm-van-s-dappm": (15_979_987, 53_342_765_056),
    "frm-van-b": (29_194_197, 79_526_952_960),
    "frm-lite0": (3_776_749, 10_697_953_280),
    "frm-lite0-panoptic": (3_851_088, 11_526_590_464),
    "pidnet-s": (7_625_715, 11_798_593_536),
    "pidnet-m": (28_538_515, 44_332_253_184),
    "pidnet-l": (36_939_571, 68_733_452_288),
    "rsp-lite0": (3_149_941, 5_680_117_504),
    "rsp-lite0-w128": (3_618_421, 10_513_299_200),
    "rsp-lite2": (4_552_117, 7_664_555_776),
    "rsp-b3": (10_301_085, 11_628_312_384),
    "rsp-b5": (27_498_149, 25_955_209_792),
    "rsp-lite0-panoptic": (3_208_920, 6_590_543_616),
    "rtformer-slim": (5_365_043, 9_455_304_704),
    "rtformer-base": (17_765_971, 34_750_398_464),
    "sctnet-s": (4_654_643, 8_006_549_504),
    "sctnet-b": (17_437_779, 29_880_811_520),
    "seaformer-tiny": (1_654_611, 1_021_136_896),
    "seaformer-small": (3_973_219, 1_920_930_816),
    "seaformer-base": (8_584_563, 3_335_094_272),
    "seaformer-large": (13_926_227, 12_461_494_272),
    "segformer-b0": (3_719_027, 17_757_110_272),
    "segformer-b1": (13_682_131, 34_817_966_080),
    "segnext-t": (4_229_747, 12_532_973_568),
    "segnext-s": (13_899_219, 31_016_812_544),
    "sfnet-r18": (12_869_715, 60_743_614_464),
}
"""Name -> (parameters, multiply-accumulates by the convention `macs` at SIZE and CLASSES)."""


def counts(name: str) -> tuple[int, int]:
    """(parameters, multiply-accumulates by `macs`) of a model of the catalogue. Raises UnknownName."""
    if name in COUNTS:
        return COUNTS[name]
    counted = cost(name, SIZE, CLASSES)
    return counted.params, counted.macs["macs"]
