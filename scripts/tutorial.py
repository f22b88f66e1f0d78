"""The pictures of docs/start/tutorial.md, made by the commands of that page.

    python scripts/tutorial.py WALK OUT

WALK: the folder of DHCN_dataset, a walk through the corridors of a building as frame_NUMBER*.jpg
with masks (docs/models.md#indoor). OUT becomes the working folder of the page: the annotated export
in COCO's format and the folder `photos`, then what the commands write. VERB.txt there is what a
command printed; a command that has one is not run again.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
from photos import side_by_side
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, expect, sync_playwright

import featherseg

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "start" / "tutorial.md"
CHROMIUM = "/usr/bin/chromium"
HEIGHT = 260  # pixels of a photograph among others
QUALITY = 72

ANNOTATED = range(0, 400, 2)
"""Frames of the walk that are annotated."""

PHOTOS = range(480, 600, 20)
"""Frames that no one annotated, from a later part of the walk."""

RAW_VALUES = {  # class -> values of the masks; 0 are the seams between areas
    "floor": [7],
    "wall": [10],
    "ceiling": [2],
    "door": [4],
    "furniture": [1, 3],
    "other": [5, 6, 8, 9],
}


def main() -> None:
    """Write docs/images/tutorial-*.webp."""
    walk, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    if not (out / "annotated").is_dir():
        annotate(walk, out)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for command in commands():
            run(command, out, browser)
        shoot_report(browser, out / "runs/robot/report.html")
        browser.close()
    draw_annotations(out)
    draw_batch(out / "runs/robot/batch.jpg")
    draw_predictions(out)


def annotate(walk: Path, out: Path) -> None:
    """Write the export of an annotation tool, and frames without annotations."""
    paths = {int(path.name.split("_")[1]): path for path in walk.rglob("frame_*.jpg")}
    lookup = np.full(256, 255, np.uint8)
    for index, values in enumerate(RAW_VALUES.values()):
        lookup[values] = index
    for folder in ("masked/images", "masked/masks", "photos"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for number in ANNOTATED:
        path, name = paths[number], f"corridor_{number:04}"
        shutil.copyfile(path, out / f"masked/images/{name}.jpg")
        raw = np.array(Image.open(path.with_name(f"{path.stem}_mask.png")))  # (H, W)
        Image.fromarray(lookup[raw]).save(out / f"masked/masks/{name}.png")
    for number in PHOTOS:
        shutil.copyfile(paths[number], out / f"photos/corridor_{number:04}.jpg")
    # COCO's format has no colours: any do here
    classes = "".join(f'{name} = "#0000{index:02}"\n' for index, name in enumerate(RAW_VALUES))
    values = "".join(f'{index} = "{name}"\n' for index, name in enumerate(RAW_VALUES))
    text = f'name = "masked"\nimages = "images"\nmasks = "masks"\n\n[classes]\n{classes}'
    text += f'\n[map]\n{values}255 = "ignore"\n\n[splits]\ntrain = 0.8\nval = 0.2\n'
    (out / "masked/dataset.toml").write_text(text, encoding="utf-8")
    featherseg.convert(out / "masked", out / "annotated", to_format="coco")


def commands() -> list[list[str]]:
    """Return the commands of the page as words."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    lines = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    return [line for line in lines if line[:1] == ["featherseg"]]


def run(command: list[str], out: Path, browser: Browser) -> None:
    """Run a command in OUT; a service is shown a photograph, and stopped."""
    words = [sys.executable, "-m", *command]
    if command[1] == "serve":
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        words += ["--port", "0"]
        with subprocess.Popen(words, cwd=out, stdout=subprocess.PIPE, env=environment) as service:
            assert service.stdout
            lines = (line.decode().strip() for line in service.stdout)
            shoot_page(browser, next(x for x in lines if x.startswith("http://")), out / "photos")
            service.send_signal(signal.SIGTERM)
        return
    log = out / f"{command[1]}.txt"
    if not log.exists():
        done = subprocess.run(words, cwd=out, stdout=subprocess.PIPE, stderr=sys.stderr, check=True)
        log.write_bytes(done.stdout)


def shoot_page(browser: Browser, address: str, photos: Path) -> None:
    """Write the page of the service with a photograph under its classes."""
    page = browser.new_page(viewport={"width": 1000, "height": 862}, color_scheme="light")
    page.goto(address)
    expect(page.locator("#status")).to_have_text("Ready.", timeout=60_000)
    page.set_input_files("#file", sorted(photos.iterdir())[1])
    expect(page.locator("#status")).to_have_text(re.compile("^Done"), timeout=60_000)
    save_screenshot(page.screenshot(), "page")
    page.close()


def shoot_report(browser: Browser, report: Path) -> None:
    """Write the top of the report."""
    page = browser.new_page(viewport={"width": 1000, "height": 760}, color_scheme="light")
    page.goto(report.as_uri())
    save_screenshot(page.screenshot(), "report")
    page.close()


def draw_annotations(out: Path) -> None:
    """Three frames with the shapes of the export, and below the masks that convert made of them."""
    (path,) = (out / "annotated").rglob("*.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    shapes = defaultdict[int, list[dict]](list)
    for row in content["annotations"]:
        shapes[row["image_id"]].append(row)
    toml = (out / "robot/dataset.toml").read_text(encoding="utf-8")
    colors = tomllib.loads(toml)["classes"]
    names = {row["id"]: row["name"] for row in content["categories"]}
    columns = []
    for row in content["images"][20:200:55]:
        image = Image.open(next((out / "annotated").rglob(Path(row["file_name"]).name)))
        image = image.convert("RGB")
        for shape in shapes[row["id"]]:
            if color := colors.get(names[shape["category_id"]]):  # not what is to be ignored
                draw_shape(image, shape["segmentation"], color)
        mask = next((out / "robot/masks").rglob(f"{Path(row['file_name']).stem}.png"))
        columns.append([image, Image.open(mask).convert("RGB")])
    save(side_by_side(columns, HEIGHT), "annotations")


def draw_shape(image: Image.Image, segmentation: object, color: str) -> None:
    """Outline the polygons; run lengths, which have no corners, are left out."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            points = [tuple(point) for point in np.reshape(polygon, (-1, 2)).tolist()]
            ImageDraw.Draw(image).line([*points, points[0]], fill=color, width=4)


def draw_batch(path: Path) -> None:
    """Write the first row of what the training saw first, as the run keeps it."""
    image = Image.open(path).convert("RGB")
    save(image.crop((0, 0, image.width, image.width // 3)), "batch")


def draw_predictions(out: Path) -> None:
    """Write three photographs, and below what the model sees."""
    paths = sorted((out / "photos").iterdir())[1::2]
    columns = []
    for path in paths:
        photo = Image.open(path).convert("RGB")
        overlay = Image.open(out / "predictions" / f"{path.stem}_overlay.png").convert("RGB")
        columns.append([photo, overlay.crop((0, 0, *photo.size))])  # without the legend below
    save(side_by_side(columns, HEIGHT), "predicted")


def save_screenshot(content: bytes, name: str) -> None:
    """Write a PNG of the browser as a picture."""
    save(Image.open(BytesIO(content)).convert("RGB"), name)


def save(image: Image.Image, name: str) -> None:
    """Write docs/images/tutorial-NAME.webp."""
    image.save(ROOT / "docs" / "images" / f"tutorial-{name}.webp", quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
