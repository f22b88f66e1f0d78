"""The one evaluator: same weights, same bits; counts match masks; folders of PNGs score alike."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from featherseg import FeathersegError, models
from featherseg.core.types import ClassInfo, Sample
from featherseg.evaluation.iou import Confusion
from featherseg.evaluation.scoring import evaluate, evaluate_predictions, prediction_files
from featherseg.inference.masks import predict_mask
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.inference.settings import InferenceSettings

CLASSES = tuple(ClassInfo(name, (i, i, i)) for i, name in enumerate(("road", "sky", "car", "bus")))


class Scenes:
    """Three small noisy images whose brighter side is sky; bus never occurs; keys with folders."""

    name, classes, channels, keys = "scenes", CLASSES, 3, ["a/1", "a/2", "b/3"]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        label = self.label(index)
        noise = np.random.default_rng(index).integers(0, 120, (*label.shape, 3))
        return Sample(
            self.keys[index],
            (noise + 60 * (label % 3)[..., None]).clip(0, 255).astype(np.uint8),
            label,
        )

    def label(self, index: int) -> np.ndarray:
        label = np.zeros((64, 80 + index), dtype=np.uint8)
        label[:, 40:] = 1
        label[20:30, 30:50] = 2
        label[0] = 255
        return label


@pytest.fixture(scope="module")
def runtime():
    torch.manual_seed(0)
    return TorchRuntime(models.build("frm-lite0", 4), CLASSES, name="frm", device="cpu")


@pytest.mark.seconds
def test_scores_are_those_of_the_masks_it_predicts(runtime):
    data, seen = Scenes(), []
    for inference in (None, InferenceSettings(flip=True)):
        scores = evaluate(
            runtime, data, inference, progress=lambda doing, done, total: seen.append((done, total))
        )
        expected = Confusion(4)
        for index in range(3):
            expected.update(data.label(index), predict_mask(runtime, data[index].image, inference))
        assert (scores.confusion == expected.matrix).all()
        assert scores.miou == expected.miou()
        assert scores.images == 3
    assert seen == [(1, 3), (2, 3), (3, 3)] * 2


def test_the_same_weights_score_the_same_bits_again(runtime):
    again = TorchRuntime(runtime.model, CLASSES, device="cpu")
    first, second = evaluate(runtime, Scenes()), evaluate(again, Scenes())
    assert json.dumps(first.as_dict()) == json.dumps(second.as_dict())


def test_each_image_has_its_own_miou_by_key(runtime):
    scores = evaluate(runtime, Scenes(), boundary=False)
    one = Confusion(4)
    one.update(Scenes().label(1), predict_mask(runtime, Scenes()[1].image))
    assert list(scores.per_image) == ["a/1", "a/2", "b/3"]
    assert scores.per_image["a/2"] == one.miou()
    assert np.isnan(scores.boundary_f)


def test_json_has_fractions_counts_and_null_for_what_does_not_occur(runtime):
    found = json.loads(json.dumps(evaluate(runtime, Scenes()).as_dict(), allow_nan=False))
    assert found["classes"] == ["road", "sky", "car", "bus"]
    assert np.sum(found["confusion"]) + sum(found["void"]) == 63 * (80 + 81 + 82)
    assert 0 <= found["miou"] <= 1
    occurring = [value for value in found["iou"] if value is not None]
    assert found["miou"] == pytest.approx(np.mean(occurring))


@pytest.mark.parametrize(
    ("names", "channels", "named"),
    [
        (("road", "sky", "car", "van"), 3, "only in the model: bus; only in the data: van"),
        (("road", "sky", "car"), 3, "4 and 3.*only in the model: bus; only in the data: none"),
        (("sky", "road", "car", "bus"), 3, "class 0 is 'road' in the model, 'sky' in the data"),
        (("road", "sky", "car", "bus"), 1, "3 channels, but the images of other have 1"),
    ],
)
def test_other_classes_or_channels_are_refused_with_the_difference(runtime, names, channels, named):
    data = SimpleNamespace(
        name="other", classes=[ClassInfo(n, (0, 0, 0)) for n in names], channels=channels
    )
    with pytest.raises(FeathersegError, match=named):
        evaluate(runtime, data)


def write_predictions(folder, names, values=None):
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        mask = (
            Scenes().label(index) if values is None else np.full_like(Scenes().label(index), values)
        )
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    "names", [("a/1", "a/2", "b/3"), ("a_1", "a_2", "b_3"), ("1", "2", "3"), ("1_mask", "2", "b_3")]
)
def test_a_folder_of_perfect_predictions_scores_one(tmp_path, names):
    write_predictions(tmp_path, names)
    before = sorted(tmp_path.rglob("*"))
    scores = evaluate_predictions(tmp_path, Scenes())
    assert (scores.miou, scores.boundary_f, scores.pixel_accuracy) == (1, 1, 1)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("value", [255, 4, 77])
def test_values_of_no_class_are_misses_and_nobodys_false_alarm(tmp_path, value):
    write_predictions(tmp_path, ("1", "2", "3"), values=value)
    scores = evaluate_predictions(tmp_path, Scenes())
    assert scores.confusion.sum() == 0
    assert scores.void.sum() == 63 * (80 + 81 + 82)
    np.testing.assert_array_equal(scores.iou, [0, 0, 0, np.nan])
    if value == 255:
        assert scores.notes == ()
        return
    (note,) = scores.notes
    assert note.startswith(
        "100.00 % of the labelled pixels are predicted as no class, with the values "
    )
    assert f" {value}: expected 0 to 3, the classes in" in note


def test_missing_predictions_are_counted_and_named(tmp_path):
    write_predictions(tmp_path, ("1",))
    with pytest.raises(
        FeathersegError, match=r"1 of 3 images\. 2 are missing, the first: 2\.png, 3\.png"
    ):
        evaluate_predictions(tmp_path, Scenes())
    with pytest.raises(FeathersegError, match="nowhere"):
        evaluate_predictions(tmp_path / "nowhere", Scenes())


def test_a_name_that_two_keys_share_is_not_guessed(tmp_path):
    (tmp_path / "1.png").touch()
    with pytest.raises(FeathersegError, match=r"0 of 2"):
        prediction_files(tmp_path, ["a/1", "b/1"], ["1", "1"])


@pytest.mark.parametrize(
    "names",
    [
        ("b/1_mask", "a/x_mask"),
        ("b_1_mask", "a_x"),
        ("b_1", "a_x_mask"),
        ("1", "x"),
        ("1_left_mask", "x_mask"),
    ],
)
def test_predictions_lie_where_predict_wrote_them(tmp_path, names):
    write_predictions(tmp_path, names)
    found = prediction_files(tmp_path, ["b/1", "a/x"], ["1_left", "x"])
    assert found == [tmp_path / f"{name}.png" for name in names]


def test_what_predict_numbered_is_of_nobody_known(tmp_path):
    write_predictions(tmp_path, ("1_mask", "1-2_mask", "2"))
    with pytest.raises(
        FeathersegError, match=r"1_mask\.png and 1-2_mask\.png, from images with one name: .* 'b/1'"
    ):
        prediction_files(tmp_path, ["b/1", "b/2"], ["1", "2"])
    assert len(prediction_files(tmp_path, ["b/1", "b/1-2"], ["1", "1-2"])) == 2
    (tmp_path / "1-2_mask.png").unlink()
    with pytest.raises(FeathersegError, match=r"1_mask\.png may belong to several images"):
        prediction_files(tmp_path, ["1", "1_mask"], ["1", "1_mask"])


def test_predictions_of_another_size_or_in_colour_are_refused_by_name(tmp_path):
    write_predictions(tmp_path, ("1", "2", "3"))
    for wrong in (np.zeros((64, 81), np.uint8), np.zeros((64, 80, 3), np.uint8)):
        Image.fromarray(wrong).save(tmp_path / "1.png")
        with pytest.raises(FeathersegError, match=r"1\.png is 64x8.*'a/1' is 64x80"):
            evaluate_predictions(tmp_path, Scenes())


def test_a_label_that_cannot_be_is_named_by_its_image(tmp_path):
    class Wrong(Scenes):
        def label(self, index):
            return np.full((64, 80 + index), 9, dtype=np.uint8)

    write_predictions(tmp_path, ("1", "2", "3"))
    with pytest.raises(FeathersegError, match=r"scenes, image 'a/1': .*9 \(5120 pixels\)"):
        evaluate_predictions(tmp_path, Wrong())
