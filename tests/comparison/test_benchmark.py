"""The benchmark's protocol with workers that invent times, and once with real ones."""

import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from support.models.small_run import small_info

from featherseg import FeathersegError, models
from featherseg.comparison.benchmark import measure
from featherseg.comparison.benchmark_results import Plan
from featherseg.comparison.builds import builds_for
from featherseg.comparison.variants import find_models, untrained_classes
from featherseg.core.types import ClassInfo
from featherseg.costs.latency import summarise
from featherseg.data import LabelledImages
from featherseg.evaluation.bootstrap import Interval
from featherseg.evaluation.scored_split import times_scored
from featherseg.runs.run import class_rows, open_run, save_weights, write_info

pytestmark = pytest.mark.usefixtures("quick_training")

FAKE = Path(__file__).parents[1] / "support/processes/fake_benchmark_worker.py"


class Workers:
    """Fake workers: the command that starts one, and the faults they are to show."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = (sys.executable, str(FAKE), str(folder))

    def fault(self, build: str, fault: object) -> None:
        (self.folder / "faults.json").write_text(json.dumps({build: fault}))

    def alive(self) -> list[int]:
        """Process ids of those that are still there."""
        return [
            int(p.name)
            for p in self.folder.iterdir()
            if p.name.isdigit() and psutil.pid_exists(int(p.name))
        ]

    @property
    def started(self) -> int:
        return len([p for p in self.folder.iterdir() if p.name.isdigit()])


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    folder = tmp_path / "workers"
    folder.mkdir()
    return Workers(folder)


def plan(**changes) -> Plan:
    made = {
        "sizes": [(32, 48)],
        "threads": [1],
        "device": "cpu",
        "starts": 2,
        "rounds": 4,
        **changes,
    }
    return Plan(**made).completed(made.get("models") or find_models(["frm-lite0"]))


@pytest.fixture
def tiny_run(tmp_path: Path) -> Path:
    """A run of frm-lite0, untrained, for the eight classes of shapes."""
    from featherseg.data.shapes import CLASSES

    path = tmp_path / "tiny"
    path.mkdir()
    torch.manual_seed(0)
    save_weights(path, models.build("frm-lite0", len(CLASSES)).state_dict())
    write_info(path, small_info(CLASSES, data={"name": "shapes"}, image_size=(32, 48)))
    return path


@pytest.mark.seconds
def test_every_variant_is_a_process_a_start_and_ratios_are_those_of_neighbours_in_time(workers):
    outcome = measure(plan(starts=3, rounds=6), command=workers.command)
    (table,) = outcome.tables
    rows = {row.variant.name: row for row in table.rows}
    assert list(rows) == ["eager", "eager-1x1", "eager-tuned", "ours-fp32", "ours-bf16"]
    assert workers.started == 3 * len(rows)
    assert rows["ours-fp32"].by_wall["eager"].value == pytest.approx(4)
    assert rows["ours-fp32"].by_wall["eager-tuned"].value == pytest.approx(2)
    assert (
        rows["ours-fp32"].end_to_end["eager"].value < 4
    )  # the other stages take as long for everyone
    assert rows["eager"].by_wall["eager"].itself
    assert {row.samples.forward_ms.shape for row in table.rows} == {(3, 2)}
    assert rows["eager"].samples.first_ms.tolist() == [1000] * 3
    assert (
        summarise(rows["eager"].samples.forward_ms).p95 < 1000
    )  # the first call is in no other figure
    assert rows["ours-fp32"].samples.process_mib.max() == 100
    assert not table.disturbed
    assert not workers.alive()


def test_fidelity_is_measured_against_plain_eager(outcome):
    found = {row.variant.name: row.fidelity for row in outcome.tables[0].rows}
    assert (found["eager"].max_difference, found["eager"].same_class) == (0, 1)
    bf16 = found["ours-bf16"]
    assert (bf16.max_difference, bf16.miou) == (0.5, None)
    assert (bf16.of_range, bf16.same_class) == pytest.approx((0.5 / 9, 0.99))
    assert "synthetic" in bf16.images


def test_the_limit_is_the_longer_of_arithmetic_and_memory(outcome):
    row, bandwidth = outcome.tables[0].rows[0], 40
    assert row.limit_ms == pytest.approx(
        max(2 * row.work.macs / 100, 4 * row.work.elements / bandwidth) / 1e6
    )
    assert outcome.limits[0].peak("int8") is None


def test_progress_ends_at_its_total(measured):
    seen = [(done, of) for _, done, of in measured[1]]
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


def test_the_json_holds_a_schema_every_raw_time_and_the_machine(outcome):
    found = json.loads(json.dumps(outcome.as_dict()))
    assert (found["schema"], found["version"]) == ("featherseg-benchmark", 2)
    assert found["machine"]["versions"]["torch"] == version("torch")
    row = found["tables"][0]["rows"][-1]
    assert np.shape(row["samples"]["wall"]["forward"]) == (2, 2)
    assert row["speedup"]["by_wall"]["eager"]["verdict"] == "faster"
    assert row["fidelity"]["same_class"] == pytest.approx(0.99)
    assert found["plan"]["models"] == [{"name": "frm-lite0", "trained": False}]
    assert found["limits"][0]["memory"] == {"copy": 40.0}


def test_the_json_has_null_where_there_is_no_interval(outcome):
    (table, *_) = outcome.tables
    unsure = replace(table.rows[0].fidelity, miou_difference=Interval(0.0, math.nan, math.nan))
    one = replace(
        outcome, tables=(replace(table, rows=(replace(table.rows[0], fidelity=unsure),)),)
    )
    row = json.loads(json.dumps(one.as_dict(), allow_nan=False))["tables"][0]["rows"][0]
    assert row["fidelity"]["miou_difference"]["low"] is None


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("turn", "no such instruction"),
        ({"open": {"error": "needs 'x'"}}, "needs 'x'"),
    ],
)
def test_a_variant_that_fails_is_left_out_with_its_reason_and_the_others_go_on(
    workers, fault, reason
):
    workers.fault("ours-bf16", fault)
    outcome = measure(plan(), command=workers.command)
    assert outcome.left_out == (("ours-bf16", reason),)
    assert [row.variant.name for row in outcome.tables[0].rows][-1] == "ours-fp32"
    assert (outcome.limits, outcome.tables[0].rows[0].limit_ms) == (
        (),
        None,
    )  # as nothing was calibrated


@pytest.mark.slow
def test_each_number_of_threads_and_each_size_has_its_table_and_one_thread_a_row_more(workers):
    two = min(2, len(os.sched_getaffinity(0)))
    outcome = measure(plan(sizes=[(64, 64), (32, 48)], threads=(1, two)), command=workers.command)
    assert [str(t.setting) for t in outcome.tables][:2] == ["32x48, 1 thread", "64x64, 1 thread"]
    assert len(outcome.tables) == 4
    mixed = measure(plan(sizes=[(32, 48), (40, 48)], batches=(1, 8)), command=workers.command)
    pixels = [t.setting.size[0] * t.setting.size[1] * t.setting.batch for t in mixed.tables]
    assert pixels == sorted(pixels)  # a process's peak only grows
    assert "eager-1x1" in builds_for("cpu", 1)
    assert "eager-1x1" not in builds_for("cpu", 2)


def test_without_a_baseline_there_is_no_benchmark(workers):
    workers.fault("eager-tuned", "prepare")
    with pytest.raises(
        FeathersegError, match=r"eager-tuned, a baseline, cannot be measured: .*no such instruction"
    ):
        measure(plan(), command=workers.command)
    assert not workers.alive()


@pytest.mark.seconds
def test_a_baseline_that_is_named_in_full_and_fails_is_no_benchmark_either(workers):
    workers.fault("ours-bf16", "prepare")
    two = plan(models=find_models(["frm-lite0", "ddrnet-23-slim"]), baseline="frm-lite0/ours-bf16")
    with pytest.raises(
        FeathersegError, match="frm-lite0/ours-bf16, a baseline, cannot be measured"
    ):
        measure(two, command=workers.command)
    assert not workers.alive()


def test_a_model_of_other_classes_is_refused(workers):
    workers.fault(
        "ours-fp32", {"open": {"open_ms": 1, "classes": ["road", "sky"], "precision": "fp32"}}
    )
    with pytest.raises(FeathersegError, match=r"different classes from frm-lite0: road, sky \(2\)"):
        measure(plan(), command=workers.command)


def test_an_interrupt_ends_every_process(workers):
    def interrupt(words: str, done: int, of: int) -> None:
        if "warming" in words:
            assert workers.alive()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(plan(), interrupt, workers.command)
    assert not workers.alive()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"starts": 1}, "1 starts and 4 rounds: expected at least 2 starts"),
        ({"starts": 5, "rounds": 5}, "two rounds for each"),
        ({"threads": (0,)}, "expected 1 or more"),
        ({"batches": (0,)}, "expected 1 or more"),
        ({"threads": (10_000,)}, "threads 10000: expected at most"),
        ({"baseline": "eagre"}, "unknown baseline 'eagre'. Did you mean 'eager'"),
        ({"baseline": "model.onnx"}, "unknown baseline 'model.onnx'"),
        ({"device": "tpu9"}, "unknown device 'tpu9'"),
        ({"labelled": LabelledImages("shapes", "val")}, "frm-lite0 is untrained: it has no mIoU"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_process_starts(workers, changes, sentence):
    with pytest.raises(FeathersegError, match=sentence):
        measure(plan(**changes), command=workers.command)
    assert not workers.started


@pytest.mark.slow
def test_a_real_run_is_measured_from_end_to_end_with_its_miou(tiny_run):
    """On two real processes a variant; what is certain on any machine is checked, no time."""
    asked = plan(
        models=find_models([str(tiny_run)]),
        rounds=4,
        labelled=LabelledImages(str(_two_scenes(tiny_run)), "val"),
    )
    outcome = measure(asked)
    assert not outcome.left_out
    rows = {row.variant.name: row for row in outcome.tables[0].rows}
    assert rows["eager"].fidelity.max_difference == 0
    assert rows["ours-fp32"].fidelity.of_range < 1e-5
    assert rows["ours-fp32"].fidelity.same_class > 0.999
    assert rows["ours-fp32"].fidelity.miou == pytest.approx(rows["eager"].fidelity.miou, abs=1e-3)
    assert 0 < rows["ours-bf16"].fidelity.of_range < 0.2
    for row in rows.values():
        assert (row.samples.forward_ms > 0).all()
        assert list(row.samples.wall)[3] == "forward"
        assert 100 < row.samples.process_mib.max() < 3000


@pytest.mark.slow
def test_a_run_s_masks_are_compared_on_images_of_its_own(workers, tiny_run):
    toml = _two_scenes(tiny_run)
    info = open_run(tiny_run).info
    own = info.recipe.data.model_copy(update={"name": str(toml)})
    recipe = info.recipe.model_copy(update={"data": own})
    classes = class_rows(untrained_classes())  # as fake workers have them
    write_info(tiny_run, info.model_copy(update={"recipe": recipe, "classes": classes}))
    models = find_models([str(tiny_run), "frm-lite0"])

    def words() -> list[str]:
        (table,) = measure(plan(models=models), command=workers.command).tables
        return list(dict.fromkeys(row.fidelity.images for row in table.rows))

    of_scenes = [
        "2 images of two, resized to 32x48",
        "3 synthetic images (shapes val), resized to 32x48",
    ]
    assert words() == of_scenes
    toml.unlink()  # moved away: drawn ones then, and it is said
    assert (
        words()[0] == f"{of_scenes[1]}, because tiny's data {toml} were not found (set --data-root)"
    )


@pytest.mark.seconds
@pytest.mark.parametrize(("split", "marks"), [("val", "selected on these images"), ("test", "")])
def test_a_look_is_counted_and_the_split_that_kept_the_weights_is_marked(
    workers, tiny_run, split, marks
):
    toml = _two_scenes(tiny_run, untrained_classes(), split)  # as fake workers have them
    info = open_run(tiny_run).info
    recipe = info.recipe.model_copy(
        update={"data": info.recipe.data.model_copy(update={"name": str(toml)})}
    )
    write_info(
        tiny_run,
        info.model_copy(update={"recipe": recipe, "classes": class_rows(untrained_classes())}),
    )
    asked = plan(models=find_models([str(tiny_run)]), labelled=LabelledImages(str(toml), split))
    outcome = measure(asked, command=workers.command)
    assert {row.fidelity.marks for row in outcome.tables[0].rows} == {marks}
    (look,) = open_run(tiny_run).evaluations()  # one, of five variants
    assert (look["data"], look["split"], look["miou"], look["selected"]) == (
        "two",
        split,
        0.5,
        bool(marks),
    )
    assert ("selected on these images" in (tiny_run / "card.md").read_text()) == bool(marks)
    assert times_scored(open_run(tiny_run), "test") == (split == "test")


def _two_scenes(
    folder: Path, classes: Sequence[ClassInfo] | None = None, split: str = "val"
) -> Path:
    """A dataset.toml of two drawn scenes, with the classes of shapes or others."""
    from PIL import Image

    from featherseg.data.shapes import CLASSES, Shapes

    for number in range(2):
        sample = Shapes("val", 2)[number]
        for kind, pixels in (("images", sample.image), ("masks", sample.label)):
            path = folder / kind / split / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    classes = classes or CLASSES
    names = ", ".join(f'"{c.name}"' for c in classes)
    mapped = "\n".join(f'{i} = "{c.name}"' for i, c in enumerate(classes))
    toml = 'name = "two"\nimages = "images"\nmasks = "masks"\n'
    toml += f'classes = [{names}]\n[splits]\n{split} = "{split}"\n'
    toml += "[map]\n"
    (folder / "dataset.toml").write_text(f'{toml}{mapped}\n255 = "ignore"\n')
    return folder / "dataset.toml"


def test_a_file_belongs_to_its_run_and_a_lone_one_to_the_only_run(tiny_run, tmp_path):
    file = tiny_run / "export" / "model.onnx"
    file.parent.mkdir()
    file.touch()
    (model,) = find_models([str(tiny_run)])
    assert model.files == (file,)
    (by_file,) = find_models([str(file)])
    assert by_file.name == "tiny"
    assert not by_file.builds
    lone = tmp_path / "lone.onnx"
    lone.touch()
    (beside,) = find_models([str(tiny_run), str(lone)])
    assert beside.files == (file, lone)
    with pytest.raises(
        FeathersegError, match=r"lies in no run's export/.*featherseg benchmark RUN"
    ):
        find_models(["frm-lite0", str(lone)])
    with pytest.raises(FeathersegError, match=r"none\.onnx does not exist"):
        find_models([str(tmp_path / "none.onnx")])


def test_names_are_told_apart_where_there_are_several_models():
    asked = plan(models=find_models(["frm-lite0", "rsp-lite0"]))
    names = [v.name for v in asked.variants(2)]
    assert names[:2] == ["frm-lite0/eager", "frm-lite0/eager-tuned"]
    assert "rsp-lite0/ours-bf16" in names
    assert len(set(names)) == len(names)


def test_a_slip_in_a_name_is_answered_with_the_nearest_model():
    with pytest.raises(FeathersegError, match="Did you mean 'frm-van-s'"):
        find_models(["frm-van-ss"])


def test_a_run_is_timed_at_the_size_of_its_images_and_a_catalogue_name_at_its_paper_s(tiny_run):
    run, frm, cgrseg = find_models([str(tiny_run), "frm-van-s", "cgrseg-t"])
    assert (run.size, frm.size, cgrseg.size) == ((32, 48), (512, 1024), (512, 512))
    assert cgrseg.classes[0] == ClassInfo("class_0", cgrseg.classes[0].color)
