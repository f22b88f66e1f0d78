"""Anything a client sends: the right mask or a refusal with a message; no 500, hang, other mask."""

import base64
import io

import numpy as np
import pytest
from PIL import Image
from support.bad_inputs import PARTS, BadInput, corpus, sample
from support.bad_inputs.case import RGB, saved
from support.bad_inputs.names import NAMES
from support.models.pixel_model import CLASSES, mask_of, pixel_runtime
from support.servers.asgi_client import Client

from featherseg.inference.predictor import Predictor
from featherseg.serving.models import Served


@pytest.fixture
def client(start) -> Client:
    return start(Served("pixels", Predictor(pixel_runtime(), batch=4)))


def sent(client: Client, case: BadInput, **query: str):
    name = case.file.encode("utf-8", "replace").decode()
    return client.post("/v1/segment", files={"image": (name, case.content)}, params=query)


def fault(case: BadInput, response) -> str | None:
    """What is wrong with the answer for that case; None where it is right."""
    if response.status_code != 200:
        if case.pixels is not None and not case.may_fail:
            return f"{case.name} was refused: {response.text}"
        return refusal_fault(case.name, response)
    if case.pixels is None:
        return f"{case.name} was read"
    with Image.open(io.BytesIO(response.content)) as image:
        mask = np.array(image)
    return None if np.array_equal(mask, mask_of(case.pixels)) else f"{case.name} has another mask"


def refusal_fault(name: str, response) -> str | None:
    """What is wrong with a refusal: its status, its form, or what it tells."""
    if response.status_code not in (400, 413, 415):
        return f"{name}: status {response.status_code}, {response.text[:200]}"
    error = response.json()["error"]
    text = error["message"]
    if error.keys() != {"code", "message"} or not text.endswith(".") or len(text) < 15:
        return f"{name}: no sentence in {error}"
    told = (
        "Traceback" in text or "/tmp" in text or "site-packages" in text or not text.isprintable()
    )
    return f"{name} tells too much: {text!r}" if told else None


@pytest.mark.seconds
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_file_gives_its_own_mask_or_a_refusal(client, part):
    faults = [fault(case, sent(client, case)) for case in part()]
    assert not [words for words in faults if words]
    assert client.get("/readyz").status_code == 200


@pytest.mark.seconds
def test_every_file_in_batches_leaves_its_neighbours_alone(client):
    """Each batch holds sound and broken images, in any order."""
    cases = [case for case in corpus() if len(case.content) < 300_000]
    order = np.random.default_rng(0).permutation(len(cases))
    faults = []
    for start in range(0, len(order), 16):
        batch = [cases[i] for i in order[start : start + 16]]
        files = [("images", ("a", case.content)) for case in batch]
        response = client.post("/v1/segment/batch", files=files)
        assert response.status_code == 200, response.text
        for case, result in zip(batch, response.json()["results"], strict=True):
            if "error" in result:
                refused = case.pixels is None or case.may_fail
                faults.append(None if refused else f"{case.name} was refused: {result}")
                continue
            with Image.open(io.BytesIO(base64.b64decode(result["mask_png"]))) as image:
                right = case.pixels is not None and np.array_equal(
                    np.array(image), mask_of(case.pixels)
                )
            faults.append(None if right else f"{case.name} has another mask")
    assert not [words for words in faults if words]


def test_images_of_several_sizes_wait_together(client):
    """A comparison of two waiting images once ended the model's thread, and later requests hung."""
    images = [RGB, RGB[:9], RGB[:9], RGB, np.ascontiguousarray(RGB[:, :9])] * 3
    files = [("images", ("a.png", saved(pixels, "PNG"))) for pixels in images]
    results = client.post("/v1/segment/batch", files=files).json()["results"]
    for pixels, result in zip(images, results, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(result["mask_png"]))) as image:
            np.testing.assert_array_equal(np.array(image), mask_of(pixels))
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("form", ["rle", "polygons"])
def test_a_sample_in_every_form_counts_the_pixels_of_its_mask(client, form):
    for case in sample(30, seed=1):
        response = sent(client, case, format=form)
        if case.pixels is None:
            assert refusal_fault(case.name, response) is None
            continue
        found = response.json()
        counts = np.bincount(mask_of(case.pixels).ravel(), minlength=3)
        assert found["size"] == list(case.pixels.shape[:2])
        assert {s["class"]: s["area"] for s in found["segments"]} == {
            i: n for i, n in enumerate(counts) if n
        }


def test_a_hostile_file_name_reaches_no_header_and_no_sentence(client):
    for name in NAMES.values():
        hostile = name.encode("utf-8", "replace").decode()
        for content in (saved(RGB, "PNG"), b"no image"):
            response = client.post("/v1/segment", files={"image": (hostile, content)})
            assert hostile not in response.text
            assert not any(hostile in value for value in response.headers.values())


def test_hostile_class_names_travel_as_data_only(client):
    """JSON escapes control characters; nothing is taken as text of a page."""
    response = client.get("/v1/models")
    assert [row["name"] for row in response.json()["models"][0]["classes"]] == [
        c.name for c in CLASSES
    ]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "\x1b" not in response.text


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=\x01",
        "",
        "image/png",
    ],
)
def test_a_body_of_another_type_is_refused(client, content_type):
    response = client.post(
        "/v1/segment", content=saved(RGB, "PNG"), headers={"content-type": content_type}
    )
    assert refusal_fault(content_type, response) is None


@pytest.mark.parametrize("charset", ["punycode", "idna", "utf-7", "no-such-charset", "'utf-8'"])
def test_fields_are_decoded_as_utf_8_alone(client, charset):
    """In punycode, 600 kB of a field took minutes of the event loop."""
    body = (
        b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\n'
        + b"a-"
        + b"9" * 20
        + b"\r\n--x--\r\n"
    )
    headers = {"content-type": f"multipart/form-data; charset={charset}; boundary=x"}
    response = client.post("/v1/segment", content=body, headers=headers)
    assert refusal_fault(charset, response) is None
    assert "expected the charset utf-8" in response.text


def test_a_long_field_beside_the_image_is_refused(client):
    response = client.post(
        "/v1/segment", files={"image": ("a.png", saved(RGB, "PNG"))}, data={"x": "a" * 20_000}
    )
    assert refusal_fault("a long field", response) is None


def test_forms_that_cannot_be_right_are_refused(client):
    png = saved(RGB, "PNG")
    forms = {
        "no field": {"files": {"photo": ("a.png", png)}},
        "two images": {"files": [("image", ("a.png", png)), ("image", ("b.png", png))]},
        "text": {"data": {"image": "a.png"}},
        "an address": {"data": {"image": "http://127.0.0.1:8000/"}},
        "nothing": {},
        "too many fields": {
            "files": {"image": ("a.png", png)},
            "data": {str(i): "x" for i in range(2000)},
        },
    }
    for name, form in forms.items():
        assert refusal_fault(name, client.post("/v1/segment", **form)) is None
