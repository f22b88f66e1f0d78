"""The goldens of the official networks (tests/golden/README.md); CGRSeg's are in tests/models/test_cgrseg.py."""

import pytest
import torch
from parity_golden import misses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stages_equal_those_of_the_official_network(dtype):
    assert misses("van_b1", dtype) == (8, [])
