"""Core ML does not run here: the target says so, and gives its facts without coremltools."""

from importlib.util import find_spec

import pytest
from support.models.export_job import job_of
from support.models.small_model import FACTS, small_model

from featherseg.core.errors import MissingExtra
from featherseg.exporters import EXPORTERS, coreml


def test_it_is_marked_as_not_verified():
    assert not EXPORTERS["coreml"].verified
    assert "Untested" in (coreml.write.__doc__ or "")


@pytest.mark.skipif(find_spec("coremltools") is not None, reason="coremltools is installed")
def test_without_coremltools_the_command_that_installs_it_is_named(tmp_path):
    with pytest.raises(MissingExtra, match=r"pip install 'featherseg\[coreml\]'"):
        coreml.write(job_of(small_model(), FACTS, tmp_path))
