"""`featherseg weights` lists the initial weights and fetches them."""

import json

import pytest
from typer.testing import CliRunner

from featherseg import cli
from featherseg.core.errors import FeathersegError
from featherseg.training import pretrained


def run(*arguments: str) -> str:
    found = CliRunner().invoke(cli.build_app(), ["weights", *arguments])
    if isinstance(found.exception, FeathersegError):
        raise found.exception
    return found.stdout


def test_the_list_says_terms_size_and_whether_they_are_here(monkeypatch):
    row = {
        "backbone": "van-b1",
        "file": "v.tar",
        "here": None,
        "bytes": 53_500_000,
        "licence": "Apache-2.0",
    }
    rows = [
        row | {"address": "https://a/v.tar"},
        row | {"backbone": "other", "here": "/x", "address": "PyPI: p"},
    ]
    monkeypatch.setattr(pretrained, "pretrained_rows", lambda: rows)
    out = run()
    assert out.splitlines()[:3] == [
        "Apache-2.0",
        "  van-b1                -      53.5 MB  https://a/v.tar",
        "  other                 here   53.5 MB  PyPI: p",
    ]
    assert json.loads(run("--json")) == rows


def test_get_fetches_and_prints_file_checksum_and_licence(monkeypatch, tmp_path):
    monkeypatch.setattr(
        pretrained, "fetch_pretrained", lambda name, progress: (tmp_path / "a.tar", "12ab")
    )
    out = run("get", "van-b1")
    assert (
        f"van-b1: {tmp_path / 'a.tar'}\n"
        "  sha256 12ab (not published, recorded next to the file); licence: Apache" in out
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["gte", "van-b1"], "expected nothing or get. Did you mean 'get'?"),
        (["get"], "name the backbones to fetch, such as:\nfeatherseg weights get van-b1"),
        (["get", "van-b1", "--json"], "leave it out with get"),
        (["get", "van-b9"], "there are no pretrained weights for the backbone 'van-b9'"),
    ],
)
def test_a_slip_gets_a_sentence(words, told):
    with pytest.raises(FeathersegError) as error:
        run(*words)
    assert told in str(error.value)
