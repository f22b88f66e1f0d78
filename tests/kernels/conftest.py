"""Run every code of this machine in turn: numpy, and the extension per instruction set."""

import pytest

from featherseg.kernels import library, portable

try:
    from featherseg.kernels import _native
except ImportError:
    _native = None

CODES = ["numpy", *(_native.clones() if _native else [])]


@pytest.fixture
def use(monkeypatch):
    """A function that switches to a code by its name."""
    before = _native.chosen() if _native else None

    def switch(code: str) -> None:
        monkeypatch.setattr(library, "kernels", portable if code == "numpy" else _native)
        if code != "numpy":
            _native.use(code)

    yield switch
    if _native:
        _native.use(before)


@pytest.fixture(params=CODES)
def code(request, use) -> str:
    """The test runs once a code."""
    use(request.param)
    return request.param


@pytest.fixture(params=CODES[1:])
def clone(request, use) -> str:
    """The test runs once an instruction set of the extension."""
    use(request.param)
    return request.param


@pytest.fixture
def every_code(use):
    """Results of a function by each code, for tests that draw many cases."""

    def run(function):
        results = []
        for name in CODES:
            use(name)
            results.append(function())
        return results

    return run


@pytest.fixture
def extension():
    if _native is None:
        pytest.skip("no compiled extension here: no compiler at install")
    return _native
