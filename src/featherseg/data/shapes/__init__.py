"""`shapes`: synthetic street scenes, 256 x 512, with exact masks and instance ids.

There are eight classes; tree, car and person have instances. A scene is a pure function of its
split and index: the same bytes on every machine, in every process and in any order. `shapes-v1` is
pinned by CHECKSUM over its first scenes; a change to a byte of a scene requires a new version. See
docs/data/shapes.md.
"""

import numpy as np

from featherseg.core.errors import DataError, unknown
from featherseg.core.types import IGNORE, ClassInfo, DataFacts, Sample
from featherseg.data.shapes.canvas import HEIGHT, RGB, WIDTH, Camera, Canvas, Dice
from featherseg.data.shapes.light import develop
from featherseg.data.shapes.plan import plan_scene
from featherseg.data.shapes.scene import SKY, Building, Car, Person, Pole, Scene, Tree
from featherseg.data.shapes.street import (
    cast_shadows,
    ground_of,
    paint_building,
    paint_ground,
    paint_skyline,
)
from featherseg.data.shapes.things import paint_car, paint_person, paint_pole, paint_tree
from featherseg.data.views import DataView

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("pavement", (244, 35, 232)),
    ClassInfo("building", (70, 70, 70)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("tree", (107, 142, 35), thing=True),
    ClassInfo("pole", (220, 220, 0)),
    ClassInfo("car", (0, 0, 142), thing=True),
    ClassInfo("person", (220, 20, 60), thing=True),
)

SPLITS = {"train": (1, 2000), "val": (2, 200), "test": (3, 200)}
"""{split: (seed of its scenes, default number of scenes)}."""


class Shapes(DataView):
    """The synthetic dataset as a SegmentationData; `size` is the number of scenes.

    Raises UnknownName for a split that is not train, val or test, DataError for a size under 1.
    """

    facts = DataFacts("shapes", CLASSES, "Apache-2.0", image_size=(HEIGHT, WIDTH))
    splits = ("train", "val", "test")
    name, classes, channels, licence = facts.name, facts.classes, facts.channels, facts.licence

    def __init__(self, split: str, size: int | None = None) -> None:
        parts = split.split("+")
        for part in parts:
            if part not in SPLITS:
                raise unknown("split of shapes", part, SPLITS)
        if size is not None and size < 1:
            raise DataError(f"shapes was asked for {size} scenes; expected 1 or more.")
        self.split = split
        counts = {part: SPLITS[part][1] for part in parts}
        if size is not None and len(parts) == 1:
            counts = {split: size}  # one split has any number of scenes
        keys = [f"{part}/{i:06d}" for part in parts for i in range(counts[part])]
        self.keys = keys[:size]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        """Return image (256, 512, 3) uint8 RGB, label uint8 and instances int32 (256, 512)."""
        return draw_scene(*self._scene(index))

    def label(self, index: int) -> np.ndarray:
        """Return the label of scene `index`, (256, 512) uint8, without its image."""
        return _paint(*_plan(*self._scene(index)), lit=False).label()

    def _scene(self, index: int) -> tuple[str, int]:
        """Return split and number of sample `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of shapes/{self.split}, which has {len(self)}")
        split, _, number = self.keys[index].partition("/")
        return split, int(number)


def draw_scene(split: str, index: int) -> Sample:
    """Draw scene `index` of a split."""
    scene, looks = _plan(split, index)
    canvas = _paint(scene, looks)
    image = develop(canvas, scene, looks)
    return Sample(f"{split}/{index:06d}", image, canvas.label(), canvas.instances())


def _plan(split: str, index: int) -> tuple[Scene, Dice]:
    """Return the plan of a scene, and the dice for textures and noise, which masks do not have."""
    seed = SPLITS[split][0]
    return plan_scene(Dice(1, seed, index, 0)), Dice(1, seed, index, 1)


def _paint(scene: Scene, looks: Dice, lit: bool = True) -> Canvas:
    """Paint all things, from far to near."""
    camera, weather = scene.camera, scene.weather
    canvas = Canvas(SKY, lit)
    ground = ground_of(camera, looks)
    paint_skyline(canvas, camera, scene.skyline)
    paint_ground(canvas, ground, scene.street, looks)
    if lit:
        cast_shadows(canvas, ground, camera, weather, scene.things)
    for thing in scene.things:
        match thing:
            case Building():
                paint_building(canvas, camera, thing, weather, looks)
            case Tree():
                paint_tree(canvas, camera, thing, weather)
            case Car():
                paint_car(canvas, camera, thing, weather)
            case Person():
                paint_person(canvas, camera, thing, weather)
            case Pole():
                paint_pole(canvas, camera, thing, weather)
    if scene.bonnet is not None:
        _paint_bonnet(canvas, scene.bonnet, camera)
    return canvas


def _paint_bonnet(canvas: Canvas, color: RGB, camera: Camera) -> None:
    """Paint the bonnet of the ego vehicle at the bottom: visible, but ignored as in real data."""
    rows = np.arange(HEIGHT - 26, HEIGHT)[:, None]
    away = (np.arange(WIDTH) - camera.vanish) * (1 / 300)
    parts = (rows > HEIGHT - 20 + away * away * 22).astype(np.uint8)
    shade = (rows - (HEIGHT - 26)) * -0.015 + (1.2 - away * 0.1)
    canvas.paint((HEIGHT - 26, 0), parts, [color], IGNORE, nearness=1.0, shade=shade)
