"""A torch runtime gives its model's own logits, and leaves the model alone."""

import pytest
import torch
from torch.testing import assert_close

from featherseg import models
from featherseg.inference.runtimes.pytorch import TorchRuntime


@pytest.mark.seconds
def test_the_model_given_is_left_as_it_is(classes):
    model = models.build("frm-lite0", 3).to(torch.bfloat16).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    runtime = TorchRuntime(model, classes, device="cpu")
    runtime(torch.randn(1, 3, 64, 64))
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {p.dtype for p in runtime.model.parameters()} == {torch.float32}


@pytest.mark.seconds
def test_a_torch_runtime_gives_the_models_logits_in_fp32_whatever_autocast_says(classes):
    torch.manual_seed(0)
    model = models.build("frm-lite0", 3).eval()
    images = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        expected = model(images).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = TorchRuntime(model, classes, device="cpu")(images)
    assert found.logits.dtype == torch.float32
    assert not found.logits.requires_grad
    assert_close(found.logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.seconds
def test_running_again_gives_the_same_bits(classes):
    torch.manual_seed(0)
    model, images = models.build("frm-lite0", 3), torch.randn(1, 3, 64, 96)
    first, second = (TorchRuntime(model, classes, device="cpu")(images).logits for _ in range(2))
    assert torch.equal(first, second)
