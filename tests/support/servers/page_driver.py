"""Drives the page of a service that runs in a thread: what its models see is plain in the image."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image
from support.models.color_model import ColorModel, encoded, mask_in, served
from support.models.small_run import small_info
from support.models.three_layers import ThreeLayers

from featherseg import models
from featherseg.core.types import ClassInfo
from featherseg.exporters.parity import perturb
from featherseg.inference.predictor import Prediction, Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.runs.run import save_weights, write_info
from featherseg.serving.app import create_app
from featherseg.serving.models import Served
from featherseg.serving.server import bind
from featherseg.serving.settings import Limits, Settings

PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
HOSTILE = "<script>alert(1)</script><img/src=x/onerror=alert(1)>"
CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo(HOSTILE, (10, 200, 42)),
    ClassInfo("sky", (70, 130, 180)),
)


def served_models() -> list[Served]:
    """`colors` and `layers` have CLASSES and differ, `objects` tells objects apart."""
    return [
        Served(
            "colors",
            Predictor(TorchRuntime(ColorModel().eval(), CLASSES, licence="MIT", device="cpu")),
        ),
        Served("layers", Predictor(TorchRuntime(ThreeLayers(8).eval(), CLASSES, device="cpu"))),
        served("objects", panoptic=True),
    ]


def noise_run(folder: Path) -> Path:
    """A run folder whose weights are all noise."""
    folder.mkdir()
    write_info(folder, small_info(CLASSES))
    save_weights(folder, perturb(models.build("frm-lite0", classes=len(CLASSES))).state_dict())
    return folder


@contextmanager
def serving(
    on_page: list[Served], token: str | None = None, largest: int = 300_000
) -> Iterator[str]:
    """The address of a service that lives as long as the block; largest: bytes of a request."""
    listener = bind("127.0.0.1", 0)
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    settings = Settings(hosts=frozenset({address}), token=token, limits=Limits(bytes=largest))
    server = uvicorn.Server(
        uvicorn.Config(create_app(on_page, settings), log_config=None, access_log=False, ws="none")
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://{address}/"
    finally:
        server.should_exit = True
        thread.join()


def image(size: tuple[int, int] = (60, 80)) -> np.ndarray:
    """(H, W, 3) uint8: blocks of random colours, in which every class of `models` is seen."""
    height, width = size
    blocks = np.random.default_rng(0).integers(
        0, 256, (height // 5 + 1, width // 5 + 1, 3), dtype=np.uint8
    )
    return blocks.repeat(5, 0).repeat(5, 1)[:height, :width]


def scene() -> np.ndarray:
    """(60, 80, 3) uint8: two balls of 20 and 30 by 30 pixels, a wall above and grass below."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:40, :, 0], pixels[40:, :, 1] = 250, 250
    pixels[20:50, 10:30] = pixels[20:50, 40:70] = (0, 0, 250)
    pixels[35, 20] = pixels[35, 55] = (0, 0, 255)
    return pixels


def expect(locator):
    """Return Playwright's waiting assertion; imported late because it may not be installed."""
    from playwright.sync_api import expect

    return expect(locator)


def opened(browser, address: str, **options):
    """A page that keeps what it logs as errors."""
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(20_000)
    page.errors, page.refusal_expected = [], False
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on(
        "console",
        lambda message: page.errors.append(message.text) if message.type == "error" else None,
    )
    page.on("dialog", lambda dialog: (page.errors.append(dialog.message), dialog.dismiss()))
    page.goto(address)
    return page


def says(page, sentence: str) -> None:
    """Wait until the status matches the whole sentence, a regular expression."""
    expect(page.locator("#status")).to_have_text(re.compile(f"^{sentence}$"), timeout=20_000)


def refused(page) -> None:
    """Allow answers with an error status in this test, which the browser logs at any time."""
    page.refusal_expected = True


def unexpected(page) -> list[str]:
    """What was logged and should not have been."""
    return [
        error
        for error in page.errors
        if not (page.refusal_expected and error.startswith("Failed to load"))
    ]


def look(page, pixels: np.ndarray, name: str = "street.png") -> bytes:
    """Choose an image and wait for what is seen; -> its file."""
    content = encoded(pixels)
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    says(page, f"Done: {re.escape(name)}.")
    return content


def download(page, button: str) -> tuple[str, bytes]:
    """-> (name, content)."""
    with page.expect_download() as found:
        page.click(button)
    return found.value.suggested_filename, Path(found.value.path()).read_bytes()


def overlay(page) -> np.ndarray:
    """(H, W, 3) int: the overlay as it is downloaded."""
    return np.array(Image.open(BytesIO(download(page, "#save-overlay")[1])).convert("RGB")).astype(
        int
    )


def mask(page) -> np.ndarray:
    """(H, W): the mask as it is downloaded."""
    return mask_in(download(page, "#save-mask")[1])


def assert_shown(page, prediction: Prediction, opacity: float = 0.5) -> None:
    """The overlay is that of `predict`, but for rounding."""
    wanted = np.array(prediction.overlay(alpha=opacity)).astype(int)
    assert np.abs(overlay(page) - wanted).max() <= 1


def set_opacity(page, percent: int) -> None:
    page.fill("#opacity", str(percent))


def on_screen(page) -> np.ndarray:
    """(H, W, 3) int: the stage as the screen has it."""
    return np.array(Image.open(BytesIO(page.locator("#stage").screenshot())).convert("RGB")).astype(
        int
    )
