"""A panoptic model trains, scores and serves as a semantic one; unlearnable data is refused."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from support.models.small_training import SMALL, Silent
from typer.testing import CliRunner

import featherseg
from featherseg import models
from featherseg.cli.compare import compare as compare_verb
from featherseg.cli.evaluate import evaluate as evaluate_verb
from featherseg.cli.predict import predict as predict_verb
from featherseg.core.errors import ConfigError
from featherseg.core.files import read_lines
from featherseg.data import open_dataset
from featherseg.data.cache.prepared_writer import prepare_data
from featherseg.data.checks.check import check_data
from featherseg.data.checks.fixes import write_mended
from featherseg.data.datasets.dataset_toml import DatasetToml, ThingsTable, toml_text
from featherseg.data.images.palettes import color_text
from featherseg.data.panoptic.files import read_ids, read_panoptic_json
from featherseg.evaluation import PanopticQuality
from featherseg.evaluation.scoring import evaluate
from featherseg.inference.masks import predict_mask, predict_panoptic
from featherseg.inference.predictor import Predictor
from featherseg.inference.runtimes import open_runtime
from featherseg.inference.settings import InferenceSettings
from featherseg.recipe.reading import parse_recipe, read_recipe
from featherseg.recipe.tables import LossTable
from featherseg.runs.run import load_run, save_weights, write_info
from featherseg.training import Request, train
from featherseg.training.check import check_instances
from featherseg.training.objects import Objects

pytestmark = pytest.mark.usefixtures("tiny")

NAME = "frm-lite0-panoptic"


@pytest.fixture(scope="module")
def panoptic_run(tmp_path_factory):
    """Two epochs of two steps: its centres mean nothing, but there are some."""
    request = Request(NAME, overrides=(*SMALL, "panoptic.threshold=0.0", "train.keep=last"))
    return train(request, tmp_path_factory.mktemp("runs") / "panoptic", Silent())


def invoke(verb, *arguments):
    app = typer.Typer()
    app.command()(verb)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_record_holds_the_parts_of_the_loss_and_the_panoptic_quality(panoptic_run):
    records = [record for _, record in sorted(panoptic_run.metrics().items())]
    for record in records:
        parts = [record[f"loss_{part}"] for part in ("semantic", "center", "offset")]
        assert record["loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert all(math.isfinite(part) and part > 0 for part in parts)
    assert 0 <= records[-1]["val_pq"] <= records[-1]["val_rq"] <= 1
    assert "PQ " in (panoptic_run.path / "card.md").read_text()


@pytest.mark.seconds
def test_it_is_scored_afterwards_as_it_was_in_training(panoptic_run):
    runtime, data = open_runtime(panoptic_run, "cpu"), open_dataset("shapes", "val", size=2)
    scores = evaluate(runtime, data, boundary=False)
    last = panoptic_run.metrics()[max(panoptic_run.metrics())]
    assert (scores.panoptic["pq"], scores.miou) == (last["val_pq"], last["val_miou"])


@pytest.mark.seconds
def test_panoptic_quality_and_miou_come_from_one_look(panoptic_run):
    """The numbers of the evaluator against PanopticQuality, told of every image by hand."""
    runtime, data = open_runtime(panoptic_run, "cpu"), open_dataset("shapes", "val", size=2)
    quality = PanopticQuality(
        [{"id": i + 1, "isthing": int(c.thing)} for i, c in enumerate(data.classes)]
    )
    for index in range(2):
        sample = data[index]
        ((mask, seen),) = predict_panoptic(runtime, sample.image[None])
        np.testing.assert_array_equal(mask, predict_mask(runtime, sample.image))
        ground_truth = np.where(
            sample.instances > 0, 100 + sample.instances, sample.label.astype(np.int32) + 1
        )
        ground_truth[sample.label == 255] = 0
        known = {
            int(i): int(sample.label[ground_truth == i][0]) + 1
            for i in np.unique(ground_truth)
            if i
        }
        predicted = [{**s, "category_id": s["category_id"] + 1} for s in seen.segments]
        quality.update(
            ground_truth,
            [{"id": i, "category_id": c} for i, c in known.items()],
            seen.ids,
            predicted,
        )
    found = evaluate(runtime, data, boundary=False).panoptic
    expected = quality.compute()
    for key in ("pq", "sq", "rq", "n"):
        assert found[key] == expected[key]
    assert found["things"] == expected["things"]
    assert list(found["per_category"].values()) == list(expected["per_category"].values())


def test_evaluate_prints_and_records_both(panoptic_run):
    result = invoke(evaluate_verb, panoptic_run.path, "--split", "val")  # test has 200 scenes
    assert result.exit_code == 0
    assert "PQ %" in result.stdout
    assert "things (3)" in result.stdout
    assert read_lines(panoptic_run.path / "evaluations.jsonl")[-1]["pq"] is not None
    found = json.loads(invoke(evaluate_verb, panoptic_run.path, "--split", "val", "--json").stdout)
    assert set(found["panoptic"]) == {"pq", "sq", "rq", "n", "things", "stuff", "per_category"}
    assert list(found["panoptic"]["per_category"]) == [str(i) for i in range(8)]


def other_run(panoptic_run, path):
    """The same run with a seed of its own and other weights."""
    path.mkdir()
    torch.manual_seed(1)
    weights = {k: v + 0.02 * torch.randn(v.shape) if v.is_floating_point() else v for k, v in
               panoptic_run.model.state_dict().items()}  # fmt: skip
    save_weights(path, weights)
    train_table = panoptic_run.recipe.train.model_copy(update={"seed": 1})
    recipe = panoptic_run.recipe.model_copy(
        update={"train": train_table, "model": panoptic_run.recipe.model}
    )
    write_info(path, panoptic_run.info.model_copy(update={"recipe": recipe}))
    return path


@pytest.mark.slow
def test_compare_ranks_by_panoptic_quality_as_well(panoptic_run, tmp_path):
    paths = [panoptic_run.path, other_run(panoptic_run, tmp_path / "other")]
    data = open_dataset("shapes", "val", size=2)
    own = {
        path.name: evaluate(open_runtime(load_run(path), "cpu"), data, boundary=False)
        for path in paths
    }
    arguments = (*paths, "--no-costs", "--split", "val", "-o", tmp_path / "page.html")
    found = json.loads(invoke(compare_verb, *arguments, "--json").stdout)
    pq = {name: scores.panoptic["pq"] for name, scores in own.items()}
    (ranking,) = found["rankings"]
    assert sorted(p for model in ranking["models"] for p in model["pq_runs"]) == pytest.approx(
        sorted(pq.values())
    )
    (pair,) = found["pq_files"]
    assert pair["pq"][0] == pytest.approx(pq[pair["first"]] - pq[pair["second"]])
    assert pair["pq"][0] != pytest.approx(found["files"][0]["miou"][0])
    assert "By PQ: " in (tmp_path / "page.html").read_text()
    printed = invoke(compare_verb, *arguments).stdout
    assert "by PQ: " in printed
    assert "points of PQ, no interval)" in printed


@pytest.mark.seconds
def test_counts_of_single_images_make_up_the_panoptic_quality(panoptic_run):
    scores = evaluate(
        open_runtime(panoptic_run, "cpu"), open_dataset("shapes", "val", size=2), boundary=False
    )
    segments, matched, rest = scores.panoptic_counts.sum(axis=0)
    denominator = segments + rest - matched
    assert scores.panoptic_counts.shape == (2, 3, 8)
    assert (matched / denominator)[denominator > 0].mean() == pytest.approx(scores.panoptic["pq"])


@pytest.mark.seconds
def test_predict_writes_what_official_tools_read(panoptic_run, tmp_path):
    for index in range(2):
        image = open_dataset("shapes", "test", size=2)[index].image
        Image.fromarray(image).save(tmp_path / f"00000000000{index + 7}.jpg")
    out = tmp_path / "out"
    result = invoke(predict_verb, panoptic_run.path, tmp_path, "-o", out)
    assert result.exit_code == 0
    content = read_panoptic_json(out / "panoptic.json")
    assert [annotation.image_id for annotation in content.annotations] == [7, 8]
    images = json.loads((out / "panoptic.json").read_text())["images"]
    assert [(image["id"], image["file_name"]) for image in images] == [
        (7, "000000000007.jpg"),
        (8, "000000000008.jpg"),
    ]
    assert [content.categories[i]["name"] for i in (0, 6)] == ["road", "car"]
    for annotation in content.annotations:
        ids, name = (
            read_ids(out / "panoptic" / annotation.file_name),
            annotation.file_name.removesuffix(".png"),
        )
        areas = {segment["id"]: segment["area"] for segment in annotation.dicts()}
        assert areas == {int(i): int((ids == i).sum()) for i in np.unique(ids) if i}
        assert (out / f"{name}_mask.png").is_file()
        assert (out / f"{name}_overlay.png").is_file()
    again = invoke(predict_verb, panoptic_run.path, tmp_path, "-o", out)
    assert again.exit_code == 0
    assert "nothing left to do" in again.output


@pytest.mark.seconds
def test_objects_are_found_where_they_are_whatever_size_the_model_sees(panoptic_run):
    """Offsets are in pixels of the model's input: other maps of a scene give the same objects."""
    runtime = open_runtime(panoptic_run, "cpu")
    image = np.zeros((1, 64, 128, 3), np.uint8)

    class Told:
        """Two cars, left and right, whatever is asked; everything else as the runtime."""

        def __getattr__(self, key):
            return getattr(runtime, key)

        def __call__(self, images):
            height, width = images.shape[2:]
            out = runtime(images)
            row, column = torch.meshgrid(
                torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
            )
            y, x = (
                0.47 * height,
                torch.where(column < width / 2, 0.26, 0.74) * width,
            )  # the centre of each half
            centers = torch.exp(-((row - y) ** 2 + (column - x) ** 2) / height)[None, None]
            offsets = torch.stack([y - row, x - column])[None]
            logits = torch.zeros(1, 8, height, width)
            logits[:, 6] = 9.0
            size = (height, width)
            return out._replace(
                logits=logits,
                centers=centers,
                offsets=offsets,
                image_size=size,
                padded_size=size,
                align_corners=False,
            )

    for fit in (None, (32, 64), (96, 192)):
        ((_, seen),) = predict_panoptic(Told(), image, InferenceSettings(resize=fit))
        assert [segment["category_id"] for segment in seen.segments] == [6, 6]
        assert len(np.unique(seen.ids[:, 2:60])) == len(np.unique(seen.ids[:, 68:126])) == 1
        assert seen.ids[0, 0] != seen.ids[0, -1]


@pytest.mark.parametrize(
    "inference",
    [
        InferenceSettings(flip=True),
        InferenceSettings(window=(64, 64)),
        InferenceSettings(scales=(0.5, 1.0)),
    ],
)
def test_looks_whose_objects_cannot_be_put_together_are_refused(panoptic_run, inference):
    with pytest.raises(ConfigError, match="runs once, on the whole image"):
        Predictor(panoptic_run, "cpu", inference=inference)(np.zeros((64, 96, 3), np.uint8))


@pytest.mark.seconds
def test_an_image_that_does_not_fit_the_memory_is_shrunk_and_said_so(panoptic_run):
    predictor = Predictor(panoptic_run, "cpu", memory_gb=2.5)
    plan = predictor.plan((3000, 4000))
    assert plan.how.startswith("whole, shrunk to ")
    assert plan.inference.window is None
    assert 256 < plan.inference.resize[0] < 4000


class Labels:
    """Data whose samples have the classes of shapes, with or without objects."""

    name, channels, licence, keys = "labels", 3, "", ["a"]

    def __init__(self, classes, instances):
        self.classes, self.instances = classes, instances

    def __len__(self):
        return 1

    def __getitem__(self, index):
        sample = open_dataset("shapes", "train", size=1)[0]
        return type(sample)("a", sample.image, sample.label, self.instances)


def test_data_without_objects_and_settings_of_other_losses_are_refused():
    recipe = parse_recipe(read_recipe(NAME))
    model, classes = models.build(NAME, 8), open_dataset("shapes", "train", size=1).classes
    with pytest.raises(ConfigError, match="labels has no instance ids"):
        check_instances(recipe, model, Labels(classes, None), Objects())
    objects = Labels(classes, np.ones((256, 512), np.int32))
    check_instances(recipe, model, objects, Objects())
    with pytest.raises(ConfigError, match="labels has no instance ids"):
        check_instances(recipe, model, Labels(classes[:4], objects.instances), Objects())
    unused = {"contrast": 1.0, "contrast_views": 50, "ohem_min_kept": 500, "name": "of-a-package"}
    for key, value in unused.items():
        semantic = recipe.model_copy(update={"loss": LossTable(**{key: value})})
        with pytest.raises(ConfigError, match=rf"loss\.{key} does not apply to panoptic models"):
            check_instances(semantic, model, objects, Objects())
    for key, value in (("hardest", 0.2), ("center_sigma", 3)):
        foreign = recipe.model_copy(update={"loss": LossTable(**{key: value})})
        with pytest.raises(ConfigError, match=rf"loss\.{key} is for panoptic models"):
            check_instances(foreign, models.build("frm-lite0", 8), objects, Objects())


@pytest.fixture(scope="module")
def own_scenes(tmp_path_factory):
    """Scenes of shapes as a folder of one's own: images, masks, instances and [things]."""
    folder, scenes = tmp_path_factory.mktemp("own"), open_dataset("shapes", "train", size=6)
    for index, key in enumerate("abcdef"):
        sample = scenes[index]
        for kind, pixels in (
            ("images", sample.image),
            ("masks", sample.label),
            ("instances", sample.instances),
        ):
            (folder / kind).mkdir(exist_ok=True)
            kept = np.maximum(pixels, 0).astype(np.uint16) if kind == "instances" else pixels
            Image.fromarray(kept[:128, :192]).save(folder / kind / f"{key}.png")
    names = [info.name for info in scenes.classes]
    config = DatasetToml(
        name="own",
        images="images",
        masks="masks",
        splits={"train": 0.7, "val": 0.3},
        classes={info.name: color_text(info.color) for info in scenes.classes},
        map={str(index): name for index, name in enumerate(names)} | {"255": "ignore"},
        things=ThingsTable(
            classes=[info.name for info in scenes.classes if info.thing], instances="instances"
        ),
    )
    (folder / "dataset.toml").write_text(toml_text(config))
    return folder


def test_a_folder_with_things_holds_the_objects_it_was_made_of(own_scenes):
    scenes = open_dataset("shapes", "train", size=6)
    for split in ("train", "val"):
        data = open_dataset(str(own_scenes), split)
        for index, key in enumerate(data.keys):
            scene, sample = scenes["abcdef".index(key)], data[index]
            assert data.classes == scenes.classes
            np.testing.assert_array_equal(sample.label, scene.label[:128, :192])
            np.testing.assert_array_equal(
                sample.instances, np.maximum(scene.instances, 0)[:128, :192]
            )
    assert check_data(str(own_scenes)).clean


@pytest.mark.seconds
def test_a_panoptic_model_trains_on_a_folder_of_ones_own(own_scenes, tmp_path):
    request = Request(
        NAME,
        data=str(own_scenes),
        overrides=("model.name=tiny-panoptic", *SMALL, "panoptic.threshold=0.0", "train.epochs=1"),
    )
    run = train(request, tmp_path / "run", Silent())
    scores = featherseg.evaluate(run, split="val")
    assert scores.panoptic["n"] > 0
    prepare_data(str(own_scenes), "val", out=tmp_path / "cache")
    with pytest.MonkeyPatch.context() as patch:  # prepared data hold the objects as well
        patch.setenv("FEATHERSEG_CACHE", str(tmp_path / "cache"))
        np.testing.assert_array_equal(
            open_dataset(str(own_scenes), "val")[0].instances, _instances(own_scenes, "val")
        )


def _instances(folder, split):
    data = open_dataset(str(folder), split)
    return np.array(Image.open(folder / "instances" / f"{data.keys[0]}.png"))


def test_faults_of_instances_are_found_and_the_mended_copy_has_the_others(own_scenes, tmp_path):
    place = shutil.copytree(own_scenes, tmp_path / "own")
    (place / "instances/a.png").unlink()
    Image.new("L", (3, 3)).save(place / "instances/b.png")
    report = check_data(str(place))
    assert sorted((fault.kind, fault.key) for fault in report.faults) == [
        ("unpaired", "a"),
        ("unreadable", "b"),
    ]
    done = write_mended(report, tmp_path / "out")
    assert done.copied == 4
    assert check_data(str(tmp_path / "out")).clean
    assert any(info.thing for info in open_dataset(str(tmp_path / "out"), "train").classes)
    assert open_dataset(str(tmp_path / "out"), "train")[0].instances.max() > 0
