"""The page shows what `predict` sees, by mouse, keyboard and touch, on desktop and phone."""

import json
import re
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.models.color_model import ColorModel, encoded
from support.servers.page_driver import (
    CLASSES,
    HOSTILE,
    PHONE,
    assert_shown,
    download,
    expect,
    image,
    look,
    mask,
    on_screen,
    opened,
    overlay,
    refused,
    says,
    scene,
    serving,
    set_opacity,
)
from typer.testing import CliRunner

from featherseg.cli import build_app
from featherseg.core.types import ClassInfo
from featherseg.inference.drawing import color_mask, outlines
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.serving.models import Served


def test_the_overlay_is_that_of_predict(page, served):
    look(page, image())
    seen = served["colors"].predictor(image())
    assert len(np.unique(seen.mask)) == 3
    for percent in (50, 0, 100, 37):
        set_opacity(page, percent)
        assert_shown(page, seen, percent / 100)


def test_a_black_class_leaves_the_image_as_it_is(browser):
    classes = (ClassInfo("background", (0, 0, 0)), *CLASSES[1:])
    dark = Served("dark", Predictor(TorchRuntime(ColorModel().eval(), classes, device="cpu")))
    with serving([dark]) as address:
        page = opened(browser, address)
        says(page, "Ready.")
        pixels = image()
        look(page, pixels)
        assert (dark.predictor(pixels).mask == 0).any()
        assert_shown(page, dark.predictor(pixels))
        assert page.inner_text("#licence") == ""  # one's own weights need no remark
        page.context.close()


def test_the_screen_shows_the_overlay_too(page, served):
    pixels = np.full((60, 80, 3), (0, 0, 200), np.uint8)
    pixels[:, 40:] = (200, 0, 0)
    look(page, pixels)
    wanted, screen = (
        np.array(served["colors"].predictor(pixels).overlay()).astype(int),
        on_screen(page),
    )
    quarter = screen.shape[1] // 4
    assert np.abs(screen[100, quarter] - wanted[0, 0]).max() <= 2
    assert np.abs(screen[100, 3 * quarter] - wanted[0, 79]).max() <= 2


@pytest.mark.seconds
def test_the_mask_that_is_downloaded_is_the_file_of_featherseg_predict(page, run, tmp_path):
    page.select_option("#model", "noise")
    (tmp_path / "street.png").write_bytes(look(page, image((70, 90))))
    result = CliRunner().invoke(
        build_app(),
        [
            "predict",
            str(run),
            str(tmp_path / "street.png"),
            "-o",
            str(tmp_path / "out"),
            "--device",
            "cpu",
        ],
    )
    assert result.exit_code == 0, result.output
    name, content = download(page, "#save-mask")
    assert name == "street_mask.png"
    assert content == (tmp_path / "out" / name).read_bytes()
    assert download(page, "#save-overlay")[0] == "street_overlay.png"


def test_classes_are_switched_off_and_on(page, served):
    look(page, image())
    seen = served["colors"].predictor(image())
    page.click("#none")
    assert np.array_equal(overlay(page), image())
    page.get_by_role("checkbox", name="road").check()
    shown = overlay(page)
    assert np.array_equal(shown[seen.mask != 0], image()[seen.mask != 0])
    assert np.abs(shown - np.array(seen.overlay())).max(axis=2)[seen.mask == 0].max() <= 1
    page.click("#all")
    assert_shown(page, seen)


def test_the_legend_has_every_class_with_its_share_and_colour(page, served):
    look(page, image())
    shares = served["colors"].predictor(image()).shares
    rows = page.locator("#present .class")
    assert rows.locator(".name").all_inner_texts() == sorted(shares, key=lambda name: -shares[name])
    assert rows.locator(".share").all_inner_texts() == [
        f"{share:.1%}" for share in sorted(shares.values())[::-1]
    ]
    color = (
        page.get_by_text("road")
        .locator("..")
        .locator(".swatch")
        .evaluate("x => getComputedStyle(x).backgroundImage")
    )
    assert "rgb(128, 64, 128)" in color


def test_classes_that_are_not_there_stand_apart(page):
    look(page, np.full((20, 30, 3), (200, 0, 0), np.uint8))
    assert page.locator("#present .name").all_inner_texts() == ["road"]
    assert page.locator("#rest summary").inner_text() == "2 classes are not here"


def test_the_pointer_and_the_keyboard_tell_the_class(page):
    pixels = np.full((60, 80, 3), (0, 0, 200), np.uint8)
    pixels[:, 40:] = (200, 0, 0)
    look(page, pixels)
    box = page.locator("#stage").bounding_box()
    for share, name in ((0.25, "sky"), (0.75, "road")):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 50)
        assert page.inner_text("#tip") == name
        assert page.locator(".class.pointed .name").inner_text() == name
    page.mouse.move(0, 0)
    expect(page.locator("#tip")).to_be_hidden()
    page.focus("#stage")
    for keys, name in (
        ("Shift+ArrowRight", "road"),
        ("ArrowLeft", "road"),
        ("Shift+ArrowLeft", "sky"),
    ):
        page.keyboard.press(keys)
        assert page.inner_text("#under") == name


def test_another_model_looks_at_the_same_image(page, served):
    look(page, image())
    page.select_option("#model", "layers")
    says(page, "Done: street.png.")
    seen = served["layers"].predictor(image())
    expect(page.locator("#present .name").first).to_have_text(max(seen.shares, key=seen.shares.get))
    assert np.array_equal(mask(page), seen.mask)
    assert_shown(page, seen)


def test_two_models_are_compared_by_a_divider(page, served):
    pixels = np.full((60, 80, 3), (0, 0, 200), np.uint8)
    look(page, pixels)
    page.select_option("#other", "layers")
    expect(page.locator("#divider")).to_be_visible()
    says(page, "Done: street.png.")
    set_opacity(page, 100)
    both = [served[name].predictor(pixels).mask[30, 20] for name in ("colors", "layers")]
    assert both[0] != both[1]

    def assert_split(percent: int) -> None:
        assert page.get_attribute("#divider", "aria-valuenow") == str(percent)
        screen = on_screen(page)
        at = [round((percent + step) / 100 * screen.shape[1]) for step in (-6, 6)]
        for x, wanted in zip(at, both, strict=True):
            assert np.abs(screen[-60, x] - CLASSES[wanted].color).max() <= 2

    assert_split(50)
    page.focus("#divider")
    for key in ("PageUp", "PageUp", "ArrowRight", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert_split(68)
    box = page.locator("#divider").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.down()
    stage = page.locator("#stage").bounding_box()
    page.mouse.move(stage["x"] + 0.3 * stage["width"], box["y"] + 130, steps=4)
    page.mouse.up()
    assert_split(30)
    assert page.locator("#present .class").first.locator(".share").count() == 2


def test_polygons_are_downloaded_as_coco(page, served):
    look(page, image())
    name, content = download(page, "#save-polygons")
    assert name == "street_coco.json"
    found, wanted = json.loads(content), served["colors"].predictor(image()).to_coco()
    assert found["categories"] == wanted["categories"]
    assert [row["segmentation"] for row in found["annotations"]] == [
        row["segmentation"] for row in json.loads(json.dumps(wanted))["annotations"]
    ]


def test_polygons_are_downloaded_as_geojson(page, served):
    look(page, image())
    name, content = download(page, "#save-geojson")
    assert name == "street.geojson"
    wanted = replace(served["colors"].predictor(image()), file_name="street.png")
    assert json.loads(content) == wanted.to_geojson()


def test_where_the_model_is_unsure_is_shown_in_place_of_the_classes(page, served):
    look(page, image())
    before = overlay(page)
    page.get_by_label("Show where the model is unsure").check()
    expect(page.locator("#frame")).to_have_attribute("aria-busy", "false")
    predictor = copy(served["colors"].predictor)
    predictor.soft = "confidence"
    seen = predictor(image())
    share = (1 - seen.soft / 255) * 0.5
    wanted = image() + share[:, :, None] * (np.array((220, 20, 60)) - image())
    inside = ~outlines(seen.mask, 1)
    assert np.abs(overlay(page) - wanted)[inside].max() <= 2
    page.get_by_label("Show where the model is unsure").uncheck()
    expect(page.locator("#frame")).to_have_attribute("aria-busy", "false")
    assert np.array_equal(overlay(page), before)


def test_objects_are_outlined_and_told_apart(page, served):
    page.select_option("#model", "objects")
    look(page, scene())
    seen = served["objects"].predictor(scene())
    balls = [segment for segment in seen.panoptic.segments if segment["category_id"] == 2]
    assert len(balls) == 2
    shown, wanted = overlay(page), np.array(seen.overlay()).astype(int)
    named = slice(27, 44)  # rows with the names, whose font differs
    assert np.abs(np.delete(shown - wanted, named, axis=0)).max() <= 1
    assert (shown[20, 10:30] == (250, 250, 248)).all()
    assert np.abs(shown[named] - seen.image[named]).max() > 100  # white letters on dark ones
    box = page.locator("#stage").bounding_box()
    told = []
    for x in (15, 45, 75):
        page.mouse.move(box["x"] + x / 80 * box["width"], box["y"] + 25 / 60 * box["height"])
        told.append(page.inner_text("#tip"))
    assert sorted(told) == ["ball 1", "ball 2", "wall"]
    assert np.array_equal(mask(page), seen.mask)
    assert set(page.locator("#present .name").all_inner_texts()) == {"wall", "grass", "ball"}


def test_a_mask_that_is_too_ragged_for_objects_is_shown_by_class(page, served):
    def ragged(route) -> None:
        route.fulfill(status=413, json={"error": {"code": "ragged", "message": "Too many runs."}})

    page.route("**/v1/segment?format=rle*", ragged)
    page.select_option("#model", "objects")
    look(page, scene())
    wanted = color_mask(served["objects"].predictor(scene()).mask, served["objects"].classes)
    set_opacity(page, 100)
    assert np.array_equal(overlay(page), np.array(wanted))
    refused(page)


def test_names_are_shown_as_text(page):
    look(page, np.full((20, 30, 3), (0, 200, 0), np.uint8), name="<img src=x onerror=alert(2)>.png")
    assert page.locator("#present .name").inner_text() == HOSTILE
    page.hover("#stage")
    assert page.inner_text("#tip") == HOSTILE
    assert page.locator("main :is(script, img)").count() == 0


def test_every_control_has_a_name_and_the_keyboard_alone_does_it_all(page):
    nameless = """[...document.querySelectorAll('input, button, select, video, [tabindex]')]
        .filter((x) => !(x.labels?.length || x.textContent.trim() || x.ariaLabel))
        .map((x) => x.id)"""
    street = {"name": "street.png", "mimeType": "image/png", "buffer": encoded(image())}
    page.on("filechooser", lambda chooser: chooser.set_files(street))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Enter")
    says(page, "Done: street.png.")
    page.select_option("#other", "layers")
    expect(page.locator("#divider")).to_be_visible()
    assert page.evaluate(nameless) == []
    reached = []
    page.focus("#file")
    while not reached or reached[-1] != "save-overlay":
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.dataset.name")
        )
        assert len(reached) < 30, reached
        if reached[-1] == "opacity":
            page.keyboard.press("End")
        if reached[-1] == "road":
            page.keyboard.press("Space")
    for control in (
        "camera",
        "model",
        "other",
        "stage",
        "divider",
        "opacity",
        "confidence",
        "all",
        "none",
        "road",
        "save-mask",
    ):
        assert control in reached
    assert page.inner_text("#percent") == "100%"
    assert not page.get_by_role("checkbox", name="road").is_checked()
    with page.expect_download():
        page.keyboard.press("Enter")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways(scheme, browser, address):
    page = opened(browser, address, color_scheme=scheme, **PHONE)
    says(page, "Ready.")
    look(page, image((300, 400)), name=f"{'a-very-long-name-' * 8}.png")
    page.select_option("#other", "layers")
    expect(page.locator("#divider")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = page.locator("#stage").bounding_box()
    page.touchscreen.tap(box["x"] + 30, box["y"] + 100)
    expect(page.locator("#tip")).to_be_visible()
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (min(map(int, re.findall(r"\d+", paper))) > 200) == (scheme == "light")
    assert page.errors == []
    page.context.close()


def test_the_page_holds_no_inline_code_and_names_no_other_host():
    folder = Path(__file__).parents[3] / "src/featherseg/serving/page"
    html = (folder / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", html)
    for file in folder.iterdir():
        text = file.read_text()
        assert not re.search(
            r"https?://(?!127\.0\.0\.1)|innerHTML|insertAdjacentHTML|document\.write|eval\(", text
        ), file
