"""What installed packages add to the catalogues, looked for only where it must be."""

import importlib
import sys

import pytest

from featherseg.core.catalogue import Catalogue
from featherseg.core.errors import ConfigError, UnknownName
from featherseg.data import DATASETS, dataset_facts
from featherseg.losses import LOSSES
from featherseg.models import MODELS, build
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.training.loss import build_loss, refuse_unused_keys


@pytest.fixture
def install(tmp_path, monkeypatch):
    """install("package", "featherseg.models", name="module:object", ...): as pip would."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(package: str, group: str, **points: str) -> None:
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [
            f"[{group}]",
            *(f"{name.replace('_', '-')} = {value}" for name, value in points.items()),
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines))
        importlib.invalidate_caches()

    for catalogue in (MODELS, DATASETS, LOSSES):  # what a test loads is gone after it
        monkeypatch.setattr(catalogue, "_entries", dict(catalogue._entries))
    yield make
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


NAMED = ["loss.name=ours", "loss.options.mean=number"]
THEIRS = "from featherseg.models import MODELS\nENTRY = MODELS['frm-lite0']\nOTHER = 3\n"


def test_a_model_of_an_installed_package_is_one_of_the_catalogue(install, tmp_path):
    (tmp_path / "theirs.py").write_text(THEIRS)
    install("theirs", "featherseg.models", their_net="theirs:ENTRY")
    assert list(MODELS)[-1] == "their-net"
    assert "theirs" not in sys.modules
    assert build("their-net", classes=3).classes == 3


def test_so_is_a_dataset_and_a_loss(install, tmp_path):
    (tmp_path / "theirs.py").write_text(
        "from featherseg.data import DATASETS\n"
        "from featherseg.losses import CrossEntropy\n"
        "class Roads(DATASETS['camvid']): pass\n"
        "def loss(model, class_weights, mean='all'):\n"
        "    return CrossEntropy(class_weights, mean=mean)\n"
    )
    install("theirs", "featherseg.datasets", roads="theirs:Roads")
    install("theirs2", "featherseg.losses", ours="theirs:loss")
    assert dataset_facts("roads") == dataset_facts("camvid")
    recipe, model = parse_recipe(read_recipe("frm-lite0"), NAMED), build("frm-lite0", 3)
    assert build_loss(None, recipe, model).mean == "number"
    assert (recipe.loss.lovasz, recipe.loss.class_weights) == (0, "auto"), (
        "of the recipe's own loss the weights stay"
    )
    with pytest.raises(ConfigError, match=r"loss.options do not fit the loss 'ours': .*'means'"):
        build_loss(
            None, parse_recipe(read_recipe("frm-lite0"), [*NAMED, "loss.options={means=3}"]), model
        )
    with pytest.raises(ConfigError, match=r"loss.contrast is not part of the loss 'ours'"):
        refuse_unused_keys(
            parse_recipe(read_recipe("frm-lite0"), [*NAMED, "loss.contrast=1"]), panoptic=False
        )


@pytest.mark.parametrize(("value", "said"), [
    ("theirs:OTHER",
     r"'their-net' of the installed package theirs \(theirs:OTHER\) is int, expected a featherseg"),
    ("theirs:GONE", "cannot be loaded: AttributeError.*Update or uninstall that package"),
    ("theirs_gone:ENTRY", "cannot be loaded: ModuleNotFoundError"),
])  # fmt: skip
def test_a_broken_package_is_named_and_harms_no_other_model(install, tmp_path, value, said):
    (tmp_path / "theirs.py").write_text(THEIRS)
    install("theirs", "featherseg.models", their_net=value)
    with pytest.raises(ConfigError, match=said):
        build("their-net", classes=3)
    assert "frm-lite0" in MODELS


def test_a_name_is_offered_once(install):
    install("one", "featherseg.models", their_net="one:ENTRY")
    install("two", "featherseg.models", their_net="two:ENTRY")
    with pytest.raises(
        ConfigError, match=r"two installed packages offer the model 'their-net': .*one.*Uninstall"
    ):
        build("their-net", classes=3)


def test_featherseg_s_own_names_stay_its_own(install):
    install("theirs", "featherseg.models", frm_lite0="theirs:ENTRY")
    assert build("frm-lite0", classes=3).classes == 3
    with pytest.raises(
        ConfigError,
        match="theirs offers the model 'frm-lite0', but featherseg has one of that name",
    ):
        list(MODELS)


def test_own_names_are_found_without_looking_at_packages(monkeypatch):
    monkeypatch.setattr("featherseg.core.catalogue.entry_points", None)
    assert Catalogue("thing", "featherseg.things", {"a": 1}, callable, "one")["a"] == 1
    assert "frm-lite0" in MODELS


def test_an_unknown_name_stays_one():
    assert "no-loss" not in LOSSES
    with pytest.raises(UnknownName, match=r"unknown model 'frm-lite'\. Did you mean"):
        build("frm-lite", classes=3)
