"""The service for its clients: right masks, and a status, code and message for every refusal."""

import asyncio
import base64
import json
import logging
import threading
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from support.models.color_model import (
    CLASSES,
    Gated,
    answer_of,
    color_predictor,
    encoded,
    image,
    mask_in,
    poisoned,
    served,
    until,
)

from featherseg.converters import convert
from featherseg.core.errors import ConfigError
from featherseg.inference.predictor import Predictor
from featherseg.inference.soft_output import SoftKind, save_soft
from featherseg.inference.tiling import process_bytes
from featherseg.serving import service
from featherseg.serving.models import Served
from featherseg.serving.schema import (
    BatchAnswer,
    CocoAnswer,
    CocoBatchAnswer,
    GeoJsonAnswer,
    MaskAnswer,
)
from featherseg.serving.settings import Limits


def form(content: bytes, name: str = "photo.png", media_type: str = "image/png") -> dict:
    return {"image": (name, content, media_type)}


def several(*contents: bytes) -> list:
    return [("images", ("photo.png", content, "image/png")) for content in contents]


def refusal(response) -> tuple[int, str]:
    """(status, code) of an answer that says what is wrong in a sentence, and nothing else."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["message"].endswith((".", "?"))
    return response.status_code, body["error"]["code"]


@pytest.fixture
def gated(start):
    """(client of a service with two slots, its predictor, which waits)."""
    predictor = Gated()
    yield start(Served("color", predictor), limits={"queue": 2}), predictor
    predictor.gate.set()


def test_the_mask_is_the_file_that_predict_writes(client, tmp_path):
    for form_name in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        file = tmp_path / f"photo.{form_name.lower()}"
        Image.fromarray(image()).save(file)
        expected = color_predictor()(file).save(tmp_path / "out.png")[0].read_bytes()
        response = client.post("/v1/segment", files=form(file.read_bytes()))
        assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
        assert response.headers["x-featherseg-model"] == "color"
        assert response.content == expected


@pytest.mark.seconds
def test_thirty_two_at_once_get_each_their_own_mask(client):
    sizes = [(24, 40), (24, 40), (17, 33)]
    images = [image(seed, sizes[seed % 3]) for seed in range(64)]
    answers = [
        client.begin("POST", "/v1/segment", files=form(encoded(pixels))) for pixels in images[:32]
    ]
    answers += [
        client.begin("POST", "/v1/segment", files=form(encoded(pixels))) for pixels in images[32:]
    ]
    for pixels, answer in zip(images, answers, strict=True):
        response = answer.result(60)
        assert response.status_code == 200
        np.testing.assert_array_equal(mask_in(response.content), answer_of(pixels))


def test_above_the_queue_429_says_when_to_try_again(gated):
    client, predictor = gated
    waiting = [
        client.begin("POST", "/v1/segment", files=form(encoded(image(seed)))) for seed in range(2)
    ]
    until(lambda: client.app.state.service.slots.in_use == 2)
    refused = client.post("/v1/segment", files=form(encoded(image())))
    assert refusal(refused) == (429, "busy")
    assert refused.headers["retry-after"] == "1"
    assert "featherseg_queue_length 2.0" in client.get("/metrics").text
    predictor.gate.set()
    assert [answer.result(60).status_code for answer in waiting] == [200, 200]
    assert client.post("/v1/segment", files=form(encoded(image()))).status_code == 200


def test_a_batch_takes_a_slot_an_image(start):
    client = start(limits={"queue": 3, "batch": 4})
    content = encoded(image())
    assert client.post("/v1/segment/batch", files=several(*[content] * 3)).status_code == 200
    assert refusal(client.post("/v1/segment/batch", files=several(*[content] * 4))) == (429, "busy")
    assert client.app.state.service.slots.in_use == 0


def test_an_answer_that_takes_too_long_is_given_up_and_the_next_is_right(start):
    predictor = Gated()
    client = start(Served("color", predictor), limits={"seconds": 0.2})
    assert refusal(client.post("/v1/segment", files=form(encoded(image())))) == (504, "time")
    predictor.gate.set()
    until(lambda: client.post("/v1/segment", files=form(encoded(image(1)))).status_code == 200)
    assert client.app.state.service.slots.in_use == 0


def test_a_body_that_does_not_come_is_given_up(start):
    client = start(limits={"seconds": 0.2})

    async def stalled():
        yield b"--x\r\n"
        await asyncio.Event().wait()

    response = client.post(
        "/v1/segment",
        content=stalled(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert refusal(response) == (408, "time")
    assert client.app.state.service.slots.in_use == 0


def test_an_image_at_which_the_model_fails_tells_nothing_and_hurts_no_other(client, caplog):
    contents = [encoded(image(0)), encoded(poisoned()), encoded(image(1))]
    with caplog.at_level(logging.ERROR):
        answers = [client.begin("POST", "/v1/segment", files=form(content)) for content in contents]
        good, bad, other = [answer.result(60) for answer in answers]
    assert refusal(bad) == (500, "internal")
    assert "secret" not in bad.text
    assert "Traceback" not in bad.text
    assert "a secret of the server" in caplog.text
    np.testing.assert_array_equal(mask_in(good.content), answer_of(image(0)))
    np.testing.assert_array_equal(mask_in(other.content), answer_of(image(1)))


def test_a_body_of_too_many_bytes_is_refused_whatever_its_length_was_said_to_be(start):
    client = start(limits={"bytes": 20_000})
    assert client.post("/v1/segment", files=form(encoded(image()))).status_code == 200
    assert refusal(client.post("/v1/segment", files=form(bytes(20_001)))) == (413, "bytes")
    read = 0

    async def endless():
        nonlocal read
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        while True:
            read += 1000
            yield bytes(1000)

    for length in ({}, {"Content-Length": "10"}):
        headers = {"Content-Type": "multipart/form-data; boundary=x", **length}
        read = 0
        assert refusal(client.post("/v1/segment", content=endless(), headers=headers)) == (
            413,
            "bytes",
        )
        assert read <= 22_000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", (400, "empty")),
        (b"some text, named .png", (415, "format")),
        (b"%PDF-1.7" + bytes(100), (415, "format")),
        (b"GIF89a" + bytes(100), (400, "unreadable")),
        (encoded(image())[:500], (400, "unreadable")),
        (encoded(image(0, (40, 60))), (413, "pixels")),
    ],
)
def test_what_cannot_be_read_is_refused(start, content, expected):
    client = start(limits={"pixels": 2000})
    assert refusal(client.post("/v1/segment", files=form(content))) == expected
    (result,) = client.post("/v1/segment/batch", files=several(content)).json()["results"]
    assert result["error"]["code"] == expected[1]


def test_name_and_type_that_the_client_claims_mean_nothing(client):
    response = client.post(
        "/v1/segment", files=form(encoded(image()), "../../etc/\x1b[31mpasswd", "text/x-python")
    )
    np.testing.assert_array_equal(mask_in(response.content), answer_of(image()))


def test_a_size_that_a_model_does_not_take_is_refused_with_its_own_sentence(start):
    predictor = color_predictor()
    predictor.memory_gb = 0.1
    response = start(Served("color", predictor)).post("/v1/segment", files=form(encoded(image())))
    assert refusal(response) == (400, "image")
    assert "too little for an image of 24x40" in response.json()["error"]["message"]


def test_memory_that_holds_no_image_of_the_training_is_refused_before_the_first_request(start):
    predictor = color_predictor()
    predictor.runtime.image_size = (360, 480)
    start(Served("color", predictor))
    predictor.memory_gb = process_bytes() / 1e9 + 0.01  # enough for images of 24x40
    with pytest.raises(ConfigError, match="too little for an image of 360x480"):
        start(Served("color", predictor))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "form"),
        ({"json": {"image": "/etc/passwd"}}, "form"),
        ({"data": {"image": "http://example.com/a.png"}}, "form"),
        ({"files": {"photo": ("a.png", encoded(image()))}}, "form"),
        ({"files": {"image": ("a.png", encoded(image()))}, "data": {"image": "text"}}, "form"),
        ({"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}}, "form"),
        (
            {
                "content": b"no boundary",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            "form",
        ),
        (
            {
                "content": b"--x\r\n\r\n\r\n--x--",
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            },
            "form",
        ),
    ],
)
def test_a_form_that_holds_no_image_is_refused(client, options, code):
    assert refusal(client.post("/v1/segment", **options)) == (400, code)


@pytest.mark.parametrize(
    ("query", "expected", "sentence"),
    [
        (
            "format=gif",
            (422, "query"),
            "format = 'gif': input should be 'png', 'rle', 'polygons', 'coco', 'geojson', ",
        ),
        ("fromat=rle", (422, "query"), "Did you mean 'format'?"),
        ("model=nobody", (404, "model"), "Known: color."),
    ],
)
def test_slips_in_the_query_are_told(client, query, expected, sentence):
    response = client.post(f"/v1/segment?{query}", files=form(encoded(image())))
    assert refusal(response) == expected
    assert sentence in response.text


def test_probabilities_and_confidence_are_the_files_of_predict(start, tmp_path):
    client, predictor = start(), color_predictor()
    for format in get_args(SoftKind):
        predictor.soft = format
        predicted = predictor(image())
        save_soft(predicted.soft, predicted.classes, tmp_path / format)
        response = client.post(f"/v1/segment?format={format}", files=form(encoded(image())))
        assert response.status_code == 200, response.text
        assert response.content == (tmp_path / format).read_bytes()
        assert response.headers["x-featherseg-model"] == "color"
    refused = client.post("/v1/segment/batch?format=confidence", files=several(encoded(image())))
    assert refusal(refused) == (422, "query")


def test_probabilities_of_a_panoptic_model_are_refused(start):
    client = start(served("things", panoptic=True))
    for format in ("probabilities", "confidence"):
        response = client.post(f"/v1/segment?format={format}", files=form(encoded(image())))
        assert refusal(response) == (422, "query")
        assert "panoptic" in response.text


def test_probabilities_of_too_many_bytes_are_refused_and_name_the_confidence(start, monkeypatch):
    monkeypatch.setattr(service, "MOST_PROBABILITIES", 2 * 3 * 24 * 40 - 1)
    client = start()
    response = client.post("/v1/segment?format=probabilities", files=form(encoded(image())))
    assert refusal(response) == (413, "probabilities")
    assert "format=confidence" in response.text
    assert (
        client.post("/v1/segment?format=confidence", files=form(encoded(image()))).status_code
        == 200
    )


def test_one_answer_of_probabilities_is_made_and_sent_at_a_time(gated):
    client, predictor = gated
    turn = client.app.state.service.probabilities_turn
    client.do(turn.acquire())  # as an answer that is still being sent
    waiting = client.begin("POST", "/v1/segment?format=probabilities", files=form(encoded(image())))
    predictor.gate.set()
    assert (
        client.post("/v1/segment?format=confidence", files=form(encoded(image()))).status_code
        == 200
    )
    assert not waiting.done()
    client.loop.call_soon_threadsafe(turn.release)
    assert waiting.result(60).status_code == 200
    assert not turn.locked()  # given back with the answer


def test_addresses_and_methods_that_are_none_are_refused_in_the_same_form(client):
    assert refusal(client.get("/v2/segment")) == (404, "path")
    assert refusal(client.get("/v1/segment")) == (405, "method")


def test_rle_and_polygons_tell_the_same_mask(client):
    content = encoded(image())
    rle = client.post("/v1/segment?format=rle", files=form(content))
    polygons = client.post("/v1/segment?format=polygons", files=form(content))
    found = [MaskAnswer.model_validate_json(response.content) for response in (rle, polygons)]
    assert [segment.area for segment in found[0].segments] == [
        segment.area for segment in found[1].segments
    ]
    counts = np.bincount(answer_of(image()).ravel(), minlength=3)
    assert [segment.area for segment in found[0].segments] == counts.tolist()
    assert [row.share for row in found[0].classes] == (counts / counts.sum()).tolist()


def test_coco_and_geojson_are_those_of_the_prediction(client):
    content = encoded(image())
    coco = client.post("/v1/segment?format=coco", files=form(content))
    geojson = client.post("/v1/segment?format=geojson", files=form(content))
    types = [response.headers["content-type"] for response in (coco, geojson)]
    assert types == ["application/json", "application/geo+json"]
    prediction = replace(color_predictor()(image()), file_name="photo.png")
    assert CocoAnswer.model_validate_json(coco.content).model_dump() == prediction.to_coco()
    assert geojson.json() == prediction.to_geojson()
    GeoJsonAnswer.model_validate_json(geojson.content)


def named(**contents: bytes) -> list:
    return [("images", (f"{name}.png", content)) for name, content in contents.items()]


def test_a_batch_is_one_coco_file_of_all_images(client, tmp_path):
    sizes = {"a": (24, 40), "b": (12, 9)}
    images = {name: image(seed, size) for seed, (name, size) in enumerate(sizes.items())}
    contents = {name: encoded(pixels) for name, pixels in images.items()}
    files = named(a=contents["a"], text=b"no image", b=contents["b"])
    response = client.post("/v1/segment/batch?format=coco", files=files)
    found = CocoBatchAnswer.model_validate_json(response.content).model_dump()
    (refused,) = found.pop("refused")
    assert (refused["file_name"], refused["error"]["code"]) == ("text.png", "format")
    assert {row["id"]: row["file_name"] for row in found["images"]} == {1: "a.png", 3: "b.png"}
    ids = [row["id"] for row in found["annotations"]]
    assert len(set(ids)) == len(ids)
    for number, name in ((1, "a"), (3, "b")):
        alone = replace(color_predictor()(images[name]), file_name=f"{name}.png").to_coco()
        own = [row for row in found["annotations"] if row["image_id"] == number]
        assert [row["segmentation"] for row in own] == [
            row["segmentation"] for row in alone["annotations"]
        ]
        assert found["categories"] == alone["categories"]

    # Our own converter reads the answer
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "coco.json").write_bytes(response.content)
    for name, content in contents.items():
        (tmp_path / "export" / f"{name}.png").write_bytes(content)
    converted = convert(tmp_path / "export", tmp_path / "out")
    assert converted.images == {"all": 2}


def test_a_batch_of_refused_images_is_a_coco_file_without_images(client):
    response = client.post("/v1/segment/batch?format=coco", files=named(a=b"", b=b"no image"))
    found = CocoBatchAnswer.model_validate_json(response.content)
    assert (found.images, found.annotations, found.categories) == ([], [], [])
    assert [row.file_name for row in found.refused] == ["a.png", "b.png"]


def test_a_batch_in_geojson_names_each_image(client):
    pixels = image(1, (12, 9))
    files = named(a=encoded(image()), text=b"no image", b=encoded(pixels))
    response = client.post("/v1/segment/batch?format=geojson", files=files)
    BatchAnswer.model_validate_json(response.content)
    first, text, last = response.json()["results"]
    assert (first["name"], text["error"]["code"], last["name"]) == ("a.png", "format", "b.png")
    assert last == replace(color_predictor()(pixels), file_name="b.png").to_geojson()


def test_a_name_of_many_letters_is_cut(client):
    files = form(encoded(image()), name="n" * 999)
    assert client.post("/v1/segment?format=geojson", files=files).json()["name"] == "n" * 255


def test_a_batch_answers_in_order_and_one_bad_image_leaves_the_others_alone(client):
    contents = [encoded(image(0)), b"no image", encoded(poisoned()), encoded(image(1, (9, 5)))]
    response = client.post("/v1/segment/batch", files=several(*contents))
    assert response.status_code == 200
    BatchAnswer.model_validate_json(response.content)
    first, text, poison, last = response.json()["results"]
    assert [text["error"]["code"], poison["error"]["code"]] == ["format", "internal"]
    assert "secret" not in response.text
    for found, pixels in ((first, image(0)), (last, image(1, (9, 5)))):
        np.testing.assert_array_equal(
            mask_in(base64.b64decode(found["mask_png"])), answer_of(pixels)
        )
        assert found["size"] == list(pixels.shape[:2])


def test_a_batch_in_polygons(client):
    response = client.post("/v1/segment/batch?format=polygons", files=several(encoded(image())))
    (found,) = BatchAnswer.model_validate_json(response.content).results
    assert found.segments[0].polygons


def test_more_images_than_a_batch_may_hold_are_refused(start):
    client = start(limits={"batch": 2})
    refused = client.post("/v1/segment/batch", files=several(*[encoded(image())] * 3))
    assert refusal(refused) == (413, "images")
    assert "limit of 2" in refused.text
    two = [("image", ("a.png", encoded(image())))] * 2
    assert refusal(client.post("/v1/segment", files=two)) == (413, "images")


@pytest.mark.parametrize(("queue", "batch"), [(1, 1), (5, 2), (31, 15), (32, 16), (64, 16)])
def test_a_batch_has_no_more_images_than_half_of_the_queue(start, queue, batch):
    client = start(limits={"queue": queue})
    assert client.get("/v1/limits").json()["batch"] == batch
    assert (
        client.post("/v1/segment/batch", files=several(*[encoded(image())] * batch)).status_code
        == 200
    )
    assert Limits().batch == 16


def test_several_models_answer_by_name_and_the_first_is_the_default(start):
    client = start(served("one"), served("two", panoptic=True))
    models = client.get("/v1/models").json()["models"]
    assert [(model["name"], model["panoptic"]) for model in models] == [
        ("one", False),
        ("two", True),
    ]
    assert models[0]["licence"] == "CC0-1.0"
    assert models[0]["channels"] == 3
    assert models[0]["classes"] == [
        {"name": c.name, "color": list(c.color), "thing": c.thing} for c in CLASSES
    ]
    for query, name in (("", "one"), ("?model=two", "two")):
        response = client.post(f"/v1/segment{query}", files=form(encoded(image())))
        assert response.headers["x-featherseg-model"] == name


def test_limits_health_and_readiness_are_told(start):
    client = start(limits={"bytes": 5000, "pixels": 99, "queue": 7, "seconds": 3.5, "batch": 2})
    assert client.get("/v1/limits").json() == {
        "bytes": 5000,
        "pixels": 99,
        "queue": 7,
        "seconds": 3.5,
        "batch": 2,
    }
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").status_code == 200


def test_while_stopping_new_requests_are_refused_and_running_ones_finished(gated):
    client, predictor = gated
    running = client.begin("POST", "/v1/segment", files=form(encoded(image())))
    until(lambda: predictor.seen)
    client.app.state.service.stopping = True
    assert refusal(client.post("/v1/segment", files=form(encoded(image())))) == (503, "stopping")
    assert refusal(client.get("/readyz"))[0] == 503
    assert client.get("/healthz").status_code == 200
    predictor.gate.set()
    assert running.result(60).status_code == 200


def test_metrics_count_by_template_and_cannot_be_made_to_grow(client):
    client.post("/v1/segment?format=rle", files=form(encoded(image())))
    client.post("/v1/segment", files=form(b"text"))
    for number in range(5):
        client.get(f"/nothing/{number}")
        client.get(f"/page/{number}")
    text = client.get("/metrics").text
    assert 'featherseg_requests_total{path="/v1/segment",status="200"} 1.0' in text
    assert 'featherseg_requests_total{path="/v1/segment",status="415"} 1.0' in text
    assert 'featherseg_requests_total{path="other",status="404"} 5.0' in text
    assert 'featherseg_requests_total{path="/page/{name}",status="404"} 5.0' in text
    assert 'featherseg_request_seconds_count{path="/v1/segment"} 2.0' in text
    assert 'featherseg_batch_size_sum{model="color"} 1.0' in text
    assert f'featherseg_pixels_total{{model="color"}} {24 * 40:.1f}' in text
    assert "nothing" not in text


def test_the_description_names_every_path_and_refusal(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        "/healthz", "/readyz", "/metrics", "/v1/models", "/v1/limits", "/v1/segment",
        "/v1/segment/batch",
    }  # fmt: skip
    segment = paths["/v1/segment"]["post"]
    assert {
        "200",
        "400",
        "401",
        "403",
        "404",
        "408",
        "413",
        "415",
        "422",
        "429",
        "500",
        "503",
        "504",
    } == set(segment["responses"])
    assert "image" in json.dumps(segment["requestBody"])
    assert [p["name"] for p in segment["parameters"]] == ["format", "model"]
    for path in ("/v1/segment", "/v1/segment/batch"):
        assert "X-Featherseg-Model" in paths[path]["post"]["responses"]["200"]["headers"]
    assert "Retry-After" in segment["responses"]["429"]["headers"]


def test_the_description_says_what_needs_the_token(start):
    token = "0123456789abcdef"
    description = (
        start(token=token).get("/openapi.json", headers={"Authorization": f"Bearer {token}"}).json()
    )
    assert description["components"]["securitySchemes"] == {
        "token": {"type": "http", "scheme": "bearer"}
    }
    assert description["security"] == [{"token": []}]
    methods = {path: next(iter(found.values())) for path, found in description["paths"].items()}
    assert [path for path, method in methods.items() if method.get("security") == []] == [
        "/healthz",
        "/readyz",
    ]
    assert "security" not in start().get("/openapi.json").json()


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_monitors_that_ask_for_the_head_alone_are_answered(client, path):
    assert client.begin("HEAD", path).result(60).status_code == 200


@pytest.mark.seconds
def test_images_are_planned_beside_the_event_loop(start):
    """The first large image measures the model, which once blocked everybody's requests."""
    threads = []

    class Watched(Predictor):
        def plan(self, size):
            threads.append(threading.current_thread())
            return super().plan(size)

    client = start(Served("color", Watched(color_predictor().runtime)))
    for size in ((24, 40), (1100, 1000)):
        assert client.post("/v1/segment", files=form(encoded(image(0, size)))).status_code == 200
    assert len(threads) >= 2
    assert client._thread not in threads
