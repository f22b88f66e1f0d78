import pytest

from featherseg.core.errors import ConfigError, UnknownName
from featherseg.data import DATASETS
from featherseg.models import MODELS
from featherseg.recipe import AugmentTable, LossTable, RecipeFile, parse_recipe, read_recipe, shipped_recipes

MINIMAL = RecipeFile("mine", '[model]\nname = "frm-lite0"\n[data]\nname = "shapes"\n[train]\nepochs = 3\n')


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_right_and_short(name):
    file = read_recipe(name)
    recipe = parse_recipe(file)
    assert recipe.model.name in MODELS
    assert recipe.data.name in DATASETS
    assert recipe.paper is None or recipe.paper.data == recipe.data.name
    assert file.text.startswith("# ")
    assert 20 <= len(file.text.splitlines()) <= 55


@pytest.mark.parametrize("model", ["frm-van-s", "frm-van-s-ppm", "frm-van-s-dappm"])
@pytest.mark.parametrize(
    ("data", "crop", "batch_size", "group"), [("cityscapes", 1024, 16, 2), ("bdd100k", 720, 32, 4)]
)
def test_the_frm_paper_s_settings_are_those_of_its_section_3_2_and_nothing_else_is_on(
    model, data, crop, batch_size, group
):
    recipe = parse_recipe(read_recipe(f"{model}_{data}"))
    train = recipe.train
    assert (recipe.model.name, recipe.model.options, recipe.model.pretrained) == (model, {}, True)
    assert (recipe.data.name, recipe.data.train_split, recipe.data.class_uniform) == (data, "train", 0.0)
    assert recipe.augment == AugmentTable(scale=(0.5, 2.0), crop=(crop, crop), flip=0.5)
    assert recipe.loss == LossTable(contrast=1.0, contrast_temperature=0.1, contrast_group=group)
    assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (train.lr, train.backbone_lr, train.power, train.warmup_steps, train.ema) == (0.01, None, 1.0, 0, 0.0)
    assert (train.epochs, train.batch_size, train.accumulate) == (300, batch_size, 1)


CGRSEG = {  # README of the authors' code, May 2024: mIoU on ADE20K, COCO-Stuff 10k, Pascal Context; M; G
    "t": (43.6, 42.2, 54.1, 9.4, 4.0),
    "b": (45.5, 43.5, 56.5, 18.1, 7.6),
    "l": (48.3, 46.0, 58.5, 35.7, 14.9),
}


@pytest.mark.parametrize("size", CGRSEG)
@pytest.mark.parametrize(
    ("file", "data", "fit", "crop", "steps", "images"),
    [
        ("ade20k", "ade20k", (512, 2048), 512, 160_000, 20_210),
        ("coco-stuff", "coco-stuff-10k", (512, 2048), 512, 80_000, 9000),
        ("pascal-context", "pascal-context-59", (520, 520), 480, 80_000, 4998),
    ],
)
def test_the_cgrseg_settings_are_those_of_the_authors_configuration(size, file, data, fit, crop, steps, images):
    recipe = parse_recipe(read_recipe(f"cgrseg-{size}_{file}"))
    train, paper = recipe.train, recipe.paper
    assert (recipe.model.name, recipe.model.options, recipe.model.pretrained) == (f"cgrseg-{size}", {}, True)
    assert (recipe.data.name, recipe.data.test_resize) == (data, fit)
    assert recipe.augment == AugmentTable(
        resize=fit,
        scale=(0.5, 2.0),
        scale_drawn="uniformly",
        crop=(crop, crop),
        category_ratio=0.75,
        flip=0.5,
        photometric=True,
    )
    assert recipe.loss == LossTable(mean="all")
    assert (train.optimizer, train.lr, train.backbone_lr, train.weight_decay) == ("adamw", 1.2e-3, 1.2e-4, 0.01)
    assert (train.power, train.warmup_steps, train.groups, train.ema) == (1.0, 1500, "structure", 0.0)
    an_epoch = -(-images // train.batch_size)
    assert train.batch_size == 16
    assert 0 <= train.epochs * an_epoch - steps < an_epoch
    column = ("ade20k", "coco-stuff-10k", "pascal-context-59").index(data)
    assert (paper.miou["val"], paper.params_m, paper.gmacs) == (CGRSEG[size][column], *CGRSEG[size][3:])
    several = data == "pascal-context-59"
    assert (paper.scales, paper.flip) == ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75) if several else (1.0,), several)


HRNET = {"scale": (0.5, 2.0), "crop": (1024, 1024), "flip": 0.5}
MMSEG = HRNET | {"category_ratio": 0.75, "photometric": True}
ADE = MMSEG | {"fit": (512, 2048), "crop": (512, 512)}
SFNET = HRNET | {"brightness": 0.25, "contrast": 0.25, "saturation": 0.25, "blur": 1.0}
RTFORMER = HRNET | {"crop": (512, 1024), "brightness": 0.4, "contrast": 0.4, "saturation": 0.4}
CITYSCAPES_WEIGHTS = [
    0.8373, 0.918, 0.866, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
]  # fmt: skip
SCTNET_S = MMSEG | {"scale": (0.25, 1.5), "crop": (512, 1024)}
MINED_2 = {"ohem_threshold": 0.7, "ohem_min_kept": 5000}  # 10,000 of 2 images
MINED_4 = {"ohem_threshold": 0.7, "ohem_min_kept": 2500}  # of 4
HARD = {"ohem_threshold": 0.9, "ohem_min_kept": 21_845, "auxiliary": 0.4}  # 131,072 of 6 images
PIDNET = HARD | {"class_weights": CITYSCAPES_WEIGHTS, "boundary": 20.0, "mean": "number"}
ALL = {"mean": "all"}
SCTNET = ALL | {"auxiliary": 0.4}
PEERS = {  # optimiser, lr, backbone's, decay, power, warm-up; batch, epochs; [augment]; [loss]; published mIoU, %
    "sfnet-r18_cityscapes": ("sgd", 0.01, None, 1e-4, 1.0, 0, 16, 300, SFNET, MINED_2, {"test": 78.9}),
    "sfnet-r18_bdd100k": ("sgd", 0.01, None, 1e-4, 1.0, 0, 32, 300, SFNET, MINED_4, {"val": 60.6}),
    "ddrnet-23-slim_cityscapes": ("sgd", 0.01, None, 5e-4, 0.9, 0, 12, 484, HRNET, HARD, {"val": 77.8, "test": 77.4}),
    "ddrnet-23_cityscapes": ("sgd", 0.01, None, 5e-4, 0.9, 0, 12, 484, HRNET, HARD, {"val": 79.5, "test": 79.4}),
    "ddrnet-39_cityscapes": ("sgd", 0.01, None, 5e-4, 0.9, 0, 12, 484, HRNET, HARD, {"val": 80.4, "test": 80.4}),
    "pidnet-s_cityscapes": ("sgd", 0.01, None, 5e-4, 0.9, 0, 12, 484, HRNET, PIDNET, {"val": 78.8, "test": 78.6}),
    "pidnet-m_cityscapes": ("sgd", 0.01, None, 5e-4, 0.9, 0, 12, 484, HRNET, PIDNET, {"val": 79.9, "test": 79.8}),
    "pidnet-l_cityscapes": ("sgd", 0.01, None, 5e-4, 0.9, 0, 12, 484, HRNET, PIDNET, {"val": 80.9, "test": 80.6}),
    "segformer-b0_cityscapes": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 76.2}),
    "segformer-b1_cityscapes": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 78.5}),
    "efficientvit-seg-b0_cityscapes": ("adamw", 6e-4, None, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 75.653}),
    "efficientvit-seg-b1_cityscapes": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 80.547}),
    "efficientvit-seg-b2_cityscapes": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 82.073}),
    "efficientvit-seg-b3_cityscapes": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 83.016}),
    "seaformer-tiny_ade20k": ("adamw", 5e-3, 5e-4, 0.01, 1.0, 1500, 32, 253, ADE, ALL, {"val": 36.5}),
    "seaformer-small_ade20k": ("adamw", 5e-3, 5e-4, 0.01, 1.0, 1500, 32, 253, ADE, ALL, {"val": 39.4}),
    "seaformer-base_ade20k": ("adamw", 5e-3, 5e-4, 0.01, 1.0, 1500, 32, 253, ADE, ALL, {"val": 41.9}),
    "seaformer-large_ade20k": ("adamw", 5e-3, 5e-4, 0.01, 1.0, 1500, 32, 253, ADE, ALL, {"val": 43.8}),
    "seaformer-tiny_cityscapes": ("adamw", 3e-3, 3e-4, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, None),
    "seaformer-small_cityscapes": ("adamw", 3e-3, 3e-4, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 76.4}),
    "seaformer-base_cityscapes": ("adamw", 3e-3, 3e-4, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 77.7}),
    "seaformer-large_cityscapes": ("adamw", 2.5e-3, 2.5e-4, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, None),
    "segnext-t_ade20k": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 16, 127, ADE, ALL, {"val": 41.4}),
    "segnext-s_ade20k": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 16, 127, ADE, ALL, {"val": 44.3}),
    "segnext-t_cityscapes": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 79.8}),
    "segnext-s_cityscapes": ("adamw", 6e-4, 6e-5, 0.01, 1.0, 1500, 8, 430, MMSEG, ALL, {"val": 81.3}),
    "rtformer-slim_cityscapes": ("adamw", 4e-4, None, 0.0125, 1.0, 1500, 12, 484, RTFORMER, {"auxiliary": 0.4}, None),
    "rtformer-base_cityscapes": ("adamw", 4e-4, None, 0.0125, 1.0, 1500, 12, 484, RTFORMER, {"auxiliary": 0.4}, None),
    "sctnet-s_cityscapes": ("adamw", 4e-3, 4e-4, 0.0125, 1.0, 1500, 16, 860, SCTNET_S, SCTNET, None),
    "sctnet-b_cityscapes": ("adamw", 4e-3, 4e-4, 0.0125, 1.0, 1500, 16, 860, MMSEG, SCTNET, None),
}  # fmt: skip
FITTED = {"sctnet-s_cityscapes": (768, 1536)} | dict.fromkeys((name for name in PEERS if "ade20k" in name), (512, 2048))
"""Recipes that bring test images to a size."""


@pytest.mark.parametrize("name", PEERS)
def test_the_peers_settings_are_those_of_their_papers_and_authors(name):
    recipe = parse_recipe(read_recipe(name))
    train, data = recipe.train, recipe.data
    *schedule, augment, loss, miou = PEERS[name]
    found = [train.optimizer, train.lr, train.backbone_lr, train.weight_decay, train.power, train.warmup_steps]
    assert [*found, train.batch_size, train.epochs] == schedule
    assert (train.momentum, train.accumulate, train.ema, train.groups) == (0.9, 1, 0.0, "structure")
    assert recipe.augment == AugmentTable(scale_drawn="uniformly", **augment)
    assert recipe.loss == LossTable(**loss)
    assert (recipe.paper and recipe.paper.miou) == miou
    assert f"{recipe.model.name}_{data.name}" == name
    assert (data.test_resize, data.class_uniform) == (FITTED.get(name), 0.5 if name == "sfnet-r18_cityscapes" else 0.0)


def test_every_published_recipe_of_a_peer_is_in_that_table():
    families = {name.split("-")[0] for name in PEERS}
    assert {name for name in shipped_recipes() if "_" in name and name.split("-")[0] in families} == set(PEERS)


def test_cgrseg_lite0_is_trained_on_camvid_as_frm_lite0_is():
    frm, cgrseg = (parse_recipe(read_recipe(f"{name}-lite0_camvid")) for name in ("frm", "cgrseg"))
    assert cgrseg == frm.model_copy(update={"model": frm.model.model_copy(update={"name": "cgrseg-lite0"})})


def test_overrides_are_toml_values_or_plain_text():
    recipe = parse_recipe(MINIMAL, ["train.epochs=7", "augment.scale=[0.5, 2]", "data.root=/a b", "train.keep=last"])
    assert recipe.train.epochs == 7
    assert recipe.augment.scale == (0.5, 2.0)
    assert recipe.data.root == "/a b"
    assert recipe.train.keep == "last"


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
        ("model.name.x=3", "is no table"),
        ("augment.scale=[2.0, 0.5]", "expected [low, high]"),
        ("train.optimizer=adam", "'adamw' or 'sgd'"),
        ("train.batch_size=some", "auto"),
        ("trian.epochs=3", "Did you mean 'train'"),
        ("paper.convention=flops", "'macs', 'ptflops-0.6' or 'conv-bn'"),
        ("data.test_resize=[2048, 512]", "expected [short side, long side]"),
        ("augment.resize=[0, 512]", "greater than 0"),
        ("train.groups=names", "'structure' or 'mmseg'"),
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
    with pytest.raises(UnknownName, match=r"takes that data: frm-lite0 --data shapes$"):
        read_recipe("frm-lite0_shapes")
    with pytest.raises(ConfigError, match="no recipe at"):
        read_recipe(str(tmp_path / "no.toml"))
    (tmp_path / "bad.toml").write_text("[model\n")
    with pytest.raises(ConfigError, match="no valid TOML"):
        parse_recipe(read_recipe(str(tmp_path / "bad.toml")))
