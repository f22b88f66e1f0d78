"""Compare ways to learn from few masks, each for the same minutes of one core.

    python benchmarks/few_masks.py DATASET... [--data-root PATH] [--masks 20] [--minutes 15]
                                   [--seeds 0] [--ways NAME...] [--judge val] [--jobs 2]
    python benchmarks/few_masks.py DATASET... --table [--draw FILE]

DATASET is as for against_plain.py. Of its training images so many keep their masks: they are
ordered by their rarest class and by name, cut into as many parts, and one is drawn from each by the
seed. Five more are drawn for validation; all others have no mask. A way is `featherseg train
--minutes M`, some with `--unlabelled`. Ways are chosen on `--judge val` (CamVid: its dev), and
judged on `--judge test`. The rows are in tables/few_masks.jsonl, and the same command does what is
missing. Ways that are not below were tried and left: few_masks.py of a row's commit has them.
`--draw` draws what `--ways` have on test by the number of masks, after `--minutes`.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import against_plain as plain
import against_ultralytics as both
import minutes
import numpy as np
import torch
from against_plain import Source, Task
from PIL import Image

from featherseg.core.files import read_lines, write_text
from featherseg.core.types import IGNORE
from featherseg.data.datasets.dataset_toml import DatasetToml, toml_text
from featherseg.data.images.palettes import color_text
from featherseg.reports.charts import STYLE, Line, chart

TABLE = Path(__file__).parent / "tables" / "few_masks.jsonl"
VALIDATION = 5
"""Images with masks beside those that are trained on."""


@dataclass(frozen=True)
class Way:
    """A way to learn from few masks: a recipe, what it changes, a run that it begins with.

    unlabelled: Whether it learns from the images without masks too.
    """

    changes: tuple[str, ...] = ()
    recipe: str = plain.MODEL
    init: str | None = None
    unlabelled: bool = False


STRONG = (
    "augment.brightness=0.6",
    "augment.contrast=0.6",
    "augment.saturation=0.6",
    "augment.blur=0.3",
)
WAYS = {
    "default": Way(),
    "mobilenet-v2-light": Way(recipe="frm-mobilenet-v2-light"),
    "half-light": Way(recipe="frm-lite0-half-light"),
    "half16-light": Way(recipe="frm-lite0-half16-light"),
    "backbone at a tenth": Way(("train.backbone_lr=1e-4",)),
    "rates by layer": Way(("train.layer_decay=0.6",)),
    "half of the rates": Way(("train.lr=2e-3", "train.backbone_lr=5e-4")),
    "average of a tenth": Way(("train.ema_share=0.1",)),
    "CutMix": Way(("augment.cutmix=0.5",)),
    "copy and paste": Way(("augment.copy_paste=0.5",)),
    "samples by class": Way(("data.class_uniform=0.5",)),
    "strong colours": Way(STRONG),
    "wide scales": Way(("augment.scale=[0.5, 2.0]",)),
    "weight decay": Way(("train.weight_decay=0.1",)),
    "batches of four": Way(("train.batch_size=4",)),
    "smoothed labels": Way(("loss.label_smoothing=0.1",)),
    "road first": Way(init="road"),
    "indoor first": Way(init="indoor"),
    "images without masks, anew": Way(unlabelled=True),
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
        for sample in images:
            name = Path(part) / f"{sample.key.replace('/', '_')}.png"  # names tell the sequences
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


class Bench(minutes.Bench):
    """Tasks of `task_of`, some of which begin with a run, or learn from images without masks."""

    def train(self, task: Task, source: Source, folder: Path, *more: str) -> None:
        way = WAYS[task.settings["way"]]
        begin = ["--init", way.init] if way.init else []
        unlabelled = Path(source.data).parent / "unlabelled"
        without = ["--unlabelled", str(unlabelled)] if way.unlabelled else []
        super().train(task, source, folder, *begin, *without, *more)


def task_of(name: str, source: Source, length: float, seed: int) -> Task:
    """Return the training of a way."""
    way = WAYS[name]
    more: dict[str, Any] = {"way": name} | ({"init": way.init} if way.init else {})
    more |= {"unlabelled": True} if way.unlabelled else {}
    return minutes.task_of(way.recipe, way.changes, "test", source, length, seed, **more)


def print_table(table: Path, labels: Sequence[str], title: str) -> None:
    """Print the scores of each way by seed, and what it gains on the default.

    labels: Of the datasets of all seeds. The gain has an interval over images and seeds where there
    are enough seeds.
    """
    by_way: dict[tuple[float, str], dict[int, dict[str, Any]]] = {}
    for row in read_lines(table):
        if row["dataset"] in labels:
            by_way.setdefault((row["minutes"], row["settings"]["way"]), {})[row["seed"]] = row
    print(f"\n{title}")
    for (length, way), rows in sorted(by_way.items()):
        scores = both.scores_of(rows)
        each = f"({'  '.join(f'{score:.2f}' for score in scores)})" * (len(scores) > 1)
        line = f"  {length:4g} min {way:38} {np.mean(scores):6.2f} {each}"
        default = by_way.get((length, "default"), {})
        if way != "default" and rows.keys() <= default.keys():
            gained = np.mean(scores) - np.mean(both.scores_of({s: default[s] for s in rows}))
            line += f" {gained:+.2f}"
            for difference in both.compare_sides(default, [rows], table):
                line += f", with its interval {plain.format_difference(difference)}"
        print(line)


def curve(table: Path, ways: Sequence[str], length: float) -> str:
    """Return an SVG file of the mIoU on test by the number of masks: a line a dataset and way.

    A point is the mean over the seeds that all ways have with these masks, of those with any.
    """
    scores: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    for row in read_lines(table):
        way = row["settings"]["way"]
        if row["minutes"] == length and way in ways and not row["dataset"].endswith("-val"):
            name, masks, _ = row["dataset"].rsplit("-", 2)
            by_way = scores.setdefault((name, int(masks)), {})
            by_way.setdefault(way, {})[row["seed"]] = row["score"]
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (name, masks), by_way in sorted(scores.items()):
        seeds = set.intersection(*map(set, by_way.values()))
        for way, own in by_way.items() if seeds else ():
            mean = 100 * float(np.mean([own[seed] for seed in seeds]))
            points.setdefault((name, way), []).append((masks, mean))
    lines = [
        Line(
            own,
            "line miou" if way == ways[0] else "line loss",
            name if way == ways[0] else f"{name}, {way}",
        )
        for (name, way), own in sorted(points.items())
    ]
    title = f"mIoU on test by the number of masks, {length:g} minutes of one core"
    width, height = size = 720, 360
    drawn = chart("mIoU on test, %, by the number of masks", title, lines, size=size)
    shape = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {shape}><style>{STYLE}</style>{drawn}</svg>\n'


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
    parser.add_argument("--draw", type=Path, metavar="FILE", help="the SVG file of the curve")
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
    for place, name in enumerate(asked.datasets):
        labels = [source.label for source in sources[place :: len(asked.datasets)]]
        print_table(asked.rows, labels, f"{name}, {asked.masks} masks, {asked.judge}")
    if asked.draw:
        write_text(asked.draw, curve(asked.rows, asked.ways, asked.minutes))


if __name__ == "__main__":
    main()
