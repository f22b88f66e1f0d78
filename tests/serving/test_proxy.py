"""The service behind nginx, by the configuration in docs/start/proxy.md."""

import os
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from support.models.color_model import answer_of, image, mask_in, served, until
from support.servers.running_service import form

from featherseg.serving.app import create_app
from featherseg.serving.server import bind, server_of
from featherseg.serving.settings import Settings, allowed_hosts

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
PAGE = Path(__file__).parents[2] / "docs" / "start" / "proxy.md"

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="nginx is not installed: apt-get install nginx-light"
)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)
        ]
        return [one.getsockname()[1] for one in sockets]


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def nginx(folder: Path, port: int, services: list[int], edit=lambda text: text):
    """nginx on a port, configured as the page says but for the ports."""
    (block,) = [text.partition("```")[0] for text in PAGE.read_text().split("```nginx\n")[1:]]
    for documented, used in zip((8080, 8000, 8001), (port, *services), strict=True):
        block = block.replace(str(documented), str(used))
    paths = "".join(
        f"{name}_temp_path {folder / name};\n"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    text = f"{user}daemon off;\npid {folder}/pid;\nevents {{}}\n"
    text += f"http {{\naccess_log off;\n{paths}{edit(block)}}}\n"
    (folder / "nginx.conf").write_text(text)
    command = [
        NGINX,
        "-e",
        str(folder / "errors.log"),
        "-p",
        str(folder),
        "-c",
        str(folder / "nginx.conf"),
    ]
    with subprocess.Popen(command) as process:
        try:
            until(lambda: process.poll() is not None or listens(port))
            assert process.poll() is None, (folder / "errors.log").read_text()
            yield
        finally:
            process.terminate()


class Running:
    """A service on a port, in a thread; `stop` is what SIGTERM does, and waits for the end."""

    def __init__(self, port: int, name: str) -> None:
        settings = Settings(hosts=allowed_hosts("127.0.0.1", port, [name]), root_path="/seg")
        self.server = server_of(create_app([served()], settings))
        self.thread = threading.Thread(target=self.server.run, args=([bind("127.0.0.1", port)],))
        self.thread.start()
        until(lambda: self.server.started)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.server.handle_exit(signal.SIGTERM, None)
            self.thread.join()


def ask(port: int, method: str, path: str, **options) -> httpx.Response:
    """Through the proxy, by the name that a browser would have in its address."""
    headers = {"Host": f"box.example:{port}", **options.pop("headers", {})}
    return httpx.request(
        method, f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60, **options
    )


@pytest.mark.seconds
@pytest.mark.parametrize("strips", [False, True], ids=["path passed on", "path stripped"])
def test_page_and_api_work_below_a_path(tmp_path, strips):
    port, *ports = free_ports(3)

    def edit(text: str) -> str:
        return (
            text.replace("proxy_pass http://featherseg;", "proxy_pass http://featherseg/;")
            if strips
            else text
        )

    service = Running(ports[0], f"box.example:{port}")
    try:
        with nginx(tmp_path, port, ports, edit):
            origin = {"Origin": f"http://box.example:{port}"}
            answer = ask(port, "POST", "/seg/v1/segment", files=form(image()), headers=origin)
            np.testing.assert_array_equal(mask_in(answer.content), answer_of(image()))
            assert 'href="page/page.css"' in ask(port, "GET", "/seg/").text
            assert ask(port, "GET", "/seg/page/page.css").status_code == 200
            assert ask(port, "GET", "/seg/readyz", headers={"Host": "probe"}).status_code == 200
            assert (
                ask(port, "GET", "/seg/v1/models", headers={"Host": "evil.example"}).status_code
                == 403
            )
            assert ask(port, "GET", "/seg").headers["location"].endswith("/seg/")
    finally:
        service.stop()


@pytest.mark.seconds
def test_an_upgrade_by_two_ports_loses_no_request(tmp_path):
    port, *ports = free_ports(3)
    ended, statuses = threading.Event(), []

    def keep_asking() -> None:
        while not ended.is_set():
            statuses.append(ask(port, "POST", "/seg/v1/segment", files=form(image())).status_code)

    name = f"box.example:{port}"
    running = [Running(ports[0], name)]
    clients = [threading.Thread(target=keep_asking) for _ in range(3)]
    try:
        with nginx(tmp_path, port, ports):
            for client in clients:
                client.start()
            for new_port in (ports[1], ports[0], ports[1]):
                asked = len(statuses)
                until(lambda asked=asked: len(statuses) >= asked + 10)
                running.append(Running(new_port, name))
                running[-2].stop()
            ended.set()
            for client in clients:
                client.join()
    finally:
        ended.set()
        for service in running:
            service.stop()
    assert len(statuses) >= 30
    assert set(statuses) == {200}
