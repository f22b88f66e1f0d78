"""What is delivered, and what stays as it was where that fails: of a run that was never trained."""

import json
import math
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.models.fit_plans import FAST, facts, fit_plan, timing, write_yard
from support.models.small_run import small_info
from support.models.small_training import Silent

from featherseg import models
from featherseg.core.errors import ExportError, FeathersegError, RunError
from featherseg.core.files import append_line
from featherseg.data import open_dataset
from featherseg.data.cache.fingerprint import Fingerprint
from featherseg.exporters.report import ExportReport
from featherseg.fitting import delivery
from featherseg.fitting.delivery import deliver
from featherseg.fitting.plan import FinalTraining, read_plan
from featherseg.fitting.results import choose_again, read_fit, summary
from featherseg.fitting.state import FitJob, Undelivered, read_state
from featherseg.fitting.trials import final_folder
from featherseg.fitting.watch import Watch
from featherseg.runs.run import save_weights, write_info

SPLITS = "train = 0.6\nval = 0.2\ntest = 0.2"

LOOK = {"data": "yard", "split": "test", "inference": "whole", "images": 6, "miou": 0.5}


@pytest.fixture
def delivered(tmp_path, monkeypatch):
    """Deliver FAST's last training, of 10 steps, into a folder with another delivery."""
    yard, out = write_yard(tmp_path / "yard", splits=SPLITS), tmp_path / "out"
    final, test = final_folder(out, FAST, 10), open_dataset(str(yard), "test")
    final.mkdir(parents=True)
    data = {"name": str(yard), "val_split": "val"}
    info = small_info(test.classes, model=FAST.model, data=data)
    train = info.recipe.train.model_copy(update={"keep": "last"})
    write_info(
        final, info.model_copy(update={"recipe": info.recipe.model_copy(update={"train": train})})
    )
    save_weights(final, models.build(FAST.model, 2, 3).state_dict())
    append_line(final / "metrics.jsonl", {"step": 10, "val_miou": 0.5})
    for name, content in {
        "fit.json": json.dumps(facts() | {"steps": 1}),
        "weights.safetensors": "old",
    }.items():
        (out / name).write_text(content)
    append_line(out / "evaluations.jsonl", LOOK)

    def export(run, format, **how):
        (file := run.path / "export" / "model.onnx").parent.mkdir()
        file.write_text("a file")
        return ExportReport(file, format, 6, None)

    monkeypatch.setattr(delivery, "export", export)
    monkeypatch.setattr(delivery, "time_file", lambda file, image, name: timing(*name[:2], 6.0))
    plan = replace(fit_plan(yard), finals=(FinalTraining(FAST.name, 1.0, 10, 2),))

    def go_on(plan=plan, watched=(), *, left=math.inf, accept=False):
        Fingerprint.of({name: open_dataset(str(yard), name) for name in ("train", "val")}).save(
            final / "data.json"
        )
        watch = Watch(plan, FAST, 0.0, tmp_path / "aside", said)
        watch.timings = list(watched)
        now = time.monotonic()
        state, job = read_state(plan, out), FitJob(out, now, None, said)
        state = replace(state, scores={FAST.name: 0.5})
        return deliver(state, FAST, watch, job, now + left, accept=accept), out, said.messages

    said, go_on.yard, go_on.out, go_on.test, go_on.plan = Silent(), yard.parent, out, test, plan
    return go_on


def test_a_model_is_delivered_with_its_score_and_earlier_looks_at_test_still_count(delivered):
    found, out, _ = delivered()
    assert found.facts["chosen"]["miou_test"] > 0
    assert (out / "weights.safetensors").stat().st_size > 1000
    assert len(found.run.evaluations()) == 2
    assert "evaluated on the split 2 times" in (out / "card.md").read_text()
    assert json.loads((out / "scores.json").read_text())["split"] == "test"
    assert list((out / "examples").glob("*.webp"))
    assert not (out / "trials" / "draft").exists()


@pytest.mark.parametrize(("format", "told"), [("onnx", None), ("onnx-int8", Path("data"))])
def test_where_the_dataset_lies_is_told_only_to_an_export_that_looks_at_it(
    delivered, monkeypatch, format, told
):
    def export(run, format, settings, **how):
        assert settings.data_root == told
        raise ExportError("seen")

    monkeypatch.setattr(delivery, "export", export)
    plan = delivered.plan
    config, parts = replace(plan.config, format=format), replace(plan.splits, root="data")
    with pytest.raises(FeathersegError, match="seen"):
        delivered(replace(plan, config=config, splits=parts))


@pytest.mark.seconds
@pytest.mark.parametrize("fault", ["trained on", "damaged", "another value"])
def test_a_model_whose_test_images_cannot_be_scored_is_delivered_all_the_same(delivered, fault):
    image, mask = (
        delivered.yard / part / f"{delivered.test.keys[0]}.png" for part in ("images", "masks")
    )
    if fault == "trained on":
        first = open_dataset(str(delivered.yard), "train").keys[0]
        shutil.copyfile(delivered.yard / "images" / f"{first}.png", image)
    elif fault == "damaged":
        os.truncate(image, 200)
    else:
        Image.fromarray(np.full((64, 96), 7, np.uint8)).save(mask)
    found, out, said = delivered()
    assert (found.facts["chosen"]["miou_test"], found.facts["chosen"]["interval"]) == (None, None)
    assert any("delivered without a score on test" in text for text in said)
    assert json.loads((out / "fit.json").read_text())["steps"] == 10
    assert found.file.is_file()


@pytest.mark.seconds
def test_a_score_of_images_without_a_labelled_pixel_is_none(delivered):
    toml = delivered.yard / "dataset.toml"
    toml.write_text(toml.read_text() + '255 = "ignore"\n')
    for key in delivered.test.keys:
        Image.fromarray(np.full((64, 96), 255, np.uint8)).save(
            delivered.yard / "masks" / f"{key}.png"
        )
    found, out, said = delivered()
    assert (found.facts["chosen"]["miou_test"], found.facts["chosen"]["interval"]) == (None, None)
    assert "it is delivered without a score on test: no pixel there is labelled" in said
    told = "mIoU 50.00 % on the images it was chosen by, as no others could be scored"
    assert summary(found.facts).endswith(told)
    page = (out / "fit.html").read_text()
    assert told in page
    assert "The score on test images" not in page


@pytest.mark.seconds
def test_a_fit_that_was_killed_before_its_card_is_not_finished(delivered, monkeypatch):
    def killed(run):
        raise KeyboardInterrupt

    write_card = delivery.write_card
    monkeypatch.setattr(delivery, "write_card", killed)
    with pytest.raises(KeyboardInterrupt):
        delivered()
    assert not (delivered.out / "fit.json").exists()
    monkeypatch.setattr(delivery, "write_card", write_card)
    _, out, _ = delivered()
    assert (out / "fit.json").is_file()
    assert "selected on these images" in (out / "card.md").read_text()


@pytest.mark.seconds
def test_the_page_tells_the_steps_in_which_the_rate_fell(delivered):
    page = " ".join(delivered()[0].page.read_text().split())
    assert "The rate of the chosen one fell in the last 2 of its 10 steps." in page
    assert "The score on test images is the only one" in page


def test_what_was_delivered_before_stays_where_the_next_cannot_be_scored_for_want_of_memory(
    delivered, monkeypatch
):
    def evaluate(*given, **how):
        raise MemoryError

    monkeypatch.setattr(delivery, "evaluate", evaluate)
    out = delivered.out
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    with pytest.raises(MemoryError):
        delivered()
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_a_file_that_cannot_be_timed_gives_way_to_the_next(delivered, monkeypatch):
    def time_file(*given):
        raise RunError("it could not be timed: it ended with status -9")

    monkeypatch.setattr(delivery, "time_file", time_file)
    with pytest.raises(Undelivered, match=r"its run is .*-to-10, but .* status -9") as error:
        delivered()
    assert (error.value.reason, error.value.over_ms) == ("its file could not be timed", None)
    assert not (delivered.out / "trials" / "draft").exists()


@pytest.mark.seconds
def test_what_its_file_took_while_it_trained_counts_as_well(delivered):
    found, _, _ = delivered(watched=[timing(FAST.model, p50=ms) for ms in (7.0, 19.5)])
    chosen = found.facts["chosen"]
    assert chosen["timings_ms"] == [5.0, 7.0, 19.5, 6.0, 6.0, 6.0]
    assert chosen["latency_ms"]["p50"] == 19.5


def test_one_that_was_over_the_limit_while_it_trained_is_not_even_exported(delivered, monkeypatch):
    monkeypatch.delattr(delivery, "export")
    with pytest.raises(Undelivered, match=r"took 20\.5 ms .* over the limit of 20 ms") as error:
        delivered(watched=[timing(FAST.model, p50=ms) for ms in (7.0, 20.5, 6.0)])
    assert error.value.over_ms == 20.5


@pytest.mark.seconds
def test_one_over_the_limit_is_delivered_where_that_is_accepted_and_says_by_how_much(
    delivered, monkeypatch
):
    found, out, _ = delivered()
    assert [found.facts[key] for key in ("limit_kept", "latency_over_ms", "memory_over_mib")] == [
        True,
        0.0,
        0.0,
    ]
    assert "The limit is not kept" not in found.page.read_text()

    plan = replace(
        delivered.plan, config=replace(delivered.plan.config, max_mib=200.0)
    )  # the file takes 300
    found, out, _ = delivered(plan, watched=[timing(FAST.model, p50=25.2)], accept=True)
    assert [found.facts[key] for key in ("limit_kept", "latency_over_ms", "memory_over_mib")] == [
        False,
        5.2,
        100.0,
    ]
    assert not found.limit_kept
    assert read_fit(out)["chosen"]["latency_ms"]["p50"] == 25.2
    assert read_plan(out / "plan.json").over_limit == FAST.name
    page = " ".join(found.page.read_text().split())
    over = "5.2 ms (26%) over the limit of 20 ms and 100 MiB over the limit of 200 MiB"
    assert f"The limit is not kept: the file is {over} in the worst of its timings." in page
    assert (
        choose_again(found.facts | {"max_mib": None}, 26.0) == []
    )  # it has nothing to spare there
    assert [row["status"] for row in choose_again(found.facts | {"max_mib": None}, 30.0)] == [
        "chosen"
    ]


@pytest.mark.seconds
def test_where_the_hours_are_over_one_timing_and_no_score_on_test_have_to_do(delivered):
    found, out, said = delivered(left=-3600.0)
    assert found.facts["chosen"]["timings_ms"] == [5.0, 6.0]
    assert (found.facts["chosen"]["miou_test"], found.facts["limit_kept"]) == (None, True)
    assert any(
        f"without a score on test: its hours are over. Score it: featherseg evaluate {out}" in x
        for x in said
    )
    assert len((out / "evaluations.jsonl").read_text().splitlines()) == 1


@pytest.mark.seconds
def test_the_page_tells_that_the_hours_ended_the_training(delivered):
    stopped = replace(delivered.plan, finals=(FinalTraining(FAST.name, 1.0, 14, 6, 10),))
    shutil.copytree(final_folder(delivered.out, FAST, 10), final_folder(delivered.out, FAST, 14))
    found, _, _ = delivered(stopped)
    assert [found.facts[key] for key in ("steps", "decay_steps", "steps_planned")] == [10, 2, 14]
    page = " ".join(found.page.read_text().split())
    assert (
        "fell in the last 2 of its 10 steps. "
        "The hours ended its training there: 14 steps were planned." in page
    )


@pytest.mark.seconds
@pytest.mark.parametrize(("slowest", "over_ms"), [(24.0, None), (28.0, 21.0)])
def test_for_smaller_images_it_must_keep_the_limit_when_the_machine_is_slow(
    delivered, monkeypatch, slowest, over_ms
):
    monkeypatch.setattr(delivery, "score_val", lambda *asked: 0.4)
    monkeypatch.setattr(delivery, "time_file", lambda file, image, name: timing(*name[:2], 6.0))
    monkeypatch.setattr(Watch, "time", lambda self: timing(FAST.model, p50=8.0))
    plan = replace(delivered.plan, shrunk={FAST.name: 0.8})
    watched = [timing(FAST.model, p50=ms) for ms in (8.0, slowest)]
    if over_ms is None:
        found, _, said = delivered(plan, watched)
        assert found.facts["chosen"]["timings_ms"] == [6.0] * 3
        assert found.facts["chosen"]["latency_ms"]["p50"] == 6.0
        assert (
            f"{FAST.model} at 0.8: about 18.0 ms when this machine is as slow as it was at times"
            in said
        )
    else:
        with pytest.raises(Undelivered) as error:
            delivered(plan, watched)
        assert error.value.over_ms == pytest.approx(over_ms)
