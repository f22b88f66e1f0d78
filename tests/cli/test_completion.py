"""The script that completes commands in a shell, installed in an empty home; -q and -v."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.data.annotation_sources import coco, square

from featherseg import cli


@pytest.fixture
def home(tmp_path):
    """The environment of a shell in an empty home, in which `featherseg` is a program."""
    program = tmp_path / "bin" / "featherseg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m featherseg "$@"\n')
    program.chmod(0o755)
    source = str(Path(cli.__file__).parents[2])
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "HOME": str(tmp_path), "PATH": path, "PYTHONPATH": source}


def shell(home: dict[str, str], *command: str, **more: str) -> str:
    done = subprocess.run(
        command, env=home | more, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


@pytest.mark.seconds
@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [("featherseg tra", 1, ["train"]), ("featherseg train --dry", 2, ["--dry-run"])],
)
def test_bash_completes_verbs_and_options(home, tmp_path, words, number, expected):
    folder = tmp_path / ".local/share/bash-completion/completions"
    folder.mkdir(parents=True)
    script = folder / "featherseg"
    script.write_text(shell(home, "featherseg", "--show-completion", "bash"))
    lines = (
        f". {script}",
        f"COMP_WORDS=({words})",
        f"COMP_CWORD={number}",
        "_featherseg_completion featherseg",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    )
    assert shell(home, "bash", "-c", "\n".join(lines)).split() == expected


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("name", "more"), [("zsh", {}), ("fish", {"_TYPER_COMPLETE_FISH_ACTION": "get-args"})]
)
def test_zsh_and_fish_ask_for_verbs(home, tmp_path, name, more):
    script = shell(home, "featherseg", "--show-completion", name)
    assert "_FEATHERSEG_COMPLETE" in script
    assert f"complete_{name}" in script
    if program := shutil.which(name):
        (tmp_path / "script").write_text(script)
        shell(home, program, "-n", str(tmp_path / "script"))
    asked = {"_FEATHERSEG_COMPLETE": f"complete_{name}", "_TYPER_COMPLETE_ARGS": "featherseg tra"}
    assert "train" in shell(home, "featherseg", **asked, **more)


def main(monkeypatch, capfd, *arguments):
    monkeypatch.setattr(sys, "argv", ["featherseg", *map(str, arguments)])
    with pytest.raises(SystemExit) as finished:
        cli.main()
    return finished.value.code, *capfd.readouterr()


def test_an_unknown_shell_is_a_sentence(monkeypatch, capfd):
    code, _, err = main(monkeypatch, capfd, "--show-completion", "tcsh")
    assert (code, err) == (2, "error: --show-completion 'tcsh': expected bash, zsh, fish.\n")


def test_quiet_leaves_results_and_warnings(monkeypatch, capfd, tmp_path):
    """Of a conversion: the notice goes, what is left out of it stays."""
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path / "home"))
    shapes = [("car", [square(2, 2, 9, 9)]), ("car", [[1, 2]])]
    said = []
    for place, options in (("loud", ()), ("quiet", ("-q",))):
        coco(tmp_path / place, shapes)
        _, out, err = main(monkeypatch, capfd, "check", tmp_path / place, *options)
        assert "Labelled pixels" in out
        said.append(err)
    assert ["is converted" in err for err in said] == [True, False]
    assert ["left out" in err for err in said] == [True, True]


def test_verbose_shows_where_an_error_arose(monkeypatch, capfd):
    _, _, plain = main(monkeypatch, capfd, "cost", "frm-lite")
    code, _, err = main(monkeypatch, capfd, "cost", "frm-lite", "-v")
    assert code == 2
    assert err.startswith("Traceback")
    assert err.endswith(plain)
    code, _, err = main(monkeypatch, capfd, "cost", "frm-lite0", "-v", "-q")
    assert (code, err) == (2, "error: -q and -v exclude each other. Leave out one.\n")


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_both(monkeypatch, capfd, verb):
    assert "-q, --quiet" in main(monkeypatch, capfd, verb, "--help")[1]
