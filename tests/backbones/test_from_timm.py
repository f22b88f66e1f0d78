"""Backbones of timm: with a stand-in of the package everywhere, with the package where it is."""

import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save, save_file
from support.models.small_run import small_info
from support.models.small_training import SMALL, Silent
from support.servers.file_server import Behaviour, serving
from torch import nn

import featherseg
from featherseg import backbones
from featherseg.backbones import from_timm
from featherseg.backbones.weights import load_pretrained, published, weights_folder
from featherseg.core.errors import ConfigError, MissingExtra, UnknownName, WeightsError
from featherseg.costs.cost import cost_of
from featherseg.data.shapes import CLASSES
from featherseg.recipe.tables import ModelTable
from featherseg.runs.run import Run
from featherseg.training import Request, train
from featherseg.training.pretrained import fetch_pretrained

NAME = "timm:net"
ON_IT = {"backbone": NAME}


class NormAct(nn.BatchNorm2d):
    """A batch norm with its activation, as timm's BatchNormAct2d."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


@dataclass
class FeatureInfo:
    strides: tuple[int, ...]
    out_indices: tuple[int, ...]

    def reduction(self):
        return [self.strides[i] for i in self.out_indices]

    def channels(self):
        return [4 + i for i in self.out_indices]


class Net(nn.Module):
    """One convolution a stage, which rounds sizes up, or `down`. Whole, it has a classifier."""

    def __init__(self, strides, down=False, out_indices=None, whole=False, last=False):
        super().__init__()
        self.feature_info = FeatureInfo(strides, out_indices or tuple(range(len(strides))))
        steps = [b // a for a, b in zip((1, *strides), strides, strict=False)]
        widths = (3, *(4 + i for i in range(len(strides))))
        self.blocks = nn.ModuleList()
        for a, b, step in zip(widths[:-1], widths[1:], steps, strict=True):
            padding = 0 if down else step - 1
            self.blocks.append(nn.Conv2d(a, b, step + padding, step, padding))
        self.bn = NormAct(4)
        self.last = last
        if whole:
            self.head = nn.Linear(8, 2)

    def forward(self, x):
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x) if i else self.bn(block(x))
            maps.append(x)
        maps = [maps[i] for i in self.feature_info.out_indices]
        return [x.movedim(1, -1) for x in maps] if self.last else maps


@pytest.fixture
def timm(monkeypatch):
    """A stand-in of the package; `timm.net` has the settings of its one model."""
    module = ModuleType("timm")
    module.__version__ = "0"
    module.net = {"strides": (2, 4, 8, 16, 32, 32)}
    module.downloads = 0
    module.cfg = SimpleNamespace(
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        license="cc-by-nc-4.0",
        hf_hub_id="timm/net.tag",
        hf_hub_filename=None,
    )

    def create_model(
        name, features_only=False, out_indices=None, pretrained=False, pretrained_cfg_overlay=None
    ):
        model = Net(**module.net, out_indices=out_indices, whole=not features_only)
        if pretrained:  # as timm: strictly if the whole model is built
            state = pretrained_cfg_overlay["state_dict"]
            module.downloads += not state
            model.load_state_dict(state, strict=not features_only)
        return model

    def get_pretrained_cfg(name, allow_unregistered):
        if "." in name and not name.endswith(".tag"):
            raise RuntimeError("Invalid pretrained tag")
        return module.cfg

    module.is_model = lambda name: name.partition(".")[0] == "net"
    module.list_models = lambda: ["net"]
    module.create_model, module.get_pretrained_cfg = create_model, get_pretrained_cfg
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_a_model_has_the_last_stage_of_each_stride(timm):
    model = featherseg.build("frm-lite0-light", 3, options=ON_IT).eval()
    assert model.backbone.places == (1, 2, 3, 5)
    assert model.backbone.stage_channels == (5, 6, 7, 9)
    assert model.mean == (127.5,) * 3
    assert model.std == (63.75,) * 3
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 97, 129)).logits.shape == (1, 3, 25, 33)


def test_a_backbone_takes_images_of_other_channels(timm):
    model = featherseg.build("frm-lite0-light", 3, 5, options=ON_IT).eval()
    with torch.no_grad():
        assert len(model.backbone(torch.zeros(1, 5, 64, 64))) == 4


def test_images_are_padded_if_a_model_rounds_sizes_down(timm):
    timm.net["down"] = True
    backbone = backbones.build(NAME).eval()
    images = torch.randn(1, 3, 70, 97)
    with torch.no_grad():
        maps = backbone(images)
        padded = backbone.body(nn.functional.pad(images, (0, 128 - 97, 0, 96 - 70)))
    assert [tuple(x.shape[2:]) for x in maps] == [(18, 25), (9, 13), (5, 7), (3, 4)]
    assert all(
        torch.equal(a, b[:, :, : a.shape[2], : a.shape[3]])
        for a, b in zip(maps, padded, strict=True)
    )


def test_norms_with_an_activation_become_two_layers(timm):
    backbone = backbones.build(NAME).eval()
    assert [type(layer) for layer in backbone.body.bn] == [nn.BatchNorm2d, nn.ReLU]
    whole = Net(**timm.net, whole=True).eval()
    nn.init.normal_(whole.bn.weight)
    state, unused = backbone.rename_official(whole.state_dict())
    backbone.load_state_dict(state)
    assert unused == ["head.weight", "head.bias"]
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        expected = [whole(images)[place] for place in backbone.places]
        assert all(torch.equal(a, b) for a, b in zip(backbone(images), expected, strict=True))


@pytest.mark.parametrize(
    ("strides", "found"), [((8, 16, 32), "8, 16, 32"), ((2, 4, 8, 16), "2, 4, 8, 16")]
)
def test_other_strides_are_refused(timm, strides, found):
    timm.net["strides"] = strides
    with pytest.raises(ConfigError, match=f"strides {found}; expected 4, 8, 16 and 32"):
        featherseg.build("frm-lite0-light", 3, options=ON_IT)


def test_maps_with_channels_last_are_refused(timm):
    timm.net["last"] = True
    with pytest.raises(ConfigError, match=r"\(1, 32, 40, 5\).*expected \[\(1, 5, 32, 40\)"):
        featherseg.build("frm-lite0-light", 3, options=ON_IT)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:nett", r"no model 'nett'\. Did you mean 'timm:net'\? Expected a name from timm"),
        ("timm:hf-hub:someone/net", "no model 'hf-hub:someone/net'. Expected a name"),
        ("timm:net.other", "Invalid pretrained tag"),
    ],
)
def test_a_name_that_timm_lacks_is_refused(timm, name, message):
    with pytest.raises(UnknownName, match=message):
        backbones.build(name)


@pytest.mark.parametrize("error", [ImportError("No module"), RuntimeError("no operator nms")])
def test_without_timm_the_command_is_named(monkeypatch, error):
    def fail(name):
        raise error

    monkeypatch.setattr(from_timm, "import_module", fail)
    message = r"'timm:net' needs the package 'timm'.*pip install timm torch==.* torchvision==.*"
    with pytest.raises(MissingExtra, match=message):
        featherseg.build("frm-lite0-light", 3, options=ON_IT)


def test_a_run_is_refused_where_timm_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    info = small_info(CLASSES, model="frm-lite0-light")
    model = ModelTable(name="frm-lite0-light", backbone=NAME)
    recipe = info.recipe.model_copy(update={"model": model})
    with pytest.raises(MissingExtra, match="pip install timm"):
        Run(tmp_path, info.model_copy(update={"recipe": recipe})).untrained_model()


def test_weights_are_fetched_by_a_command_alone(timm, monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    source = published(NAME)
    assert source.fetched
    assert source.address == "https://huggingface.co/timm/net.tag/resolve/main/model.safetensors"
    with pytest.raises(WeightsError, match=f"Fetch them with: featherseg weights get {NAME}"):
        featherseg.build("frm-lite0-light", 3, options=ON_IT, pretrained=True)


def test_a_model_without_weights_is_trained_from_scratch(timm):
    timm.cfg.hf_hub_id = None
    with pytest.raises(WeightsError, match=r"--set model\.pretrained=false"):
        published(NAME)


def test_weights_are_loaded_with_the_licence_that_timm_states(timm, monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    whole = Net(**timm.net, whole=True)
    weights_folder().mkdir()
    save_file(whole.state_dict(), weights_folder() / "timm-net.tag.safetensors")
    backbone = backbones.build(NAME)
    record = load_pretrained(backbone, NAME)
    assert torch.equal(backbone.body.blocks[2].weight, whole.blocks[2].weight)
    assert record["licence"] == "cc-by-nc-4.0, as timm 0 states"
    assert sorted(record["unused"]) == ["head.bias", "head.weight"]


def test_weights_that_lack_a_key_are_refused(timm, monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    state = Net(**timm.net, whole=True).state_dict()
    del state["blocks.2.weight"]
    weights_folder().mkdir()
    save_file(state, weights_folder() / "timm-net.tag.safetensors")
    with pytest.raises(WeightsError, match="do not fit TimmBackbone"):
        load_pretrained(backbones.build(NAME), NAME)


def test_a_file_of_other_keys_downloads_nothing(timm):
    backbone = backbones.build(NAME)
    assert backbone.rename_official({}) == ({}, [])
    assert timm.downloads == 0


def test_weights_get_fetches_and_checks_the_file(timm, monkeypatch, tmp_path):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    content = save(Net(**timm.net, whole=True).state_dict())
    with serving(Behaviour(content)) as address:
        place = (f"{address}/model.safetensors", "timm-net.tag.safetensors", "free")
        monkeypatch.setattr(from_timm, "published_file", lambda name: place)
        path, _ = fetch_pretrained(NAME, loopback=True)
    assert path.read_bytes() == content


REAL = pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "efficientvit_b0"])


@pytest.fixture
def real_timm():
    """The package itself: `make test-versions` has an environment with it."""
    return pytest.importorskip("timm", reason="timm needs torchvision: make test-versions")


@REAL
def test_maps_and_weights_are_timm_s(real_timm, monkeypatch, tmp_path, name):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    whole = real_timm.create_model(name)
    weights_folder().mkdir()
    source = published(f"timm:{name}")
    assert source.licence.startswith("apache-2.0, as timm 1")
    save_file(whole.state_dict(), weights_folder() / source.file)
    backbone = backbones.build(f"timm:{name}").eval()
    assert load_pretrained(backbone, f"timm:{name}")["absent"] == []
    expected = real_timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay={"file": source.path()}
    )
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        theirs = expected.eval()(images)[-4:]
        assert all(torch.equal(a, b) for a, b in zip(backbone(images), theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "products"), [("mobilenetv4_conv_small", 0), ("efficientvit_b0", 1)]
)
def test_products_of_attention_are_counted(real_timm, name, products):
    model = featherseg.build("frm-lite0-light", 3, options={"backbone": f"timm:{name}"})
    counted = cost_of(model, name, (64, 96)).macs["macs"]
    outside = model.backbone.macs(torch.empty(1, 3, 64, 96), [])
    assert (outside > 0) == products
    assert counted > outside


@REAL
@pytest.mark.seconds
def test_a_run_is_trained_predicted_and_exported(real_timm, tmp_path, name):
    settings = (*SMALL, "train.epochs=1", f"model.backbone=timm:{name}")
    run = train(Request("frm-lite0-light", overrides=settings), tmp_path / "run", Silent())
    assert sorted(run.metrics()) == [1, 2]
    report = featherseg.export(tmp_path / "run", "onnx")
    images = [torch.full((64, 96, 3), 90, dtype=torch.uint8).numpy()]
    masks = [featherseg.Predictor(x)(images)[0].mask for x in (tmp_path / "run", report.path)]
    assert (masks[0] == masks[1]).mean() > 0.99
