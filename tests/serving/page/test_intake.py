"""Every way in which an image comes: files of every kind, paste, drop and the camera."""

import numpy as np
import pytest
from PIL import Image
from support.models.color_model import encoded
from support.servers.page_driver import (
    assert_shown,
    download,
    expect,
    image,
    look,
    mask,
    overlay,
    says,
)

TURNED = [
    ("JPEG", 1),
    ("JPEG", 2),
    ("JPEG", 3),
    ("PNG", 4),
    ("JPEG", 5),
    ("WEBP", 6),
    ("PNG", 7),
    ("JPEG", 8),
]


def test_turned_images_lie_under_their_masks(page, served, tmp_path):
    for kind, orientation in TURNED:
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.{kind.lower()}"
        file.write_bytes(
            encoded(image(), kind, exif=exif, lossless=True, quality=95, subsampling=0)
        )
        page.set_input_files("#file", file)
        says(page, rf"Done: {orientation}\.{kind.lower()}\.")
        assert_shown(page, served["colors"].predictor(file))


def test_what_the_browser_cannot_show_is_shown_as_mask_on_grey(page, served):
    page.set_input_files("#file", {
        "name": "scan.tif", "mimeType": "image/tiff", "buffer": encoded(image(), "TIFF"),
    })  # fmt: skip
    says(page, r"Done, but your browser cannot show scan\.tif: here is the mask alone, on grey\.")
    page.click("#none")
    assert np.array_equal(overlay(page), np.full((60, 80, 3), 128))
    assert np.array_equal(mask(page), served["colors"].predictor(image()).mask)


@pytest.mark.parametrize("way", ["paste", "drop"])
def test_an_image_can_be_pasted_and_dropped(way, page):
    page.evaluate(
        """([way, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(bytes)], `${way}.png`, { type: "image/png" }));
            document.body.dispatchEvent(way === "drop"
                ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
                : new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        [way, list(encoded(image()))],
    )
    says(page, rf"Done: {way}\.png\.")


def test_a_file_that_is_too_large_is_not_sent(page):
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    page.set_input_files(
        "#file", {"name": "long.png", "mimeType": "image/png", "buffer": bytes(300_001)}
    )
    says(page, r"long\.png has 0\.3 MB, but this service takes at most 0\.3 MB\. .*")
    assert sent == []


@pytest.mark.seconds
def test_the_camera_gives_stills_and_frame_after_frame_never_two_at_once(page):
    under_way, most, done = set(), 0, 0

    def began(request) -> None:
        nonlocal most
        if "/v1/segment" in request.url:
            under_way.add(request)
            most = max(most, len(under_way))

    def ended(request) -> None:
        nonlocal done
        done += request in under_way
        under_way.discard(request)

    page.on("request", began)
    page.on("requestfinished", ended)
    page.click("#camera")
    says(page, "The camera is on.")
    page.click("#still")
    says(page, "Done: camera.")
    assert download(page, "#save-overlay")[0] == "camera_overlay.png"
    assert mask(page).shape == (720, 1280)
    page.click("#live")
    says(page, "Live.")
    for _ in range(2):
        before = done
        while done == before:
            page.wait_for_event("requestfinished")
    assert most == 1
    page.click("#live")
    says(page, "Paused.")
    expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
    page.click("#stop")
    expect(page.locator("#viewfinder")).to_be_hidden()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_live_that_is_paused_and_begun_again_goes_on(page):
    held = []
    page.route("**/v1/segment*", lambda route: held.append(route))
    page.click("#camera")
    says(page, "The camera is on.")
    for number in (1, 2):
        with page.expect_request("**/v1/segment*"):
            page.click("#live")
        if number == 1:
            page.click("#live")
    page.wait_for_timeout(300)
    expect(page.locator("#live")).to_have_attribute("aria-pressed", "true")
    page.click("#stop")
    page.unroute_all(behavior="ignoreErrors")


def test_a_model_of_other_channels_has_no_camera(page):
    def grey(route) -> None:
        models = route.fetch().json()["models"]
        route.fulfill(json={"models": [{**models[0], "channels": 1}, *models[1:]]})

    page.route("**/v1/models", grey)
    page.reload()
    says(page, "Ready.")
    expect(page.locator("#camera")).to_be_disabled()
    page.select_option("#model", index=1)
    expect(page.locator("#camera")).to_be_enabled()


def test_an_overlay_that_the_browser_cannot_make_is_told(page):
    look(page, image())
    page.evaluate("() => { HTMLCanvasElement.prototype.toBlob = (done) => done(null); }")
    page.click("#save-overlay")
    says(page, "The browser cannot make so large an image.*")
