"""What holds for the tree as a whole."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import featherseg

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = (
    "torch",
    "lightning",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "tensorboard",
    "pytorch_lightning",
)
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def imported_by(statement: str) -> set[str]:
    """Top-level names in sys.modules after a statement, in a fresh interpreter."""
    run = python(
        "-c", f"import sys; {statement}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    )
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_featherseg_imports_nothing_heavy_and_no_config():
    assert imported_by("import featherseg").isdisjoint({*HEAVY, "numpy", "PIL", "pydantic"})


def test_building_the_command_line_imports_nothing_heavy():
    found = imported_by(
        "from featherseg.cli import build_app; import typer; typer.main.get_command(build_app())"
    )
    assert found.isdisjoint({*HEAVY, "numpy", "PIL", "pydantic", "safetensors"})


def test_without_lightning_all_but_training_is_there():
    modules = (
        "training.published_weights, featherseg.training.pretrained, featherseg.training.batches"
    )
    modules += ", featherseg.fitting.elsewhere, featherseg.cli.machine_findings"
    blocked = "sys.modules['lightning'] = None; import featherseg"
    assert "featherseg" in imported_by(f"{blocked}, featherseg.{modules}")
    run = python("-c", f"import sys; {blocked}; featherseg.fit")
    assert "pip install 'featherseg[train]'" in run.stderr.splitlines()[-1]


def test_help_answers_in_half_a_second():
    before = os.times()
    run = python(
        "-c",
        "from featherseg.cli import main; import sys; sys.argv = ['featherseg', '--help']; main()",
    )
    after = os.times()
    assert run.returncode == 0
    processor = (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    assert processor < 0.5  # seconds; on an idle machine the wall clock says the same


def test_layers_hold():
    # in a process of its own: it switches off the loggers that are there
    command = "import sys; from importlinter.cli import lint_imports; "
    command += "sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_fault_can_be_planted():
    done = python(str(ROOT / "scripts" / "faults.py"), "--check")
    assert done.returncode == 0, done.stderr


def test_a_check_of_no_fault_is_refused():
    done = python(str(ROOT / "scripts" / "faults.py"), "--check", "nothing/")
    assert "no line of faults.txt begins with nothing/" in done.stderr
    assert done.returncode == 1


def test_nothing_prints_outside_the_command_line():
    for path in SOURCES:
        calls = [
            node.func
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        ]
        prints = [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]
        assert not prints or "cli" in path.parts, path


def mode_of(call: ast.Call) -> str:
    """Return the mode of a call of open, os.fdopen, Path.open or gzip.open; "b" for others."""
    *_, module, function = ("", *ast.unparse(call.func).rsplit(".", 1))
    if function not in ("open", "fdopen"):
        return "b"
    is_path = function == "open" and module not in ("", "gzip", "bz2", "lzma", "io")
    given = [k.value for k in call.keywords if k.arg == "mode"] + call.args[0 if is_path else 1 :]
    texts = [
        value.value
        for value in given[:1]
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
    default = "r" if module in ("", "io") or function == "fdopen" else "b"  # x may be no path
    return texts[0] if texts and set(texts[0]) <= set("rwxabt+") else default


def test_the_mode_of_a_file_is_seen():
    modes = {
        "open(p)": "r",
        "open(p, 'wb')": "wb",
        "open(p, mode='x')": "x",
        "os.fdopen(f, 'w')": "w",
    }
    modes |= {
        "(a / b).open('a')": "a",
        "gzip.open(p)": "b",
        "gzip.open(p, 'rt')": "rt",
        "Image.open(p)": "b",
    }
    modes |= {"archive.open('name.txt')": "b", "os.open(p, flags)": "b", "f(p)": "b"}
    assert {code: mode_of(ast.parse(code, mode="eval").body) for code in modes} == modes


# Windows' default encoding is not UTF-8.
def test_text_is_read_and_written_in_a_named_encoding():
    for path in [*SOURCES, *(ROOT / "scripts").glob("*.py")]:
        for call in (
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ):
            named = {keyword.arg for keyword in call.keywords}
            method = call.func.attr if isinstance(call.func, ast.Attribute) else None
            text = (
                method in ("read_text", "write_text") or "b" not in mode_of(call) or "text" in named
            )
            assert not text or "encoding" in named, f"{path}:{call.lineno}"


# A service that serves other tests would sleep by the stopped clock, for hours.
def test_no_test_stops_the_clock_of_all():
    stopped = re.compile(r"""setattr\([\w.]*\btime, "|setattr\("[\w.]*\btime\.""")
    assert stopped.search('monkeypatch.setattr(session.time, "monotonic", clock)')
    assert stopped.search('monkeypatch.setattr("featherseg.fitting.fit.time.monotonic", clock)')
    files = [path for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__)]
    assert files
    assert [path for path in files if stopped.search(path.read_text(encoding="utf-8"))] == []


# Images of datasets are under terms of their own.
def test_no_images_but_drawn_and_free_ones_enter_the_repository():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a checkout of git, or git is not here")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:  # such as a checkout that belongs to another user
        pytest.skip(listed.stderr)
    images = [name for name in listed.stdout.split("\0") if Path(name).suffix.lower() in IMAGES]
    drawn = ("tests/converters/files/", "docs/images/")
    assert any(name.startswith(drawn[0]) for name in images)
    named = (ROOT / "examples/photos/README.md").read_text(encoding="utf-8")
    free = [f"examples/photos/{kind}-{i}.jpg" for kind in ("road", "indoor") for i in range(1, 5)]
    assert "MIT" in named
    assert "CC BY 4.0" in named
    assert [name for name in images if not name.startswith(drawn)] == sorted(free)


def test_continuous_integration_runs_the_readme_s_test_command():
    assert "make test" in (ROOT / "README.md").read_text()
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands[-2:] == ["make test", "make test-seconds"]


def test_the_makefile_has_at_most_thirteen_targets_and_each_says_what_it_does():
    lines = (ROOT / "Makefile").read_text().splitlines()
    targets = [
        line for line in lines if line.partition(":")[0].replace("-", "").isalnum() and ":" in line
    ]
    targets = [line for line in targets if not line.startswith(".") and ":=" not in line]
    assert 1 <= len(targets) <= 13
    assert all("## " in line for line in targets)


def test_constraints_pin_every_dependency_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["export"], *extras["dev"]]
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    named = {
        w.split(";")[0].split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip().lower()
        for w in wanted
    }
    assert named - {"featherseg"} <= {name.lower() for name in pins}
    assert not any("+" in version for version in pins.values())


def test_a_function_has_at_most_11_parameters_and_a_verb_23():
    found = {}
    for path in (path for path in SOURCES if "kernels" not in path.parts):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)]
                count = len([name for name in arguments if name not in ("self", "cls")])
                verb = "cli" in path.parts or node.name in featherseg.__all__
                if count > (23 if verb else 11):
                    found[f"{path.name}: {node.name}"] = count
    assert found == {}
