"""What is published beside the wheel: the Dockerfile's rules, the workflow, release checks."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import yaml

from featherseg._version import __version__

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "Dockerfile"
SPACE = ROOT / "examples" / "space"
WORKFLOW = ROOT / ".github" / "workflows" / "tests.yml"
DOCKER = (
    shutil.which("docker")
    and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
)


def instructions(image: Path = IMAGE) -> list[tuple[str, str]]:
    """Of the Dockerfile: (FROM, its argument), without comments, lines joined."""
    text = image.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined)]


def last_stage(image: Path = IMAGE) -> dict[str, list[str]]:
    """Instruction -> its arguments, of the image that is kept."""
    found = instructions(image)
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return {
        word: [rest for other, rest in found[start:] if other == word] for word, _ in found[start:]
    }


def test_the_image_runs_as_a_numbered_user_who_is_not_root():
    (user,) = last_stage()["USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_image_holds_neither_compiler_nor_source():
    stage = last_stage()
    assert "RUN" not in stage
    assert stage["COPY"] == ["--from=build /opt/featherseg /opt/featherseg"]


def test_the_image_asks_the_service_for_its_health_at_the_port_it_serves():
    stage = last_stage()
    (health,), (entry,), (port,) = stage["HEALTHCHECK"], stage["ENTRYPOINT"], stage["EXPOSE"]
    assert f"127.0.0.1:{port}/healthz" in health
    assert entry == f'["featherseg", "serve", "--host", "0.0.0.0", "--port", "{port}"]'


def test_the_image_asks_for_its_health_without_a_proxy():
    (health,) = last_stage()["HEALTHCHECK"]
    code = json.loads(health.partition("CMD ")[2])[-1]
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        code = code.replace(":8000/healthz", f":{server.server_port}/")
        environment = {**os.environ, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=False
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr


def test_the_image_s_bases_have_versions_and_nothing_secret_or_foreign_is_built_in():
    found = instructions()
    assert all(
        re.match(r"python:3\.\d+-slim-\w+( AS \w+)?$", rest)
        for word, rest in found
        if word == "FROM"
    )
    assert not {"ADD", "ARG", "VOLUME", "ONBUILD"} & {word for word, _ in found}
    assert not re.search("token|secret|password", IMAGE.read_text(), re.IGNORECASE)
    assert all(
        "--no-cache-dir" in rest for word, rest in found if word == "RUN" and "pip install" in rest
    )


def test_what_the_image_is_built_from_is_let_in_and_nothing_else():
    sources = [
        rest.split()[:-1]
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
    ]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == {
        name for names in sources for name in names
    }


def test_hadolint_finds_nothing_in_the_dockerfile():
    if not shutil.which("hadolint"):
        pytest.skip("no hadolint")
    done = subprocess.run(
        ["hadolint", "--no-color", IMAGE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_space_is_built_as_the_image_is_and_serves_where_the_hub_asks():
    head = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (head["sdk"], head["license"]) == ("docker", "apache-2.0")
    stage = last_stage(SPACE / "Dockerfile")
    assert stage["EXPOSE"] == [str(head["app_port"])]
    assert f"--port {head['app_port']} " in stage["CMD"][0]
    assert stage["USER"] == ["1000:1000"]
    assert stage["COPY"] == last_stage()["COPY"]
    assert [rest for word, rest in instructions(SPACE / "Dockerfile") if word == "FROM"] == [
        rest for word, rest in instructions() if word == "FROM"
    ]
    page = (ROOT / "docs/start/sharing.md").read_text(encoding="utf-8")
    (archived,) = re.findall(
        r"^git archive HEAD (.*) \| tar -x -C my-space/featherseg$", page, re.M
    )
    built_from = next(rest for word, rest in instructions() if word == "COPY").split()[:-1]
    assert archived.split() == [*built_from, "src"]


@pytest.mark.seconds
def test_the_space_s_command_shows_the_page_and_asks_for_the_token(tmp_path):
    stage = last_stage(SPACE / "Dockerfile")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = json.loads(stage["CMD"][0].replace("7860", str(port)))
    (tmp_path / "featherseg").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m featherseg "$@"\n', encoding="utf-8"
    )
    (tmp_path / "featherseg").chmod(0o755)
    variables = dict(part.split("=") for line in stage["ENV"] for part in line.split())
    environment = {**os.environ, **variables, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment |= {"HOME": str(tmp_path), "SPACE_HOST": "me-roads.hf.space"}
    environment |= {"FEATHERSEG_TOKEN": "known-to-the-owner"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout
            assert any(line.startswith("http://") for line in service.stdout)
            address = f"http://127.0.0.1:{port}"

            def ask(path: str, **headers: str) -> httpx.Response:
                headers = {"Host": "me-roads.hf.space"} | headers
                return httpx.get(f"{address}{path}", headers=headers, trust_env=False)

            assert "<title>featherseg</title>" in ask("/").text
            assert ask("/", Host="elsewhere.hf.space").status_code == 403
            assert ask("/v1/models").status_code == 401
            models = ask("/v1/models", Authorization="Bearer known-to-the-owner").json()["models"]
            assert [model["name"] for model in models] == ["road"]
        finally:
            service.terminate()
        assert service.wait(60) == 0


@pytest.mark.slow
@pytest.mark.skipif(not DOCKER, reason="no Docker daemon")
def test_the_image_is_built_and_becomes_healthy():
    subprocess.run(["docker", "build", "-q", "-t", "featherseg-test", ROOT], check=True)
    command = [
        "docker",
        "run",
        "-d",
        "--rm",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--cap-drop",
        "ALL",
        "featherseg-test",
    ]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    ask = (
        "import time, urllib.request as r\nfor _ in range(60):\n"
        "    try: r.urlopen('http://127.0.0.1:8000/readyz'); break\n"
        "    except OSError: time.sleep(1)\nelse: raise SystemExit(1)"
    )
    try:
        subprocess.run(["docker", "exec", name, "python", "-c", ask], check=True)
    finally:
        subprocess.run(["docker", "stop", "-t", "30", name], check=True, capture_output=True)


def test_the_workflow_runs_the_checks_of_ci_on_three_systems_with_no_rights_but_to_read():
    text = WORKFLOW.read_text()
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    assert [system.partition("-")[0] for system in job["strategy"]["matrix"]["system"]] == [
        "ubuntu",
        "macos",
        "windows",
    ]
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    assert workflow["permissions"] == {"contents": "read"}
    assert "secrets." not in text
    assert "Untested" in text.splitlines()[0]


@pytest.fixture
def checkout(tmp_path):
    """A repository with the release script, a version and a changelog."""
    for name in ("scripts/release.sh", "src/featherseg/_version.py", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "src/featherseg/_version.py").write_text('__version__ = "7.1.0"\n')
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (("init", "-q"), ("add", "-A"), (*who, "commit", "-qm", "All")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def refused(checkout: Path) -> str:
    done = subprocess.run(
        ["bash", "scripts/release.sh"], cwd=checkout, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert not (checkout / "dist").exists()
    return done.stderr


@pytest.mark.skipif(not shutil.which("git") or not shutil.which("bash"), reason="no git or bash")
def test_a_version_that_the_changelog_lacks_is_not_released(checkout):
    assert "no line '## [7.1.0] - YYYY-MM-DD'" in refused(checkout)


@pytest.mark.skipif(not shutil.which("git") or not shutil.which("bash"), reason="no git or bash")
def test_what_is_not_committed_is_not_released(checkout):
    (checkout / "CHANGELOG.md").write_text("## [7.1.0] - 2026-11-22\n")
    assert "not committed" in refused(checkout)


def test_the_version_is_one_that_the_registries_take():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", __version__)
