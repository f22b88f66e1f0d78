"""Auxiliary heads learn where the recipe gives them a weight, and only there."""

import pytest
import torch
from small_training import trained

from featherseg import models
from featherseg.core.errors import ConfigError
from featherseg.recipe import parse_recipe, read_recipe
from featherseg.training.loss import keep_supervised_heads


def learning(name: str, *overrides: str) -> dict[str, bool]:
    """Whether the parameters of each auxiliary head learn under a recipe."""
    net = models.build(name, 3)
    keep_supervised_heads(net, parse_recipe(read_recipe(name), overrides))
    return {head: all(p.requires_grad for p in module.parameters()) for head, module in net.aux_heads.items()}


@pytest.mark.parametrize(("name", "overrides", "expected"), [
    ("pidnet-s", (), {"aux_p": True, "aux_d": True}),
    ("pidnet-s", ("loss.boundary=0",), {"aux_p": True, "aux_d": False}),
    ("pidnet-s", ("loss.auxiliary=0",), {"aux_p": False, "aux_d": True}),
    ("ddrnet-23-slim", (), {"aux": True}),
    ("sfnet-r18", (), {"dsn_4": False, "dsn_8": False, "dsn_16": False}),
    ("frm-lite0", (), {}),
])  # fmt: skip
def test_a_head_learns_where_it_has_a_weight(name, overrides, expected):
    assert learning(name, *overrides) == expected


@pytest.mark.parametrize(("name", "key"), [("frm-lite0", "auxiliary"), ("ddrnet-23-slim", "boundary")])
def test_a_weight_without_a_head_is_refused(name, key):
    with pytest.raises(ConfigError, match=rf"loss\.{key} = 0\.4: {name} has no head"):
        learning(name, f"loss.{key}=0.4")


def test_boundary_and_class_heads_move_in_a_training(tmp_path):
    settings = ('model.name="pidnet-s"', "loss.auxiliary=0.4", "loss.boundary=20.0")
    run = trained(tmp_path / "whole", *settings)
    torch.manual_seed(0)
    begun = models.build("pidnet-s", len(run.classes)).aux_heads.state_dict()
    ended = run.model.aux_heads.state_dict()
    for head in ("aux_p", "aux_d"):
        key = next(key for key in begun if key.startswith(head) and begun[key].ndim == 4)
        assert not torch.equal(begun[key], ended[key])
