"""featherseg's verbs as functions: return values, arguments in place of names, no side effects."""

import json
import logging
import os
import pkgutil
import shutil
import signal
import warnings
from dataclasses import replace
from html import unescape
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.models.own_objects import SETTINGS, Halves, darken, loss, own_model
from support.models.small_training import Silent

import featherseg
from featherseg.core.errors import ConfigError, FeathersegError, RunError
from featherseg.core.types import SegOutput
from featherseg.data.shapes import Shapes
from featherseg.exporters import ExportSettings
from featherseg.inference.output import OutputSettings
from featherseg.inference.runtimes import open_runtime
from featherseg.layers.own_model import as_model
from featherseg.layers.resize import to_image
from featherseg.recipe.tables import LossTable
from featherseg.runs.run import STARTER

pytestmark = pytest.mark.usefixtures("quick_training")

DATA = (Halves(8), Halves(6))


def surroundings() -> dict[str, object]:
    """What belongs to the whole process, and so to the program that calls us."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    loggers = [
        name
        for name in logging.root.manager.loggerDict
        if name.startswith(("lightning", "featherseg"))
    ]
    return {
        "threads": torch.get_num_threads(),
        "random": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()[1][:5]),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "warnings": list(warnings.filters),
        "signals": [signal.getsignal(number) for number in signals],
        "environment": {
            key: value
            for key, value in os.environ.items()
            # torch 2.9 sets the second when it exports
            if key not in ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
        },
        "folder": os.getcwd(),
        "root loggers": (logging.root.level, logging.root.handlers[:]),
        "levels": {name: logging.getLogger(name).level for name in loggers if name == "featherseg"},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of objects alone, with the report, and what was said of its progress."""
    heard = []
    out = tmp_path_factory.mktemp("own") / "run"
    run = featherseg.train(
        own_model(),
        DATA,
        out=out,
        settings=SETTINGS,
        loss=loss,
        augment=darken,
        progress=lambda *a: heard.append(a),
    )
    return run, heard


def test_objects_of_one_s_own_train_and_are_scored_at_the_end(trained):
    run, heard = trained
    assert run.evaluations()[-1]["miou"] > 0.9
    assert (run.path / "report.html").is_file()
    assert run.recipe.model.name == "TwoStrides"
    assert run.info.objects == ("model", "data", "loss", "augment")
    assert ("scoring", 6, 6) in heard
    assert heard[0] == ("opening model and data", 0, None)
    assert next(total for doing, _, total in heard if doing.startswith("training")) == 24


def test_a_run_of_a_model_of_one_s_own_asks_for_it(trained):
    run, _ = trained
    with pytest.raises(RunError, match="pass model="):
        _ = featherseg.load_run(run.path).model
    again = featherseg.load_run(run.path, model=own_model())
    with pytest.raises(ConfigError, match="a dataset object, halves: pass data="):
        featherseg.evaluate(again)
    scores = featherseg.evaluate(again, DATA[1])
    assert scores.miou == run.evaluations()[-2]["miou"] == run.evaluations()[0]["miou"]
    assert scores.as_dict()["classes"] == ["dark", "bright"]
    mask = featherseg.predict(again, DATA[1][0].image).mask
    assert (mask == DATA[1].label(0)).mean() > 0.9


@pytest.mark.slow  # quick: a package's model in tests/e2e/test_plugin.py
def test_a_run_of_one_s_own_exports_and_the_file_gives_its_masks(trained, tmp_path):
    run, _ = trained
    report = featherseg.export(run, format="onnx", path=tmp_path / "own.onnx")
    assert report.parity.ok
    image = DATA[1][1].image
    assert (
        featherseg.predict(report.path, image).mask == featherseg.predict(run, image).mask
    ).all()
    assert featherseg.evaluate(report.path, DATA[1]).miou == run.evaluations()[0]["miou"]


def test_logits_of_one_s_own_cover_the_image_however_they_are_given():
    class Whole(type(own_model())):
        size_divisor = 32

        def forward(self, images):
            side = (images.shape[2], images.shape[3])
            return SegOutput(super().forward(images), side, side, False)

    given = as_model(Whole())
    plain = as_model(type(own_model())())
    plain.size_divisor = 32
    plain.load_state_dict(given.state_dict())
    images = torch.randn(1, 3, 40, 50)
    found, expected = given(images), plain(images)
    assert (
        (found.image_size, found.padded_size)
        == (expected.image_size, expected.padded_size)
        == ((40, 50), (64, 64))
    )
    assert torch.equal(to_image(found, (40, 50)), to_image(expected, (40, 50)))


def test_objects_are_asked_for_again_where_a_run_goes_on(trained, tmp_path, monkeypatch):
    run, _ = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / DATA[0].name).mkdir()  # which the data are not
    with pytest.raises(ConfigError, match="Pass model= and data= and loss= and augment="):
        featherseg.train(out=run.path, resume=True)
    same = featherseg.train(own_model(), DATA, out=run.path, loss=loss, augment=darken, resume=True)
    assert same.metrics() == run.metrics()


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (torch.nn.Conv2d(3, 2, 1), DATA, "states no classes, mean, std"),
        (own_model(), (Halves(2), [1, 2]), "list is no dataset: it has no name"),
    ],
)
def test_an_object_that_lacks_something_is_told_what(tmp_path, model, data, said):
    with pytest.raises(ConfigError, match=said):
        featherseg.train(model, data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Spoiled(Halves):
    """Halves whose samples are changed before they are given."""

    def __init__(self, count, **parts):
        super().__init__(count)
        self.parts = parts

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return replace(
            sample, **{key: change(getattr(sample, key)) for key, change in self.parts.items()}
        )


def three_maps():
    model = own_model()
    model.layers[-1] = torch.nn.Conv2d(8, 3, 1)
    return model


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        (
            {"augment": lambda image, label, rng: (image[:20], label)},
            r"label of image-\d: \(32, 48\) uint8, expected \(20",
        ),
        (
            {"augment": lambda image, label, rng: None},
            r"augment= gave NoneType: expected \(image, label\)",
        ),
        (
            {"data": (Spoiled(8, image=lambda image: image / 255), DATA[1])},
            r"image of image-\d: \(32, 48, 3\) float64",
        ),
        (
            {"data": (DATA[0], Spoiled(6, image=lambda image: image[..., 0]))},
            r"image of image-0: \(32, 48\) uint8",
        ),
        (
            {"data": (Spoiled(8, label=lambda label: label[:, :9]), DATA[1])},
            r"label of image-\d: \(32, 9\) uint8",
        ),
        (
            {"loss": lambda logits, labels: logits.mean(1)},
            r"loss= gave \(4, 32, 48\): expected a tensor of one number",
        ),
        (
            {"model": three_maps()},
            r"TwoStrides returned \(\d, 3, \d+, \d+\): expected logits \(B, 2, h, w\)",
        ),
        (
            {"loss": loss, "settings": {**SETTINGS, "loss.dice": 1.0}},
            r"loss\.dice does not apply to a loss given as loss=",
        ),
        ({"settings": {**SETTINGS, "train.lr": None}}, r"None is no value of a recipe"),
    ],
)
def test_what_an_object_gives_is_looked_at(tmp_path, objects, said):
    given = {"data": DATA, "settings": SETTINGS} | objects
    with pytest.raises(FeathersegError, match=said):
        featherseg.train(
            given.pop("model", own_model()), given.pop("data"), out=tmp_path / "run", **given
        )


def test_nothing_is_printed_and_the_process_is_as_it_was(trained, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(
        logging, "raiseExceptions", False
    )  # torch's handler may hold the stream of an earlier test
    run, _ = trained
    model = own_model()
    for kind in ("images", "masks"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for sample in DATA[1]:
            pixels = sample.image if kind == "images" else sample.label
            Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{sample.key}.png")
    before = surroundings()
    featherseg.train(model, DATA, out=tmp_path / "run", settings={**SETTINGS, "train.epochs": 1})
    featherseg.evaluate(run, DATA[1])
    featherseg.predict(run, [DATA[1][0].image])
    featherseg.cost("frm-lite0", (64, 64), 2)
    featherseg.check(tmp_path / "photos")
    featherseg.report(run, tmp_path / "page.html")
    featherseg.export(run, format="onnx", path=tmp_path / "own.onnx")
    assert surroundings() == before
    assert capfd.readouterr() == ("", "")


def test_results_show_themselves_and_give_plain_values(trained, tmp_path):
    run, _ = trained
    results = [
        run,
        featherseg.evaluate(run, DATA[1]),
        featherseg.cost("frm-lite0", (64, 64), 2),
        featherseg.report(run, tmp_path / "page.html"),
    ]
    for result in results:
        json.dumps(result.as_dict(), allow_nan=False)
        assert result._repr_html_().startswith("<")
    prediction = featherseg.predict(run, DATA[1][0].image)
    assert json.loads(json.dumps(prediction.as_dict()))["size"] == [32, 48]
    assert prediction._repr_png_().startswith(b"\x89PNG")


def test_a_report_before_any_evaluation_says_what_is_missing_and_what_is_known(trained, tmp_path):
    run, _ = trained
    copy = tmp_path / "run"
    shutil.copytree(
        run.path,
        copy,
        ignore=shutil.ignore_patterns("scores.json", "evaluations.jsonl", "examples"),
    )
    made = featherseg.report(featherseg.load_run(copy, model=own_model()))
    page = unescape(made.path.read_text())
    best = max(record["val_miou"] for record in run.metrics().values() if "val_miou" in record)
    assert made.missing[0] == f"not scored: featherseg evaluate {copy}"
    assert f"<dd>{100 * best:.1f}</dd><dt>mIoU in training's best validation, %</dt>" in page
    assert f"featherseg evaluate {copy}" in page
    assert "<dd>\N{EN DASH}</dd>" not in page


def test_the_score_at_the_end_says_that_the_weights_were_selected_by_it(tmp_path):
    reporter, settings = Silent(), {**SETTINGS, "train.epochs": 1}
    featherseg.train(own_model(), DATA, out=tmp_path / "run", settings=settings, progress=reporter)
    assert any(
        "scored on val: mIoU" in said and "(selected on these images)" in said
        for said in reporter.messages
    )


def test_a_loss_of_one_s_own_takes_the_place_of_the_recipe_s_whole_table(trained):
    run, _ = trained
    assert run.recipe.loss == LossTable()
    assert run.info.class_weights is None


def test_a_training_that_is_asked_for_no_report_scores_nothing(tmp_path):
    settings = {**SETTINGS, "train.epochs": 1}
    run = featherseg.train(own_model(), DATA, out=tmp_path / "run", settings=settings, report=False)
    assert run.evaluations() == []
    assert not (run.path / "report.html").exists()


def test_names_of_others_are_escaped_where_they_are_shown():
    from featherseg.core.notebook import html_table

    shown = html_table("<script>", ("a", "b"), [("<b>", None)], ["&"])
    assert "<script>" not in shown
    assert "&lt;b&gt;" in shown


def test_a_folder_and_an_iterator_are_predicted(trained, tmp_path):
    from PIL import Image

    run, _ = trained
    for index in range(2):
        Image.fromarray(DATA[1][index].image).save(tmp_path / f"{index}.png")
    assert [found.name for found in featherseg.predict(run, tmp_path)] == ["0", "1"]
    lazy = featherseg.predict(run, iter([DATA[1][0].image]), inference={"flip": True})
    assert next(lazy).inference.flip


def test_the_run_that_ships_is_scored_and_nothing_is_written():
    scores = featherseg.evaluate(
        STARTER, Shapes("test", 2), "test", progress=lambda doing, done, total: None
    )
    assert "not stored" in scores.notes[-1]


def test_an_option_without_effect_is_refused(trained, tmp_path):
    run, _ = trained
    scored = len(run.evaluations())
    predictor, image = featherseg.Predictor(open_runtime(run)), np.zeros((40, 60, 3), np.uint8)
    for option, call in {
        "device": lambda: featherseg.predict(predictor, image, device="cpu"),
        "batch": lambda: featherseg.predict(predictor, image, batch=2),
        "inference": lambda: featherseg.predict(predictor, image, inference={"flip": True}),
        "memory_gb": lambda: featherseg.predict(predictor, image, memory_gb=1.5),
        "max_side": lambda: featherseg.predict(predictor, image, max_side=32),
        "settings": lambda: featherseg.predict(run, image, settings=OutputSettings(masks=True)),
        "classes": lambda: featherseg.cost(run.model, (64, 64), classes=3),
        "full, device, inference": lambda: featherseg.evaluate(
            predictions=tmp_path, data=DATA[1], full=True, device="cpu", inference={"flip": True}
        ),
        "full": lambda: featherseg.evaluate(run, DATA[1], full=True),
        "data_root": lambda: featherseg.evaluate(run, DATA[1], data_root=tmp_path),
    }.items():
        with pytest.raises(ConfigError, match=f"^{option} would have no effect"):
            call()
    assert featherseg.predict(predictor, image).mask.shape == (40, 60)
    assert len(run.evaluations()) == scored


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: featherseg.predict(model, "street.png"), "a model of 3 classes needs their"),
        (lambda model: featherseg.Predictor(model), "a model of 3 classes needs their names"),
        (lambda model: featherseg.evaluate(model, "shapes"), "found FRM. A model alone"),
        (lambda model: featherseg.compare([model, model]), "found FRM. A model alone"),
        (lambda _: featherseg.compare("runs/one"), "expected a list of runs"),
        (
            lambda model: featherseg.export(model, ["onnx"]),
            r"format = \['onnx'\]: expected one name",
        ),
        (lambda _: featherseg.build("frm-lite0", classes="3"), "classes = '3': expected 1 to 255"),
        (
            lambda _: featherseg.build("frm-lite0", 3, channels=3.5),
            r"channels = 3\.5: expected 1 to",
        ),
        (lambda _: featherseg.cost("frm-lite0", 512), r"size = 512: expected \(height, width\)"),
        (lambda _: featherseg.cost("frm-lite0", "512x512"), "size = '512x512': expected"),
        (lambda _: featherseg.cost("frm-lite0", (0, 512)), r"size = \(0, 512\): expected"),
        (lambda _: ExportSettings(image_size=512), "image_size = 512: expected"),
        (
            lambda _: featherseg.fit("shapes", 20, out="no", settings="p95"),
            "settings = 'p95': expected a mapping with",
        ),
        (
            lambda _: featherseg.fit("shapes", 20, out="no", settings={"percentil": 95}),
            "Did you mean 'percentile'",
        ),
        (
            lambda _: featherseg.fit("shapes", 20, out="no", settings={"percentile": 90}),
            "percentile = 90: expected 50",
        ),
        (lambda model: featherseg.export(model, settings={"score": True}), "a model without a run"),
        (lambda model: featherseg.export(model, settings={"max_drop": 101}), "max_drop = 101"),
        (
            lambda _: featherseg.compare(["a", "b"], budgets={"max_ms": -1}),
            "--max-ms -1: expected a number above 0",
        ),
        (lambda _: featherseg.benchmark(["frm-lite0"], {"starts": 0}), "starts"),
        (
            lambda _: featherseg.benchmark(["frm-lite0"], {"labelled": None}),
            "plan: unknown key 'labelled'",
        ),
        (
            lambda _: featherseg.predict(STARTER, [], out="no", settings={"mask": True}),
            "unknown key 'mask'. Did you",
        ),
    ],
)
def test_what_is_given_in_another_form_is_told_in_a_sentence(call, said):
    with torch.device("meta"):
        model = featherseg.build("frm-lite0", classes=3)
    with pytest.raises(FeathersegError, match=said):
        call(model)


def test_sides_in_a_list_are_a_size():
    assert featherseg.cost("frm-lite0", [64, 96]) == featherseg.cost("frm-lite0", (64, 96))


def test_a_setting_alone_is_one_text(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown key 'train\.stepz'\. Did you mean 'steps'"):
        featherseg.train("frm-lite0", data="shapes", out=tmp_path / "run", settings="train.stepz=3")


def test_values_of_masks_are_named_by_numbers_as_well(tmp_path):
    for number in range(8):
        for kind, pixels in (("images", np.zeros((16, 16, 3))), ("masks", 255 * (np.eye(16) > 0))):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / f"{number}.png")
    found = [
        featherseg.check(tmp_path, names={key: "crack"}).proposal.config.classes
        for key in (255, "255")
    ]
    assert "crack" in found[0]
    assert found[0] == found[1]


def test_every_public_function_is_callable_after_every_module_was_imported():
    """Functions are verbs, folders nouns: an imported folder replaces a function of its name."""
    optional = {"featherseg.exporters.litert", "featherseg.exporters.coreml"}
    for module in pkgutil.walk_packages(featherseg.__path__, "featherseg."):
        if module.name not in optional and not module.name.endswith(
            ("__main__", "build_engine", "triton_kernels")
        ):
            import_module(module.name)
    functions = [name for name in featherseg.__all__ if name.islower() and not name.startswith("_")]
    folders = {"backbones", "kernels", "losses", "models", "evaluation"}
    assert [
        name
        for name in functions
        if name not in folders and not callable(getattr(featherseg, name))
    ] == []
    for name in (
        "models",
        "backbones",
        "losses",
        "exporters",
        "training",
        "comparison",
        "evaluation",
        "data",
    ):
        package = import_module(f"featherseg.{name}")
        exported = {n for n in getattr(package, "__all__", []) if n.islower()}
        assert [n for n in exported if not callable(getattr(package, n))] == [], name
        assert exported.isdisjoint(path.stem for path in Path(package.__file__).parent.iterdir()), (
            name
        )
    assert (
        set(functions)
        .difference(folders)
        .isdisjoint(path.stem for path in Path(featherseg.__file__).parent.iterdir())
    )
