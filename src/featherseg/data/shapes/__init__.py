"""`shapes`: synthetic street scenes with exact masks and instance ids, 256 x 512, rendered on the fly, no download.

There are eight classes; tree, car and person have instances. A scene is a pure function of its split and index: the
same bytes on every machine, in every process and in any order. `shapes-v1` is pinned by CHECKSUM over its first scenes;
any change to a byte of a scene requires a new version. See docs/data/shapes.md.
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
"""Split -> (seed of its scenes, default number of scenes)."""


class Shapes:
    """The synthetic dataset as a SegmentationData; `size` is the number of scenes (default: 2000 / 200 / 200).

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
        count = size if len(parts) == 1 else None  # one split goes on for ever
        self.keys = [
            f"{part}/{i:06d}"
            for part in parts
            for i in range(SPLITS[part][1] if count is None else count)
        ]
        self.keys = self.keys[:size]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Sample:
        """Scene `index`: image (256, 512, 3) uint8 RGB, label (256, 512) uint8, instances (256, 512) int32."""
        return draw_scene(*self._scene(index))

    def label(self, index: int) -> np.ndarray:
        """Only the label of scene `index`, (256, 512) uint8."""
        scene, looks = _planned(*self._scene(index))
        return _painted(scene, looks, lit=False).label()

    def _scene(self, index: int) -> tuple[str, int]:
        """Split and number of sample `index`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"scene {index} of shapes/{self.split}, which has {len(self)}")
        split, _, number = self.keys[index].partition("/")
        return split, int(number)


def draw_scene(split: str, index: int) -> Sample:
    """Draw scene `index` of a split."""
    scene, looks = _planned(split, index)
    canvas = _painted(scene, looks)
    return Sample(
        f"{split}/{index:06d}", develop(canvas, scene, looks), canvas.label(), canvas.instances()
    )


def _planned(split: str, index: int) -> tuple[Scene, Dice]:
    """The plan of a scene, and the dice for its appearance: textures and noise, which do not affect masks."""
    number = SPLITS[split][0]
    return plan_scene(Dice(1, number, index, 0)), Dice(1, number, index, 1)


def _painted(scene: Scene, looks: Dice, lit: bool = True) -> Canvas:
    """Paint everything, from far to near."""
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
    """The bonnet of the ego vehicle at the bottom: visible but ignored, as in recorded data."""
    rows = np.arange(HEIGHT - 26, HEIGHT)[:, None]
    away = (np.arange(WIDTH) - camera.vanish) * (1 / 300)
    parts = (rows > HEIGHT - 20 + away * away * 22).astype(np.uint8)
    shade = (rows - (HEIGHT - 26)) * -0.015 + (1.2 - away * 0.1)
    canvas.paint((HEIGHT - 26, 0), parts, [color], IGNORE, nearness=1.0, shade=shade)
