"""Peak memory, measured in a process of its own."""

import mmap
import sys

import pytest
from small_run import small_info

from featherseg import FeathersegError, models
from featherseg.core.types import ClassInfo
from featherseg.evaluation.peak_memory import peak_memory, resident_mib
from featherseg.runs import save_weights, write_info

CLASSES = [ClassInfo(name, (i, i, i)) for i, name in enumerate("abc")]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory") / "run"
    folder.mkdir()
    write_info(folder, small_info(CLASSES))
    (folder / "recipe.toml").write_text('[model]\nname = "frm-lite0"\n')
    save_weights(folder, models.build("frm-lite0", classes=3).state_dict())
    return folder


def test_a_larger_picture_takes_more_and_what_this_process_took_is_not_counted(run):
    with mmap.mmap(-1, 500 * 2**20) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert resident_mib("VmRSS") > 700
    small, large = peak_memory(run, (64, 96)), peak_memory(run, (384, 512))
    assert small.process_mib < 500
    assert 0 < small.network_mib < large.network_mib < large.process_mib
    assert 20 < large.network_mib - small.network_mib < 300  # 0.2 million pixels at 100 bytes and more
    assert small.gpu_mib is None


def test_what_the_child_cannot_open_is_said_with_its_own_sentence(tmp_path):
    with pytest.raises(FeathersegError, match=r"at 64x96 .* could not be measured: no run folder at"):
        peak_memory(tmp_path / "none", (64, 96))
