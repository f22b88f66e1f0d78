"""The command line as a user meets it: exit codes, messages, help."""

import io
import json
import logging
import shutil
import subprocess
import sys
import warnings

import pytest
import typer

from featherseg import FeathersegError, __version__, cli
from featherseg.core.wording import ESCAPES


def run_main(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """-> (exit code, stdout, stderr) of `featherseg *arguments`, in this process."""
    monkeypatch.setattr(sys, "argv", ["featherseg", *arguments])
    with pytest.raises(SystemExit) as finished:
        cli.main()
    captured = capsys.readouterr()
    return int(finished.value.code or 0), captured.out, captured.err


def raising(error: BaseException):
    def build_app():
        def app(prog_name: str) -> None:
            raise error

        return app

    return build_app


def test_the_size_of_an_image_has_one_name_in_every_verb():
    group = typer.main.get_command(cli.build_app())
    options = {
        verb: [p.opts for p in group.get_command(typer.Context(group), verb).params]
        for verb in cli.VERBS
    }
    named = {
        verb: found
        for verb, opts in options.items()
        if (found := [o for o in opts if o[0].endswith("-size")])
    }
    assert named.keys() == {"benchmark", "compare", "cost", "import", "export", "fit"}
    assert all(names == [["--image-size"]] for names in named.values())


def test_help_lists_every_verb(monkeypatch, capsys):
    code, out, _ = run_main(monkeypatch, capsys, "--help")
    assert code == 0
    assert all(f"  {verb} " in out for verb in cli.VERBS)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_help(monkeypatch, capsys, verb):
    code, out, _ = run_main(monkeypatch, capsys, verb, "--help")
    assert code == 0
    assert out.startswith(f"Usage: featherseg {verb} ")
    example = f"Example: featherseg {verb} {cli.VERBS[verb][1]}".rstrip()
    assert out.splitlines()[-1] == f"  {example}"  # on one line, to be pasted


def test_version(monkeypatch, capsys):
    assert run_main(monkeypatch, capsys, "--version")[:2] == (0, f"featherseg {__version__}\n")


def test_a_slip_of_the_user_is_a_sentence_and_exit_code_2(monkeypatch, capsys):
    code, out, err = run_main(monkeypatch, capsys, "cost", "frm-lite")
    assert (code, out) == (2, "")
    assert err == "error: unknown model 'frm-lite'. Did you mean 'frm-lite0'?\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "export RUN --format onnx --format=onnx-int8",
            "--format was given 2 times. Give it once, with all its values,",
        ),
        (
            "train frm-lite0 --out a --set train.epochs=1 --set train.seed=1 -o b -o c",
            "-o was given 3 times. Give it",
        ),
    ],
)
def test_an_option_of_one_value_is_given_once(monkeypatch, capsys, arguments, sentence):
    code, out, err = run_main(monkeypatch, capsys, *arguments.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {sentence}")


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["nonsense"], ["cost"], ["train", "--out", "x"]]
)
def test_wrong_usage_exits_with_2(monkeypatch, capsys, arguments):
    code, out, err = run_main(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert "Usage: featherseg" in err


def test_ctrl_c_says_stopped_and_exits_with_130(monkeypatch, capsys):
    monkeypatch.setattr("featherseg.api.cost", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, _, err = run_main(monkeypatch, capsys, "cost", "frm-lite0")
    assert (code, err) == (130, "stopped\n")


def test_a_full_disk_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(
        cli, "build_app", raising(OSError(28, "No space left on device", "runs/a/metrics.jsonl"))
    )
    code, _, err = run_main(monkeypatch, capsys)
    assert code == 2
    assert err.startswith("error: No space left on device: runs/a/metrics.jsonl.")


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "build_app", raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_names_in_tracebacks_and_warnings_steer_nothing(monkeypatch, capsys):
    """Those of errors that nobody expected, as Python itself shows them."""
    for module, name in ((sys, "excepthook"), (warnings, "formatwarning")):
        monkeypatch.setattr(module, name, getattr(module, name))
    bug = KeyError("a\x1b[2J\u202eb")
    bug.__cause__ = ValueError("c\x9bm")
    bug.add_note("d\x07")
    monkeypatch.setattr(sys, "argv", ["featherseg"])
    monkeypatch.setattr(cli, "build_app", raising(bug))
    with pytest.raises(KeyError):
        cli.main()
    sys.excepthook(KeyError, bug, bug.__traceback__)
    logging.lastResort.handle(logging.makeLogRecord({"msg": "e\x1b[2J"}))
    assert (
        warnings.formatwarning("f\x1b[2J", UserWarning, "a.py", 1)
        == "a.py:1: UserWarning: f\\x1b[2J\n"
    )
    shown = capsys.readouterr().err
    assert not set(shown) & set("\x1b\x9b\x07\u202e")
    assert "Traceback" in shown
    assert "c\\x9bm" in shown


def test_several_sentences_stay_several_lines(monkeypatch, capsys):
    monkeypatch.setattr(cli, "build_app", raising(FeathersegError("one\ntwo")))
    assert run_main(monkeypatch, capsys)[2] == "error: one\ntwo\n"


@pytest.mark.seconds
@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_a_reader_that_goes_away_is_no_error():
    command = (
        f"{sys.executable} -c 'from featherseg.cli import main; main()' models --json | head -c 1"
    )
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("[", "")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_name_that_the_console_lacks_is_an_escape_that_json_reads(monkeypatch, lawn, encoding):
    name = "Straße…✓😀"
    lawn.write_text(lawn.read_text().replace("grass", name), encoding="utf-8")
    said = []
    for options in ([], ["--json"]):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        monkeypatch.setattr(sys, "argv", ["featherseg", "check", str(lawn), *options])
        with pytest.raises(SystemExit):
            cli.main()
        said.append(sys.stdout.buffer.getvalue().decode(encoding))
    assert name.encode(encoding, ESCAPES).decode(encoding) in said[0]
    assert name in str(json.loads(said[1]))
