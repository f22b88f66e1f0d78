"""Clang compiles every loop for every system; a failed compile is reported."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from featherseg.kernels import library

try:
    from featherseg.kernels import _native
except ImportError:
    _native = None

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(library.__file__).parent.glob("*.c"))


@pytest.fixture(scope="module")
def headers(tmp_path_factory) -> Path:
    """A folder with Python's headers, and a pyconfig.h for any system."""
    installed, folder = Path(sysconfig.get_path("include")), tmp_path_factory.mktemp("headers")
    if not (installed / "Python.h").is_file():
        pytest.skip("needs Python's headers")
    for path in installed.iterdir():
        if path.name != "pyconfig.h":
            (folder / path.name).symlink_to(path)
    (folder / "pyconfig.h").symlink_to(ROOT / "scripts/pyconfig.h")
    return folder


@pytest.mark.parametrize(
    "target",
    ["x86_64-linux", "aarch64-linux", "x86_64-macos", "aarch64-macos", "x86_64-windows"],
)
def test_clang_compiles_every_file_for(target, headers, tmp_path, pytestconfig):
    if (package := find_spec("ziglang")) is None:
        pytest.skip("needs the package ziglang, which contains clang")
    zig = Path(package.origin).with_name("zig")
    words = ["-Werror", "-std=c11", "-DPy_LIMITED_API=0x030B0000"]
    results = pytestconfig.cache.mkdir("zig")  # a file that has not changed is compiled once
    for source in SOURCES:
        compiled = tmp_path / f"{source.stem}.o"
        run = subprocess.run(
            [zig, "cc", "-target", target, *words, "-I.", "-c", source, "-o", compiled],
            cwd=headers,
            env=os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(results)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr[:3000]
        assert compiled.is_file()


def test_a_failed_compile_leaves_the_compilers_first_error_and_no_older_build(tmp_path):
    if _native is None or shutil.which("cc") is None:
        pytest.skip("needs a C compiler named cc and Python's headers")
    folder = tmp_path / "src/featherseg/kernels"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "setup.py", tmp_path)
    project = "[project]\nname = 'copy'\nversion = '0'\n"
    (tmp_path / "pyproject.toml").write_text(f"{project}[tool.setuptools.package-dir]\n'' = 'src'")
    report, source = folder / "not_compiled.txt", folder / "_native.c"

    def build() -> str:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace", "--force"]
        environment = os.environ | {"CC": "cc"}
        run = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return run.stderr

    source.write_text("int featherseg_clone;")
    assert "NO C COMPILER WORKED" not in build()
    assert list(folder.glob("_native*.so"))
    source.write_text("#error first\n#error second\n")
    first = "src/featherseg/kernels/_native.c:1:2: error: #error first"
    assert f"with equal results. {first}. Install" in build()
    assert report.read_text() == first
    assert not list(folder.glob("_native*.so"))
    source.write_text("int featherseg_clone;")
    build()
    assert not report.exists()
