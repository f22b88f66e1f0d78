import pytest
from small_training import Silent, request

from featherseg.training import train


@pytest.fixture
def reporter():
    return Silent()


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A finished run: 2 epochs of 2 steps."""
    return train(request(), tmp_path_factory.mktemp("runs") / "small", Silent())
