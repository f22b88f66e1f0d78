import pytest
from small_training import TINY, Silent, request

from featherseg.models import MODELS
from featherseg.training import train


@pytest.fixture(scope="package", autouse=True)
def tiny():
    """The catalogue has the models of small_training.py while the tests of this folder run."""
    with pytest.MonkeyPatch.context() as patched:
        for name, entry in TINY.items():
            patched.setitem(MODELS, name, entry)
        yield


@pytest.fixture
def reporter():
    return Silent()


@pytest.fixture(scope="package")
def small_run(tiny, tmp_path_factory):
    """A finished run: 2 epochs of 2 steps."""
    return train(request(), tmp_path_factory.mktemp("runs") / "small", Silent())
