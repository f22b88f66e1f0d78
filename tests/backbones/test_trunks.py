"""ImageNet files of the peers' authors, rebuilt with their keys, load into the trunks.

The keys are those of the goldens, made by the authors' code. What else is in a file, and what is
not, is as their code and the issues of their repositories tell.
"""

from argparse import Namespace
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from safetensors.torch import save_file
from support.golden.peer_golden import golden
from support.models.seeded import seeded
from torch import Tensor
from torch.testing import assert_close

from featherseg import models
from featherseg.backbones import weights
from featherseg.backbones.weights import PRETRAINED, load_official, load_pretrained
from featherseg.core.errors import WeightsError
from featherseg.core.types import ClassInfo
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import ModelTable
from featherseg.training.initialisation import carry_over, starting_weights

pytestmark = pytest.mark.usefixtures("safe_torch")


@dataclass(frozen=True)
class Family:
    """A golden and what of it is in the authors' ImageNet file.

    trunk: how the authors' keys of the trunk begin in the golden.
    extra: keys of the file that are not in the trunk.
    absent: how the authors' keys of the trunk begin that are not in the file.
    """

    model: str
    golden: str
    trunk: tuple[str, ...]
    extra: tuple[str, ...]
    absent: tuple[str, ...] = ()
    prefix: str = ""
    source: str = ""

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the file."""
        state = {
            key: value.float()
            for key, value in golden_state(self.golden).items()
            if key.startswith(self.trunk) and not key.startswith(self.absent)
        }
        return state | {key: torch.zeros(3) for key in self.extra}


@cache
def golden_state(name: str) -> dict[str, Tensor]:
    """Return the weights of a golden by the authors' keys."""
    return golden(name).state()


DUAL = ("conv1.", *(f"{part}{i}." for part in ("layer", "compression", "down") for i in range(6)))
CLASSIFIER = ("down5.0.weight", "last_layer.1.num_batches_tracked", "linear.weight", "linear.bias")
FAMILIES = [
    # classification/DDRNet_23_slim.py of ydhongHIT/DDRNet; others load it without `module.`
    Family(
        "ddrnet-23-slim",
        "ddrnet_23_slim",
        (*DUAL, "layer3_.", "layer4_.", "layer5_."),
        CLASSIFIER,
        prefix="module.",
    ),
    # Issue 24 of XuJiacong/PIDNet lists the classifier; Sec. 4.2 of the paper: without D
    Family(
        "pidnet-s",
        "pidnet_s",
        (*DUAL, "layer3_", "layer4_", "layer5_.", "pag", "diff"),
        CLASSIFIER,
        absent=("layer3_d", "layer4_d", "diff"),
    ),
    # paddleseg/models/rtformer.py loads what fits; the classifier is a guess
    Family(
        "rtformer-slim",
        "rtformer_slim",
        ("conv1.", "layer", "compression3."),
        ("spp.scale0.2.weight", "fc.weight"),
    ),
    # mmseg/models/backbones/sctnet.py loads what fits; the classifier is a guess
    Family(
        "sctnet-s",
        "sctnet_s",
        ("backbone.conv", "backbone.layer"),
        ("spp.scale0.2.weight", "head.weight"),
    ),
    # seaformer-cls/seaformer.py of fudan-zvg/SeaFormer
    Family(
        "seaformer-tiny",
        "seaformer_tiny",
        ("backbone.smb", "backbone.trans"),
        ("linear.weight", "linear.bias"),
    ),
    # EfficientViTCls of mit-han-lab/efficientvit; its B0 has no file, so B1's row stands for it
    Family(
        "efficientvit-seg-b0",
        "efficientvit_seg_b0",
        ("backbone.",),
        ("head.op_list.2.linear.weight",),
        source="efficientvit-b1",
    ),
]


@pytest.fixture
def file_of(monkeypatch, tmp_path):
    """Write the ImageNet file of a family where the weights are looked for."""
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()

    def write(family, state=None):
        name = models.configure(family.model).backbone
        source = PRETRAINED[family.source or name]
        monkeypatch.setitem(weights.PRETRAINED, name, source)
        path = tmp_path / "weights" / source.file
        state = family.state() if state is None else state
        if name.startswith("rtformer"):  # Paddle's names of the statistics
            for ours, theirs in (("running_mean", "_mean"), ("running_var", "_variance")):
                state = {key.replace(ours, theirs): value for key, value in state.items()}
        if name.startswith(("sctnet", "seaformer")):  # files of the backbone alone
            state = {key.removeprefix("backbone."): value for key, value in state.items()}
        content = {family.prefix + key: value.contiguous() for key, value in state.items()}
        if path.suffix == ".safetensors":
            save_file(content, path)
        elif name.startswith("ddrnet"):
            torch.save(content, path)
        elif name.startswith("seaformer"):  # of timm: the authors load the moving average
            last = {key: torch.full_like(value, 9) for key, value in content.items()}
            options = {"epoch": 599, "args": Namespace(lr=0.064)}
            torch.save({"state_dict": last, "state_dict_ema": content, **options}, path)
        else:
            torch.save({"epoch": 99, "state_dict": content}, path)
        return path

    return write


@torch.no_grad()
@pytest.mark.seconds
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.model)
def test_the_authors_imagenet_file_gives_the_trunk_its_maps(file_of, family):
    model, images = models.build(family.model, 19).eval(), seeded(1, 3, 64, 96)
    backbone = model.backbone
    untrained = {key: value.clone() for key, value in model.state_dict().items()}
    load_official(model, golden_state(family.golden))
    expected = backbone(images)
    model.load_state_dict(untrained)
    file_of(family)
    record = load_pretrained(backbone, models.configure(family.model).backbone)
    assert set(record["unused"]) == set(family.extra)
    learned = {k for k in backbone.state_dict() if not k.endswith("num_batches_tracked")}
    assert record["keys"] == len(learned) - len(record["absent"])
    assert bool(record["absent"]) == bool(family.absent)
    for key in record["absent"]:
        assert torch.equal(backbone.state_dict()[key], untrained[f"backbone.{key}"])
    # The third map of PIDNet is that of D, which is not in the file
    pairs = list(zip(backbone(images), expected, strict=True))
    for own, reference in pairs[:2] + pairs[3:] if family.absent else pairs:
        assert_close(own, reference)


def test_a_file_without_a_layer_or_of_another_width_is_refused(file_of):
    family = FAMILIES[-1]
    name, state = models.configure(family.model).backbone, family.state()
    key = next(key for key, value in reversed(state.items()) if value.ndim == 4)
    for said, other in (
        ("missing: ", {k: v for k, v in state.items() if k != key}),
        ("shape of ", {**state, key: state[key][:-1]}),
    ):
        path = file_of(family, other)
        backbone = models.build(family.model, 4).backbone
        before = {k: v.clone() for k, v in backbone.state_dict().items()}
        with pytest.raises(WeightsError, match=f"{path} is not the file of {name}: ") as error:
            load_pretrained(backbone, name)
        assert said in str(error.value)
        assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def recipe_of(name, *overrides):
    return parse_recipe(read_recipe(name), overrides)


CLASSES = tuple(ClassInfo(name, (0, 0, 0)) for name in ("car", "road"))


def test_what_is_loaded_and_what_is_not_is_said(file_of):
    family = FAMILIES[1]
    file_of(family)
    model = models.build(family.model, 2)
    record, lines = starting_weights(model, recipe_of("pidnet-s_cityscapes"), None, CLASSES)
    # OpenMMLab's file of the same weights has 302 tensors, 50 of them counts of batches
    assert record["keys"] == 252
    assert lines[0].startswith("backbone from PIDNet_S_ImageNet.pth.tar (MIT ")
    assert lines[0].endswith(": 252 keys loaded")
    assert lines[1].startswith("  45 of the backbone not in the file: boundary.0.branch.0.weight, ")
    assert lines[2].startswith("  4 of the file not used: down5.0.weight, ")


@pytest.mark.seconds
@pytest.mark.parametrize("family", [FAMILIES[1], FAMILIES[4]], ids=lambda family: family.model)
def test_a_trunk_alone_is_accepted_by_init(file_of, family):
    path = file_of(family)
    settings = ModelTable(name=family.model)
    table = carry_over(models.build(family.model, 2), str(path), settings, CLASSES)
    statistics = "num_batches_tracked"
    assert len([key for key in table.loaded if not key.endswith(statistics)]) == len(
        [key for key in family.state() if not key.endswith(statistics) and key not in family.extra]
    )
    assert not [key for key in table.loaded if not key.startswith("backbone.")]
    assert [key for key in table.dropped if key.endswith("linear.weight")]


@pytest.mark.parametrize(
    "name",
    [
        "ddrnet-39_cityscapes",
        "pidnet-m_cityscapes",
        "rtformer-base_cityscapes",
        "sctnet-b_cityscapes",
        "seaformer-large_cityscapes",
        "seaformer-small_ade20k",
        "efficientvit-seg-b1_cityscapes",
    ],
)
def test_the_rows_of_the_tables_ask_for_them_and_say_where_they_are(monkeypatch, tmp_path, name):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    recipe = recipe_of(name)
    with torch.device("meta"):
        model = models.build(recipe.model.name, 2)
    source = PRETRAINED[models.configure(recipe.model.name).backbone]
    with pytest.raises(WeightsError) as error:
        starting_weights(model, recipe, None, CLASSES)
    for said in (source.file, source.address, str(tmp_path), "--set model.pretrained=false"):
        assert said in str(error.value)
    record, lines = starting_weights(
        model, recipe_of(name, "model.pretrained=false"), None, CLASSES
    )
    assert record == {}
    assert "training from scratch: no pretrained weights" in lines[0]
