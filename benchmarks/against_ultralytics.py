"""Compare featherseg's models with Ultralytics' YOLO26-sem after the same minutes of one core.

    python benchmarks/against_ultralytics.py DATASET... [--data-root PATH] [--minutes 30]
                                             [--models NAME...] [--jobs 2]
    python benchmarks/against_ultralytics.py DATASET... --table

DATASET is as for against_plain.py. The peer (AGPL-3.0) is installed into its own environment under
--out and is only run by its command line; nothing of it is imported, kept or shipped. It trains
`yolo26n-sem` and `yolo26s-sem` from their YAML, from scratch because their weights are not
available here. It uses its defaults except for the minutes (`time`), the core, and the image size,
which is the longer side of the images rounded up to 32. Its own ONNX export is scored: images are
scaled and padded as the peer does, and the mask is resized back by the nearest pixel. featherseg
gets `--minutes` and trains from ImageNet weights; models that --scratch names are also trained from
scratch, in rows of their own. `NAME at 0.5` sees images of half the sides. One evaluator scores
both sides; pareto.py exports, times and plots these runs. `--minutes 0` trains ours for as long as
their recipe says, on a GPU if there is one.

Finished rows are kept in benchmarks/tables/against_ultralytics.jsonl and the pixel counts of each
test image in counts/ beside it. These rows are of processors with bf16 instructions. On a processor
without them, where the same minutes are fewer steps, pass another --out and
`--rows benchmarks/tables/fp32/against_ultralytics.jsonl`: a run found under --out is not trained
again.
"""

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import against_plain as plain
import cores
import numpy as np
import onnxruntime
import torch
from against_plain import MaskOf, Source, Task
from PIL import Image

from featherseg.core.files import read_lines
from featherseg.core.types import Size
from featherseg.core.wording import counted
from featherseg.data import dataset_facts
from featherseg.data.datasets.statistics import typical_size
from featherseg.evaluation.bootstrap import Difference, compare_variants
from featherseg.evaluation.clusters import clusters_of
from featherseg.fitting.candidates import resize_of
from featherseg.recipe.reading import parse_recipe, read_recipe

TABLE = Path(__file__).parent / "tables" / "against_ultralytics.jsonl"
PEERS = ("yolo26n-sem", "yolo26s-sem")
VERSION = "8.4.190"
OURS = (
    "frm-lite0-half-light-w32 at 0.5",
    "frm-lite0-half-light-w32 at 0.75",
    "frm-lite0-half-light-w32",
    "frm-lite0-half-light",
    "frm-lite2-half-light",
    "frm-lite0-half16-light",
    "frm-mobilenet-v2-light",
    "frm-lite0-light",
)
"""No slower than yolo26s-sem, the fastest first (docs/log.md)."""
SCRATCH = ("frm-lite0-half-light",)
"""No slower than either peer."""
Side = tuple[str, bool]
"""A model, and whether it begins with ImageNet weights."""
Rows = Mapping[int, dict[str, Any]]
"""Of one side, by seed."""
GREY = 114
"""Of the border that it pads images with."""
STRIDE = 32


def install(folder: Path) -> Path:
    """The peer's environment, made once; -> its command."""
    command = folder.absolute() / "bin" / "yolo"  # it is started in other folders too
    if not command.is_file():
        torch_version = torch.__version__.split("+")[0]
        packages = [
            f"ultralytics=={VERSION}",
            f"torch=={torch_version}",
            "onnx",
            "onnxslim",
            "onnxruntime",
        ]
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", str(folder)], check=True)
        subprocess.run(
            [*uv, "pip", "install", "-q", "-p", str(folder / "bin" / "python"), *packages],
            check=True,
        )
    return command


def write_dataset(source: Source, folder: Path) -> Path:
    """Write train and val as the peer reads them, PNG images and masks; return the YAML file."""
    path = folder / "data.yaml"
    if path.is_file():
        return path
    for split in ("train", "val"):
        data = source.open(split)
        for part in ("images", "masks"):
            (folder / part / split).mkdir(parents=True, exist_ok=True)
        for index, key in enumerate(data.keys):
            sample, name = data[index], key.replace("/", "_") + ".png"
            Image.fromarray(sample.image).save(folder / "images" / split / name)
            Image.fromarray(sample.label).save(folder / "masks" / split / name)
    names = [info.name for info in dataset_facts(source.data).classes]
    rows = [
        f"path: {folder.absolute()}",
        "train: images/train",
        "val: images/val",
        "masks_dir: masks",
        "names:",
    ]
    path.write_text(
        "\n".join([*rows, *(f"  {number}: {name}" for number, name in enumerate(names))]) + "\n"
    )
    return path


def side_of(size: Size) -> int:
    """What the peer's square training images measure: the longer side, rounded up to its stride."""
    return math.ceil(max(size) / STRIDE) * STRIDE


class Bench(plain.Bench):
    """Every model of both sides, with every seed."""

    clocked = tuple(PEERS)

    def __init__(
        self, models: Sequence[str], scratch: Sequence[str], seeds: Sequence[int], *arguments: Any
    ) -> None:
        super().__init__(*arguments)
        self.models, self.scratch, self.seeds = models, scratch, seeds

    def run(self) -> None:
        if set(self.models) & set(PEERS):  # once, before trainings ask for them side by side
            install(self.out / "ultralytics")
            for source in self.sources.values():
                write_dataset(source, self.out / source.label / "ultralytics-data")
        sides = {label: self.sides(source) for label, source in self.sources.items()}
        wanted = [(s, side, seed) for seed in self.seeds for s in self.sources for side in sides[s]]
        self.finish([self.final(source, *side, seed) for source, side, seed in wanted])

    def sides(self, source: Source) -> list[tuple[str, dict[str, Any]]]:
        """Model and settings of every row that is wanted of a dataset."""
        peers: list[tuple[str, dict[str, Any]]] = [
            (name, {"pretrained": False, "version": VERSION})
            for name in self.models
            if name in PEERS
        ]
        ours = [(name, settings_of(name, source, pretrained=False)) for name in self.scratch]
        ours += [(name, settings_of(name, source)) for name in self.models if name not in PEERS]
        return [*peers, *ours]

    def train(self, task: Task, source: Source, folder: Path) -> None:
        (train_peer if task.side in PEERS else train_ours)(task, source, folder)

    def open(self, task: Task, source: Source, folder: Path) -> tuple[MaskOf, dict[str, Any]]:
        return (open_peer if task.side in PEERS else plain.open_featherseg)(source, folder)


def split_name(name: str) -> tuple[str, float]:
    """Split `frm-lite0-light at 0.5` into the model and its input scale; 1 if none is named."""
    model, _, scale = name.partition(" at ")
    return model, float(scale or 1)


def settings_of(name: str, source: Source, *, pretrained: bool = True) -> dict[str, Any]:
    """What tells a row of one of ours from others."""
    model, scale = split_name(name)
    train = parse_recipe(read_recipe(model), [f"model.pretrained={str(pretrained).lower()}"]).train
    settings: dict[str, Any] = {"pretrained": pretrained, "sha256": plain.recipe_digest(model)}
    resize = resize_of(scale, typical_size(source.open("train")))
    settings |= {"resize": list(resize)} if resize else {}
    settings |= plain.step_settings(train, source, resize)
    return settings | ({} if pretrained else plain.scratch_settings(train))


def train_peer(task: Task, source: Source, folder: Path) -> None:
    """Run `yolo semantic train`, then its ONNX export; the last lines of its output are kept."""
    out, size = folder.parents[1], typical_size(source.open("train"))
    data = write_dataset(source, out / source.label / "ultralytics-data")
    train = {
        "data": data,
        "model": f"{task.side}.yaml",
        "imgsz": side_of(size),
        "time": task.minutes / 60,
    }
    train |= {
        "seed": task.seed,
        "device": "cpu",
        "workers": 1,
        "project": folder.absolute(),
        "name": "run",
        "plots": False,
    }
    shape = [math.ceil(side / STRIDE) * STRIDE for side in size]
    best = {
        "model": folder.absolute() / "run" / "weights" / "best.pt",
        "imgsz": str(shape).replace(" ", ""),
    }
    with open(folder / "log.txt", "w") as log:
        for words in (
            ["semantic", "train", *arguments(train)],
            ["export", "format=onnx", *arguments(best)],
        ):
            start_peer([install(out / "ultralytics")], words, log, folder)


def arguments(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def start_peer(command: Sequence[str | Path], words: Sequence[str], log: Any, folder: Path) -> None:
    """Run the peer's command on one thread, without GPUs, updates or downloads of fonts."""
    environment = {
        **os.environ,
        "YOLO_OFFLINE": "true",
        "YOLO_CONFIG_DIR": str(Path(command[-1]).parents[1]),
    }
    environment.pop("PYTHONPATH", None)
    code, seconds = cores.run([*command, *words], environment, log)
    plain.note_processor(folder, seconds)
    if code:
        said = Path(log.name).read_text()[-500:]  # the folder may be a temporary one
        raise RuntimeError(f"yolo {' '.join(words)} ended with {code}; see {log.name}: {said}")


def train_ours(task: Task, source: Source, folder: Path) -> None:
    where = [] if source.root is None else ["--data-root", str(source.root)]
    asked = [
        "--data",
        source.data,
        *where,
        *plain.length_of(task),
        "--set",
        f"train.seed={task.seed}",
    ]
    asked += ["--set", f"model.pretrained={str(task.settings['pretrained']).lower()}"]
    if resize := task.settings.get("resize"):
        asked += ["--set", f"augment.resize={resize}", "--set", f"data.test_resize={resize}"]
    command = [
        "-m",
        "featherseg",
        "train",
        split_name(task.side)[0],
        *asked,
        "--resume",
        "--out",
        str(folder / "run"),
    ]
    plain.start(folder, *command, gpus=not task.minutes)


def open_peer(source: Source, folder: Path) -> tuple[MaskOf, dict[str, Any]]:
    file = folder / "run" / "weights" / "best.onnx"
    epochs = len((folder / "run" / "results.csv").read_text().splitlines()) - 1
    return read_peer(file), {"epochs": epochs}


def read_peer(file: Path, runtime: str = "onnx") -> MaskOf:
    """Open the peer's ONNX file in ONNX Runtime or OpenVINO in fp32, with torch's thread count."""
    threads = torch.get_num_threads()
    if runtime == "openvino":
        import openvino  # trainings do without

        core = openvino.Core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        model = core.compile_model(core.read_model(file), "CPU", settings)
        return peer_mask(lambda images: model(images)[0], tuple(model.input(0).shape)[2:])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return peer_mask(lambda images: session.run(None, {entry.name: images})[0], entry.shape[2:])


def peer_mask(model: Callable[[np.ndarray], np.ndarray], size: Sequence[int]) -> MaskOf:
    """Return a function from image (H, W, 3) uint8 to mask (H, W) uint8.

    model: (1, 3, h, w) in 0..1 with (h, w) = size -> (1, h, w).
    """
    height, width = size

    def mask_of(image: np.ndarray) -> np.ndarray:
        factor = min(height / image.shape[0], width / image.shape[1])
        inside = round(image.shape[0] * factor), round(image.shape[1] * factor)
        if inside != image.shape[:2]:
            image_inside = np.asarray(
                Image.fromarray(image).resize(inside[::-1], Image.Resampling.BILINEAR)
            )
        else:
            image_inside = image
        top, left = round((height - inside[0]) / 2 - 0.1), round((width - inside[1]) / 2 - 0.1)
        padded = np.full((height, width, 3), GREY, np.uint8)
        padded[top : top + inside[0], left : left + inside[1]] = image_inside
        images = np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32) / 255
        mask = model(images)[0, top : top + inside[0], left : left + inside[1]]
        if inside == image.shape[:2]:
            return np.asarray(mask, np.uint8)
        mask = Image.fromarray(np.asarray(mask, np.uint8)).resize(
            image.shape[1::-1], Image.Resampling.NEAREST
        )
        return np.asarray(mask)

    return mask_of


def read_table(label: str, minutes: float, table: Path) -> dict[Side, Rows]:
    """Of every side its rows by seed: those of its newest settings, its last recipe."""
    rows = [
        row for row in read_lines(table) if (row["dataset"], row["minutes"]) == (label, minutes)
    ]
    by_side: dict[Side, Rows] = {}
    for side in dict.fromkeys((row["side"], row["settings"]["pretrained"]) for row in rows):
        side_rows = [
            row
            for row in rows
            if (row["side"], row["settings"]["pretrained"]) == side and not row.get("disturbed")
        ]
        by_side[side] = {
            row["seed"]: row for row in side_rows if row["settings"] == side_rows[-1]["settings"]
        }
    return by_side


def scores_of(rows: Rows) -> list[float]:
    """mIoU in % by seed."""
    return [100 * (rows[seed]["score"] or 0) for seed in sorted(rows)]


def compare_sides(first: Rows, others: Sequence[Rows], table: Path) -> list[Difference]:
    """Each of the others less the first, a family of pairs, by all seeds that all of them have.

    An empty list where an interval needs more seeds, or the images differ.
    """
    seeds = sorted(set(first).intersection(*others))
    stored = [plain.read_counts([of[seed] for seed in seeds], table) for of in (first, *others)]
    known = [one for one in stored if one]
    if len(known) < len(stored) or len({counts.shape for counts, _ in known}) > 1:
        return []
    return compare_variants([counts for counts, _ in known], clusters_of(known[0][1]))


def print_table(source: Source, minutes: float, table: Path) -> None:
    """Every model's scores, and each of ours less each peer with its interval."""
    by_side = read_table(source.label, minutes, table)
    starts = {side: "ImageNet" if side[1] else "scratch" for side in by_side}
    print(f"\n{source.label}: {minutes:g} minutes of one core, test mIoU")
    for side, rows in by_side.items():
        scores = scores_of(rows)
        print(
            f"  {side[0]:24} {starts[side]:8} {np.mean(scores):6.2f}  "
            f"({'  '.join(f'{v:5.2f}' for v in scores)})"
        )

    # A family: those of ours that have the same seeds with a peer
    families: dict[tuple[Side, frozenset[int]], list[Side]] = {}
    for peer, side in product(
        (s for s in by_side if s[0] in PEERS), (s for s in by_side if s[0] not in PEERS)
    ):
        families.setdefault((peer, frozenset(by_side[peer]) & frozenset(by_side[side])), []).append(
            side
        )
    for (peer, seeds), sides in families.items():
        less = compare_sides(by_side[peer], [by_side[side] for side in sides], table)
        together = f" for these {len(sides)} together" * (len(sides) > 1)
        among = f"95 %{together}, over images and {counted(len(seeds), 'seed')}"
        for side, difference in zip(sides, less, strict=False):
            print(
                f"  {side[0]} ({starts[side]}) less {peer[0]}: "
                f"{plain.format_difference(difference)} ({among})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--data-root", type=Path, help="where a dataset with a name lies")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--models", nargs="*", default=[*PEERS, *OURS], help="of both sides")
    parser.add_argument(
        "--scratch", nargs="*", default=SCRATCH, help="of ours, what is trained without weights too"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--jobs", type=int, default=1, help="trainings at a time, each on a core of its own"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/against-ultralytics"))
    parser.add_argument("--rows", type=Path, default=TABLE, help="where finished rows are appended")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sources = [plain.open_source(name, asked.data_root, asked.out) for name in asked.datasets]
    if not asked.table:
        own = (asked.models, asked.scratch, asked.seeds)
        Bench(*own, sources, asked.minutes, asked.out, asked.rows, asked.jobs).run()
    for source in sources:
        print_table(source, asked.minutes, asked.rows)


if __name__ == "__main__":
    main()
