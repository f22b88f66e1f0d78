import copy

import pytest
import torch
from support.golden.parity_golden import numbered
from torch import nn

from featherseg import models
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.layers.model import SegmentationModel
from featherseg.layers.own_model import OwnModel
from featherseg.layers.position_bias import PositionBias
from featherseg.losses import PixelContrast
from featherseg.recipe.tables import TrainTable
from featherseg.training.optimisers import build_optimizer, build_schedule, rate_factor
from featherseg.training.process_norms import synchronise_norms

RATES = {"lr": 2.0, "backbone_lr": 1.0, "weight_decay": 0.5}


def learns(model: SegmentationModel, groups: str) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter by its name; each must be in one group."""
    names = {id(p): name for name, p in model.named_parameters()}
    table = TrainTable(epochs=1, groups=groups, **RATES)
    sorted_groups = build_optimizer(model, torch.nn.Identity(), table).param_groups
    found = [
        (names[id(p)], (group["lr"], group["weight_decay"]))
        for group in sorted_groups
        for p in group["params"]
    ]
    assert len(found) == len(names)
    return dict(found)


def test_groups_hold_every_parameter_once_with_its_own_rate_and_decay():
    model, loss = models.build("frm-lite0", 3), PixelContrast(64, 3)
    optimizer = build_optimizer(model, loss, TrainTable(epochs=1, **RATES))
    seen = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for part in (model, loss) for p in part.parameters())
    backbone = {id(p) for p in model.backbone.parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            assert group["lr"] == (1.0 if id(p) in backbone else 2.0)
            assert group["weight_decay"] == (0.5 if p.ndim > 1 else 0.0)


def test_an_unknown_optimiser_is_answered_with_the_nearest():
    model, table = models.build("efficientvit-seg-b0", 3), TrainTable(epochs=1, optimizer="admw")
    with pytest.raises(UnknownName, match=r"unknown optimiser 'admw'\. Did you mean 'adamw'"):
        build_optimizer(model, torch.nn.Identity(), table)


class Convolutions(SegmentationModel):
    """A backbone alone, in the layout that training takes."""

    def __init__(self):
        super().__init__()
        layers = (
            torch.nn.Conv2d(3, 8, 3),
            torch.nn.BatchNorm2d(8),
            torch.nn.Conv2d(8, 8, 3, groups=8),
        )
        self.backbone = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("images", "factor"), [({"batch_size": 2}, 0.5), ({"batch_size": 8, "accumulate": 4}, 2.0)]
)
def test_rates_are_scaled_by_the_root_of_the_images_of_a_step(images, factor):
    model = models.build("efficientvit-seg-b0", 3)
    found = [
        [group["lr"] for group in build_optimizer(model, torch.nn.Identity(), table).param_groups]
        for table in (
            TrainTable(epochs=1, **RATES),
            TrainTable(epochs=1, lr_batch_size=8, **images, **RATES),
        )
    ]
    assert found[0] == [1.0, 1.0, 2.0, 2.0]
    assert found[1] == [factor * rate for rate in found[0]]
    assert rate_factor(TrainTable(epochs=1, **images, **RATES)) == 1


def test_adamw_steps_as_the_equations_whatever_the_layout_of_the_weights():
    """Loshchilov and Hutter, ICLR 2019, Algorithm 2 with torch's 0.9, 0.999, 1e-8 in float64."""
    torch.manual_seed(0)
    model = Convolutions()
    optimizer = build_optimizer(
        model, torch.nn.Identity(), TrainTable(epochs=1, lr=0.1, weight_decay=0.5)
    )
    weights = [p.detach().double() for p in model.parameters()]
    moments = [(torch.zeros_like(w), torch.zeros_like(w)) for w in weights]
    for step in range(1, 4):
        optimizer.zero_grad()
        images = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
        model.backbone(images).square().sum().backward()
        for n, p in enumerate(model.parameters()):
            gradient, (first, second) = p.grad.double(), moments[n]
            moments[n] = first, second = (
                0.9 * first + 0.1 * gradient,
                0.999 * second + 0.001 * gradient**2,
            )
            weights[n] = weights[n] * (1 - 0.1 * (0.5 if p.ndim > 1 else 0.0))
            weights[n] -= (
                0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            )
        optimizer.step()
        for p, w in zip(model.parameters(), weights, strict=True):
            torch.testing.assert_close(p.detach().double(), w, rtol=1e-4, atol=1e-5)


class Tables(SegmentationModel):
    """A position table in the backbone and one outside, each beside a matrix."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.ModuleDict(
            {"position": PositionBias(2, 4), "matrix": torch.nn.Linear(3, 3)}
        )
        self.position, self.matrix = PositionBias(2, 4), torch.nn.Linear(3, 3)


def test_position_tables_do_not_decay_wherever_they_are():
    assert learns(Tables(), "structure") == {
        "backbone.position.table": (1.0, 0.0),
        "backbone.matrix.weight": (1.0, 0.5),
        "backbone.matrix.bias": (1.0, 0.0),
        "position.table": (2.0, 0.0),
        "matrix.weight": (2.0, 0.5),
        "matrix.bias": (2.0, 0.0),
    }


def test_uniformly_everything_decays_as_by_an_optimiser_that_is_told_nothing():
    found = learns(Tables(), "uniform")
    assert found == {name: (1.0 if name.startswith("backbone.") else 2.0, 0.5) for name in found}


@pytest.fixture(scope="module")
def cgrseg():
    return models.build("cgrseg-t", 150)


def as_mmcv(name: str) -> tuple[float, float]:
    """custom_keys of the authors' configs: the longest matching key decides, alphabetically."""
    keys = {"head": (2.0, 0.5), "norm": (1.0, 0.0), "absolute_pos_embed": (1.0, 0.0)}
    hits = [key for key in sorted(sorted(keys), key=len, reverse=True) if key in name]
    return keys[hits[0]] if hits else (1.0, 0.5)


def test_the_official_groups_are_those_that_its_names_fall_into(cgrseg):
    official = numbered("cgrseg_t")
    keys = list(official)
    ours, _ = cgrseg.rename_official(official)
    expected = {name: as_mmcv(keys[int(value.flatten()[0])]) for name, value in ours.items()}
    found = learns(cgrseg, "mmseg")
    assert {name: expected[name] for name in found} == found


def test_synchronised_norms_are_in_the_groups_of_plain_ones(cgrseg):
    synchronised = copy.deepcopy(cgrseg)
    synchronise_norms(synchronised, (), "cuda")
    assert learns(synchronised, "mmseg") == learns(cgrseg, "mmseg")


def test_norms_that_cgrsegs_authors_leave_plain_stay_plain(cgrseg):
    """Those of its blocks; the authors name them decode_head.trans and decode_head.meta."""
    official, model = numbered("cgrseg_t"), copy.deepcopy(cgrseg)
    keys, ours = list(official), model.rename_official(official)[0]
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    theirs = {name: keys[int(ours[f"{name}.weight"].flatten()[0])] for name in norms}
    synchronise_norms(model, model.local_norms, "cuda")
    found = {name for name in norms if type(model.get_submodule(name)) is nn.BatchNorm2d}
    blocks = ("decode_head.trans.", "decode_head.meta.")
    assert found == {name for name in norms if theirs[name].startswith(blocks)}
    assert (len(found), len(norms)) == (2 * (5 + 3), 95 + 2 * (5 + 3) + 2 * 3 + 1)


def test_all_norms_of_other_models_are_synchronised():
    model = models.build("frm-lite0", 3)
    synchronise_norms(model, model.local_norms, "cuda")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())


def test_the_official_groups_have_their_accidents(cgrseg):
    found, parameters = learns(cgrseg, "mmseg"), dict(cgrseg.named_parameters())
    talking = [n for n, (lr, _) in found.items() if n.startswith("backbone.") and lr == 2.0]
    assert (len(talking), sum(parameters[n].numel() for n in talking)) == (16, 576)
    undecayed = [n for n, (_, decay) in found.items() if decay == 0.0]
    assert len(undecayed) == 2 * 65
    assert all(n.startswith("backbone.") for n in undecayed)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in cgrseg.backbone.modules()) == 95
    assert {found[n] for n in found if n.endswith("position.table")} == {(1.0, 0.5)}


def test_by_structure_only_convolutions_decay_and_all_of_the_backbone_has_one_rate(cgrseg):
    found = learns(cgrseg, "structure")
    assert {lr for n, (lr, _) in found.items() if n.startswith("backbone.")} == {1.0}
    assert {n for n, (_, decay) in found.items() if decay} == {
        n for n, p in cgrseg.named_parameters() if p.ndim == 4
    }


def test_the_official_groups_are_of_one_backbone():
    with pytest.raises(ConfigError, match="EfficientNetLite"):
        learns(models.build("frm-lite0", 3), "mmseg")


def test_the_schedule_is_warm_up_times_poly():
    settings = TrainTable(epochs=1, optimizer="sgd", lr=1.0, power=0.9, warmup_steps=4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, settings, steps=10)
    for step in range(10):
        expected = min(1, (step + 1) / 4) * (1 - step / 10) ** 0.9
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        optimizer.step()
        schedule.step()


def test_the_warm_up_is_that_of_mmcv_from_a_ratio_of_1e_6_one_step_ahead():
    settings = TrainTable(epochs=1, optimizer="sgd", lr=1.0, power=1.0, warmup_steps=1500)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    ours = build_schedule(optimizer, settings, steps=160_000).lr_lambdas[0]
    for step in (1, 2, 700, 1499, 1500):
        theirs = 1 - (1 - min(step / 1500, 1.0)) * (1 - 1e-6)
        assert ours(step - 1) / (1 - (step - 1) / 160_000) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("floor", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 3])
def test_cosine_ends_at_the_floor_as_torch_s_own_schedule_does(floor, warmup):
    settings = TrainTable(epochs=1, schedule="cosine", floor=floor, warmup_steps=warmup)
    ours, theirs = (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0) for _ in range(2))
    build = torch.optim.lr_scheduler.CosineAnnealingLR
    schedules = (
        build_schedule(ours, settings, steps=10),
        build(theirs, T_max=10, eta_min=floor * 2.0),
    )
    for step in range(11):
        warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
        assert ours.param_groups[0]["lr"] == pytest.approx(
            warm * theirs.param_groups[0]["lr"], abs=1e-12
        )
        for optimizer, schedule in zip((ours, theirs), schedules, strict=True):
            optimizer.step()
            schedule.step()


def test_poly_falls_to_the_floor_and_without_one_to_the_bit_as_before():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plain, floored = (
        build_schedule(optimizer, TrainTable(epochs=1, power=0.9, floor=floor), steps=7).lr_lambdas[
            0
        ]
        for floor in (0.0, 0.25)
    )
    for step in range(8):
        assert plain(step) == (1 - step / 7) ** 0.9
        assert floored(step) == pytest.approx(0.25 + 0.75 * (1 - step / 7) ** 0.9)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("frm-lite0", "groups"),
        ("efficientvit-seg-b0", "stages"),
        ("segformer-b0", "stages"),
        ("sfnet-r18", "stages"),
    ],
)
def test_each_stage_learns_at_the_next_one_s_rate_times_the_layer_decay(name, row):
    model = models.build(name, 3)
    settings = TrainTable(epochs=1, layer_decay=0.5, **RATES)
    groups = build_optimizer(model, torch.nn.Identity(), settings).param_groups
    names = {id(p): key for key, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }
    assert len(found) == len(names) == sum(len(group["params"]) for group in groups)
    last = len(getattr(model.backbone, row)) - 1
    for key, p in model.named_parameters():
        if key.startswith("backbone."):
            number = -1 if key.split(".")[1] == "stem" else int(key.split(".")[2])
            assert found[key][0] == 0.5 ** (last - number)
        else:
            assert found[key][0] == 2.0
        assert (found[key][1] == 0.0) or p.ndim > 1
    assert {0.5, 0.0} == {decay for _, decay in found.values()}


def test_a_model_of_one_s_own_has_layer_decay_where_its_backbone_is_a_row_of_stages():
    own = torch.nn.Module()
    own.classes, own.mean, own.std = 2, (0.0,), (1.0,)
    own.backbone = torch.nn.ModuleDict(
        {"stages": torch.nn.ModuleList(torch.nn.Linear(1, 1) for _ in range(2))}
    )
    settings = TrainTable(epochs=1, layer_decay=0.5, **RATES)
    groups = build_optimizer(OwnModel(own), torch.nn.Identity(), settings).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert [rates[id(stage.weight)] for stage in own.backbone["stages"]] == [0.5, 1.0]


def test_a_backbone_of_branches_has_no_layer_decay():
    model, settings = models.build("pidnet-s", 3), TrainTable(epochs=1, layer_decay=0.5)
    with pytest.raises(ConfigError, match="no row of stages"):
        build_optimizer(model, torch.nn.Identity(), settings)
