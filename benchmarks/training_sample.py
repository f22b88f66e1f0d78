"""Time a training sample of 2048x1024 from PNG, JPEG cache and raw cache against Pillow.

python benchmarks/training_sample.py [--rounds 30] [--clock cpu|wall] [--json FILE]

A sample is image and label, scaled by 0.5 to 2, cropped to 1024x1024, flipped in half of the cases.
The usual way decodes the PNG, resizes the whole image, converts it to float32, crops and flips.
Ours decodes (or not), crops, resizes the window and flips, in 8 bits. Both draw the same factors.
The images are synthetic streets with camera noise, of about 2.8 MB as PNG; all files are in the
page cache. A round is four samples, in a process of one thread for each side. The usual way runs
with the system's malloc and with our setting of it. Goals: 2x, 8x and 40x.
"""

import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paired
import torch
from PIL import Image

from featherseg.core.allocator import keep_freed_memory
from featherseg.core.types import IGNORE
from featherseg.data.cache.prepared import RAW, PreparedData, Storage, read_cache
from featherseg.data.cache.prepared_writer import prepare_split
from featherseg.data.datasets.folder import FolderData
from featherseg.data.pipeline.augmentation import Augment
from featherseg.data.pipeline.loader import TrainingSamples
from featherseg.data.shapes import CLASSES, Shapes

IMAGES, SIZE, CROP, SCALE, NOISE = 4, (1024, 2048), (1024, 1024), (0.5, 2.0), 1.5
WAYS = {  # as it is printed -> what is run
    "usual": "usual",
    "usual, freed memory kept": "usual",
    "PNG": "png",
    "JPEG cache": "jpeg",
    "raw cache": "raw",
}
CACHES = {"jpeg": Storage(95), "raw": RAW}
GOALS = {"PNG": 2, "JPEG cache": 8, "raw cache": 40}


def draw(folder: Path) -> FolderData:
    """Four streets as a dataset on disk, PNG images and masks of 1024x2048 (height x width)."""
    for number in range(IMAGES):
        scene, rng = Shapes("val")[number], np.random.default_rng(number)
        large = np.asarray(
            Image.fromarray(scene.image).resize(SIZE[::-1], Image.Resampling.BICUBIC), np.float32
        )
        noisy = (large + rng.normal(0, NOISE, large.shape)).round().clip(0, 255).astype(np.uint8)
        times = SIZE[0] // scene.label.shape[0]
        for kind, pixels in (
            ("images", noisy),
            ("masks", scene.label.repeat(times, 0).repeat(times, 1)),
        ):
            file = folder / kind / "train" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    names = ", ".join(f'"{info.name}"' for info in CLASSES)
    values = "\n".join(f'{value} = "{info.name}"' for value, info in enumerate(CLASSES))
    head = 'name = "streets"\nimages = "images"\nmasks = "masks"\n'
    head += f'classes = [{names}]\n[splits]\ntrain = "train"\n'
    (folder / "dataset.toml").write_text(f'{head}[map]\n{values}\n{IGNORE} = "ignore"\n')
    return FolderData(folder / "dataset.toml", "train")


def usual(image: Path, mask: Path, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """One sample as it is usually made: image (3, h, w) float32, label (h, w) int64."""
    scale = float(np.exp(rng.uniform(*np.log(SCALE))))
    size = round(SIZE[1] * scale), round(SIZE[0] * scale)  # width, height
    pixels = np.array(
        Image.open(image).convert("RGB").resize(size, Image.Resampling.BILINEAR), np.float32
    )
    label = np.array(Image.open(mask).resize(size, Image.Resampling.NEAREST))
    rows, columns = (max(0, crop - length) for crop, length in zip(CROP, label.shape, strict=True))
    pixels = np.pad(pixels, ((0, rows), (0, columns), (0, 0)))
    label = np.pad(label, ((0, rows), (0, columns)), constant_values=IGNORE)
    top, left = (
        int(rng.integers(0, length - crop + 1))
        for crop, length in zip(CROP, label.shape, strict=True)
    )
    pixels, label = (x[top : top + CROP[0], left : left + CROP[1]] for x in (pixels, label))
    if rng.random() < 0.5:
        pixels, label = pixels[:, ::-1], label[:, ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return tensor, torch.from_numpy(np.ascontiguousarray(label)).long()


def sampler(way: str, folder: Path) -> Callable[[int, int], object]:
    """Return a function (epoch, index) -> sample for one of WAYS; `folder`: dataset and caches."""
    data = FolderData(folder / "dataset.toml", "train")
    if way == "usual":
        return lambda epoch, index: usual(
            *data.pairs[index].files, np.random.default_rng([0, epoch, index])
        )
    cache = read_cache(folder / way)
    source = PreparedData(data, [cache], exact=False) if cache else data
    samples = TrainingSamples(source, Augment(crop=CROP, scale=SCALE, flip=0.5), seed=0)
    return lambda epoch, index: samples[epoch, index]


def serve(way: str, folder: Path) -> None:
    """Make the four samples of the next epoch whenever asked."""
    keep_freed_memory()
    torch.set_num_threads(1)
    sample, epochs = sampler(way, folder), itertools.count()

    def step() -> None:
        epoch = next(epochs)
        for index in range(IMAGES):
            sample(epoch, index)

    paired.serve(step)


def main() -> None:
    arguments = paired.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = draw(folder)
        for way, storage in CACHES.items():
            prepare_split(data, folder / way, storage)
        commands = {label: [__file__, "--serve", way, name] for label, way in WAYS.items()}
        off = {"usual": {"FEATHERSEG_ALLOCATOR": "off"}}
        table = paired.processes(commands, arguments.rounds, arguments.clock, environments=off)
    print(f"{IMAGES} samples a round, one thread")
    paired.print_table(table)
    for label, goal in GOALS.items():
        paired.print_goal(table, label, goal)
    if arguments.json:
        paired.write_json(arguments.json, training_sample=table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
