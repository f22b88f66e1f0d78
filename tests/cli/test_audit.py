"""`featherseg audit` as it is called: its files, its words, and what it refuses."""

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.data.balls import Balls, write_balls
from support.models.color_model import CLASSES, ColorModel
from support.models.small_run import small_info
from typer.testing import CliRunner

from featherseg import cli, models
from featherseg.auditing import audit as session
from featherseg.auditing import boosting
from featherseg.core.types import ClassInfo
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.runs.run import save_weights, write_info


def invoke(*arguments: object):
    return CliRunner().invoke(cli.build_app(), [str(argument) for argument in arguments])


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """An untrained model of these classes, which has seen nothing."""
    monkeypatch.setattr(boosting, "TREES", 8)
    path = tmp_path / "untrained"
    path.mkdir()
    torch.manual_seed(0)
    save_weights(path, models.build("frm-lite0", len(CLASSES)).state_dict())
    write_info(
        path,
        small_info([ClassInfo(info.name, info.color) for info in CLASSES], image_size=(40, 56)),
    )
    return path


@pytest.fixture
def seeing(run, monkeypatch) -> Path:
    """In its place a model that sees what is plain."""
    runtime = TorchRuntime(ColorModel().eval(), CLASSES, name="colors", device="cpu")
    monkeypatch.setattr(session, "open_unseeing", lambda run, data, device: (runtime, []))
    return run


@pytest.mark.parametrize(
    "things", [pytest.param(False, marks=pytest.mark.slow), True], ids=["semantic", "with objects"]
)
def test_every_image_of_train_and_val_is_in_the_json_once_and_decisions_are_applied(
    seeing, tmp_path, things
):
    data, page, file = (
        write_balls(tmp_path / "balls", things),
        tmp_path / "page.html",
        tmp_path / "audit.json",
    )
    done = invoke("audit", data, "--run", seeing, "--minutes", 5, "--json", file, "-o", page)
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert sorted(row["key"] for row in found["images"]) == Balls.keys  # none of test
    assert all(set(row) == {"key", "score"} for row in found["images"])
    scores = [row["score"] for row in found["images"]]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] <= scores[0] <= 1
    for region in found["regions"]:
        left, top, across, down = region["box"]
        assert 0 <= left < left + across <= 56
        assert 0 <= top < top + down <= 40
    assert f"the page is {page}" in done.output
    first = found["self_test"]["precision_at_50"]
    printed = (
        f"{first['value']:.2f} of the first 24 in its list had one "
        f"(95 % interval {first['low']:.2f} to"
    )
    assert f"self test: faults were planted into 5 of 24 masks, and {printed}" in " ".join(
        done.output.split()
    )

    rows = [
        json.loads(unescape(text))
        for text in re.findall(r'data-region="([^"]*)"', page.read_text())
    ]
    accepted = [{"decision": "accept", **row} for row in rows]
    (tmp_path / "decisions.json").write_text(json.dumps({"format": 1, "decisions": accepted}))
    done = invoke(
        "check", data, "--fix", tmp_path / "out", "--decisions", tmp_path / "decisions.json"
    )
    assert f"decisions: {len(rows)} accepted" in done.output, done.output
    by_key = {row["key"]: row for row in rows}
    for number, key in enumerate(Balls.keys):
        wanted = Balls().label(number).ravel()
        for class_id, first, pixels in by_key[key]["runs"]:
            wanted[first : first + pixels] = class_id
        mask = np.array(Image.open(next((tmp_path / "out/masks").rglob(f"{key}.png"))))
        assert np.array_equal(mask.ravel(), wanted)


@pytest.mark.seconds
def test_a_list_no_better_than_chance_is_not_shown_and_why_is_said_first(run, tmp_path):
    """An untrained model sees nothing. No file is written for tools either; exit code 0."""
    data, page, file = (
        write_balls(tmp_path / "balls"),
        tmp_path / "page.html",
        tmp_path / "audit.json",
    )
    done = invoke(
        "audit", data, "--run", run, "--minutes", 5, "--json", file, "-o", page, "--to", "labelme"
    )
    assert done.exit_code == 0, (done.output, done.exception)
    found = json.loads(file.read_text(), parse_constant=pytest.fail)
    assert (found["images"], found["regions"]) == ([], [])
    test = found["self_test"]
    assert test["average_precision"]["low"] <= test["chance"]
    _, first, *_ = done.stdout.splitlines()  # the plan stands before the work
    assert first == found["no_ranking"]
    assert first.startswith(
        "The list would be no better than chance, so there is none: faults were planted into 5 of"
    )
    assert "The run may not know these classes well enough" in first
    assert "self test:" not in done.output
    assert not re.search(r"^[01]\.\d\d  ", done.output, re.MULTILINE)
    assert not (tmp_path / "page.labelme").exists()
    assert "nothing was written for labelme" in done.output
    shown = page.read_text()
    assert unescape(re.search(r'class="lead">([^<]*)<', shown)[1]) == first
    assert "<figure" not in shown
    assert "<script" not in shown
    assert not any(key in shown for key in Balls.keys)


@pytest.mark.seconds
def test_of_masks_that_show_one_class_each_nothing_is_promised(run, tmp_path):
    data = write_balls(tmp_path / "balls")
    for mask in (tmp_path / "balls/masks").rglob("*.png"):
        Image.fromarray(np.zeros((40, 56), np.uint8)).save(mask)
    page, file = tmp_path / "page.html", tmp_path / "audit.json"
    done = invoke("audit", data, "--run", run, "--minutes", 5, "--json", file, "-o", page)
    assert done.exit_code == 0, (done.output, done.exception)
    test = json.loads(file.read_text(), parse_constant=pytest.fail)["self_test"]
    assert (test["precision_at_50"], test["average_precision"], test["chance"], test["images"]) == (
        None,
        None,
        None,
        0,
    )
    scores = [row["score"] for row in json.loads(file.read_text())["images"]]
    assert 0 <= scores[-1] <= scores[0] <= 1
    assert "self test:" not in done.output
    assert "no fault could be planted into these masks" in " ".join(done.output.split())
    assert "no fault could be planted" in page.read_text()


@pytest.mark.seconds
def test_what_makes_no_sense_is_refused_before_any_work(run, tmp_path):
    data = write_balls(tmp_path / "balls")
    for options, said in (
        (["--top", 3], "--top is the number of images that --to writes"),
        (["--to", "labelmee"], "labelme"),
        (["--to", ""], "unknown format"),
        (["--json", tmp_path], "is a folder"),
        (["--json", tmp_path / "page.html"], "would overwrite the page"),
        (["-o", tmp_path / "page.audit"], "is the name of a folder beside the page"),
    ):
        page = [] if "-o" in options else ["-o", tmp_path / "page.html"]
        done = invoke("audit", data, "--run", run, *page, *options)
        assert said in str(done.exception)
    assert invoke("audit", data, "--minutes", 0).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["balls", "untrained"]
