"""A plan of a fit without its beginning, an executor without trainings, and a folder of images."""

import json
import math
from dataclasses import replace

import numpy as np
from PIL import Image

from featherseg.fitting.bundle import read_latency
from featherseg.fitting.halving import Candidate, Rung, Schedule
from featherseg.fitting.latency import Timing
from featherseg.fitting.plan import FinalTraining, FitConfig, FitPlan, Splits
from featherseg.fitting.splits import find_splits
from featherseg.fitting.state import FitState
from featherseg.fitting.trials import TrialRecord

FAST, SLOW = (
    Candidate("frm-lite0-half-light", 1.0, 5.0, 0.1),
    Candidate("frm-lite0-light", 1.0, 15.0, 0.2),
)


def timing(model="frm-lite0-light", scale=1.0, p50=15.0, *, p95=None, memory=300.0, format="onnx"):
    return Timing(model, scale, format, p50, p95 or 1.5 * p50, 0.9 * p50, 1.1 * p50, memory, 12.5)


def fit_plan(
    data="shapes", *, candidates=(SLOW, FAST), rungs=((4, 1),), final=10, root=None, **config
):
    """The plan of candidates out of FAST and SLOW; rungs: (steps, how many stay)."""
    values = {
        "data": str(data),
        "data_root": None,
        "max_ms": 20.0,
        "percentile": 50,
        "max_mib": None,
        "hours": 1.0,
    }
    values |= {"format": "onnx", "image_size": None, "device": "cpu"} | config
    names = [one.name for one in candidates]
    schedule = Schedule(
        candidates,
        tuple(Rung(dict.fromkeys(names, steps), keep) for steps, keep in rungs),
        dict.fromkeys(names, final),
    )
    return FitPlan(
        FitConfig(**values),
        Splits(str(data), root),
        device="a board, 2 cores",
        threads=2,
        image_size=(64, 96),
        train_size=(64, 96),
        timings=(
            timing(FAST.model, p50=5.0),
            timing(SLOW.model, p50=15.0),
            timing("frm-lite0", p50=40.0),
        ),
        schedule=schedule,
        spent=10.0,
        ending=30.0,
        validating=1.0,
        opening=0.0,
    )


class Scored:
    """An executor that trains nothing: scores by segment. It keeps what it was asked for."""

    def __init__(self, score):
        self.score, self.asked = score, []

    def __call__(self, segments, reporter):
        self.asked += [(s.recipe, s.steps, s.decay, s.source) for s in segments]
        return [self.record(segment) for segment in segments]

    def record(self, segment):
        score = self.score(segment)
        failed = segment.steps if math.isnan(score) else None
        return TrialRecord(segment.steps, {segment.steps: score}, (), failed)


def trained(step, pace=0.0, threads=1):
    """Return the record of a trial at a step; each took `pace` seconds, 0 if unknown."""
    part = {"steps": 2, "stepping": pace, "seconds": pace, "threads": threads}
    return TrialRecord(step, {}, (part,) if pace else ())


def state_of(plan, ranking=(), **trials):
    """The state of a fit with such a plan; trials: records by folder names with _ for -."""
    return FitState(
        plan, {name.replace("_", "-"): one for name, one in trials.items()}, None, tuple(ranking)
    )


def begin_planned(yard, out, decay, **config):
    """Leave `out` as a fit with all its steps decided, so that --resume times nothing."""
    plan, (parts, _) = fit_plan(yard, **config), find_splits(str(yard), None, out)
    finals = [
        FinalTraining(one.name, plan.config.hours, plan.schedule.final[one.name], decay)
        for one in plan.schedule.candidates
    ]
    size = plan.config.image_size or plan.image_size
    replace(plan, splits=parts, image_size=size, finals=tuple(finals)).write(out)


def write_yard(folder, images=30, splits='train = "images/"'):
    """Write images with a bright box each, masks of the boxes, and a dataset.toml."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        label = np.zeros((64, 96), np.uint8)
        top, left = rng.integers(0, 40, 2)
        label[top : top + 20, left : left + 30] = 1
        image = rng.integers(0, 80, (64, 96, 3), dtype=np.uint8) + 120 * label[..., None]
        Image.fromarray(image).save(folder / "images" / f"{number:03d}x.png")
        Image.fromarray(label).save(folder / "masks" / f"{number:03d}x.png")
    (folder / "dataset.toml").write_text(
        'name = "yard"\nimages = "images"\nmasks = "masks"\nsplit_by = "image"\n'
        'classes = ["ground", "box"]\n'
        f'[splits]\n{splits}\n[map]\n0 = "ground"\n1 = "box"\n'
    )
    return folder / "dataset.toml"


def answer(path, light_ms):
    """A latency.json: what the two candidates and the others take there."""
    rows = [
        timing(FAST.model, p50=5.0),
        timing(SLOW.model, p50=light_ms),
        timing(SLOW.model, 0.5, p50=19.0),
    ]
    rows += [timing(SLOW.model, p50=1.0, format="openvino")]
    content = {
        "format_version": 1,
        "device": "a board",
        "threads": 4,
        "runtimes": {"onnx": "onnxruntime 1"},
    }
    content |= {"date": "2026-11-22", "image_size": [256, 512], "bundle": "0" * 16}
    path.write_text(
        json.dumps(content | {"candidates": [row.as_dict() | {"passes": 30} for row in rows]})
    )
    return read_latency(path)


def facts():
    """What fit.json holds of a fit of these."""
    rows = [
        timing("frm-lite0-half-light", p50=5.0).as_dict()
        | {"status": "dropped at rung 1", "miou_val": 0.5},
        timing("frm-lite0-light", p50=15.0).as_dict() | {"status": "chosen", "miou_val": 0.6},
        timing("frm-lite0", p50=40.0).as_dict() | {"status": "over the limit", "miou_val": None},
    ]
    rows = [
        row | {"run": f"trials/{row['model']}-1", "seconds_trained": 60.0 * bool(row["miou_val"])}
        for row in rows
    ]
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
        "steps": 10,
        "candidates": rows,
        "seconds": 130.0,
    }
