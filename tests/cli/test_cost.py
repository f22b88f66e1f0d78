"""`featherseg cost` and `featherseg models`: print the counts and name their convention."""

import json

import pytest

from featherseg import list_models
from featherseg.cli.cost import cost
from featherseg.cli.models import models, print_table
from featherseg.core.errors import ConfigError
from featherseg.costs.catalogue import counts, latencies
from featherseg.costs.cost import CONVENTIONS
from featherseg.costs.cost import cost as count
from featherseg.costs.deeplab import beside_deeplabv3
from featherseg.models import MODELS


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def alone(monkeypatch):
    """DeepLabV3 is not counted beside: that takes a second for each size and number of classes."""
    monkeypatch.setattr("featherseg.costs.deeplab.beside_deeplabv3", lambda counted: [])


@pytest.mark.seconds
def test_json_is_one_object_in_the_stable_form(capsys):
    cost("frm-lite0", "128x64", 5, as_json=True)
    printed, messages = capsys.readouterr()
    counted = count("frm-lite0", (128, 64), 5)
    rows = {
        d.name: {"params": d.params, "macs": d.macs, "ratio": d.ratio}
        for d in beside_deeplabv3(counted)
    }
    assert json.loads(printed) == {**counted.as_dict(), "published": [], "deeplabv3": rows}
    assert messages == ""


def test_the_table_names_every_convention_and_part(capsys):
    cost("frm-lite0", "128x64", 5, as_json=False)
    printed = capsys.readouterr().out
    counted = count("frm-lite0", (128, 64), 5)
    for name, meaning in CONVENTIONS.items():
        row = next(
            line
            for line in printed.splitlines()
            if f" {name} " in line and f"{counted.macs[name]:,}" in line
        )
        assert meaning in row
    for name, part in counted.parts.items():
        assert any(name in line and f"{part.params:,}" in line for line in printed.splitlines())
    for row in beside_deeplabv3(counted):
        cells = (
            f" {row.name} ",
            f" {row.params:,} ",
            f" {row.macs / 1e9:.3f} ",
            f" {row.ratio:.1%} of it ",
        )
        assert any(all(cell in line for cell in cells) for line in printed.splitlines())
    assert "pads" not in printed


def test_one_class_is_one(alone, capsys):
    cost("frm-lite0", "128x64", 1, as_json=False)
    assert capsys.readouterr().out.startswith("frm-lite0, 128x64 pixels, 1 class: ")


def test_published_figures_stand_beside_the_counts_of_their_size_and_classes(alone, capsys):
    cost("frm-van-s", "720x1280", 19, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if " 94,556,983,260 " in line]
    assert (
        row.index("ptflops-0.6")
        < row.index(" 94.557 ")
        < row.index(" 94.55 ")
        < row.index(" 94,556,983,260 ")
    )
    end = "16.48 M parameters; 214.82 GMACs by ptflops-0.6 at 1024x2048, 19 classes."
    assert f"Published, arXiv:2412.08670, Tables 1 and 2: {end}" in lines


@pytest.mark.seconds
def test_rows_that_differ_in_their_accuracy_alone_are_printed_once(alone, capsys):
    cost("cgrseg-t", "512x512", 150, as_json=False)
    assert (
        capsys.readouterr().out.count(
            "9.4 M parameters; 4.0 GMACs by conv-bn at 512x512, 150 classes."
        )
        == 1
    )


@pytest.mark.seconds
@pytest.mark.parametrize(("size", "classes"), [("512x1024", 19), ("720x1280", 11)])
def test_at_other_sizes_and_classes_published_figures_are_named_with_their_own(
    alone, size, classes, capsys
):
    cost("frm-van-s", size, classes, as_json=False)
    printed = capsys.readouterr().out
    assert " published " not in printed
    assert "94.55 GMACs by ptflops-0.6 at 720x1280, 19 classes." in printed


@pytest.mark.seconds
def test_the_json_holds_the_published_rows(alone, capsys):
    cost("frm-van-s-ppm", "64x64", 19, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)["published"]
    assert row["row"] == "arXiv:2412.08670, Table 2"
    assert (row["params_m"], row["gmacs"], row["convention"]) == (15.23, 213.21, "ptflops-0.6")
    assert (row["size"], row["classes"], row["miou"]) == ([1024, 2048], 19, {"test": 79.7})


def test_a_padded_size_is_said(alone, capsys):
    cost("frm-lite0", "20x300", 5, as_json=False)
    assert "pads 20x300 to 64x300: the padded size is counted" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text", ["1024", "0x5", "5x0", "abc", "", "1024x", "-1x5", "1.5x2", "1x2x3", "1024,2048"]
)
def test_bad_sizes_are_answered_with_a_sentence(text):
    with pytest.raises(ConfigError, match="expected HEIGHTxWIDTH in pixels") as error:
        cost("frm-lite0", text, 19)
    assert str(error.value).startswith(f"--image-size {text!r}: ")


def test_the_catalogue_lists_every_model(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    models(as_json=True)
    rows = json.loads(capsys.readouterr().out)
    print_table(rows)
    printed = capsys.readouterr().out
    facts = latencies()
    assert all(
        fact in " ".join(printed.split())
        for fact in ("convention macs", facts["device"], facts["date"])
    )
    lines = [line for line in printed.splitlines() if line.startswith("│")]
    assert [line.split()[1] for line in lines] == [row["model"] for row in rows], (
        "a row of the table is one line"
    )
    assert sorted(row["model"] for row in rows) == sorted(MODELS)
    for row, line in zip(rows, lines, strict=True):
        assert (row["params"], row["macs"]) == counts(row["model"])
        assert row["pretrained"] in ("installed", "download", "none") or row[
            "pretrained"
        ].startswith("pip install ")
        assert line.rstrip(" │").endswith(" *") == (
            "ours" in row["paper"] or "reconstruction" in row["paper"]
        )


def test_the_front_is_marked(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = list_models()
    print_table(rows)
    printed = capsys.readouterr().out
    trained = {
        row["model"]: (row["latency_ms"], sum(row["miou"].values())) for row in rows if row["miou"]
    }
    assert len(trained) >= 2
    for row in rows:
        (line,) = (line for line in printed.splitlines() if line.startswith(f"│ {row['model']} "))
        ms, score = trained.get(row["model"], (0, 0))
        beaten = [
            name
            for name, (m, s) in trained.items()
            if name != row["model"] and m <= ms and s >= score
        ]
        assert row["on_front"] == (None if row["model"] not in trained else not beaten)
        assert line.split("│")[2].strip().startswith("> ") == bool(row["on_front"])
        for miou in (row["miou"] or {}).values():
            assert 0 < miou < 1
            assert f"{100 * miou:.1f}" in printed


def test_the_catalogue_starts_with_the_fastest_and_ends_with_what_was_never_timed():
    timed = [row["latency_ms"] for row in list_models()]
    known = [ms for ms in timed if ms is not None]
    assert timed == sorted(known) + [None] * (len(timed) - len(known))
    assert set(latencies()["ms"]) == {name for name, entry in MODELS.items() if not entry.panoptic}
