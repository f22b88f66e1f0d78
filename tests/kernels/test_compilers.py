"""Clang compiles every loop, for every system that the extension is meant for."""

import os
import subprocess
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

from featherseg.kernels import library

SOURCES = sorted(Path(library.__file__).parent.glob("*.c"))

SETTINGS = """
#ifndef Py_PYCONFIG_H
#define Py_PYCONFIG_H
#define SIZEOF_LONG __SIZEOF_LONG__
#define SIZEOF_LONG_LONG __SIZEOF_LONG_LONG__
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#define SIZEOF_WCHAR_T __SIZEOF_WCHAR_T__
#endif
"""
"""A pyconfig.h for any system. Python's own is made for one: Linux's asks for sys/select.h."""


@pytest.fixture(scope="module")
def headers(tmp_path_factory) -> Path:
    """A folder with Python's headers, and SETTINGS as pyconfig.h."""
    installed, folder = Path(sysconfig.get_path("include")), tmp_path_factory.mktemp("headers")
    if not (installed / "Python.h").is_file():
        pytest.skip("needs Python's headers")
    for path in installed.iterdir():
        if path.name != "pyconfig.h":
            (folder / path.name).symlink_to(path)
    (folder / "pyconfig.h").write_text(SETTINGS)
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
