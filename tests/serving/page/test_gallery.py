"""Several images at once: how they are added and browsed, and their masks in one zip."""

import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.models.color_model import encoded, mask_in
from support.servers.page_driver import download, expect, image, look, mask, refused, says

NAMES = ["street/2.png", "street/10.png", "street/night/1.jpg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three images, turned against each other, beside what is none."""
    root = tmp_path_factory.mktemp("images") / "street"
    (root / "night").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for step, name in enumerate(NAMES):
        kind = "JPEG" if name.endswith("jpg") else "PNG"
        (root.parent / name).write_bytes(encoded(np.roll(image(), 13 * step, axis=1), kind))
    (root / "notes.txt").write_text("buy milk")
    (root / ".hidden" / "3.png").write_bytes(encoded(image()))
    return root


def choose(page, folder: Path) -> None:
    page.set_input_files("#folder", str(folder))
    says(page, f"Done: {NAMES[0]}.")


def drop(page, folder: Path) -> None:
    """As the desktop drops it."""
    box = page.locator("#drop").bounding_box()
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {
            "type": kind, "x": box["x"] + 5, "y": box["y"] + 5,
            "data": {"items": [], "files": [str(folder)], "dragOperationsMask": 1},
        })  # fmt: skip
    says(page, f"Done: {NAMES[0]}.")


def saved(page) -> zipfile.ZipFile:
    """The zip of all masks, every checksum right."""
    name, content = download(page, "#save-all")
    assert name == "masks.zip"
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.testzip() is None
    return archive


def test_thumbnails_lead_to_their_images(page, folder):
    choose(page, folder)
    thumbs = page.locator("#thumbs button")
    expect(thumbs).to_have_count(3)
    expect(page.locator("#thumbs canvas")).to_have_count(3)
    thumbs.nth(2).click()
    says(page, f"Done: {NAMES[2]}.")
    assert thumbs.nth(2).get_attribute("aria-current") == "true"
    assert page.locator("#thumbs [aria-current=true]").count() == 1
    page.set_input_files("#file", files(("a.png", encoded(image())), ("b.png", b"no image")))
    says(page, "Done: a.png.")
    assert [t.strip() for t in thumbs.all_inner_texts()] == [
        "",
        "2",
    ]  # what is no image: its number


def files(*images: tuple[str, bytes]) -> list[dict]:
    return [{"name": name, "mimeType": "", "buffer": content} for name, content in images]


@pytest.mark.parametrize("come_in", [choose, pytest.param(drop, marks=pytest.mark.slow)])
def test_the_images_of_a_folder_are_gone_through(come_in, page, folder, served):
    come_in(page, folder)
    assert page.locator("#list option").all_inner_texts() == [
        f"{i}. {name}" for i, name in enumerate(NAMES, 1)
    ]
    steps = [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 2), ("ArrowLeft", 1)]
    for key, at in steps:
        page.keyboard.press(key)
        says(page, f"Done: {NAMES[at]}.")
        assert page.inner_text("#place") == f"{at + 1} of 3"
        assert np.array_equal(
            mask(page), served["colors"].predictor(folder.parent / NAMES[at]).mask
        )
    page.click("#next")
    says(page, f"Done: {NAMES[2]}.")
    expect(page.locator("#next")).to_be_disabled()
    page.select_option("#list", index=0)
    says(page, f"Done: {NAMES[0]}.")
    expect(page.locator("#previous")).to_be_disabled()
    assert download(page, "#save-mask")[0] == "2_mask.png"


def test_a_zip_holds_the_mask_of_every_image(page, folder, served):
    choose(page, folder)
    page.select_option("#model", "objects")  # whose answers on the page are no PNGs
    archive = saved(page)
    assert archive.namelist() == [re.sub(r"\.\w+$", "_mask.png", name) for name in NAMES]
    for name in NAMES:
        wanted = served["objects"].predictor(folder.parent / name).mask
        assert np.array_equal(mask_in(archive.read(re.sub(r"\.\w+$", "_mask.png", name))), wanted)
    expect(page.locator("#saving")).to_have_text("3 masks in masks.zip.")


def test_an_image_that_is_refused_leaves_the_others_alone(page):
    png = encoded(image())
    chosen = files(
        ("a.png", png), ("notes.png", b"buy milk"), ("long.png", bytes(300_001)), ("A.jpg", png)
    )
    page.set_input_files("#file", chosen)
    says(page, "Done: a.png.")
    page.keyboard.press("ArrowRight")
    says(page, "This is not a JPEG.*")
    expect(page.locator("#result")).to_be_hidden()
    page.keyboard.press("ArrowRight")
    says(page, "long.png has 0.3 MB.*")
    page.keyboard.press("ArrowRight")
    says(page, "Done: A.jpg.")
    expect(page.locator("#result")).to_be_visible()
    archive = saved(page)
    assert archive.namelist() == ["a_mask.png", "A_2_mask.png", "refused.txt"]
    assert re.fullmatch(
        r"notes\.png: This is not a JPEG.*\nlong\.png: .* at most .*\n",
        archive.read("refused.txt").decode(),
    )
    assert page.locator("#list option").nth(1).inner_text() == "2. notes.png (not segmented)"
    refused(page)
    look(page, image())
    expect(page.locator("#gallery")).to_be_hidden()


def test_the_arrow_keys_of_other_controls_stay_theirs(page, folder):
    choose(page, folder)
    for control in ("#opacity", "#stage"):
        page.focus(control)
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#place") == "1 of 3"
    page.locator("#stage").click()
    page.keyboard.press("ArrowRight")
    says(page, f"Done: {NAMES[1]}.")


def test_the_image_that_was_opened_last_is_shown_however_late_the_others_are_answered(
    page, folder, served
):
    choose(page, folder)
    waiting = []
    page.route(
        "**/v1/segment*", lambda route: route.continue_() if waiting else waiting.append(route)
    )
    with page.expect_request("**/v1/segment*"):
        page.keyboard.press("ArrowRight")
    says(page, f"Segmenting {NAMES[1]}.")
    page.keyboard.press("ArrowRight")
    says(page, f"Done: {NAMES[2]}.")
    assert np.array_equal(mask(page), served["colors"].predictor(folder.parent / NAMES[2]).mask)
    page.unroute("**/v1/segment*")


def test_a_zip_is_stopped_and_begun_again_where_the_service_was_gone(page, folder):
    choose(page, folder)
    page.route("**/v1/segment*", lambda route: None)
    page.click("#save-all")
    expect(page.locator("#saving")).to_have_text("Segmenting 2 of 3.")
    page.click("#save-all")
    expect(page.locator("#saving")).to_have_text("Stopped.")
    page.unroute("**/v1/segment*")
    page.route("**/v1/segment*", lambda route: route.abort())
    page.click("#save-all")
    says(page, "The service does not answer.*")
    refused(page)
    page.unroute("**/v1/segment*")
    with page.expect_download() as found:
        page.click("#again")
    assert len(zipfile.ZipFile(found.value.path()).namelist()) == 3


def test_what_is_kept_of_images_is_bounded(page):
    kept = """async () => {
        const { keep, setImages } = await import("/page/gallery.js");
        const images = Array.from(
            { length: 5 }, () => ({ content: { size: 1e8 }, predictions: new Map() }));
        images.forEach(keep);
        keep(images[3]); // shown once more
        const mask = new Uint8Array(4e7);
        const colors = { mask, parts: new Uint16Array(4e7), png: null };
        keep({ content: null, predictions: new Map([["colors", colors]]) });
        return images.map(({ content }) => content !== null);
    }"""
    assert page.evaluate(kept) == [False, False, False, True, False]


@pytest.mark.slow  # the browser takes seconds to make them
def test_too_many_images_are_refused_with_a_message(page):
    page.evaluate("""() => {
        const data = new DataTransfer();
        for (let i = 0; i <= 10_000; i++) data.items.add(new File([], `${i}.png`));
        document.body.dispatchEvent(
            new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
    }""")
    says(page, "10001 images are too many: at most 10000 at a time.")


def test_a_folder_without_images_is_said(page, tmp_path):
    (tmp_path / "notes.txt").write_text("buy milk")
    page.set_input_files("#folder", str(tmp_path))
    says(page, "The folder holds no image of a format that is read.")
