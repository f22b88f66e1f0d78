import shutil

import pytest
import torch
from safetensors.torch import save_file
from support.golden.parity_golden import numbered
from support.models.small_training import Silent, request

from featherseg import models
from featherseg.backbones.weights import find_pretrained, read_state
from featherseg.core.errors import WeightsError
from featherseg.core.files import file_digest
from featherseg.core.types import ClassInfo
from featherseg.layers.position_bias import PositionBias
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import ModelTable
from featherseg.runs.run import WEIGHTS, open_run, write_info
from featherseg.training import initialisation, train
from featherseg.training.initialisation import carry_over, class_keys, terms_of

pytestmark = pytest.mark.usefixtures("tiny", "safe_torch")

OTHERS = tuple(ClassInfo(name, (0, 0, 0)) for name in ("lorry", "car", "road"))
SETTINGS, LITE = ModelTable(name="tiny"), ModelTable(name="frm-lite0")


def build_model(classes=3, seed=1, name=SETTINGS.name):
    torch.manual_seed(seed)
    return models.build(name, classes)


def test_the_keys_that_grow_with_the_classes_are_found():
    assert class_keys(SETTINGS, 3, 3) == {"classifier.weight", "classifier.bias"}


def test_classes_with_equal_names_keep_their_rows(small_run):
    model = build_model()
    fresh = model.classifier.weight.clone()
    table = carry_over(model, str(small_run.path), SETTINGS, OTHERS)
    names, old = [c.name for c in small_run.classes], small_run.model.classifier.weight
    assert torch.equal(model.classifier.weight[1], old[names.index("car")])
    assert torch.equal(model.classifier.weight[2], old[names.index("road")])
    assert torch.equal(model.classifier.weight[0], fresh[0])
    assert table.classes_kept == ["car", "road"]
    assert table.classes_new == ["lorry"]
    assert torch.equal(model.backbone.stem[0].weight, small_run.model.backbone.stem[0].weight)
    assert table.reinitialised == table.dropped == []


@pytest.mark.seconds
def test_terms_of_weights_that_restrict_their_use_go_on_with_them(tmp_path, small_run):
    source, terms = (
        shutil.copytree(small_run.path, tmp_path / "source"),
        "CC BY-NC 4.0, no commercial use",
    )
    write_info(source, open_run(source).info.model_copy(update={"licence": terms}))
    run = train(request("train.epochs=1", init=str(source)), tmp_path / "tuned", Silent())
    assert run.licence == f"Apache-2.0; its starting weights: {terms}"
    assert (run.info.loaded["licence"], run.info.loaded["sha256"]) == (
        terms,
        file_digest(source / WEIGHTS),
    )
    assert "license: other" in (run.path / "card.md").read_text().splitlines()

    # Those of the data already say it; what is free adds nothing
    assert terms_of(terms, {"licence": terms}) == terms
    assert terms_of("MIT", {"licence": "Apache-2.0"}) == "MIT"


def test_without_a_common_class_the_classifier_starts_anew(small_run):
    model = build_model(2)
    weed, crop = ClassInfo("weed", (0, 0, 0)), ClassInfo("crop", (0, 0, 0))
    table = carry_over(model, str(small_run.path), SETTINGS, (weed, crop))
    assert table.reinitialised == ["classifier.weight", "classifier.bias"]
    assert any("new classes: weed, crop" in line for line in table.lines())


@pytest.mark.parametrize("prefix", ["", "net.", "module."])
def test_a_bare_checkpoint_is_read_under_its_wrappers_names(tmp_path, prefix):
    source, model = build_model(seed=2), build_model()
    save_file(
        {f"{prefix}{k}": v for k, v in source.state_dict().items()}, tmp_path / "w.safetensors"
    )
    table = carry_over(model, str(tmp_path / "w.safetensors"), SETTINGS, OTHERS)
    assert torch.equal(model.classifier.weight, source.classifier.weight)
    assert table.reinitialised == []
    assert (
        "  classes matched by order, because the file has no names: lorry, car, road"
        in table.lines()
    )


@pytest.mark.seconds
def test_the_authors_backbone_alone_can_be_carried_over():
    model = build_model(name=LITE.name)
    table = carry_over(model, str(find_pretrained("efficientnet-lite0")), LITE, OTHERS)
    stem = read_state(find_pretrained("efficientnet-lite0"))["_conv_stem.weight"]
    assert torch.equal(model.backbone.stem[0].weight, stem)
    assert all(not key.startswith("backbone.") for key in table.reinitialised)


def test_the_checkpoint_of_a_run_can_be_carried_over(small_run):
    model = build_model(8)
    table = carry_over(model, str(small_run.path / "last.ckpt"), SETTINGS, small_run.classes)
    assert table.reinitialised == []


def test_weights_of_another_model_are_refused(tmp_path):
    model = build_model()
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="at least 80% must"):
        carry_over(model, str(tmp_path / "w.safetensors"), SETTINGS, OTHERS)
    half = {k: v for i, (k, v) in enumerate(model.state_dict().items()) if i % 2}
    save_file(half, tmp_path / "half.safetensors")
    with pytest.raises(WeightsError, match=r"of the backbone's \d+ tensors match"):
        carry_over(model, str(tmp_path / "half.safetensors"), SETTINGS, OTHERS)


def test_fine_tuning_is_one_argument(small_run, tmp_path):
    reporter = Silent()
    run = train(request("train.epochs=1", init=str(small_run.path)), tmp_path / "tuned", reporter)
    assert any("keys loaded" in message for message in reporter.messages)
    assert run.info.loaded["init"] == str(small_run.path)


@pytest.mark.seconds
def test_an_official_file_of_a_whole_model_is_carried_over_with_its_head(tmp_path):
    official = numbered("cgrseg_t")
    torch.save({"state_dict": official}, tmp_path / "iter_160000.pth")
    settings = ModelTable(name="cgrseg-t")
    model = models.build(settings.name, 2)
    table = carry_over(model, str(tmp_path / "iter_160000.pth"), settings, OTHERS[:2])
    assert table.reinitialised == ["classifier.weight", "classifier.bias"]
    assert torch.equal(model.smooth[1].bias, official["decode_head.linear_fuse.bn.bias"])
    assert torch.equal(model.backbone.stem[0].weight, official["backbone.patch_embed.0.weight"])


@pytest.mark.seconds
@pytest.mark.parametrize("prefix", ["model.", "module.", "module.model.", "_orig_mod.module."])
def test_so_it_is_under_its_wrappers_names_and_beside_what_a_loss_kept(tmp_path, prefix):
    official = numbered("cgrseg_t")
    state = {f"{prefix}{key}": value for key, value in official.items()} | {
        "loss.criterion.weight": torch.ones(2)
    }
    torch.save(state, tmp_path / "best.pt")
    model = models.build("cgrseg-t", 2)
    table = carry_over(model, str(tmp_path / "best.pt"), ModelTable(name="cgrseg-t"), OTHERS[:2])
    assert table.reinitialised == ["classifier.weight", "classifier.bias"]
    assert torch.equal(model.backbone.stem[0].weight, official["backbone.patch_embed.0.weight"])


@pytest.mark.seconds
def test_imagenet_weights_for_other_channels_keep_the_model_s_own_options(monkeypatch):
    """The position tables are resized as the recipe asks, not as a backbone on its own would."""
    seen = []

    def load(backbone, name):
        first = backbone.get_submodule(backbone.first_convolution)
        seen.append(
            (
                name,
                first.in_channels,
                {m.how for m in backbone.modules() if isinstance(m, PositionBias)},
            )
        )
        return {"file": f"{name}.pth", "licence": "MIT", "keys": 1, "absent": [], "unused": []}

    monkeypatch.setattr(initialisation, "load_pretrained", load)
    options = {"position_resize": "two-dimensional"}
    recipe = parse_recipe(read_recipe("cgrseg-t"))
    recipe = recipe.model_copy(
        update={"model": ModelTable(name="cgrseg-t", pretrained=True, **options)}
    )
    model = models.build("cgrseg-t", 2, channels=4, options=options)
    initialisation.starting_weights(model, recipe, None, OTHERS[:2])
    assert seen == [("efficientformerv2-s1", 3, {"two-dimensional"})]
