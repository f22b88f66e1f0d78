"""`fit` beside its trainings: what it refuses, times, decides, keeps and shows."""

import json
import math
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from fit_plans import FAST, SLOW, made, timing, write_yard
from PIL import Image
from small_training import Silent

import featherseg
from featherseg.cli import main
from featherseg.core.errors import ConfigError, DataError, FeathersegError, RunError, TrainingError
from featherseg.core.files import locked
from featherseg.data import open_dataset
from featherseg.fitting import beginning, feasible, latency, session, trials
from featherseg.fitting.bundle import read_latency
from featherseg.fitting.candidates import MODELS, SCALES, Offer, offers, resize_of, settings_of
from featherseg.fitting.latency import SPARE, median_interval
from featherseg.fitting.page import fit_html, outlook
from featherseg.fitting.parts import find_parts
from featherseg.fitting.plan import MOST, Candidate
from featherseg.fitting.record import read_plan
from featherseg.fitting.results import choose_again, read_fit
from featherseg.fitting.session import FitSettings, halve, train_to_the_end
from featherseg.fitting.trials import Segment, Workers
from featherseg.models import MODELS as CATALOGUE

ALONE = Workers(None, 1, 1)

SPLITS = "train = 0.6\nval = 0.2\ntest = 0.2"


# What may be chosen


def test_offers_are_models_of_the_catalogue_at_scales_the_cheapest_first():
    assert set(MODELS) <= set(CATALOGUE)
    found = offers((400, 600))
    assert {offer.scale for offer in found} == set(SCALES)
    assert [offer.macs for offer in found] == sorted(offer.macs for offer in found)
    assert {offer.scale for offer in offers((360, 480))} == {*SCALES, 1.5, 2.0}
    assert {offer.scale for offer in offers((70, 70))} == {1.0, 1.5, 2.0}  # no side below 64 pixels
    assert {offer.scale for offer in offers((40, 40))} == {2.0}


def test_a_candidate_is_trained_at_its_scale_at_a_constant_rate():
    assert resize_of(0.5, (360, 480)) == (180, 240)
    assert resize_of(1.0, (360, 480)) is None
    assert resize_of(1.0, (480, 360), whole=False) == (360, 480)
    found = settings_of("frm-lite0", (180, 240), (720, 960), {"name": "shapes", "root": None})
    assert found["augment.crop"] == (180, 240)
    assert found["augment.resize"] == found["data.test_resize"] == (180, 240)
    assert found["train.schedule"] == "stable"
    assert "data.root" not in found


# Which keep the limit


def measured(monkeypatch, speed, max_ms, hours=100.0, pace=1.0):
    """Timings that are taken where a multiply-accumulate takes `speed`, a timing `pace` seconds; -> them, all."""
    now = [0.0]
    monkeypatch.setattr(feasible.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(feasible, "guess_speed", lambda: 1.7 * speed)  # no guess is right
    choice = offers((100, 100))

    def measure(offer):
        now[0] += pace
        return timing(offer.model, offer.scale, offer.macs * 1e4 * speed)

    config = made(max_ms=max_ms, hours=hours).config
    found = feasible.time_offers(choice, config, (100, 100), measure, 0.0, Silent())
    assert len({(t.model, t.scale) for t in found}) == len(found)
    return found, {offer.name: offer.macs * 1e4 * speed for offer in choice}


@pytest.mark.parametrize("max_ms", [3.0, 10.0, 40.0, 1000.0])
def test_those_that_just_keep_the_limit_are_timed(monkeypatch, max_ms):
    cheapest = min(offer.macs for offer in offers((100, 100))) * 1e4
    found, truth = measured(monkeypatch, 2.0 / cheapest, max_ms)
    kept = {t.name for t in found if t.keeps(max_ms, 50, None)}
    best = sorted((name for name, ms in truth.items() if ms <= (1 - SPARE) * max_ms), key=truth.__getitem__)
    assert kept >= set(best[-MOST + 1 :])  # the first guess may be another
    assert len(kept) == min(MOST, len(best))
    assert len(found) <= MOST + 2


def test_timing_ends_with_its_share_of_the_time_and_where_nothing_keeps_the_limit(monkeypatch):
    cheapest = min(offer.macs for offer in offers((100, 100))) * 1e4
    found, _ = measured(monkeypatch, 2.0 / cheapest, 40.0, hours=0.1, pace=10.0)
    assert 10 * len(found) <= 0.1 * 360
    found, _ = measured(monkeypatch, 2.0 / cheapest, 1.0, pace=10.0)
    assert 10 * len(found) <= 60
    assert min(t.p50 for t in found) == pytest.approx(2.0)
    assert "The fastest is frm-lite0-035-light at" in str(feasible.no_candidate(made(max_ms=1.0).config, found))


def test_a_limit_is_of_time_with_something_to_spare_and_of_memory():
    one = timing(p50=10.0, p95=19.0, memory=300.0)
    assert one.keeps(12.0, 50, None)
    assert not one.keeps(10.5, 50, None)
    assert one.keeps(10.5, 50, None, spare=0)
    assert not one.keeps(12.0, 95, None)
    assert not one.keeps(12.0, 50, 299)
    assert replace(one, memory_mib=None).keeps(12.0, 50, 299)


def test_what_was_measured_before_is_taken_where_it_is_believed(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATHERSEG_HOME", str(tmp_path))
    monkeypatch.setattr(latency, "write_untrained", lambda *given: given[-1])
    taken = iter((30.0, 12.0))
    monkeypatch.setattr(latency, "time_file", lambda file, image, name: timing(p50=next(taken)))
    given = ("frm-lite0-light", 1.0, "onnx"), (), None, np.zeros((8, 8, 3), np.uint8), ()
    assert latency.time_candidate(*given).p50 == 30.0
    assert latency.time_candidate(*given).p50 == 30.0
    assert latency.time_candidate(*given, lambda t: t.p50 < 20).p50 == 12.0  # nothing ran beside it this time
    assert latency.time_candidate(*given, lambda t: t.p50 < 20).p50 == 12.0


def test_the_interval_of_the_median_holds_it_in_95_of_100():
    rng = np.random.default_rng(0)
    for count in (30, 101):
        found = [median_interval(rng.exponential(size=count).tolist()) for _ in range(2000)]
        inside = np.mean([low <= math.log(2) <= high for low, high in found])
        assert 0.94 <= inside <= 0.99


# Splits


def test_a_tenth_of_train_becomes_val_and_test_where_there_are_none(tmp_path):
    write_yard(tmp_path / "yard", splits="train = 1.0")
    parts, said = find_parts(str(tmp_path / "yard"), None, tmp_path)
    assert "10% of train became val and test" in said[0]
    root = tmp_path / "yard"
    keys = [set(open_dataset(parts.name, split, root).keys) for split in ("train", "val", "test")]
    assert [len(one) for one in keys] == [24, 3, 3]
    assert len(set.union(*keys)) == 30


@pytest.mark.parametrize(
    ("images", "splits"),
    [
        (30, "train = 0.8\ntest = 0.2"),
        (30, "test = 0.2\ntrain = 0.8"),
        (30, "val = 0.2\ntrain = 0.8"),
        (510, "train = 0.8\ntest = 0.2"),
    ],
)
def test_images_that_were_set_aside_stay_what_they_are(tmp_path, splits, images):
    toml = write_yard(tmp_path / "yard", images, splits)
    parts, said = find_parts(str(toml), None, tmp_path)
    there = "val" if "val" in splits else "test"
    assert "10% of train became" in said[0]
    assert open_dataset(parts.name, there, tmp_path / "yard").keys == open_dataset(str(toml), there).keys
    train = {name: set(open_dataset(parts.name, name, tmp_path / "yard").keys) for name in ("train", "val", "test")}
    del train[there]
    assert set.union(*train.values()) == set(open_dataset(str(toml), "train").keys)


def test_splits_that_are_there_are_taken_as_they_are(tmp_path):
    toml = write_yard(tmp_path, splits="train = 0.6\nval = 0.2\ntest = 0.2")
    parts, said = find_parts(str(toml), None, tmp_path / "out")
    assert (parts.name, parts.test, said) == (str(toml), "test", [])
    parts, _ = find_parts("shapes", None, tmp_path)
    assert parts.test == "test"


# Decisions


class Scored:
    """An executor that trains nothing: scores by model and step."""

    def __init__(self, score):
        self.score, self.asked = score, []

    def __call__(self, segments, reporter):
        self.asked += [(s.recipe, s.steps, s.decay, s.source) for s in segments]
        return [self.score(s) for s in segments]


def test_the_better_one_goes_on_and_the_faster_one_where_they_are_level(tmp_path):
    for slow, fast, winner in ((0.6, 0.5, SLOW), (0.5, 0.6, FAST), (0.503, 0.5, FAST)):
        execute = Scored(lambda s, slow=slow, fast=fast: slow if s.recipe == SLOW.model else fast)
        found, scores = halve(made(), tmp_path, execute, Silent())
        assert found == winner
        assert scores == {SLOW.name: slow, FAST.name: fast}
        assert [steps for _, steps, _, _ in execute.asked] == [4, 4]


def test_a_training_that_fails_drops_its_candidate(tmp_path):
    found, _ = halve(made(), tmp_path, Scored(lambda s: math.nan if s.recipe == SLOW.model else 0.1), Silent())
    assert found == FAST
    with pytest.raises(TrainingError, match="no candidate of rung 1"):
        halve(made(), tmp_path, Scored(lambda s: math.nan), Silent())


def test_a_given_plan_is_carried_out_to_the_letter(tmp_path):
    execute = Scored(lambda s: 0.5)
    final, kept = train_to_the_end(made(given=True), SLOW, tmp_path, 0.0, execute, Silent())
    trial = tmp_path / "trials" / "frm-lite0-light-1"
    assert execute.asked == [(SLOW.model, 8, 0, None), (SLOW.model, 10, 2, trial)]
    assert final == tmp_path / "trials" / "frm-lite0-light-1-to-10"
    assert read_plan(tmp_path / "plan.json") == kept
    assert kept.finals == {SLOW.name: (10, 2)}


def test_a_value_without_a_class_is_said_before_anything_is_timed(tmp_path, monkeypatch):
    path = write_yard(tmp_path / "yard", splits=SPLITS)
    Image.fromarray(np.full((64, 96), 7, np.uint8)).save(tmp_path / "yard" / "masks" / "017x.png")
    monkeypatch.setattr(beginning, "time_offers", None)
    with pytest.raises(DataError, match=r"017x.png.*7"):
        featherseg.fit(path, 20.0, out=tmp_path / "out", hours=0.1)
    assert not (tmp_path / "out").exists()


def test_a_given_plan_is_of_the_same_files_and_images(tmp_path):
    config, given = made(max_ms=20.0, hours=0.1).config, made()
    for other, message in ((config, "images of 64x96"), (replace(config, format="torch-export"), "of onnx files")):
        with pytest.raises(ConfigError, match=message):
            beginning.begin(other, tmp_path, time.monotonic(), None, given, ALONE, Silent())
    there = replace(config, data=str(write_yard(tmp_path / "yard", splits=SPLITS)), max_ms=10.0)
    with pytest.raises(ConfigError, match=r"over the limits by the plan: frm-lite0-light at 1\. Fit"):
        beginning.begin(there, tmp_path, time.monotonic(), None, given, ALONE, Silent())
    measured = answer(tmp_path / "latency.json", 5.0)
    with pytest.raises(ConfigError, match="Give one of them"):
        beginning.begin(config, tmp_path, time.monotonic(), measured, given, ALONE, Silent())


def test_the_last_one_gets_the_time_that_is_left(tmp_path, monkeypatch):
    plan = made(hours=1.0)
    monkeypatch.setattr("featherseg.fitting.session.time.monotonic", lambda: 1000.0)
    _, kept = train_to_the_end(plan, SLOW, tmp_path, 0.0, Scored(lambda s: 0.5), Silent())
    steps, decay = kept.finals[SLOW.name]
    assert steps == int((3600 - 1000 - 30 - 2) / 0.2)
    assert decay == int(0.2 * steps)
    _, again = train_to_the_end(kept, SLOW, tmp_path, -2000.0, Scored(lambda s: 0.5), Silent())
    assert again.finals == kept.finals  # once begun it stays


def test_so_little_more_time_that_the_model_would_train_for_less_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("featherseg.fitting.session.time.monotonic", lambda: 1000.0)
    facts = {"chosen": {}, "candidates": [], "limit_ms": 20.0, "percentile": 50, "steps": 14_000}
    (tmp_path / "fit.json").write_text(json.dumps(facts))
    plan = made(hours=1.0)
    with pytest.raises(ConfigError, match=r"would get 12840 steps, and it was delivered with 14000, .* at least 1\.08"):
        train_to_the_end(plan, SLOW, tmp_path, 0.0, Scored(lambda s: 0.5), Silent())
    longer = replace(plan, config=replace(plan.config, hours=1.08))
    _, kept = train_to_the_end(longer, SLOW, tmp_path, 0.0, Scored(lambda s: 0.5), Silent())
    assert kept.finals[SLOW.name][0] > 14_000
    with pytest.raises(ConfigError, match="would get 1 steps") as refused:  # its hours are over
        train_to_the_end(plan, SLOW, tmp_path, -3000.0, Scored(lambda s: 0.5), Silent())
    least = float(re.search(r"at least (\S+)\.$", str(refused.value))[1])
    longer = replace(plan, config=replace(plan.config, hours=least))
    _, kept = train_to_the_end(longer, SLOW, tmp_path, -3000.0, Scored(lambda s: 0.5), Silent())
    assert 14_000 < kept.finals[SLOW.name][0] < 14_500


def test_what_a_killed_fit_took_counts(tmp_path):
    with session._counted(tmp_path, time.monotonic() - 100):
        pass
    assert 100 <= session._spent(tmp_path, made()) < 101
    for damaged in ("[]", '{"seconds": 1e300}', '{"seconds": -1}', '{"seconds": NaN}'):
        (tmp_path / "spent.json").write_text(damaged)
        assert session._spent(tmp_path, made()) == 10.0


def test_a_second_fit_of_a_folder_takes_nothing_from_the_first(tmp_path):
    path, out = write_yard(tmp_path / "yard", splits=SPLITS), tmp_path / "out"
    out.mkdir()
    (out / "dataset.toml").write_text("the first one's")
    with locked(out / ".fit.lock", RunError("taken")), pytest.raises(RunError, match="another process fits in"):
        featherseg.fit(path, 20.0, out=out)
    assert (out / "dataset.toml").read_text() == "the first one's"


def test_a_candidate_without_room_in_the_memory_is_dropped(tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise ConfigError("a step takes more memory than there is")

    monkeypatch.setattr(trials, "train", refuse)
    said = Silent()
    segment = Segment(tmp_path / "trials" / "frm-lite0-1", "frm-lite0", (), 4)
    assert math.isnan(trials.carry_out([segment], said)[0])
    assert said.messages == ["frm-lite0-1 is dropped: a step takes more memory than there is"]


# Another device


def answer(path, light_ms):
    """A latency.json: what the two candidates and the others take there."""
    rows = [timing(FAST.model, p50=5.0), timing(SLOW.model, p50=light_ms), timing(SLOW.model, 0.5, p50=19.0)]
    rows += [timing(SLOW.model, p50=1.0, format="openvino")]
    content = {"format_version": 1, "device": "a board", "threads": 4, "runtimes": {"onnx": "onnxruntime 1"}}
    content |= {"date": "2026-11-22", "image_size": [256, 512], "bundle": "0" * 16}
    path.write_text(json.dumps(content | {"candidates": [row.as_dict() | {"passes": 30} for row in rows]}))
    return read_latency(path)


@pytest.mark.parametrize(("light_ms", "trained"), [(15.0, SLOW.name), (50.0, FAST.name)])
def test_the_choice_is_for_the_device_that_was_measured(tmp_path, monkeypatch, light_ms, trained):
    monkeypatch.setattr(beginning, "_pace", lambda *rest: (0.1, 0.01))
    monkeypatch.setattr(beginning, "time_candidate", None)  # nothing is timed here
    measured = answer(tmp_path / "latency.json", light_ms)
    config = made(max_ms=20.0, hours=0.02).config
    other = replace(config, image_size=(64, 96))
    with pytest.raises(ConfigError, match="--image-size 64x96, but the device measured images of 256x512"):
        beginning.begin(other, tmp_path, time.monotonic(), measured, None, ALONE, Silent())
    plan = beginning.begin(config, tmp_path, time.monotonic(), measured, None, ALONE, Silent())
    assert [one.name for one in plan.plan.candidates] == [trained]
    assert (plan.device, plan.threads, plan.elsewhere) == ("a board", 4, True)
    with pytest.raises(ConfigError, match="holds no ncnn, but onnx, openvino"):
        beginning.begin(replace(config, format="ncnn"), tmp_path, time.monotonic(), measured, None, ALONE, Silent())


def test_an_option_that_is_of_no_use_is_refused(monkeypatch, tmp_path, capsys):
    for words, message in (
        (["--show", "--hours", "2"], "--show makes no use of --hours"),
        (["--confirm", "a.json", "--format", "ncnn"], "--confirm makes no use of --format"),
        (["--measure", "--max-ms", "5"], "--measure makes no use of --max-ms"),
        (["--resume", "--percentile", "95"], "--resume makes no use of --percentile"),
    ):
        monkeypatch.setattr("sys.argv", ["featherseg", "fit", *words, "--out", str(tmp_path / "x")])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


# Records


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = made(rungs=((4, 1),), image_size=(64, 96))
    plan.write(tmp_path)
    assert read_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", 99),
        ("candidates", [{"model": "../x", "scale": 1, "latency_ms": 1, "step_seconds": 1}]),
        ("candidates", [{"model": "frm-lite0", "scale": -1, "latency_ms": 1, "step_seconds": 1}]),
        ("rungs", [{"steps": {}, "keep": 1}]),
        ("rungs", []),
        ("final", {SLOW.name: [10**12, 0], FAST.name: [1, 0]}),
        ("final", {SLOW.name: [10, 11], FAST.name: [1, 0]}),
        ("final", {}),
        ("config", {}),
        ("timings", [{}]),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path, key, value):
    made().write(tmp_path)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(FeathersegError, match=r"no plan that can be|that fit chooses from"):
        read_plan(file)


def facts():
    rows = [
        timing("frm-lite0-035-light", p50=5.0).as_dict() | {"status": "dropped at rung 1", "miou_val": 0.5},
        timing("frm-lite0-light", p50=15.0).as_dict() | {"status": "chosen", "miou_val": 0.6},
        timing("frm-lite0", p50=40.0).as_dict() | {"status": "over the limit", "miou_val": None},
    ]
    rows = [row | {"run": f"trials/{row['model']}-1", "seconds_trained": 60.0 * bool(row["miou_val"])} for row in rows]
    chosen = timing("frm-lite0-light", p50=14.0).as_dict() | {
        "miou_val": 0.6,
        "miou_test": 0.58,
        "interval": [0.5, 0.7],
    }
    return {
        "chosen": chosen,
        "limit_ms": 20.0,
        "percentile": 50,
        "image_size": [64, 96],
        "device": "a board, <2> cores",
        "threads": 2,
        "data": "yard",
        "file": "export/model.onnx",
        "candidates": rows,
        "seconds": 130.0,
    }


def test_another_limit_is_chosen_for_from_what_was_trained():
    assert [row["model"] for row in choose_again(facts(), 50)] == ["frm-lite0-light", "frm-lite0-035-light"]
    assert [row["model"] for row in choose_again(facts(), 10)] == ["frm-lite0-035-light"]
    assert choose_again(facts(), 1) == []
    with pytest.raises(ConfigError, match="expected milliseconds above 0"):
        choose_again(facts(), 0)


def test_show_imports_nothing_heavy(tmp_path):
    (tmp_path / "fit.json").write_text(json.dumps(facts()))
    words = ["fit", "--show", "--max-ms", "10", "--out", str(tmp_path)]
    command = f"import sys; from featherseg.cli import main; sys.argv = {['featherseg', *words]!r}\ntry: main()\n"
    command += "finally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "frm-lite0-035-light at 1: 5.0 ms" in done.stdout
    assert "% (selected on these images), " in done.stdout
    assert "trials/frm-lite0-035-light-1, which was not trained to its end" in done.stdout
    assert done.stdout.endswith("False\n")


def test_the_page_tells_what_became_of_every_candidate_and_escapes_it():
    page = fit_html(facts(), {FAST.name: [(4, 0.5)], SLOW.name: [(4, 0.5), (8, 0.55), (10, 0.6)]}, made().plan)
    for text in ("over the limit", "dropped at rung 1", "a board, &lt;2&gt; cores", "mIoU 58.00 % (50.00 to 70.00)"):
        assert text in page
    assert "From step 4 to step 8, at its constant rate, the chosen model gained 5.0 points" in page
    assert "A higher limit would let in frm-lite0 at 1 first, with 40.0 ms" in page
    assert "fastest that was timed" not in page


def test_the_outlook_goes_by_the_percentile_of_the_limit_and_knows_the_fastest_by_its_name():
    content = facts() | {"percentile": 95}
    over = [row for row in content["candidates"] if row["status"] == "over the limit"]
    calm, jumpy = (
        {**over[0], "model": name, "latency_ms": {"p50": p50, "p95": p95}}
        for name, p50, p95 in (("calm", 19.0, 22.0), ("jumpy", 18.0, 40.0))
    )
    chosen = next(row for row in content["candidates"] if row["status"] == "chosen")
    content["candidates"] = [chosen, calm, jumpy]
    content["chosen"] |= {"latency_ms": {"p50": chosen["latency_ms"]["p50"] + 0.1, "p95": 21.0}}  # timed again
    said = " ".join(outlook(content, {}))
    assert "would let in calm at 1 first" in said
    assert "The chosen one is the fastest that was timed." in said


# What is refused before any work


def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path):
    cases = [
        ({"data": "shapes"}, ConfigError, "too little was said"),
        ({"data": "shapes", "max_ms": -1}, ConfigError, "milliseconds above 0"),
        ({"data": "shapes", "max_ms": 5, "hours": 0.0}, ConfigError, "hours"),
        ({"data": "shapes", "max_ms": 5, "format": "onx"}, FeathersegError, "Did you mean 'onnx'"),
        ({"data": "shapes", "max_ms": 5, "format": "tensorrt"}, FeathersegError, "run nowhere here"),
        ({"data": "shaps", "max_ms": 5}, FeathersegError, "shapes"),
        ({"data": "shapes", "max_ms": 5, "image_size": (3, 3)}, ConfigError, "image_size"),
        ({"resume": True}, ConfigError, "nothing to continue"),
    ]
    for words, kind, message in cases:
        with pytest.raises(kind, match=message):
            featherseg.fit(**words, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="expected 50 or 95"):
        FitSettings(percentile=90)
    (tmp_path / "dataset.toml").write_text("mine")
    with pytest.raises(RunError, match="already exists"):
        featherseg.fit("shaps", 5, out=tmp_path)
    assert (tmp_path / "dataset.toml").read_text() == "mine"
    (tmp_path / "mine.txt").write_text("mine")
    for resume, message in ((False, "already exists"), (True, r"holds files, but no plan\.json")):
        with pytest.raises(RunError, match=message):
            featherseg.fit("shapes", 5, out=tmp_path, resume=resume)
    assert (tmp_path / "dataset.toml").read_text() == "mine"


def test_a_resumed_fit_keeps_what_it_was_asked(tmp_path):
    made().write(tmp_path)
    with pytest.raises(ConfigError, match=r"begun with --max-ms 20\.0, and now it is 30"):
        featherseg.fit(max_ms=30, out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="begun with --format onnx, and now it is openvino"):
        featherseg.fit(format="openvino", out=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="begun with --percentile 50, and now it is 95"):
        featherseg.fit(out=tmp_path, resume=True, settings=FitSettings(percentile=95))
    with pytest.raises(ConfigError, match="More can be given, not less"):
        featherseg.fit(hours=0.5, out=tmp_path, resume=True)
    with pytest.raises(RunError, match="already exists"):
        featherseg.fit("shapes", 20, out=tmp_path)
    with pytest.raises(RunError, match="has not ended"):
        read_fit(tmp_path)


def test_segments_are_plain_values():
    import pickle

    segment = Segment(__import__("pathlib").Path("a"), "frm-lite0", ("train.steps=1",), 5)
    assert pickle.loads(pickle.dumps(segment)) == segment
    assert Offer("frm-lite0", 0.5, 1.0).name == Candidate("frm-lite0", 0.5, 0, 0).name
