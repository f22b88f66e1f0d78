"""`featherseg fit` with real trainings: one that is killed and resumed ends as one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from support.models.fit_plans import FAST, begin_planned, timing, write_yard
from support.models.small_training import Silent

import featherseg
from featherseg.core.errors import ConfigError, ExportError, RunError
from featherseg.fitting import delivery, watch
from featherseg.runs.run import load_run
from featherseg.training import job

pytestmark = pytest.mark.slow

PLAN = {"rungs": ((3, 1),), "final": 8, "decay": 3}
"""Steps: both to 3, the better one to 8, of which 3 at a falling rate."""

ALONE = {"candidates": (FAST,), "rungs": (), "final": 2, "decay": 1}
"""One candidate that takes two steps."""


@pytest.fixture(scope="module")
def yard(tmp_path_factory):
    return write_yard(tmp_path_factory.mktemp("data") / "yard", splits="train = 1.0")


def command(out, *words):
    return [sys.executable, "-m", "featherseg", "fit", "--resume", *words, "--out", str(out)]


def take(patch, ms):
    """Files take so long, by the scale of their images, whenever they are timed."""
    for module in (delivery, watch):
        patch.setattr(module, "time_file", lambda file, image, name: timing(*name[:2], ms(name[1])))


def weights(out):
    return (out / "weights.safetensors").read_bytes()


def decided(out):
    facts = json.loads((out / "fit.json").read_text())
    rows = [
        {key: row[key] for key in ("model", "scale", "status", "miou_val")}
        for row in facts["candidates"]
    ]
    return facts["chosen"]["model"], facts["chosen"]["miou_test"], rows


def test_a_fit_that_was_killed_ten_times_ends_as_one_that_was_not(yard, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = tmp_path / "whole"
    begin_planned(yard, whole, max_ms=1000.0, **PLAN)
    began = time.monotonic()
    subprocess.run(command(whole), check=True, env=environment, timeout=900)
    seconds = time.monotonic() - began

    # Ten random kills over as many fits as end between them; each equals the one without a kill
    rng, kills, killed = random.Random(0), 0, [tmp_path / "killed-0"]
    while True:
        out = killed[-1]
        if not out.exists():
            begin_planned(yard, out, max_ms=1000.0, **PLAN)
        running = subprocess.Popen(command(out), env=environment)
        try:
            code = running.wait(rng.uniform(0.2, 0.7) * seconds if kills < 10 else 900)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
            kills += 1
            continue
        assert code == 0
        assert decided(out) == decided(whole)
        assert weights(out) == weights(whole)
        if kills == 10:
            break
        killed.append(tmp_path / f"killed-{len(killed)}")
    assert "selected on these images" in (whole / "card.md").read_text()

    # The delivered folder is a run with its file; both give one mask
    image = Image.open(next((yard.parent / "images").iterdir()))
    masks = [
        featherseg.Predictor(path)(image).mask for path in (whole, whole / "export" / "model.onnx")
    ]
    assert (masks[0] == masks[1]).mean() > 0.999
    assert json.loads((whole / "fit.json").read_text())["chosen"]["miou_test"] > 0.2

    # More hours give the chosen one more steps; what is there stays until they are done
    before = json.loads((whole / "fit.json").read_text())["steps"]
    assert json.loads((whole / "spent.json").read_text())["seconds"] > 10
    (whole / "spent.json").write_text(json.dumps({"seconds": 3600.0 - 60}))
    subprocess.run(command(whole, "--hours", "1.02"), check=True, env=environment, timeout=900)
    after = json.loads((whole / "fit.json").read_text())
    assert after["steps"] > before
    assert weights(whole) != weights(killed[0])


def test_trials_side_by_side_on_ray_outlive_a_worker(yard, tmp_path):
    pytest.importorskip("ray")
    out = tmp_path / "out"
    begin_planned(yard, out, max_ms=1000.0, **PLAN)
    running = subprocess.Popen(command(out, "--cluster", "local", "--workers", "2"))
    killed, together, ends = 0, 0, time.monotonic() + 600
    while running.poll() is None and time.monotonic() < ends:
        children = psutil.Process(running.pid).children(recursive=True)
        trials = [child for child in children if "_remotely" in " ".join(_command_line(child))]
        together = max(together, len(trials))
        if not killed and len(trials) == 2 and list((out / "trials").glob("*/resolved.json")):
            trials[0].kill()
            killed += 1
        time.sleep(0.2)
    assert running.wait(10) == 0
    assert killed == 1
    assert together >= 2  # one that dies may still be listed
    chosen, score, rows = decided(out)
    assert 0 < score < 1
    assert sum(row["miou_val"] is not None for row in rows) == 2
    assert chosen in [row["model"] for row in rows if row["status"] == "chosen"]


def _command_line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_file_over_the_limit_is_delivered_where_nobody_is_left_and_timed_again(
    yard, tmp_path, monkeypatch
):
    begin_planned(yard, tmp_path / "out", **ALONE)
    take(monkeypatch, lambda scale: 20.5)
    found = featherseg.fit(out=tmp_path / "out", resume=True)
    assert (found.limit_kept, found.facts["latency_over_ms"]) == (False, 0.5)
    assert found.file.is_file()
    before = weights(tmp_path / "out")
    take(monkeypatch, lambda scale: 19.5)

    # Its folder, in which the splits are that were made for it, may be moved, then and in the end
    (tmp_path / "out").rename(tmp_path / "moved")
    found = featherseg.fit(out=tmp_path / "moved", resume=True, progress=(heard := Silent()))
    assert (found.limit_kept, found.facts["chosen"]["latency_ms"]["p50"]) == (True, 19.5)
    assert weights(tmp_path / "moved") == before
    assert any(
        f"{FAST.model} took 5.0 ms once and 19.5 ms another time" in text for text in heard.messages
    )
    assert found.facts["chosen"]["timings_ms"] == [5.0, 19.5, 19.5, 19.5]
    assert found.file.is_file()
    (tmp_path / "moved").rename(tmp_path / "away")
    assert featherseg.evaluate(tmp_path / "away").miou == pytest.approx(
        found.facts["chosen"]["miou_test"], abs=1e-6
    )


def test_the_chosen_model_learns_from_images_without_masks_too(tmp_path, monkeypatch):
    yard = write_yard(tmp_path / "yard", splits="train = 0.6\nval = 0.2\ntest = 0.2")
    (tmp_path / "photos").mkdir()
    others = write_yard(tmp_path / "more", images=40).parent / "images"
    for path in sorted(others.iterdir())[30:]:  # the first are those of the yard
        shutil.copy(path, tmp_path / "photos")
    out = tmp_path / "out"
    begin_planned(yard, out, **ALONE, unlabelled=str(tmp_path / "photos"))
    take(monkeypatch, lambda scale: 19.5)
    heard, labelled = Silent(), []
    label = job.record_data
    monkeypatch.setattr(
        job, "record_data", lambda *given: labelled.append(given[2:4]) or label(*given)
    )
    found = featherseg.fit(out=out, resume=True, progress=heard)
    assert found.file.is_file()
    run = load_run(out)
    assert run.recipe.data.unlabelled == str(tmp_path / "photos")
    *_, (masks, folder) = labelled
    assert masks.path.name == f"{folder.name}-masks"
    assert len(json.loads((folder / "pseudo_masks" / "index.json").read_text())["images"]) == 10
    assert not (out / "pseudo_masks").exists()
    assert run.info.loaded == masks.info.loaded


def test_what_was_delivered_stays_where_more_hours_deliver_nothing(tmp_path, monkeypatch):
    yard, out = (
        write_yard(tmp_path / "yard", splits="train = 0.6\nval = 0.2\ntest = 0.2"),
        tmp_path / "fit",
    )
    begin_planned(yard, out, **ALONE)
    take(monkeypatch, lambda scale: 19.5)
    featherseg.fit(out=out, resume=True)
    record = json.loads((out / "parity.json").read_text())["onnx"]
    assert Path(record["path"]) == out / "export" / "model.onnx"

    kept = (
        out / "fit.json",
        out / "weights.safetensors",
        out / "export" / "model.onnx",
        out / "parity.json",
    )
    before = [path.read_bytes() for path in kept]
    (out / "spent.json").write_text(
        json.dumps({"seconds": 3600 - 40})
    )  # of which 30 are kept for the delivery

    def fail(*given, **how):
        raise ExportError("int8 lost 2.3 points")

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "export", fail)
        with pytest.raises(
            RunError, match=r"its run is .*-to-\d+, but there is no file: int8 lost"
        ):
            featherseg.fit(out=out, resume=True, hours=1.001, progress=(said := Silent()))
    with monkeypatch.context() as patch:
        take(patch, lambda scale: 20.5)
        with pytest.raises(RunError, match=r"20\.5 ms .* its run is .*-to-\d+"):
            featherseg.fit(out=out, resume=True)
    assert f"{out} stays as it was delivered before" in said.messages
    assert [path.read_bytes() for path in kept] == before
    assert not (out / "trials" / "draft").exists()

    # And where it can be delivered, it is
    found = featherseg.fit(out=out, resume=True)
    assert found.facts["steps"] > 2
    assert [path.read_bytes() == old for path, old in zip(kept, before, strict=True)][:3] == [
        False
    ] * 3


def test_one_that_is_too_slow_after_its_training_is_delivered_for_smaller_images(
    yard, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    begin_planned(yard, out, **ALONE, image_size=(96, 144))
    take(monkeypatch, lambda scale: 23.0 * scale**2)
    found = featherseg.fit(out=out, resume=True)
    chosen = found.facts["chosen"]
    assert (chosen["scale"], chosen["trained_scale"]) == (0.89, 1.0)
    assert chosen["latency_ms"]["p50"] == pytest.approx(23 * 0.89**2, abs=1e-3)
    assert chosen["timings_ms"] == [pytest.approx(23 * 0.89**2, abs=1e-3)] * 3
    assert found.run.recipe.data.test_resize == (85, 128)  # no column of 32 pixels beyond
    assert featherseg.evaluate(out, split="val").miou == pytest.approx(chosen["miou_val"], abs=1e-6)
    image = Image.open(next((yard.parent / "images").iterdir()))
    masks = [featherseg.Predictor(path)(image).mask for path in (out, found.file)]
    assert (masks[0] == masks[1]).mean() > 0.999
    text = " ".join(found.page.read_text().split())
    assert "was trained as frm-lite0-half-light at 1; there its file" in text
    assert weights(out) == weights(next((out / "trials").glob("*-to-2")))


def test_a_fit_of_three_minutes_delivers_what_keeps_the_limit(tmp_path):
    out = tmp_path / "camera"
    words = ["--data", "shapes", "--max-ms", "200", "--hours", str(3 / 60)]
    subprocess.run(
        [sys.executable, "-m", "featherseg", "fit", *words, "--out", str(out)],
        check=True,
        timeout=900,
    )
    facts = json.loads((out / "fit.json").read_text())
    assert facts["chosen"]["latency_ms"]["p50"] <= facts["limit_ms"] == 200
    assert {"p50", "p95", "interval"} <= facts["chosen"]["latency_ms"].keys()
    assert 0 < facts["chosen"]["miou_test"] < 1
    assert Path(out / facts["file"]).is_file()
    assert (out / "fit.html").is_file()


def test_a_limit_that_nothing_keeps_names_the_fastest(yard, tmp_path):
    with pytest.raises(ConfigError, match=r"The fastest is frm-\S+-light\S* at \S+ with \d"):
        featherseg.fit(yard, 0.01, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
