"""Every look at the data leaves a line; the last scores stay."""

import json
from dataclasses import replace

import numpy as np
import pytest
from support.models.small_run import small_info

from featherseg.api import report
from featherseg.core.errors import RunError
from featherseg.core.types import ClassInfo, Sample
from featherseg.evaluation.scored_split import times_scored
from featherseg.evaluation.scoring import Scores
from featherseg.inference.settings import InferenceSettings
from featherseg.reports import examples
from featherseg.reports.card import write_card
from featherseg.reports.record import record
from featherseg.runs.run import open_run, write_info


class Data:
    """One image."""

    name, channels, keys, classes = "one", 3, ["a"], (ClassInfo("road", (1, 2, 3)),)

    def __getitem__(self, index):
        return Sample("a", np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8))


class SemanticRuntime:
    panoptic, image_range = None, 65536


def scores(miou: float) -> Scores:
    one, none = np.array([miou]), np.array([np.nan])
    return Scores(
        ("road",),
        1,
        miou,
        one,
        1.0,
        1.0,
        float("nan"),
        none,
        np.array([[24]]),
        np.array([0]),
        {"a": miou},
        np.full((1, 3, 1), 24),
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        examples,
        "predict_mask",
        lambda runtime, image, inference: np.zeros(image.shape[:2], np.uint8),
    )
    write_info(tmp_path, small_info(Data.classes))
    (tmp_path / "weights.safetensors").write_bytes(b"weights")
    return open_run(tmp_path)


def test_looks_at_a_split_are_counted(run):
    for split, looks in (("test", 1), ("val", 1), ("test", 2), ("val+test", 3)):
        record(run, SemanticRuntime(), Data(), split, InferenceSettings(), scores(0.5))
        assert times_scored(run, "test", "one") == looks
    assert times_scored(run, "val") == 2
    assert times_scored(run, "dev") == 0


def test_examples_are_drawn_as_they_were_scored(run, monkeypatch):
    asked = []

    def predict(runtime, image, inference):
        asked.append(inference)
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(examples, "predict_mask", predict)
    flipped = InferenceSettings(flip=True)
    record(run, SemanticRuntime(), Data(), "val", flipped, scores(0.5))
    assert asked == [flipped]


@pytest.mark.seconds
def test_a_score_on_what_was_trained_on_is_called_so_on_card_and_page(run):
    record(
        run,
        SemanticRuntime(),
        Data(),
        "val",
        InferenceSettings(flip=True),
        replace(scores(0.5), trained_on=True),
    )
    assert json.loads((run.path / "scores.json").read_text())["trained_on"] is True
    assert "time; trained on these images" in (run.path / "card.md").read_text()
    report(run.path)
    assert (
        "one val (trained on these images, whole, flip)" in (run.path / "report.html").read_text()
    )


@pytest.mark.seconds
def test_a_score_of_older_weights_leaves_card_and_page_its_look_stays_counted(run):
    record(run, SemanticRuntime(), Data(), "test", InferenceSettings(), scores(0.25))
    assert "mIoU 25.00 %" in (run.path / "card.md").read_text()
    assert report(run.path).missing == (f"not exported: featherseg export {run.path}",)
    (run.path / "weights.safetensors").write_bytes(b"other weights")
    write_card(run)
    assert "mIoU 25.00 %" not in (run.path / "card.md").read_text()
    assert report(run.path).missing[0] == f"not scored: featherseg evaluate {run.path}"
    assert "data:image/webp" not in (run.path / "report.html").read_text()
    record(run, SemanticRuntime(), Data(), "test+val", InferenceSettings(), scores(0.5))
    assert "evaluated on the split 2 times" in (run.path / "card.md").read_text()


def test_the_line_says_what_was_scored_and_how(run):
    record(run, SemanticRuntime(), Data(), "val", InferenceSettings(flip=True), scores(0.25))
    line = json.loads((run.path / "evaluations.jsonl").read_text())
    assert (line["data"], line["split"], line["inference"], line["miou"]) == (
        "one",
        "val",
        "whole, flip",
        0.25,
    )
    assert line["weights_sha256"].startswith("9a129038")  # sha256sum of "weights"


def test_the_last_scores_and_the_images_stay(run):
    for miou in (0.25, 0.75):
        record(run, SemanticRuntime(), Data(), "val", InferenceSettings(), scores(miou))
    kept = json.loads((run.path / "scores.json").read_text())
    assert (kept["miou"], kept["boundary_f"], kept["per_image"]) == (0.75, None, {"a": 0.75})
    assert [example.key for example in examples.read_examples(run.path)] == ["a"]


@pytest.mark.seconds
def test_a_link_of_a_temporary_name_in_a_run_from_others_leads_nowhere(run, tmp_path_factory):
    victim = tmp_path_factory.mktemp("home") / "script.sh"
    victim.write_text("precious")
    for name in ("scores.json", "card.md", "report.html"):
        (run.path / f"{name}.tmp").symlink_to(victim)
        (run.path / name).symlink_to(victim)
    record(run, SemanticRuntime(), Data(), "val", InferenceSettings(), scores(0.5))
    report(run.path)
    assert victim.read_text() == "precious"
    assert "mIoU" in (run.path / "card.md").read_text()


@pytest.mark.parametrize("name", ["evaluations.jsonl", "examples", "examples/worst-1-image.webp"])
def test_a_run_is_not_scored_through_a_link_in_it(run, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).symlink_to(elsewhere / "new" if "." in name else elsewhere)
    with pytest.raises(RunError, match=f"{name} is a symbolic link"):
        record(run, SemanticRuntime(), Data(), "val", InferenceSettings(), scores(0.5))
    assert list(elsewhere.iterdir()) == []
    assert not (run.path / "scores.json").exists()


def test_a_link_to_the_whole_run_is_its_users_own(run, tmp_path_factory):
    link = tmp_path_factory.mktemp("runs") / "a"
    link.symlink_to(run.path)
    record(open_run(link), SemanticRuntime(), Data(), "val", InferenceSettings(), scores(0.5))
    assert (run.path / "scores.json").is_file()
    assert [example.key for example in examples.read_examples(link)] == ["a"]


def test_no_file_outside_a_run_is_shown_in_its_report(run, tmp_path_factory):
    outside = tmp_path_factory.mktemp("home") / "secret-image.webp"
    outside.write_bytes(b"secret")
    record(run, SemanticRuntime(), Data(), "val", InferenceSettings(), scores(0.5))
    image = run.path / "examples/worst-1-image.webp"
    image.unlink()
    image.symlink_to(outside)
    assert examples.read_examples(run.path) == []
    for panel in examples.PANELS:
        outside.with_name(f"secret-{panel.replace(' ', '-')}.webp").write_bytes(b"secret")
    row = {"name": f"../../{outside.parent.name}/secret", "key": "a", "miou": 0.5}
    (run.path / "examples/examples.json").write_text(json.dumps([row]))
    assert examples.read_examples(run.path) == []
