"""Run every code of this machine in turn: numpy, and the extension per instruction set.

"plain" is the extension as Microsoft's compiler would build it: without vectors of gcc and clang.
"""

import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

from featherseg.kernels import library, portable

try:
    from featherseg.kernels import _native
except ImportError:
    _native = None

CODES = ["numpy", *(_native.clones() if _native else [])]
COMPILER = _native and shutil.which("cc")


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> ModuleType:
    """The extension compiled with PLAIN_C."""
    if not COMPILER:
        pytest.skip("needs a C compiler named cc and Python's headers")
    built = tmp_path_factory.mktemp("plain") / "_native.so"
    words = ["-DPLAIN_C", "-std=c11", "-ffp-contract=off", "-O1", "-shared", "-fPIC"]
    headers = f"-I{sysconfig.get_path('include')}"
    sources = Path(library.__file__).parent.glob("*.c")
    subprocess.run([COMPILER, *words, headers, *sources, "-o", built, "-lm"], check=True)
    spec = importlib.util.spec_from_file_location("plain._native", built)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.clones() == ["baseline"]
    return module


@pytest.fixture
def use(request, monkeypatch):
    """A function that switches to a code by its name."""
    before = _native.chosen() if _native else None

    def switch(code: str) -> None:
        if code == "plain":
            monkeypatch.setattr(library, "kernels", request.getfixturevalue("plain"))
            return
        monkeypatch.setattr(library, "kernels", portable if code == "numpy" else _native)
        if code != "numpy":
            _native.use(code)

    yield switch
    if _native:
        _native.use(before)


@pytest.fixture(params=[*CODES, "plain"])
def code(request, use) -> str:
    """The test runs once a code."""
    use(request.param)
    return request.param


@pytest.fixture(params=[*CODES[1:], "plain"])
def clone(request, use) -> str:
    """The test runs once an instruction set of the extension."""
    use(request.param)
    return request.param


@pytest.fixture
def every_code(use):
    """Results of a function by each code, for tests that draw many cases."""

    def run(function):
        results = []
        for name in [*CODES, "plain"] if COMPILER else CODES:
            use(name)
            results.append(function())
        return results

    return run


@pytest.fixture
def extension():
    if _native is None:
        pytest.skip("no compiled extension here: no compiler at install")
    return _native
