"""Our evaluator and the one of the benchmark give the same figures, to the last digit."""

import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from featherseg.data.datasets.cityscapes import Cityscapes
from featherseg.data.datasets.cityscapes_labels import CITYSCAPES_CLASSES, FROM_LABEL_IDS, LABEL_IDS
from featherseg.evaluation.scoring import evaluate_predictions
from featherseg.inference.submissions import SUBMISSIONS

VOID_IDS = np.array([i for i in range(34) if i not in LABEL_IDS])
SIZE = (37, 53)
KEYS = [f"bonn/bonn_00000{number}_000019" for number in range(3)]


@pytest.fixture(scope="module")
def official() -> ModuleType:
    """cityscapesscripts' evaluation at pixel level: without the compiled part, without output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cityscapesscripts.evaluation import (
            evalPixelLevelSemanticLabeling as module,  # noqa: N813
        )
    module.CSUPPORT = False
    return module


def official_arguments(module: ModuleType, predictions: Path):
    arguments = module.CArgs()
    arguments.__dict__.update(vars(module.args))
    arguments.predictionPath, arguments.predictionWalk = str(predictions), None
    arguments.evalInstLevelScore = arguments.JSONOutput = False
    arguments.quiet = True
    return arguments


def official_scores(module: ModuleType, root: Path, predictions: Path) -> dict:
    """Return the benchmark script's scores on val; it finds the predictions by name."""
    arguments = official_arguments(module, predictions)
    truths = sorted(str(path) for path in (root / "gtFine/val").glob("*/*_gtFine_labelIds.png"))
    found = [module.getPrediction(arguments, label) for label in truths]
    return module.evaluateImgLists(found, truths, arguments)


def random_ids(rng: np.random.Generator, known: np.ndarray, void: float) -> np.ndarray:
    """Return (H, W) label ids in patches: mostly `known` classes, a share `void` of other ids."""
    patches = rng.choice(known, (8, 11))
    patches = np.where(
        rng.random(patches.shape) < void, rng.choice(VOID_IDS, patches.shape), patches
    )
    return patches.repeat(5, 0).repeat(5, 1)[: SIZE[0], : SIZE[1]].astype(np.uint8)


def write_release(root: Path, masks: list[np.ndarray]) -> None:
    """Images and masks of val as the release keeps them."""
    for key, mask in zip(KEYS, masks, strict=True):
        for path, pixels in (
            (root / f"leftImg8bit/val/{key}_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8)),
            (root / f"gtFine/val/{key}_gtFine_labelIds.png", mask),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("void", [0.0, 0.2], ids=["classes alone", "void predicted"])
def test_scores_equal_those_of_the_official_evaluation(official, tmp_path, seed, void):
    """Ignored labels, predicted void, classes absent from ground truth, prediction or both."""
    rng = np.random.default_rng(seed)
    present = rng.choice(LABEL_IDS, 13, replace=False)
    truths = [random_ids(rng, present[:11], void=0.2) for _ in KEYS]
    guesses = [random_ids(rng, present[2:], void) for _ in KEYS]
    predictions = [
        np.where(rng.random(SIZE) < 0.6, t, g) for t, g in zip(truths, guesses, strict=True)
    ]
    predictions = [
        np.where(rng.random(SIZE) < 0.1, rng.choice(present[2:]), p).astype(np.uint8)
        for p in predictions
    ]
    write_release(tmp_path, truths)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    for key, mask in zip(KEYS, predictions, strict=True):
        Image.fromarray(mask).save(
            tmp_path / "theirs" / f"{key.rpartition('/')[2]}.png"
        )  # label ids
        Image.fromarray(FROM_LABEL_IDS(mask, key)).save(
            tmp_path / "ours" / f"{key.rpartition('/')[2]}.png"
        )
    theirs = official_scores(official, tmp_path, tmp_path / "theirs")
    ours = evaluate_predictions(tmp_path / "ours", Cityscapes(tmp_path, "val"), boundary=False)
    by_class = [theirs["classScores"][info.name] for info in CITYSCAPES_CLASSES]
    assert np.array_equal(ours.iou, by_class, equal_nan=True)  # no tolerance
    assert ours.miou == theirs["averageScoreClasses"]
    matrix = np.array(theirs["confMatrix"])[list(LABEL_IDS)]  # (19, 34)
    assert np.array_equal(ours.confusion, matrix[:, list(LABEL_IDS)])
    assert np.array_equal(ours.void, matrix[:, VOID_IDS].sum(axis=1))
    assert np.isnan(ours.iou).sum() >= 6  # 19 classes, 13 of them drawn


def test_nothing_but_void_is_no_score_for_both(official, tmp_path):
    write_release(tmp_path, [np.full(SIZE, 4, np.uint8)] * 3)
    (tmp_path / "both").mkdir()
    for key in KEYS:
        Image.fromarray(np.full(SIZE, 7, np.uint8)).save(
            tmp_path / "both" / f"{key.rpartition('/')[2]}.png"
        )
    assert np.isnan(official_scores(official, tmp_path, tmp_path / "both")["averageScoreClasses"])
    assert np.isnan(
        evaluate_predictions(tmp_path / "both", Cityscapes(tmp_path, "val"), boundary=False).miou
    )


def test_the_official_evaluation_finds_and_scores_our_submission(official, tmp_path):
    rng = np.random.default_rng(0)
    write_release(tmp_path, [random_ids(rng, np.array(LABEL_IDS), void=0.2) for _ in KEYS])
    data = Cityscapes(tmp_path, "val")
    for index, key in enumerate(data.keys):
        mask = np.where(data.label(index) == 255, 0, data.label(index))
        SUBMISSIONS["cityscapes"].save(
            mask, tmp_path / "out", f"{key.rpartition('/')[2]}_leftImg8bit"
        )
    scores = official_scores(official, tmp_path, tmp_path / "out")["classScores"]
    assert [scores[info.name] for info in CITYSCAPES_CLASSES] == [1.0] * 19
