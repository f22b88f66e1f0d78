"""The page: one complete folder that gives a browser the same mask as the model."""

import gzip
import hashlib
import json
import re
import tarfile
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models.export_job import job_of
from support.models.small_model import FACTS, small_model
from support.models.three_layer_run import three_layer_run
from support.servers.chromium import chromium

from featherseg import models
from featherseg.core.errors import ExportError, MissingExtra
from featherseg.exporters import ExportSettings, export_formats, web
from featherseg.exporters.onnx import to_onnx
from featherseg.exporters.parity import perturb, verify
from featherseg.inference.masks import predict_mask
from featherseg.inference.runtimes.pytorch import TorchRuntime


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An npm archive whose files are stand-ins, accepted as the tested ones."""
    contents = {name: f"of {name}".encode() for name in web.RUNTIME}
    monkeypatch.setattr(
        web, "RUNTIME", {name: hashlib.sha256(text).hexdigest() for name, text in contents.items()}
    )
    path = tmp_path / f"onnxruntime-web-{web.VERSION}.tgz"
    with tarfile.open(path, "w:gz") as file:
        for name, text in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(text)
            file.addfile(member, BytesIO(text))
    monkeypatch.setenv(web.VARIABLE, str(path))
    return path


@pytest.fixture(scope="module")
def graph():
    """The ONNX file of the small model, written once: it takes seconds."""
    return to_onnx(small_model(), FACTS, masks=True)


@pytest.fixture
def job(graph, tmp_path, monkeypatch):
    (tmp_path / "draft").mkdir()
    monkeypatch.setattr(web, "to_onnx", lambda model, facts, masks: graph)
    return job_of(small_model(), FACTS, tmp_path / "draft")


def unpack(script: Path, key: str) -> dict:
    """What a script of the page gives to page.js."""
    return json.loads(re.fullmatch(rf"var packed = .*?, {key}: (.*) }};\n", script.read_text())[1])


def test_the_folder_stands_alone(archive, job):
    web.write(job)
    folder = job.folder / "web"
    page = (folder / "index.html").read_text()
    named = {
        name for name in re.findall(r'(?:src|href)="([^"]+)"', page) if not name.startswith("data:")
    }
    assert named <= {file.name for file in folder.iterdir()}
    for file in web.PAGE[:-1]:
        assert "http" not in (folder / file).read_text().replace(
            'http-equiv="Content-Security-Policy"', ""
        )
    assert "connect-src 'none'" in page


def test_the_scripts_hold_the_model_and_the_runtime(archive, job):
    web.write(job)
    folder = job.folder / "web"
    model = unpack(folder / "model.js", "model")
    assert gzip.decompress(b64decode(model["onnx"])) == (folder / "model.onnx").read_bytes()
    assert model["facts"]["name"] == FACTS.name
    assert model["facts"]["licence"] == FACTS.licence
    assert [row["name"] for row in model["facts"]["classes"]] == [row.name for row in FACTS.classes]
    runtime = unpack(folder / "runtime.js", "runtime")
    assert gzip.decompress(b64decode(runtime["wasm"])) == b"of ort-wasm-simd-threaded.wasm"
    assert (folder / "ort.wasm.min.js").read_bytes() == b"of ort.wasm.min.js"


def test_the_page_reads_only_what_it_is_given(archive, job):
    web.write(job)
    facts = unpack(job.folder / "web" / "model.js", "model")["facts"]
    assert set(re.findall(r"\bfacts\.(\w+)", (job.folder / "web" / "page.js").read_text())) == set(
        facts
    )


def test_names_from_others_end_no_script_of_the_page(archive, job):
    hostile = "</script><script>alert(1)</script>\u2028\n'\"`${x}\\"
    facts = replace(
        job.facts,
        name=hostile,
        licence=hostile,
        classes=[replace(c, name=hostile) for c in FACTS.classes],
    )
    job = replace(job, facts=facts)
    web.write(job)
    folder = job.folder / "web"
    kept = unpack(folder / "model.js", "model")["facts"]
    assert {kept["name"], kept["licence"], *(row["name"] for row in kept["classes"])} == {hostile}
    assert (
        "alert" not in (folder / "index.html").read_text()
    )  # the script is a file: only its own grammar counts
    assert (folder / "model.js").read_text().isascii()
    for script in ("page.js", "png.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(",
            (folder / script).read_text(),
        )


@pytest.mark.seconds
def test_the_model_inside_gives_the_models_masks(archive, tmp_path):
    job = job_of(small_model(), FACTS, tmp_path)
    web.write(job)
    report = verify(job.model, job.folder / "web" / "model.onnx", facts=FACTS)
    assert report.ok, report


def test_an_unpacked_package_serves_as_well(archive, job, tmp_path, monkeypatch):
    with tarfile.open(archive) as file:
        for name in (
            file.getnames()
        ):  # one by one: `extractall(filter=...)` is newer than Debian's Python 3.11.2
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(file.extractfile(name).read())
    monkeypatch.setenv(web.VARIABLE, str(tmp_path / "package"))
    web.write(job)
    assert (job.folder / "web" / "index.html").is_file()


def test_without_the_package_the_command_that_gets_it_is_named(job, tmp_path, monkeypatch):
    monkeypatch.delenv(web.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtra, match=r"npm pack onnxruntime-web@1\.30\.0"):
        web.write(job)
    assert not list(job.folder.iterdir())


def test_without_the_package_nothing_is_written_for_other_targets_either(tmp_path, monkeypatch):
    monkeypatch.delenv(web.VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingExtra, match="npm pack"):
        export_formats(small_model(), ["onnx", "web"], tmp_path / "export")
    assert not (tmp_path / "export").exists()


@pytest.mark.seconds
@pytest.mark.usefixtures("archive", "quick_export")
def test_that_masks_are_not_scored_is_said(tmp_path):
    said = []
    reports, errors = export_formats(
        three_layer_run(tmp_path / "run"),
        ["web"],
        settings=ExportSettings(score=True),
        progress=lambda doing, done, total: said.append(doing),
    )
    assert (len(reports), errors) == (1, [])
    assert "web: mIoU is not measured: the file returns masks, not logits" in said


def test_another_version_is_refused(archive, job, monkeypatch):
    monkeypatch.setattr(web, "RUNTIME", dict.fromkeys(web.RUNTIME, "0" * 64))
    with pytest.raises(ExportError, match=r"is not that of onnxruntime-web 1\.30\.0"):
        web.write(job)


def test_what_is_no_package_is_refused(job, tmp_path, monkeypatch):
    (tmp_path / "a.tgz").write_bytes(b"nothing")
    monkeypatch.setenv(web.VARIABLE, str(tmp_path / "a.tgz"))
    with pytest.raises(ExportError, match="expected the npm package"):
        web.write(job)


def test_a_download_that_was_cut_short_is_refused(archive, monkeypatch):
    content = archive.read_bytes()
    for spoiled in (content[: len(content) // 2], content[:40] + b"\xff" * 40 + content[80:]):
        archive.write_bytes(spoiled)
        with pytest.raises(ExportError, match="expected the npm package"):
            web.find_runtime()


def test_a_model_of_other_channels_is_refused(job):
    model = job.model
    model.mean = model.std = (1.0,)
    with pytest.raises(ExportError, match="takes 1 channels"):
        web.write(replace(job, model=model))


@pytest.fixture(scope="module")
def browser():
    with chromium() as program:
        yield program


@pytest.fixture
def page(browser):
    """A page that keeps what it logs as errors."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on(
        "console",
        lambda message: page.errors.append(message.text) if message.type == "error" else None,
    )
    yield page
    context.close()


STAND_IN = """
var ort = { env: { wasm: {} }, Tensor: function (type, data, dims) { return { data, dims }; },
 InferenceSession: {
  create: async () => ({
    run: async ({ images: { dims } }) => ({ masks: { data: new Uint8Array(dims[1] * dims[2]) } }),
  }),
} };
"""
"""onnxruntime-web for tests of the page alone: every pixel is of the first class."""


@pytest.fixture
def folder(archive, job) -> Path:
    """The folder of the page, with STAND_IN."""
    web.write(job)
    (job.folder / "web" / "ort.wasm.min.js").write_text(STAND_IN)
    return job.folder / "web"


def ready(page, folder: Path) -> None:
    page.goto((folder / "index.html").as_uri())
    page.wait_for_function(
        "document.getElementById('status').textContent == 'Ready.'", timeout=60_000
    )


@pytest.mark.parametrize("name", ["model.js", "runtime.js", "ort.wasm.min.js", "png.js", "page.js"])
def test_a_file_that_is_missing_is_named(page, folder, name):
    (folder / name).unlink()
    page.goto((folder / "index.html").as_uri())
    said = page.inner_text("#status")
    assert f"{name} could not be loaded" in said or (
        name == "page.js" and "page.js is missing" in said
    )


def test_colours_are_seen_on_transparent_images_too(page, folder, tmp_path):
    Image.new("RGBA", (4, 3), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    ready(page, folder)
    look(page, tmp_path / "clear.png")
    page.fill("#opacity", "100")
    read = "[...document.getElementById('view').getContext('2d').getImageData(0, 0, 4, 3).data]"
    assert page.evaluate(read) == [*FACTS.classes[0].color, 255] * 12
    assert "transparent parts are seen as black" in page.inner_text("#caption")


def test_a_black_class_leaves_the_image_as_it_is(page, folder, tmp_path):
    Image.new("RGB", (4, 3), (200, 100, 50)).save(tmp_path / "plain.png")
    ready(page, folder)
    page.evaluate("facts.classes[0].color = [0, 0, 0]")
    look(page, tmp_path / "plain.png")
    read = "[...document.getElementById('view').getContext('2d').getImageData(0, 0, 4, 3).data]"
    assert page.evaluate(read) == [200, 100, 50, 255] * 12
    assert "transparent" not in page.inner_text("#caption")


def test_the_image_that_was_chosen_last_is_shown_and_can_be_chosen_again(page, folder, tmp_path):
    for name, width in (("first.png", 8), ("last.png", 4)):
        Image.new("RGB", (width, 3)).save(tmp_path / name)
    ready(page, folder)
    page.evaluate(
        "() => { const make = createImageBitmap;"
        "  globalThis.createImageBitmap = async (file, options) => {"
        "  if (file.name == 'first.png') await new Promise((resolve) => setTimeout(resolve, 300));"
        "  return make(file, options); }; }"
    )
    page.set_input_files("#file", tmp_path / "first.png")
    assert page.evaluate("document.getElementById('file').value") == ""
    look(page, tmp_path / "last.png")
    page.wait_for_timeout(600)
    assert "4 x 3 pixels" in page.inner_text("#caption")
    assert page.errors == []


@pytest.fixture
def opened(page, job):
    """The page of the small model, opened from disk, ready to look."""
    try:
        web.write(job)
    except MissingExtra as error:
        pytest.skip(str(error))
    page.goto((job.folder / "web" / "index.html").as_uri())
    page.wait_for_function(
        "document.getElementById('status').textContent == 'Ready.'", timeout=60_000
    )
    return page


def look(page, image: Path) -> str:
    """Give the page an image; -> what it says then."""
    page.set_input_files("#file", image)
    page.wait_for_function(
        "/Done|could not/.test(document.getElementById('status').textContent)", timeout=60_000
    )
    return page.inner_text("#status")


def download(page, path: Path) -> np.ndarray:
    with page.expect_download() as found:
        page.click("#download")
    found.value.save_as(path)
    return np.array(Image.open(path))


def image(path: Path, size: tuple[int, int] = (97, 131)) -> np.ndarray:
    """An image of smooth colours under noise, saved without loss."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: size[0], : size[1]] / 20
    waves = np.stack([np.sin(rows + columns), np.cos(rows), np.sin(columns * 2)], axis=-1)
    pixels = (127 + 100 * waves + rng.normal(0, 20, (*size, 3))).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_a_browser_gives_the_predictors_mask_from_disk(opened, job, tmp_path):
    pixels = image(tmp_path / "street.png")
    said = look(opened, tmp_path / "street.png")
    assert re.fullmatch(r"Done in \d+ ms\.", said)
    assert "131 x 97 pixels" in opened.inner_text("#caption")
    mask = download(opened, tmp_path / "street_mask.png")
    expected = predict_mask(TorchRuntime(job.model, FACTS.classes, device="cpu"), pixels)
    assert len(np.unique(expected)) > 1
    assert (mask == expected).mean() > 0.999  # elsewhere the top two are within rounding
    assert Image.open(tmp_path / "street_mask.png").getpalette()[: 3 * len(FACTS.classes)] == [
        value for info in FACTS.classes for value in info.color
    ]
    assert opened.errors == []


def test_a_browser_resizes_as_the_model_was_validated(page, job, tmp_path):
    image(tmp_path / "street.png")
    try:
        web.write(replace(job, facts=replace(FACTS, test_resize=(48, 64))))
    except MissingExtra as error:
        pytest.skip(str(error))
    page.goto((job.folder / "web" / "index.html").as_uri())
    page.wait_for_function(
        "document.getElementById('status').textContent == 'Ready.'", timeout=60_000
    )
    look(page, tmp_path / "street.png")
    assert "131 x 97 pixels, resized to 64 x 47" in page.inner_text("#caption")
    assert download(page, tmp_path / "mask.png").shape == (97, 131)


def test_a_class_can_be_hidden_and_the_colours_made_stronger(opened, tmp_path):
    pixels = image(tmp_path / "street.png")
    look(opened, tmp_path / "street.png")
    read = "[...document.getElementById('view').getContext('2d').getImageData(0, 0, 131, 97).data]"

    def shown() -> np.ndarray:
        return np.array(opened.evaluate(read), dtype=np.uint8).reshape(97, 131, 4)[:, :, :3]

    opened.click("#none")
    assert np.array_equal(shown(), pixels)
    opened.click("#all")
    opened.fill("#opacity", "100")
    mask = download(opened, tmp_path / "mask.png")
    assert np.array_equal(
        shown(), np.array([info.color for info in FACTS.classes], dtype=np.uint8)[mask]
    )
    opened.uncheck(f"#classes label:nth-child({mask[0, 0] + 1}) input")
    assert np.array_equal(shown()[mask == mask[0, 0]], pixels[mask == mask[0, 0]])


def test_what_is_no_image_gets_a_message(opened, tmp_path):
    (tmp_path / "not.png").write_bytes(b"nothing")
    assert "not.png could not be segmented" in look(opened, tmp_path / "not.png")


@pytest.mark.seconds
def test_every_control_has_a_name_and_the_keyboard_reaches_it(opened, tmp_path):
    image(tmp_path / "street.png")
    look(opened, tmp_path / "street.png")
    nameless = """[...document.querySelectorAll('input, button')]
        .filter((x) => !(x.labels?.length || x.textContent.trim() || x.ariaLabel)).length"""
    assert opened.evaluate(nameless) == 0
    reached = set()
    for _ in range(20):
        opened.keyboard.press("Tab")
        reached.add(opened.evaluate("document.activeElement.id"))
    assert {"opacity", "all", "none", "download"} <= reached


@pytest.mark.slow
@pytest.mark.parametrize("name", ["frm-lite0", "cgrseg-lite0", "rsp-lite0"])
def test_a_browser_gives_every_systems_mask(name, page, tmp_path):
    model = perturb(models.build(name, classes=len(FACTS.classes)))
    try:
        web.write(job_of(model, FACTS, tmp_path))
    except MissingExtra as error:
        pytest.skip(str(error))
    page.goto((tmp_path / "web" / "index.html").as_uri())
    page.wait_for_function(
        "document.getElementById('status').textContent == 'Ready.'", timeout=60_000
    )
    pixels = image(tmp_path / "street.png", (161, 225))
    assert "Done" in look(page, tmp_path / "street.png")
    mask = download(page, tmp_path / "mask.png")
    runtime = TorchRuntime(model, FACTS.classes, device="cpu")
    assert (mask == predict_mask(runtime, pixels)).mean() > 0.999
    assert page.errors == []
