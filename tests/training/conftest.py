import pytest
from support.models.quick_work import quick_training
from support.models.small_training import Silent, request, tiny_models

from featherseg.training import train


@pytest.fixture(scope="module")
def tiny(quick_training):
    """The catalogue has the models of small_training.py, and small trainings are quick."""
    with tiny_models():
        yield


@pytest.fixture
def reporter():
    return Silent()


@pytest.fixture(scope="package")
def small_run(tmp_path_factory):
    """A finished run: 2 epochs of 2 steps."""
    with tiny_models(), quick_training():
        return train(request(), tmp_path_factory.mktemp("runs") / "small", Silent())
