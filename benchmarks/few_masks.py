"""Compare ways to learn from few masks, each for the same minutes of one core.

    python benchmarks/few_masks.py DATASET... [--data-root PATH] [--masks 20] [--minutes 15]
                                   [--seeds 0] [--ways NAME...] [--judge val] [--jobs 2]
    python benchmarks/few_masks.py DATASET... --table

DATASET is as for against_plain.py. Of its training images so many keep their masks: they are
ordered by their rarest class and by name, cut into as many parts, and one is drawn from each by the
seed. Five more are drawn for validation; all others have no mask. A way is `featherseg train
--minutes M`, or two of them: the first learns from the masks alone, and what it sees in the images
without masks teaches the second, softly (`--teacher`) or as masks of the pixels that it is sure of.
Ways are chosen on `--judge val` (CamVid: its dev), and judged on `--judge test`. The rows are in
tables/few_masks.jsonl, and the same command does what is missing.
"""

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import against_plain as plain
import minutes
import numpy as np
import torch
from against_plain import Source, Task
from PIL import Image

from featherseg import Predictor
from featherseg.core.files import load_json, read_lines, write_text
from featherseg.core.types import IGNORE
from featherseg.data.datasets.dataset_toml import DatasetToml, toml_text
from featherseg.data.images.palettes import color_text

TABLE = Path(__file__).parent / "tables" / "few_masks.jsonl"
VALIDATION = 5
"""Images with masks beside those that are trained on."""


@dataclass(frozen=True)
class SelfTraining:
    """How a second training learns from what the first sees in images without masks."""

    confidence: float = 0.0
    """0: from logits. Else from masks, of the pixels where the first is at least so confident."""
    by_class: bool = False
    """Whether at least the surer half of the pixels of each class is labelled."""
    share: float = 0.5
    """Of the minutes, for the first training."""
    goes_on: bool = True
    """Whether the second begins with the weights of the first."""


@dataclass(frozen=True)
class Way:
    """A way to learn from few masks: a recipe, what it changes, a run that it begins with."""

    changes: tuple[str, ...] = ()
    recipe: str = plain.MODEL
    init: str | None = None
    self_training: SelfTraining | None = None


STRONG = (
    "augment.brightness=0.6",
    "augment.contrast=0.6",
    "augment.saturation=0.6",
    "augment.blur=0.3",
)
WAYS = {
    "default": Way(),
    "half-light": Way(recipe="frm-lite0-half-light"),
    "half16-light": Way(recipe="frm-lite0-half16-light"),
    "backbone at a tenth": Way(("train.backbone_lr=1e-4",)),
    "rates by layer": Way(("train.layer_decay=0.6",)),
    "half of the rates": Way(("train.lr=2e-3", "train.backbone_lr=5e-4")),
    "average of a tenth": Way(("train.ema_share=0.1",)),
    "CutMix": Way(("augment.cutmix=0.5",)),
    "copy and paste": Way(("augment.copy_paste=0.5",)),
    "strong colours": Way(STRONG),
    "wide scales": Way(("augment.scale=[0.5, 2.0]",)),
    "weight decay": Way(("train.weight_decay=0.1",)),
    "batches of four": Way(("train.batch_size=4",)),
    "smoothed labels": Way(("loss.label_smoothing=0.1",)),
    "road first": Way(init="road"),
    "indoor first": Way(init="indoor"),
    "taught": Way(self_training=SelfTraining()),
    "taught anew": Way(self_training=SelfTraining(goes_on=False)),
    "taught late": Way(self_training=SelfTraining(share=0.7)),
    "sure masks": Way(self_training=SelfTraining(0.9)),
    "likely masks": Way(self_training=SelfTraining(0.7)),
    "surer half": Way(self_training=SelfTraining(0.9, by_class=True)),
    "sure masks, pasted": Way(("augment.copy_paste=0.5",), self_training=SelfTraining(0.9)),
    "sure masks, strong": Way((*STRONG, "augment.cutmix=0.5"), self_training=SelfTraining(0.9)),
}


def stratified(labels: Sequence[np.ndarray], count: int, seed: int) -> list[int]:
    """Return the indices of `count` images: one of each part by rarest class and position."""
    images = Counter[int]()
    present = [set(np.unique(label).tolist()) - {IGNORE} for label in labels]
    for classes in present:
        images.update(classes)
    rarest = [min((images[value] for value in classes), default=0) for classes in present]
    order = np.argsort(rarest, kind="stable")
    rng = np.random.default_rng(seed)
    return sorted(int(rng.choice(part)) for part in np.array_split(order, count))


def write_few(source: Source, masks: int, seed: int, judge: str, out: Path) -> Source:
    """Write the images as a dataset of their own, those without masks into `unlabelled`."""
    label = f"{source.label}-{masks}-{seed}" + "-val" * (judge == "val")
    folder = out.absolute() / label / "data"
    path = folder / "dataset.toml"
    if path.is_file():
        return Source(label, str(path))
    trained_on, tuned_on = source.tuning
    data = source.open(trained_on)
    labels = [data[index].label for index in range(len(data))]
    chosen = stratified(labels, masks + VALIDATION, seed)
    val = np.random.default_rng(seed).choice(chosen, VALIDATION, replace=False).tolist()
    judged = source.open(tuned_on if judge == "val" else "test")
    samples = {"train": [], "val": [], "unlabelled": []}
    for index in range(len(data)):
        part = "val" if index in val else "train" if index in chosen else "unlabelled"
        samples[part].append(data[index])
    samples["test"] = [judged[index] for index in range(len(judged))]
    for part, images in samples.items():
        for number, sample in enumerate(images):
            name = Path(part) / f"{number:04}.png"
            file = folder / name if part == "unlabelled" else folder / "images" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(sample.image).save(file)
            if part != "unlabelled":
                (folder / "masks" / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(sample.label).save(folder / "masks" / name)
    toml = DatasetToml(
        name=label,
        images="images",
        masks="masks",
        splits={part: part for part in ("train", "val", "test")},
        classes={info.name: color_text(info.color) for info in data.classes},
        map={str(i): info.name for i, info in enumerate(data.classes)} | {"255": "ignore"},
    )
    write_text(path, toml_text(toml))
    return Source(label, str(path))


def write_confident(
    run: str, source: Source, unlabelled: Path, how: SelfTraining, folder: Path
) -> Source:
    """Write a dataset whose training images are half images with masks, half what a run labels.

    Pixels where the run is less confident than `how` asks are ignored. The images with masks are
    repeated.
    """
    data, to = Path(source.data).parent, folder / "confident"
    path = to / "dataset.toml"
    if path.is_file():
        return Source(source.label, str(path))
    for part in ("images", "masks"):
        shutil.copytree(data / part, to / part, dirs_exist_ok=True)
    predictor = Predictor(run, device="cpu")
    predictor.soft = "confidence"
    files = sorted(unlabelled.glob("*.png"))
    seen = [(prediction.mask, prediction.soft) for prediction in map(predictor, files)]
    least = np.full(256, 255 * how.confidence)  # by class
    if how.by_class:
        counts = sum(  # (classes, confidences)
            np.bincount(256 * mask.ravel().astype(int) + soft.ravel(), minlength=256**2)
            for mask, soft in seen
        ).reshape(256, 256)
        below = counts.cumsum(axis=1) < counts.sum(axis=1, keepdims=True) / 2
        least = np.minimum(least, below.sum(axis=1))  # the median of each class
    for file, (classes, soft) in zip(files, seen, strict=True):
        mask = np.where(soft >= least[classes], classes, IGNORE).astype(np.uint8)
        Image.fromarray(mask).save(to / "masks" / "train" / f"seen-{file.name}")
        shutil.copyfile(file, to / "images" / "train" / f"seen-{file.name}")
    own = sorted((data / "masks" / "train").glob("*.png"))
    for number in range(len(own), len(files)):
        file = own[number % len(own)]
        for part in ("images", "masks"):
            shutil.copyfile(
                data / part / "train" / file.name, to / part / "train" / f"again-{number}.png"
            )
    shutil.copyfile(source.data, path)
    return Source(source.label, str(path))


class Bench(minutes.Bench):
    """Tasks of `task_of`, some of which begin with a run."""

    def train(self, task: Task, source: Source, folder: Path, *more: str) -> None:
        way = WAYS[task.settings["way"]]
        begin = ["--init", way.init] if way.init else []
        if not way.self_training:
            super().train(task, source, folder, *begin, *more)
            return
        first = folder / "first"
        first.mkdir(exist_ok=True)
        begun = time.monotonic()
        super().train(
            replace(task, minutes=way.self_training.share * task.minutes), source, first, *begin
        )
        before = load_json(first / "processor.json")["seconds"]
        run, unlabelled = str(first / "run"), Path(source.data).parent / "unlabelled"
        if way.self_training.confidence:
            data = write_confident(run, source, unlabelled, way.self_training, folder)
            teaching = []
        else:
            data, teaching = source, ["--teacher", run, "--unlabelled", str(unlabelled)]
        minutes_left = task.minutes - (time.monotonic() - begun) / 60
        begin = ["--init", run] if way.self_training.goes_on else []
        super().train(
            replace(task, minutes=round(minutes_left, 3)), data, folder, *begin, *teaching
        )
        plain.note_processor(folder, before)


def task_of(name: str, source: Source, length: float, seed: int) -> Task:
    """Return the training of a way."""
    way = WAYS[name]
    more: dict[str, Any] = {"way": name} | ({"init": way.init} if way.init else {})
    more |= {"self_training": asdict(way.self_training)} if way.self_training else {}
    return minutes.task_of(way.recipe, way.changes, "test", source, length, seed, **more)


def print_table(rows: Sequence[dict[str, Any]], label: str) -> None:
    """Print each way's score on the images of each draw, and its difference to the default's."""
    print(f"\n{label}")
    scores = {
        (row["settings"]["way"], row["minutes"]): row["score"]
        for row in rows
        if row["dataset"] == label
    }
    for (way, length), score in scores.items():
        default = scores.get(("default", length))
        gain = "" if default is None else f"{100 * (score - default):+7.2f}"
        print(f"  {length:4g} min {way:20} {100 * score:6.2f} {gain}")


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--masks", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), metavar="NAME")
    parser.add_argument("--judge", choices=("val", "test"), default="val")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time, one a core")
    parser.add_argument("--out", type=Path, default=Path("runs/few-masks"))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [
        (write_few(plain.open_source(name, asked.data_root, asked.out), *of, asked.out), seed)
        for seed in asked.seeds
        for name in asked.datasets
        for of in [(asked.masks, seed, asked.judge)]
    ]
    sources = [source for source, _ in wanted]
    if not asked.table:
        bench = Bench(sources, 0.0, asked.out, asked.rows, asked.jobs)
        bench.finish(
            [
                task_of(way, source, asked.minutes, seed)
                for way in asked.ways
                for source, seed in wanted
                # a run that was trained on these images with all their masks would show nothing
                if source.label.split("-")[0] != WAYS[way].init
            ]
        )
    for source in sources:
        print_table(read_lines(asked.rows), source.label)


if __name__ == "__main__":
    main()
