from contextlib import contextmanager

import pytest
from support.models.small_training import TINY, Silent, request

from featherseg.models import MODELS
from featherseg.training import train


@contextmanager
def tiny_models():
    """The catalogue has the models of small_training.py as well."""
    with pytest.MonkeyPatch.context() as patched:
        for name, entry in TINY.items():
            patched.setitem(MODELS, name, entry)
        yield


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Of each module, as what a package has stays where its folder has no __init__.py, to the end of all tests."""
    with tiny_models():
        yield


@pytest.fixture
def reporter():
    return Silent()


@pytest.fixture(scope="package")
def small_run(tmp_path_factory):
    """A finished run: 2 epochs of 2 steps."""
    with tiny_models():
        return train(request(), tmp_path_factory.mktemp("runs") / "small", Silent())
