import sys
import tomllib
from pathlib import Path

import pytest

from featherseg.cli import main
from featherseg.core.config import parse
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.data import DATASETS
from featherseg.models import MODELS
from featherseg.recipe.panoptic import PanopticTable
from featherseg.recipe.reading import RecipeFile, parse_recipe, read_recipe, shipped_recipes
from featherseg.recipe.tables import AugmentTable, DataTable, LossTable, TrainTable

MINIMAL = RecipeFile(
    "mine", '[model]\nname = "frm-lite0"\n[data]\nname = "shapes"\n[train]\nepochs = 3\n'
)


@pytest.mark.parametrize("other", ["minutes = 2", "steps = 7"])
def test_a_recipe_of_two_lengths_is_refused(other, tmp_path, monkeypatch, capsys):
    both = tmp_path / "both.toml"
    for first in {"epochs = 3", "minutes = 2"} - {other}:
        both.write_text(MINIMAL.text.replace("epochs = 3", f"{first}\n{other}"))
        monkeypatch.setattr(
            sys, "argv", ["featherseg", "train", str(both), "--out", str(tmp_path / "run")]
        )
        with pytest.raises(SystemExit) as finished:
            main()
        assert finished.value.code == 2
        assert "give one of them" in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_of_two_averages_of_the_weights_the_one_that_is_asked_for_counts():
    shares = RecipeFile("mine", MINIMAL.text + "ema_share = 0.1\n")
    assert parse_recipe(shares, ["train.ema=0.9"]).train.average_decay(1000) == 0.9
    averaged = RecipeFile("mine", MINIMAL.text + "ema = 0.9\n")
    assert parse_recipe(averaged, ["train.ema_share=0.1"]).train.average_decay(1000) == 0.99
    with pytest.raises(ConfigError, match=r"train\.ema and train\.ema_share: give one of them"):
        parse_recipe(MINIMAL, ["train.ema_share=0.1", "train.ema=0.9"])
    with pytest.raises(ConfigError, match=r"train\.ema and train\.ema_share: give one of them"):
        parse_recipe(RecipeFile("mine", averaged.text + "ema_share = 0.1\n"))


def test_a_number_of_validations_replaces_the_epochs_between_them():
    every = RecipeFile("mine", MINIMAL.text + "validate_every = 3\n")
    train = parse_recipe(every, ["train.validations=1"]).train
    assert (train.validations, train.validate_every) == (1, None)
    with pytest.raises(ConfigError, match=r"validate_every and train\.validations: give one"):
        parse_recipe(MINIMAL, ["train.validations=1", "train.validate_every=3"])


def test_options_of_no_loss_are_refused():
    with pytest.raises(ConfigError, match=r"loss\.options are for a loss of another package"):
        parse_recipe(MINIMAL, ["loss.options={gamma=2}"])


def test_a_folder_with_letters_of_any_plane_is_named_as_it_is(tmp_path, monkeypatch, capsys):
    place = tmp_path / "\U00020bb7 1"
    words = ["featherseg", "train", "frm-lite0", "--data", "camvid", "--data-root", str(place)]
    monkeypatch.setattr(
        sys, "argv", [*words, "--out", str(tmp_path / "run"), "--set", "model.pretrained=false"]
    )
    with pytest.raises(SystemExit):
        main()
    assert f"{place} is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_right(name):
    file = read_recipe(name)
    recipe = parse_recipe(file)
    assert recipe.model.name in MODELS
    assert recipe.data.name in DATASETS
    assert recipe.paper is None or recipe.paper.data == recipe.data.name
    assert file.text.startswith("# ")


PUBLISHED = tomllib.loads((Path(__file__).parent / "published_settings.toml").read_text())[
    "settings"
]
ROWS = [
    pytest.param(row, model, id=f"{model}_{row['recipe']}")
    for row in PUBLISHED
    for model in row["paper"]
]


@pytest.mark.parametrize(("row", "model"), ROWS)
def test_a_recipe_has_its_source_s_settings_and_no_others(row, model):
    recipe = parse_recipe(read_recipe(f"{model}_{row['recipe']}"))
    ours = recipe.train.model_dump(
        include={"precision", "validate_every", "keep"}
    )  # nobody publishes these
    assert (recipe.model.name, recipe.model.options) == (model, {})
    assert recipe.data == parse(
        DataTable, {"name": row["recipe"], "workers": 8} | row.get("data", {}), "data"
    )
    assert recipe.train == parse(TrainTable, row["train"] | ours, "train")
    assert recipe.augment == parse(AugmentTable, row["augment"], "augment")
    assert recipe.loss == parse(LossTable, row["loss"], "loss")
    printed = dict(row["paper"][model])
    for key in {"params_m", "gmacs"} & set(printed):
        assert getattr(recipe.paper, key) == printed.pop(key)
    assert (recipe.paper.miou if recipe.paper else {}) == printed
    if printed:
        assert (recipe.paper.scales, recipe.paper.flip) == (
            tuple(row.get("scales", (1.0,))),
            "scales" in row,
        )
    if "steps" in row:
        an_epoch = -(-row["images"] // recipe.train.batch_size)
        assert 0 <= recipe.train.epochs * an_epoch - row["steps"] < an_epoch


def test_every_published_recipe_stands_in_that_table():
    families = {model.split("-")[0] for row in PUBLISHED for model in row["paper"]}
    found = {name for name in shipped_recipes() if "_" in name and name.split("-")[0] in families}
    assert {row.id for row in ROWS} == {name for name in found if not name.endswith("_camvid")}


def test_models_without_a_row_share_one_default_recipe():
    shared, other = (read_recipe(name).text for name in ("frm-lite0", "rsp-b5"))
    assert shared.replace('"frm-lite0"', '"rsp-b5"') == other
    assert parse_recipe(read_recipe("pidnet-m")).loss == LossTable(
        class_weights="auto",
        class_weight_power=0.5,
        undo_class_weights="auto",
        auxiliary=0.4,
        boundary=20.0,
    )


def test_cgrseg_lite0_is_trained_on_camvid_as_frm_lite0_is():
    frm, cgrseg = (parse_recipe(read_recipe(f"{name}-lite0_camvid")) for name in ("frm", "cgrseg"))
    assert cgrseg == frm.model_copy(
        update={"model": frm.model.model_copy(update={"name": "cgrseg-lite0"})}
    )


@pytest.mark.parametrize("data", ["cityscapes", "coco"])
@pytest.mark.parametrize("task", ["", "-panoptic"])
def test_rsp_and_deeplabv3_on_one_backbone_are_trained_alike(task, data):
    names = [f"{model}-r50{task}" for model in ("rsp", "deeplabv3")]
    rsp, deeplab = (parse_recipe(read_recipe(f"{name}_{data}")) for name in names)
    assert [rsp.model.name, deeplab.model.name] == names
    assert rsp == deeplab.model_copy(
        update={"model": deeplab.model.model_copy(update={"name": rsp.model.name})}
    )
    assert rsp.data.name == {"cityscapes": f"cityscapes{task}", "coco": "coco-panoptic"}[data]


def test_overrides_are_toml_values_or_plain_text():
    recipe = parse_recipe(
        MINIMAL, ["train.epochs=7", "augment.scale=[0.5, 2]", "data.root=/a b", "train.keep=last"]
    )
    assert recipe.train.epochs == 7
    assert recipe.augment.scale == (0.5, 2.0)
    assert recipe.data.root == "/a b"
    assert recipe.train.keep == "last"


def test_a_backbone_from_scratch_learns_at_the_rate_of_all():
    own = RecipeFile("own.toml", MINIMAL.text + "backbone_lr = 1e-3\n")
    assert (
        parse_recipe(own).train.backbone_lr
        == parse_recipe(own, ["model.pretrained=true"]).train.backbone_lr
        == 1e-3
    )
    assert parse_recipe(own, ["model.pretrained=false"]).train.backbone_lr is None
    assert (
        parse_recipe(own, ["train.backbone_lr=2e-3", "model.pretrained=false"]).train.backbone_lr
        == 2e-3
    )
    assert (
        parse_recipe(own, ["model.name=segformer-b0", "model.pretrained=false"]).train.backbone_lr
        == 1e-3
    )


def test_the_dataset_can_be_given_apart():
    recipe = parse_recipe(MINIMAL, [], name="my/dataset.toml", root=None)
    assert recipe.data.name == "my/dataset.toml"
    assert recipe.data.root is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.epoch=3", "unknown key 'train.epoch'. Did you mean 'epochs'?"),
        ("train.epochs=0", "greater than 0"),
        ("train.epochs=many", "valid integer"),
        ("epochs=3", "expected TABLE.KEY=VALUE"),
        ("train.epochs", "expected TABLE.KEY=VALUE"),
        ("model.name.x=3", "is not a table"),
        ("augment.scale=[2.0, 0.5]", "expected [low, high]"),
        ("train.batch_size=some", "auto"),
        ("trian.epochs=3", "Did you mean 'train'"),
        ("paper.convention=flops", "'macs', 'ptflops-0.6' or 'conv-bn'"),
        ("data.test_resize=[2048, 512]", "expected [short side, long side]"),
        ("augment.resize=[0, 512]", "greater than 0"),
        ("train.groups=names", "'structure', 'mmseg' or 'uniform'"),
        ("loss.mean=some", "'labelled', 'number' or 'all'"),
        ("paper.gflops=3", "unknown key 'paper.gflops'"),
    ],
)
def test_a_slip_gets_a_sentence(override, sentence):
    with pytest.raises(ConfigError) as error:
        parse_recipe(MINIMAL, [override])
    assert sentence in str(error.value)


def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'frm-lite0"):
        read_recipe("frm-lite")
    with pytest.raises(UnknownName, match=r"with that data: frm-lite0 --data shapes$"):
        read_recipe("frm-lite0_shapes")
    with pytest.raises(ConfigError, match="no recipe at"):
        read_recipe(str(tmp_path / "no.toml"))
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse_recipe(read_recipe(str(tmp_path / "bad.toml")))


def test_what_a_recipe_leaves_out_is_what_the_field_usually_takes():
    train, augment, panoptic = TrainTable(epochs=1), AugmentTable(), PanopticTable()
    # "poly" with 0.9, momentum 0.9: DeepLab (Chen et al., TPAMI 2018), Sec. 4.1; AdamW: torch
    assert (train.power, train.momentum, train.weight_decay, train.warmup_steps) == (
        0.9,
        0.9,
        0.01,
        0,
    )
    assert (train.precision, train.accumulate, train.ema, train.keep) == ("fp32", 1, 0.0, "best")
    assert (augment.scale, augment.crop, augment.flip, augment.category_ratio) == (
        (1.0, 1.0),
        None,
        0.0,
        1.0,
    )  # off
    assert (panoptic.threshold, panoptic.kernel, panoptic.top_k) == (
        0.1,
        7,
        200,
    )  # Panoptic-DeepLab, Sec. 3.3
