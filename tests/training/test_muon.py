import pytest
import torch
from support.models.small_training import Silent, request

from featherseg import models
from featherseg.losses import PixelContrast
from featherseg.recipe.tables import TrainTable
from featherseg.training import train
from featherseg.training.muon import Muon, orthogonalise
from featherseg.training.optimisers import build_optimizer

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_convolutions_learn_as_their_matrices_do_in_torch_s_muon(layout):
    """Two of the five have one shape, a third has it turned."""
    torch.manual_seed(0)
    shapes = [(24, 10, 3, 3), (40, 16, 1, 1), (8, 30, 1, 1), (16, 40, 1, 1), (40, 16, 1, 1)]
    ours = [torch.nn.Parameter(torch.randn(shape).to(memory_format=layout)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().flatten(1).clone()) for weight in ours]
    groups = [
        {"params": part, "lr": 0.1, "weight_decay": 0.5, "matrices": True}
        for part in (ours[:3], ours[3:])
    ]
    optimizer = Muon(groups, lr=0.1, half=True)
    reference = torch.optim.Muon(
        theirs, lr=0.1, weight_decay=0.5, ns_steps=3, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        before = [matrix.detach().clone() for matrix in theirs]
        for weight, matrix in zip(ours, theirs, strict=True):
            weight.grad = torch.randn(weight.shape).to(memory_format=layout)
            matrix.grad = weight.grad.flatten(1).clone()
        optimizer.step()
        reference.step()
        for weight, matrix, old in zip(ours, theirs, before, strict=True):
            apart = (weight.detach().flatten(1) - matrix.detach()).norm()
            assert (
                apart < 0.02 * (matrix.detach() - old).norm()
            )  # both are in bf16, and multiply in another order


def test_an_orthogonalised_matrix_has_its_singular_vectors_and_values_about_one():
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 90, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    for values in left.mT @ orthogonalise(matrices) @ right.mT:
        assert 0.5 < values.diagonal().min() <= values.diagonal().max() < 1.3
        torch.testing.assert_close(values, torch.diag(values.diagonal()), rtol=0, atol=1e-12)


def test_the_matrices_are_what_mixes_channels_between_the_first_and_the_last_layer():
    model, loss = models.build("frm-lite0-half-light", 5), PixelContrast(64, 5)
    optimizer = build_optimizer(
        model, loss, TrainTable(epochs=1, lr=2.0, backbone_lr=1.0, optimizer="muon")
    )
    seen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for part in (model, loss) for p in part.parameters())
    matrices = {
        id(p) for group in optimizer.param_groups if group["matrices"] for p in group["params"]
    }
    ends = {model.classifier.weight, model.detail[0][0].weight, model.backbone.stem[0].weight}
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            mixes = module.groups == 1 and module.weight not in ends
            assert (id(module.weight) in matrices) == mixes
    assert len(matrices) > 50


@pytest.mark.seconds
def test_from_scratch_it_is_the_optimiser_and_behind_weights_adamw(tmp_path):
    scratch = train(request("train.epochs=1"), tmp_path / "scratch", said := Silent())
    assert scratch.recipe.train.optimizer == "muon"
    assert any("Muon" in text for text in said.messages)
    tuned = train(
        request("train.epochs=1", init=str(scratch.path)), tmp_path / "tuned", said := Silent()
    )
    assert tuned.recipe.train.optimizer == "adamw"
    assert not any("Muon" in text for text in said.messages)
    asked = train(
        request("train.epochs=1", "train.optimizer=adamw"), tmp_path / "asked", said := Silent()
    )
    assert asked.recipe.train.optimizer == "adamw"

    # A resume may leave the weights out that it began with
    train(request("train.epochs=1"), tuned.path, said := Silent(), resume=True)
    assert any("is finished" in text for text in said.messages)
