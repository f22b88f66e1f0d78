"""Who is answered: by host, origin and token; what every answer says to a browser."""

import json
from contextlib import ExitStack, closing

import pytest
from support.models.color_model import CLASSES, color_predictor, encoded, image, poisoned, served
from support.servers.asgi_client import Client

from featherseg.core.errors import ConfigError
from featherseg.core.types import ClassInfo
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes.pytorch import TorchRuntime
from featherseg.serving.app import create_app
from featherseg.serving.guard import HEADERS
from featherseg.serving.models import Served
from featherseg.serving.settings import (
    Settings,
    allowed_hosts,
    allowed_origins,
    checked_root_path,
    choose_token,
    is_loopback,
)

HOME = "http://127.0.0.1:8000"
TOKEN = "a token of 25 characters.".replace(" ", "-")
PATHS = ["/", "/healthz", "/v1/models", "/openapi.json", "/metrics", "/page/page.css", "/nothing"]


@pytest.fixture(scope="module")
def standing():
    """One service for all tests that read alone, and one that asks for a token, by that name."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(closing(Client(create_app([served()], settings), HOME)))
            for name, settings in (("open", Settings()), ("with token", Settings(token=TOKEN)))
        }


@pytest.fixture
def client(standing):
    """Of a service with the limits as they come."""
    return standing["open"]


def code(response) -> str:
    return response.json()["error"]["code"]


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/healthz"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example:8000", "localhost",
     "localhost:80", "127.0.0.1:8001", "", "localhost:8000@evil.example", "localhost:8000.",
     "0.0.0.0:8000", "user@localhost:8000", "[::2]:8000"],
)  # fmt: skip
def test_another_host_is_refused_on_loopback_too(client, path, host):
    response = client.get(path, headers={"Host": host})
    assert (response.status_code, code(response)) == (403, "host")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "[::1]:8000"]
)
def test_the_names_of_loopback_are_answered(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_further_names_are_answered_when_they_were_allowed(start):
    hosts = allowed_hosts("192.168.1.9", 8000, ["Box.local", "proxy.example:443"])
    client = start(hosts=hosts)
    for host in (
        "box.local",
        "box.local:8000",
        "proxy.example:443",
        "192.168.1.9:8000",
        "localhost:8000",
    ):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200
    assert client.get("/v1/models", headers={"Host": "box.local:9000"}).status_code == 403


def test_a_port_of_a_tunnel_is_answered_by_the_words_of_its_refusal(start):
    refused = (
        start().get("/v1/models", headers={"Host": "localhost:9000"}).json()["error"]["message"]
    )
    assert "'localhost:9000' is not allowed" in refused
    assert "--allow-host and that name, port included" in refused
    client = start(hosts=allowed_hosts("127.0.0.1", 8000, ["localhost:9000"]))
    assert client.get("/v1/models", headers={"Host": "localhost:9000"}).status_code == 200


def test_no_request_is_for_all_addresses():
    assert (
        allowed_hosts("0.0.0.0", 8000)
        == allowed_hosts("::", 8000)
        == allowed_hosts("127.0.0.1", 8000)
    )


def test_the_address_at_which_a_connection_came_in_is_answered_but_no_name(start):
    for address in ("http://10.1.2.3:8000", "http://[fe80::1]:8000"):
        assert start(base_url=address).get("/v1/models").status_code == 200
    assert start(base_url="http://evil.example:8000").get("/v1/models").status_code == 403


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:3000", "https://localhost", "file://",
     "http://localhost:8000.evil", "chrome-extension://localhost:8000", "", "http://",
     "localhost:8000", "http://127.0.0.1:8000/path"],
)  # fmt: skip
def test_pages_of_other_origins_are_refused(client, origin):
    for method, path in (
        ("GET", "/v1/models"),
        ("POST", "/v1/segment"),
        ("OPTIONS", "/v1/segment"),
    ):
        response = client.begin(method, path, headers={"Origin": origin}).result(60)
        assert (response.status_code, code(response)) == (403, "origin")


@pytest.mark.parametrize(
    "origin", ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"]
)
def test_the_own_page_is_answered(client, origin):
    response = client.post(
        "/v1/segment", files={"image": encoded(image())}, headers={"Origin": origin}
    )
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/limits", "/metrics", "/openapi.json", "/nothing", "//v1/models"]
)
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", f"Bearer {TOKEN}x",
     f"Bearer {TOKEN[:-1]}", TOKEN,
     b"Bearer \xff\xfe", f"Bearer {TOKEN.upper()}"],
)  # fmt: skip
def test_without_the_token_nothing_is_told(standing, path, authorization):
    client = standing["with token"]
    response = client.get(
        path, headers={} if authorization is None else {"Authorization": authorization}
    )
    assert (response.status_code, code(response)) == (401, "token")
    assert response.headers["www-authenticate"] == "Bearer"
    assert client.get(f"{path}?token={TOKEN}").status_code == 401


def test_with_the_token_all_is_answered(standing):
    client = standing["with token"]
    for scheme in ("Bearer", "bearer"):
        headers = {"Authorization": f"{scheme} {TOKEN}"}
        assert client.get("/v1/models", headers=headers).status_code == 200
        assert client.get("/metrics", headers=headers).status_code == 200
        files = {"image": encoded(image())}
        assert client.post("/v1/segment", files=files, headers=headers).status_code == 200
    assert client.post("/v1/segment", files=files).status_code == 401


def test_page_and_health_need_no_token(standing):
    client = standing["with token"]
    for path in ("/", "/healthz", "/readyz", "/page/page.js"):
        assert client.get(path).status_code == 200
    assert client.get("/page/nothing.js").status_code == 404


def test_a_token_is_made_where_others_reach_the_address():
    assert choose_token(None, "127.0.0.1") is None
    assert choose_token(None, "::1") is None
    made = [
        choose_token(None, address) for address in ("0.0.0.0", "192.168.1.9", "::", "fe80::1%eth0")
    ]
    assert len(set(made)) == 4
    assert all(len(token) >= 40 for token in made)
    assert choose_token(TOKEN, "127.0.0.1") == TOKEN
    assert is_loopback("127.8.8.8")


@pytest.mark.parametrize(
    "token", ["", "short", "sixteen letters and spaces", "sechzehn-zeichen-ä", "x" * 20 + "\n"]
)
def test_a_token_that_is_short_or_no_header_is_refused(token):
    with pytest.raises(ConfigError, match="at least 16"):
        choose_token(token, "0.0.0.0")


def test_every_answer_carries_the_headers(start):
    client = start(token=TOKEN, limits={"bytes": 20_000})
    key = {"Authorization": f"Bearer {TOKEN}"}
    answers = [
        client.get("/"),
        client.get("/healthz"),
        client.get("/v1/models"),
        client.get("/v1/models", headers=key),
        client.get("/nothing", headers=key),
        client.get("/v1/segment", headers=key),
        client.get("/v1/models", headers={"Host": "evil.example"}),
        client.post("/v1/segment", files={"image": bytes(20_001)}, headers=key),
        client.post("/v1/segment", files={"image": encoded(image())}, headers=key),
        client.post("/v1/segment", files={"image": encoded(poisoned())}, headers=key),
    ]
    assert [answer.status_code for answer in answers[1:]] == [
        200,
        401,
        200,
        404,
        405,
        403,
        413,
        200,
        500,
    ]
    for answer in answers:
        for name in set(HEADERS) - {"Cache-Control"}:
            assert answer.headers[name] == HEADERS[name]
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in answer.headers


def test_the_policy_allows_no_inline_code_and_no_other_host():
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    words = {word for rule in policy.split("; ") for word in rule.split()[1:]}
    assert words == {"'none'", "'self'", "blob:", "data:"}


@pytest.mark.parametrize(
    "name",
    [
        "..%2fapp.py",
        "%2e%2e%2fapp.py",
        "..%2f..%2fcli%2fserve.py",
        "..%5capp.py",
        "%00",
        "/etc/passwd",
    ],
)
def test_nothing_beside_the_page_is_served(client, name):
    response = client.get(f"/page/{name}")
    assert response.status_code == 404
    assert "import" not in response.text


def test_a_hostile_model_name_stays_one_header_and_a_hostile_class_name_json(start):
    name, label = "évil\r\nX-Bad: 1", "<script>alert('\x1b[31m\u202e')</script>"
    classes = (ClassInfo(label, (1, 2, 3)), *CLASSES[1:])
    runtime = TorchRuntime(color_predictor().runtime.model, classes, device="cpu")
    client = start(Served(name, Predictor(runtime)))
    response = client.post("/v1/segment?format=rle", files={"image": encoded(image())})
    assert response.status_code == 200
    assert "x-bad" not in response.headers
    assert response.headers["x-featherseg-model"] == "%C3%A9vil%0D%0AX-Bad%3A%201"
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.content)["classes"][0]["name"] == label


def test_a_websocket_is_closed(client):
    sent = []

    async def ask():
        async def send(message):
            sent.append(message)

        await client.app({"type": "websocket", "path": "/", "headers": []}, None, send)

    client.do(ask())
    assert [message["type"] for message in sent] == ["websocket.close"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_are_answered_whatever_host_they_name(client, path):
    assert client.get(path, headers={"Host": "pod-7.cluster.example"}).status_code == 200
    assert code(client.get(path, headers={"Origin": "http://evil.example"})) == "origin"


def test_the_refusal_of_an_origin_names_the_options_that_allow_it(client):
    told = client.get("/v1/models", headers={"Origin": "https://box.example"}).json()["error"][
        "message"
    ]
    assert "'https://box.example'" in told
    assert "--allow-host" in told
    assert "--allow-origin" in told


APP = "https://app.example"


@pytest.fixture(scope="module")
def with_origin():
    settings = Settings(token=TOKEN, origins=allowed_origins([APP]))
    with closing(Client(create_app([served()], settings), HOME)) as client:
        yield client


def test_a_page_of_an_allowed_origin_may_ask_and_read(with_origin):
    asked = {
        "Origin": APP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    preflight = with_origin.begin("OPTIONS", "/v1/segment", headers=asked).result(60)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == "Authorization"
    headers = {"Origin": APP, "Authorization": f"Bearer {TOKEN}"}
    answer = with_origin.post("/v1/segment", files={"image": encoded(image())}, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "access-control-allow-credentials" not in answer.headers
    refused = with_origin.post("/v1/segment", headers={"Origin": APP})
    assert refused.status_code == 401  # and the page may read why
    assert refused.headers["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    "origin", ["https://app.example.evil", "http://app.example", "https://app.example:444", "null"]
)
def test_an_allowed_origin_allows_no_other(with_origin, origin):
    for method in ("GET", "OPTIONS"):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        response = with_origin.begin(method, "/v1/models", headers=asked).result(60)
        assert (response.status_code, code(response)) == (403, "origin")
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", ["*", "null", "app.example", "https://app.example/", "https://*.example", "ftp://a.b"]
)
def test_what_is_no_origin_is_refused_in_a_sentence(origin):
    with pytest.raises(ConfigError, match=r"--allow-origin .*such as https://app\.example"):
        allowed_origins([origin])


@pytest.mark.parametrize(
    "strips", [True, False], ids=["a proxy that strips the path", "one that passes it on"]
)
def test_below_a_root_path_everything_is_found(start, strips):
    client, root = start(root_path="/seg"), "" if strips else "/seg"
    assert client.get(f"{root}/healthz").status_code == 200
    assert client.get(f"{root}/page/page.css").status_code == 200
    assert client.post(f"{root}/v1/segment", files={"image": encoded(image())}).status_code == 200
    assert client.get(f"{root}/openapi.json").json()["servers"] == [{"url": "/seg"}]
    assert client.get(f"{root}/").text.startswith("<!doctype html>")


def test_the_root_path_without_a_slash_leads_to_the_page(start):
    answer = start(root_path="/seg").get("/seg")
    assert (answer.status_code, answer.headers["location"]) == (308, "/seg/")


def test_without_a_root_path_the_description_names_no_server(client):
    assert "servers" not in client.get("/openapi.json").json()


@pytest.mark.parametrize(
    "path", ["seg", "//seg", "/a b", "/../x", "/v1", "/page/x", "/ä", "https://box.example/seg"]
)
def test_what_is_no_root_path_is_refused_in_a_sentence(path):
    with pytest.raises(ConfigError, match="--root-path"):
        checked_root_path(path)
    assert [checked_root_path(good) for good in ("", "/", "/seg", "/a/b-c/")] == [
        "",
        "",
        "/seg",
        "/a/b-c",
    ]
