"""`featherseg serve`: a process that says where it is, answers, and stops cleanly."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import featherseg
from featherseg.cli.serve import print_start, serve
from featherseg.core.errors import ConfigError, MissingExtra, RunError
from featherseg.inference.predictor import Predictor
from featherseg.runs.run import open_run
from featherseg.serving.models import open_models
from featherseg.serving.server import bind
from featherseg.serving.settings import Settings, allowed_hosts

APP = typer.Typer()
APP.command()(serve)
TOKEN = "0123456789abcdef"


def slip(*arguments: object) -> Exception | None:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments]).exception


def as_nohup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_the_process_answers_what_predict_writes_and_exits_cleanly(whole_run: Path, tmp_path: Path):
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 70, 3)).astype(np.uint8)).save(
        photo
    )
    expected = Predictor(whole_run, "cpu")(photo).save(tmp_path / "mask.png")[0].read_bytes()
    command = [
        sys.executable,
        "-m",
        "featherseg",
        "serve",
        str(whole_run),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "FEATHERSEG_TOKEN": TOKEN}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=as_nohup,
    ) as process:
        try:
            lines = [process.stdout.readline().strip()]
            while not lines[-1].startswith("http://"):
                assert lines[-1], process.stderr.read()
                lines.append(process.stdout.readline().strip())
            address = lines[-1]
            assert TOKEN not in "".join(lines)  # logs keep what is printed
            assert lines[-2] == "every request needs the token that was given; the page asks for it"
            assert lines[0] == "lawn-run: 2 classes; licence: Apache-2.0"
            assert lines[1] == "a request: 20 MB, 32 megapixels, 60 s; 64 images in flight"
            process.send_signal(signal.SIGHUP)  # stays ignored under nohup
            assert httpx.get(f"{address}healthz").status_code == 200
            assert httpx.get(f"{address}v1/models").status_code == 401
            response = httpx.post(
                f"{address}v1/segment",
                files={"image": photo.read_bytes()},
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=60,
            )
            assert response.content == expected
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_slips_are_answered_before_a_model_is_opened(tmp_path):
    with bind("127.0.0.1", 0) as taken:
        assert isinstance(slip(tmp_path, "--port", taken.getsockname()[1]), ConfigError)
    assert isinstance(slip(tmp_path, "--host", "203.0.113.7", "--port", 0), ConfigError)
    assert isinstance(slip(tmp_path, "--token", "short", "--port", 0), ConfigError)
    for option in ("--max-mb", "--max-megapixels", "--seconds"):
        error = slip(tmp_path, option, "inf", "--port", 0)
        assert isinstance(error, ConfigError)
        assert f"{option} inf: expected a number, at most 1,000,000" in str(error)
    assert isinstance(slip(tmp_path / "missing", "--port", 0), RunError)


def test_wrong_limits_of_the_function_are_named(tmp_path):
    with pytest.raises(ConfigError, match="unknown key 'queu'"):
        featherseg.serve([tmp_path], port=0, limits={"queu": 1})


def test_without_the_extra_the_command_that_installs_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    error = slip(tmp_path, "--port", 0)
    assert isinstance(error, MissingExtra)
    assert "pip install 'featherseg[serve]'" in str(error)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "http://127.0.0.1:81/"), ("::1", "http://[::1]:81/"), ("box", "http://box:81/")],
)
def test_the_address_is_printed_as_a_browser_takes_it(lawn_run, host, shown, capsys):
    print_start(open_models([lawn_run], "cpu"), Settings(), host, 81, generated=True)
    assert capsys.readouterr().out.splitlines()[-1] == shown


def test_a_licence_is_printed_where_one_is_stated(lawn_run, capsys):
    for licence, shown in (("CC BY 4.0", "; licence: CC BY 4.0"), ("not stated", "")):
        (model,) = open_models([lawn_run], "cpu")
        model.predictor.runtime.licence = licence
        print_start([model], Settings(), "127.0.0.1", 80, generated=True)
        assert capsys.readouterr().out.splitlines()[0] == f"{model.name}: 2 classes{shown}"


def test_a_training_that_was_stopped_is_told(lawn_run, capsys):
    (lawn_run / "last.ckpt").touch()
    print_start(open_models([lawn_run], "cpu"), Settings(), "127.0.0.1", 81, generated=True)
    assert f"NOTE: {open_run(lawn_run).how_far}.\n" in capsys.readouterr().out


def test_at_all_addresses_the_one_of_this_machine_is_printed_with_a_token_that_was_made(
    lawn_run, capsys
):
    print_start(
        open_models([lawn_run], "cpu"), Settings(token=TOKEN), "0.0.0.0", 81, generated=True
    )
    *_, before, last = capsys.readouterr().out.splitlines()
    assert before == "listening on all addresses of this machine, port 81; locally:"
    assert last == f"http://127.0.0.1:81/#token={TOKEN}"


def test_a_token_with_signs_of_an_address_survives_in_it(lawn_run, capsys):
    token = "50%-off#1&more/of+it"
    print_start(
        open_models([lawn_run], "cpu"), Settings(token=token), "0.0.0.0", 81, generated=True
    )
    fragment = urlsplit(capsys.readouterr().out.splitlines()[-1]).fragment
    assert parse_qs(fragment) == {"token": [token]}


@pytest.mark.parametrize("token", [None, TOKEN])
def test_names_that_are_answered_without_a_token_are_warned_of(lawn_run, token, capsys):
    print_start(
        open_models([lawn_run], "cpu"),
        Settings(token=token),
        "127.0.0.1",
        81,
        ["box.example"],
        generated=False,
    )
    warned = "anyone who reaches box.example is answered; --token" in capsys.readouterr().out
    assert warned == (token is None)


@pytest.mark.parametrize(
    "name", ["https://box.example", "*", "*.example", "box.example/", "box:a", "", "a b", "::1"]
)
def test_a_name_that_no_host_header_says_is_refused(tmp_path, name):
    error = slip(tmp_path, "--allow-host", name, "--port", 0)
    assert isinstance(error, ConfigError)
    assert "expected a NAME or NAME:PORT" in str(error)
    assert {"box.example:8443", "[::1]:81"} <= allowed_hosts(
        "127.0.0.1", 8000, ["box.example:8443", "[::1]:81"]
    )
