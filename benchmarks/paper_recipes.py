"""Run the papers' recipes at their real crop on generated images: memory, step time, total hours.

    python benchmarks/paper_recipes.py [RECIPE ...] [--steps 3] [--batch 2] [--device cpu] [--files]
    python benchmarks/paper_recipes.py --steps 50 --batch 0 --device cuda  # 0: the recipe's batch
    python benchmarks/paper_recipes.py --table

Every setting is the recipe's except the batch and the number of steps. Backbones start from random
weights. The images are noise with squares of every class, of the dataset's size, generated in
memory without decoding; --files reads smooth JPEGs and PNG masks from disk instead. Each recipe
runs in its own process. The first step and the validating step are not timed. `waiting` is the
share of the time that the training waits for its loader. A loss that is not a number ends a row
with an error. Finished rows are kept in tables/paper_recipes.jsonl; the same command does what is
missing. Seconds are wall time on a GPU, processor time on a CPU. Hours are these seconds times the
steps of the full recipe times the number of these batches in one of the recipe; no full training
was run.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from against_plain import commit
from PIL import Image

from featherseg.core.files import append_line, read_lines, write_text
from featherseg.core.machine import processor
from featherseg.core.types import Sample, Size
from featherseg.data import dataset_facts
from featherseg.data.datasets.dataset_toml import DatasetToml, toml_text
from featherseg.data.images.palettes import color_text
from featherseg.recipe.reading import parse_recipe, read_recipe

TABLE = Path(__file__).parent / "tables" / "paper_recipes.jsonl"
RECIPES = (
    "frm-van-s_cityscapes",
    "frm-van-s_bdd100k",
    "cgrseg-t_ade20k",
    "rsp-lite0_cityscapes",
    "rsp-lite0-panoptic_cityscapes",
)
DATA: dict[str, tuple[Size, int]] = {
    "cityscapes": ((1024, 2048), 2975),
    "cityscapes-panoptic": ((1024, 2048), 2975),
    "bdd100k": ((720, 1280), 7000),
    "ade20k": ((512, 683), 20210),
    "camvid": ((360, 480), 367),
}
"""Size of an image, and how many there are to train on."""


class Noise:
    """Images of a dataset's size and classes, one object per thing; one image and label is kept."""

    def __init__(self, data: str, count: int) -> None:
        facts, rng = dataset_facts(data), np.random.default_rng(0)
        size = DATA[data][0]
        self.name, self.channels, self.classes, self.licence = (
            data,
            facts.channels,
            facts.classes,
            "CC0",
        )
        self.keys = [f"image {i}" for i in range(count)]
        squares = rng.integers(
            0, len(self.classes), [-(-side // 32) for side in size], dtype=np.uint8
        )
        self._label = squares.repeat(32, 0).repeat(32, 1)[: size[0], : size[1]]
        self._image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        things = np.array([info.thing for info in self.classes])[self._label]
        self._objects = np.where(things, self._label + np.int32(1), 0)

    def __len__(self) -> int:
        return len(self.keys)

    def label(self, index: int) -> np.ndarray:
        """(H, W) uint8."""
        return self._label.copy()

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            self.keys[index], self._image.copy(), self._label.copy(), self._objects.copy()
        )


def write_files(folder: Path, data: str, count: int) -> str:
    """So many JPEGs with masks, and one to validate on; -> the dataset.toml."""
    noise = Noise(data, 1)
    height, width = noise.label(0).shape
    for split, images in (("train", count), ("val", 1)):
        for part in ("images", "masks"):
            (folder / part / split).mkdir(parents=True)
        for number in range(images):
            coarse = np.random.default_rng(number).integers(
                0, 256, (height // 16, width // 16, 3), dtype=np.uint8
            )
            image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            image.save(folder / "images" / split / f"{number}.jpg", quality=90)
            Image.fromarray(noise.label(0)).save(folder / "masks" / split / f"{number}.png")
    toml = DatasetToml(
        name=data,
        images="images",
        masks="masks",
        splits={"train": "train", "val": "val"},
        classes={info.name: color_text(info.color) for info in noise.classes},
        map={str(number): info.name for number, info in enumerate(noise.classes)},
    )
    write_text(folder / "dataset.toml", toml_text(toml))
    return str(folder / "dataset.toml")


class Clock:
    """A Reporter that notes when a step ended, and how long was waited for batches until then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.spent: list[float] = []  # of processors, the loader's left out
        self.waits: list[float] = []
        self.losses: list[float] = []
        self.waited = 0.0
        iterator = torch.utils.data.dataloader._BaseDataLoaderIter
        inner = iterator.__next__

        def timed(loader: Any) -> Any:
            begin = time.perf_counter()
            try:
                return inner(loader)
            finally:
                self.waited += time.perf_counter() - begin

        iterator.__next__ = timed  # type: ignore[method-assign]

    def step(self, step: int, steps: int, record: dict[str, Any]) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        self.spent.append(time.process_time())
        self.waits.append(self.waited)
        self.losses.append(float(record["loss"]))

    def message(self, text: str) -> None:
        print(text, file=sys.stderr)

    def progress(self, *_: Any) -> None: ...


def serve(recipe: str, steps: int, batch: int, device: str, *, files: bool) -> None:
    """Train, and print what was measured as JSON."""
    from featherseg.core.allocator import keep_freed_memory
    from featherseg.training import Request, train
    from featherseg.training.objects import Objects

    keep_freed_memory()
    data = parse_recipe(read_recipe(recipe)).data.name
    # One epoch with validation at its end, so that the loader does not restart between timed steps.
    changes = [f"train.steps={steps + 2}", f"train.batch_size={batch}", "model.pretrained=false"]
    changes += [f"train.device={device}", f"data.workers={min(8, len(os.sched_getaffinity(0)))}"]
    count, clock = batch * (steps + 2), Clock()
    with tempfile.TemporaryDirectory() as folder:
        if files:
            request = Request(
                recipe, write_files(Path(folder, "data"), data, count), overrides=tuple(changes)
            )
        else:
            objects = Objects(data=(Noise(data, count), Noise(data, 1)))
            request = Request(recipe, overrides=tuple(changes), objects=objects)
        run = train(request, Path(folder) / "run", clock)
        memory = json.loads((run.path / "environment.json").read_text())["memory_gb"]["measured"]
        crop = run.recipe.augment.crop
    seconds, spent = (np.median(np.diff(times)[:-1]) for times in (clock.ends, clock.spent))
    if not all(map(math.isfinite, clock.losses)):
        sys.exit(f"{recipe}: a loss is no number: {clock.losses}")
    on_gpu = device == "cuda"
    facts = {
        "crop": crop,
        "precision": run.recipe.train.precision,
        "losses": [round(x, 4) for x in clock.losses],
    }
    facts |= {"seconds": round(float(seconds), 4), "processor_seconds": round(float(spent), 4)}
    facts |= {
        "waiting": round((clock.waits[-2] - clock.waits[0]) / (clock.ends[-2] - clock.ends[0]), 3)
    }
    facts |= {"memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else memory}
    facts |= {"device": torch.cuda.get_device_name() if on_gpu else processor()["processor"]}
    facts |= {"threads": None if on_gpu else torch.get_num_threads()}
    print(json.dumps(facts))


def full_cost(recipe: str, row: dict[str, Any]) -> tuple[int, float]:
    """(steps of the whole recipe, hours of them at the row's pace)."""
    settings, data = (
        parse_recipe(read_recipe(recipe)).train,
        parse_recipe(read_recipe(recipe)).data.name,
    )
    assert settings.epochs
    assert isinstance(settings.batch_size, int)
    steps = settings.epochs * -(-DATA[data][1] // settings.batch_size)
    return steps, steps * settings.batch_size / row["batch"] * step_seconds(row) / 3600


def step_seconds(row: dict[str, Any]) -> float:
    """Return wall time on a GPU, processor time on a CPU, which other work does not stretch."""
    return float(row["seconds" if row["threads"] is None else "processor_seconds"])


def print_table(rows: list[dict[str, Any]]) -> None:
    """The rows in Markdown."""
    print(
        "| recipe | crop | batch | steps | GB | s a step | waiting "
        "| the whole: steps, hours | where |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        steps, hours = full_cost(row["recipe"], row)
        where = row["device"] + ("" if row["threads"] is None else ", one processor")
        figures = f"{row['memory_gb']:.1f} | {step_seconds(row):.3g}"
        crop = "x".join(map(str, row["crop"]))
        print(
            f"| {row['recipe']}{', from files' * row['files']} | {crop} "
            f"| {row['batch']} of {row['whole_batch']} | "
            f"{row['steps']} | {figures} | "
            f"{row['waiting']:.0%} | {steps:,}, {hours:,.0f} | {where}, {row['precision']} |"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    parser.add_argument("--steps", type=int, default=3, help="that are timed")
    parser.add_argument("--batch", type=int, default=2, help="0: the recipe's own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--files", action="store_true", help="decode the images")
    parser.add_argument("--out", type=Path, default=TABLE, help="the table")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.recipes[0], asked.steps, asked.batch, asked.device, files=asked.files)
        return
    for recipe in () if asked.table else asked.recipes:
        own = parse_recipe(read_recipe(recipe)).train.batch_size
        batch = asked.batch or own
        key = {
            "recipe": recipe,
            "batch": batch,
            "steps": asked.steps,
            "on": asked.device,
            "files": asked.files,
        }
        if any(key.items() <= row.items() for row in read_lines(asked.out)):
            continue
        command = [
            sys.executable,
            __file__,
            recipe,
            "--serve",
            "--steps",
            str(asked.steps),
            "--batch",
            str(batch),
        ]
        command += ["--device", asked.device, *["--files"] * asked.files]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{recipe}: ended with {done.returncode}")
        facts = json.loads(done.stdout.splitlines()[-1])
        append_line(asked.out, {**key, "whole_batch": own, **facts, "commit": commit()})
    print_table(read_lines(asked.out))


if __name__ == "__main__":
    main()
