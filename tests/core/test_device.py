import pytest
import torch

from featherseg.core.device import pick_device
from featherseg.core.errors import DeviceError


def test_auto_is_a_gpu_where_there_is_one():
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:63", "gpu", "mps" if not torch.backends.mps.is_available() else "cuda:63"])
def test_a_device_that_is_not_there_gets_a_sentence_with_a_way_out(name):
    with pytest.raises(DeviceError, match=name) as error:
        pick_device(name)
    assert "cpu" in str(error.value)
