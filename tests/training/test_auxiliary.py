"""Auxiliary heads learn only if the recipe gives them a weight; the sums of PIDNet's recipes."""

import pytest
import torch
from support.models.seeded import seeded
from support.models.small_training import trained

from featherseg import models
from featherseg.core.errors import ConfigError
from featherseg.core.types import IGNORE, SegOutput
from featherseg.losses.boundary import boundary_loss, boundary_targets, labels_at_boundaries
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training.loss import build_loss, keep_supervised_heads

pytestmark = pytest.mark.usefixtures("tiny")

SIZE = (8, 9)


def learning(name: str, *overrides: str) -> dict[str, bool]:
    """Whether the parameters of each auxiliary head learn under a recipe."""
    model = models.build(name.partition("_")[0], 3)
    keep_supervised_heads(model, parse_recipe(read_recipe(name), overrides))
    return {
        head: all(p.requires_grad for p in module.parameters())
        for head, module in model.aux_heads.items()
    }


@pytest.mark.parametrize(("name", "overrides", "expected"), [
    ("pidnet-s", (), {"aux_p": True, "aux_d": True}),
    ("pidnet-s", ("loss.boundary=0",), {"aux_p": True, "aux_d": False}),
    ("pidnet-s", ("loss.auxiliary=0",), {"aux_p": False, "aux_d": True}),
    ("ddrnet-23-slim", (), {"aux": True}),
    ("sctnet-s_cityscapes", (), {"aux": True}),
    ("sfnet-r18", (), {"dsn_4": False, "dsn_8": False, "dsn_16": False}),
    ("frm-lite0", (), {}),
])  # fmt: skip
def test_a_head_learns_where_it_has_a_weight(name, overrides, expected):
    assert learning(name, *overrides) == expected


@pytest.mark.parametrize(
    ("name", "key"), [("frm-lite0", "auxiliary"), ("ddrnet-23-slim", "boundary")]
)
def test_a_weight_without_a_head_is_refused(name, key):
    with pytest.raises(ConfigError, match=rf"loss\.{key} = 0\.4: {name} has no head"):
        learning(name, f"loss.{key}=0.4")


def losses_of_pixels(logits, labels, weights):
    """[(probability of the true class, weighted loss)] of every labelled pixel of one image."""
    found = []
    for _, r, c in torch.nonzero(labels != IGNORE).tolist():
        true = int(labels[0, r, c])
        probability = float(logits[0, :, r, c].double().softmax(0)[true])
        found.append((probability, -weights[true] * torch.tensor(probability).log().item()))
    return found


def mined(pixels, threshold, kept):
    """PIDNet's mean over pixels less sure than the threshold or the one after the first `kept`."""
    pixels = sorted(pixels)
    limit = max(pixels[kept][0], threshold)
    chosen = [loss for probability, loss in pixels if probability < limit]
    return sum(chosen) / len(chosen)


@pytest.mark.parametrize("kept", [3, 25])
def test_pidnet_s_recipe_weighs_and_divides_each_loss_as_its_code_does(kept):
    labels = torch.zeros(1, *SIZE, dtype=torch.int64)
    labels[0, 3:, 5:], labels[0, :2, :4], labels[0, -1] = 2, 1, IGNORE
    logits, aux_p, aux_d = (
        3 * seeded(1, 3, *SIZE),
        seeded(1, 3, *SIZE).flip(1),
        2 + seeded(1, 1, *SIZE),
    )
    weights = [0.5, 2.0, 3.0]
    recipe = parse_recipe(read_recipe("pidnet-s_cityscapes"), [f"loss.ohem_min_kept={kept}"])
    loss = build_loss(weights, recipe, models.build("pidnet-s", 3))
    out = SegOutput(logits, SIZE, SIZE, True, aux={"aux_p": aux_p, "aux_d": aux_d})
    near = losses_of_pixels(logits, labels_at_boundaries(labels, aux_d), weights)
    assert len(near) > 25
    expected = (
        0.4 * sum(loss for _, loss in losses_of_pixels(aux_p, labels, weights)) / labels.numel()
        + 20 * float(boundary_loss(aux_d, boundary_targets(labels)))
        + mined(losses_of_pixels(logits, labels, weights), 0.9, kept)
        + mined(near, 0.9, kept)
    )
    assert float(loss(out, labels)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_boundary_and_class_heads_move_in_a_training(tmp_path):
    settings = (
        'model.name="pidnet-s"',
        "loss.auxiliary=0.4",
        "loss.boundary=20.0",
        "train.epochs=1",
    )
    run = trained(tmp_path / "whole", *settings)
    torch.manual_seed(0)
    begun = models.build("pidnet-s", len(run.classes)).aux_heads.state_dict()
    ended = run.model.aux_heads.state_dict()
    for head in ("aux_p", "aux_d"):
        key = next(key for key in begun if key.startswith(head) and begun[key].ndim == 4)
        assert not torch.equal(begun[key], ended[key])
