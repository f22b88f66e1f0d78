"""What is named decides what runs it."""

import pytest

from featherseg import FeathersegError
from featherseg.inference.runtimes import open_file, open_runtime


def test_a_run_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(FeathersegError, match="nowhere"):
        open_runtime(tmp_path / "nowhere")


def test_a_file_of_an_unknown_kind_is_answered_with_the_endings(tmp_path):
    with pytest.raises(FeathersegError, match=r"ends like no exported file.*\.onnx"):
        open_file(tmp_path / "net.bin")
