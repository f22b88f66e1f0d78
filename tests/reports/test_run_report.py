"""The report: complete, self-contained, true to the run folder, safe with hostile names."""

import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.small_run import small_info

from featherseg import FeathersegError
from featherseg.api import report
from featherseg.core.files import append_line, write_json
from featherseg.core.types import ClassInfo, Sample, SegOutput
from featherseg.evaluation.scoring import Scores
from featherseg.inference.settings import InferenceSettings
from featherseg.reports.examples import PANELS
from featherseg.reports.record import record
from featherseg.reports.sections import most_mixed, row_shares
from featherseg.runs.run import open_run

HOSTILE = "<script>alert('x')</script>&\"quoted\""
CLASSES = (ClassInfo("road", (128, 64, 128)), ClassInfo(HOSTILE, (0, 0, 142)))
CONFUSION = np.array([[80, 20], [30, 60]])
VOID = np.array([0, 10])
VOID_TAGS = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Collects the tags of a page and checks that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def scores(**changes) -> Scores:
    values = {
        "classes": tuple(c.name for c in CLASSES),
        "images": 3,
        "miou": 0.55,
        "iou": np.array([80 / 130, 0.5]),
        "pixel_accuracy": 0.7,
        "class_accuracy": 0.7,
        "boundary_f": float("nan"),
        "class_boundary_f": np.array([np.nan, np.nan]),
        "confusion": CONFUSION,
        "void": VOID,
        "per_image": {"a": 0.9, "b/1": 0.1, "c": float("nan")},
        "counts": np.zeros((3, 3, 2), dtype=np.int64),
    }
    return Scores(**(values | changes))


class AllClassOne:
    """A model that sees class 1 everywhere."""

    name, licence, classes, channels = "all-one", "", CLASSES, 3
    mean, std, image_range = (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), 65536
    align_corners, size_divisor, minimum_size, image_size, test_resize = False, 1, 1, None, None
    device, peak_bytes_per_pixel, panoptic = torch.device("cpu"), 100.0, None

    def __call__(self, images: torch.Tensor) -> SegOutput:
        size = (images.shape[2], images.shape[3])
        logits = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(len(images), 2, *size)
        return SegOutput(logits, size, size, align_corners=False)


class Images:
    """Three images of 8 x 12, all road but a corner that is not labelled."""

    name, classes, channels, keys = HOSTILE, CLASSES, 3, ["a", "b/1", "c"]

    def __getitem__(self, index: int) -> Sample:
        label = np.zeros((8, 12), dtype=np.uint8)
        label[0, 0] = 255
        return Sample(self.keys[index], np.full((8, 12, 3), 40 * index, dtype=np.uint8), label)


@pytest.fixture
def run(tmp_path):
    """A run folder that holds its record alone."""
    path = tmp_path / "street"
    path.mkdir()
    info = small_info(CLASSES, data={"name": HOSTILE}, licence="research only", epochs=4)
    write_json(path / "resolved.json", info.model_dump(mode="json"))
    return path


@pytest.fixture
def full(run):
    """A run that was trained, scored on test, drawn and exported."""
    append_line(run / "metrics.jsonl", {"step": 1, "loss": 2.0, "lr": 0.1})
    append_line(run / "metrics.jsonl", {"step": 2, "loss": 1.0, "lr": 0.1, "val_miou": 0.4})
    (run / "weights.safetensors").write_bytes(b"")
    record(open_run(run), AllClassOne(), Images(), "test", InferenceSettings(), scores())
    row = {
        "batch": 1,
        "height": 97,
        "width": 131,
        "max_error": 2e-5,
        "relative_error": 3e-6,
        "same_class": 1.0,
    }
    parity = {"tolerance": 1e-4, "ok": True, "rows": [row]}
    write_json(
        run / "parity.json",
        {"path": "out/street.onnx", "target": "onnx", "bytes": 15_000_000, "parity": parity},
    )
    write_json(run / "environment.json", {"torch": "2.13.0", "host": {"cpus": 2}})
    return run


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


@pytest.mark.seconds
def test_a_bare_run_has_a_report_that_names_what_is_missing(run):
    page = report(run).path.read_text()
    Page(page)
    for sentence in (
        "No step was logged yet.",
        "Not scored yet:",
        "None drawn yet:",
        "Not exported yet:",
    ):
        assert sentence in page
    assert f"featherseg evaluate {run}" in page


@pytest.mark.seconds
def test_a_full_run_shows_its_figures(full):
    text = text_of(report(full).path.read_text())
    for words in (
        "55.0",
        "61.5",
        "3.7",
        "research only",
        "97x131",
        "2.0e-05",
        "street.onnx (onnx, 15.0 MB)",
    ):
        assert words in text
    assert "host.cpus 2" in text
    assert "train.epochs 4" in text
    assert "The test split was scored 1 time." in text
    assert "30.0 % taken for road" in text  # 30 of 100 pixels, the 10 that were no class among them


@pytest.mark.seconds
def test_figures_of_a_file_of_earlier_weights_are_not_shown_as_those_of_now(full):
    row = json.loads((full / "parity.json").read_text())
    for weights, shown in ((open_run(full).weights_sha256, True), ("of a step before", False)):
        write_json(full / "parity.json", {"onnx": row | {"weights_sha256": weights}})
        text = text_of(report(full).path.read_text())
        assert ("gives the model's logits" in unescape(text)) == shown
        assert ("street.onnx is of weights that this run had before. Write it again:" in text) == (
            not shown
        )


@pytest.mark.seconds
def test_the_page_loads_nothing_and_runs_nothing(full):
    page = report(full).path.read_text()
    tags = Page(page).tags
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "embed", "base", "form"}
    links = [a[key] for _, a in tags for key in ("src", "href") if key in a]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "url(" not in page
    assert "@import" not in page


@pytest.mark.seconds
def test_hostile_names_are_text(full):
    page = report(full).path.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not any(
        attribute.startswith("on") for _, attributes in Page(page).tags for attribute in attributes
    )


@pytest.mark.seconds
def test_tables_have_captions_images_have_words_and_drawings_have_titles(full):
    page = report(full).path.read_text()
    tags = Page(page).tags
    assert page.count("<caption>") == page.count("<table")
    assert page.count("<title>") == page.count("<svg") + 1
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert len(images) == 5  # one of two images with a figure, in five panels
    assert all(attributes["alt"] for attributes in images)


def test_the_images_are_the_image_its_truth_and_what_the_model_says(full):
    files = [full / "examples" / f"worst-1-{panel.replace(' ', '-')}.webp" for panel in PANELS]
    panels = [np.array(Image.open(file).convert("RGB")) for file in files]
    image, label, prediction, overlay, errors = panels
    assert abs(int(image[4, 4, 0]) - 40) < 3  # "b/1", the second image
    assert label[0, 0].tolist() in ([28, 28, 30], [190, 190, 194])  # striped
    assert label[4, 4].tolist() == list(CLASSES[0].color)
    assert (prediction == CLASSES[1].color).all()
    assert 0 < overlay[4, 6, 2] < CLASSES[1].color[2]  # the image is seen through it
    assert errors[4, 6, 0] > 150 > errors[4, 6, 1]  # all is wrong


@pytest.mark.seconds
def test_precision_recall_and_f1_stand_beside_the_iou(full):
    page = report(full).path.read_text()
    rows = re.findall(r"<tr>.*?</tr>", page[page.index('<table class="classes">') :], re.DOTALL)
    figures = [re.findall(r'class="number">([^<]*)<', row) for row in rows[1:4]]
    assert figures == [
        ["61.5", "72.7", "80.0", "76.2"],
        ["50.0", "75.0", "60.0", "66.7"],
        ["55.0", "73.9", "70.0", "71.4"],
    ]


@pytest.mark.seconds
def test_the_labels_of_the_training_are_listed_with_how_many_were_counted(full):
    counts = {"images": 90, "counted": 64, "pixels": [300, 100], "images_with": [64, 9]}
    write_json(full / "labels.json", counts | {"ignored": 0.125})
    text = text_of(report(full).path.read_text())
    assert "counted in 64 of its 90 images" in text
    assert "12.5 % of their pixels are not labelled" in text
    assert re.search(r"road 75\.0 64 50\.0", text)
    write_json(full / "labels.json", counts)
    with pytest.raises(FeathersegError, match=r"labels\.json"):
        report(full)


@pytest.mark.seconds
def test_predictions_over_time_are_shown_in_the_order_of_their_steps(full, tmp_path):
    folder = full / "progress"
    folder.mkdir()
    for name in ("step-0000100", "step-0000020", "ground-truth", "image"):
        Image.new("RGB", (2, 2)).save(folder / f"{name}.webp")
    (folder / "step-0000040.webp").symlink_to(full / "weights.safetensors")
    (folder / "notes.webp").write_bytes(b"of somebody else")
    page = report(full).path.read_text()
    headings = re.findall(r"<figcaption>(image|ground truth|step \d+)</figcaption>", page)
    assert headings == ["image", "ground truth", "step 20", "step 100"]


@pytest.mark.seconds
def test_macs_are_counted_by_one_convention_which_is_named(full):
    text = unescape(text_of(report(full).path.read_text()))
    assert "GMACs by the convention “macs”" in text
    assert "ptflops" not in text
    assert text.index("Images") < text.index("Settings")


@pytest.mark.seconds
def test_the_report_can_go_elsewhere(full, tmp_path):
    assert report(full, tmp_path / "pages" / "a.html").path.parent.name == "pages"
    assert not (full / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("scores.json", "{"),
        ("scores.json", "[]"),
        ("scores.json", '{"iou": [0.5], "confusion": [[1]], "void": [0]}'),
        ("parity.json", "nonsense"),
        (
            "parity.json",
            '{"path": "a.onnx", "target": "onnx", "bytes": {}, "parity": {"rows": []}}',
        ),
    ],
)
def test_a_damaged_file_is_named(full, file, content):
    (full / file).write_text(content)
    with pytest.raises(FeathersegError, match=file):
        report(full)


def test_rows_of_the_confusion_are_shares_of_the_true_pixels():
    rows = row_shares(CONFUSION.tolist(), VOID.tolist())
    np.testing.assert_allclose(rows, [[0.8, 0.2], [0.3, 0.6]])
    assert most_mixed(rows) == [(0.3, 1, 0), (0.2, 0, 1)]
    assert row_shares([[0, 0], [0, 1]], [0, 0])[0] == [0.0, 0.0]
