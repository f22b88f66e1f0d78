"""Marks of tests that need instructions which not every processor has."""

import pytest
import torch

from featherseg.core.machine import computes_bf16

needs_bf16 = pytest.mark.skipif(
    not computes_bf16(torch.device("cpu")), reason="this processor has no instructions for bf16"
)
