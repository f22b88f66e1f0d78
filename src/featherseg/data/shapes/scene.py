"""Data structures of a planned street scene of `shapes`, in metres.

X is to the right of the camera, Z ahead of it; a side is -1 (left) or +1 (right). `plan` creates
these objects, `street` and `things` paint them, `light` renders the final image.
"""

from dataclasses import dataclass

from featherseg.data.shapes.canvas import RGB, Camera

ROAD, PAVEMENT, BUILDING, SKY, TREE, POLE, CAR, PERSON = range(8)
"""Class ids, in the order of `shapes.CLASSES`."""

PLAIN, BRICK, RIBBON, CURTAIN, IVY = range(5)
"""Facade styles; RIBBON: bands of windows, CURTAIN: all glass."""

HATCHBACK, SALOON, VAN, ESTATE = range(4)
ROUND, TALL, CONIFER, BUSH = range(4)
LAMP, SIGN, SIGNAL, BOLLARD = range(4)
"""Kinds of cars, trees and poles."""


@dataclass(frozen=True)
class Weather:
    """Light and atmosphere.

    Attributes:
        gain: Factor of each colour channel.
        sky: Colour at the top and at the horizon.
        cover: How cloudy the sky is, -1..1.
        haze: Depth in metres at which contrast is halved.
        sun: The side that shadows fall to.
        noise: Standard deviation in grey values.
        shadow: Brightness of ground in shadow; 1 = no direct sun.
        wet: How much the ground mirrors, 0..1.
        rain: Number of streaks.
        lamps: Whether street lamps and windows are lit.
        beam: Strength of our headlights.
    """

    name: str
    gain: RGB
    sky: tuple[RGB, RGB]
    cloud: RGB
    cover: float
    haze: float
    sun: int
    noise: float
    shadow: float = 1.0
    wet: float = 0.0
    rain: int = 0
    lamps: bool = False
    beam: float = 0.0


@dataclass(frozen=True)
class Street:
    """The ground.

    Attributes:
        left, right: Edges of the road.
        pavements: Widths.
        lanes: (centre, whether forward).
        lines: Between lanes.
        crossing: near..far of a side street.
        zebra: Whether there is a zebra crossing before it.
        road_surface, pavement_surface: Indices into `canvas.surfaces`.
        paint: Grey value of the lines, 0 = none.
    """

    left: float
    right: float
    pavements: tuple[float, float]
    lanes: tuple[tuple[float, bool], ...]
    lines: tuple[float, ...]
    dash_phase: float
    edge_lines: bool
    crossing: tuple[float, float] | None
    zebra: bool
    road_surface: int
    pavement_surface: int
    road_color: RGB
    pavement_color: RGB
    kerb_color: RGB
    paint: float

    def edge(self, side: int) -> float:
        """Return X of the kerb on one side."""
        return self.left if side < 0 else self.right

    def frontage(self, side: int) -> float:
        """Return X of the building line on one side."""
        return self.left - self.pavements[0] if side < 0 else self.right + self.pavements[1]


@dataclass(frozen=True)
class Building:
    """A box from `x` outwards, near..far in depth; `width` has the sign of the side.

    It has a pitched roof if gable > 0. style: PLAIN .. IVY; window: share of the width of a bay and
    of the height of a floor that is glass.
    """

    side: int
    x: float
    width: float
    near: float
    far: float
    height: float
    gable: float
    style: int
    wall: RGB
    roof: RGB
    ground_floor: RGB
    floor_height: float
    bay: float
    window: tuple[float, float]
    number: int


@dataclass(frozen=True)
class Car:
    """A car centred at x. ahead: we see its rear or, if across, it drives to the right."""

    x: float
    near: float
    kind: int
    width: float
    length: float
    height: float
    color: RGB
    ahead: bool
    across: bool


@dataclass(frozen=True)
class Person:
    """A person; stride -1..1: how far apart the legs are and which one leads."""

    x: float
    near: float
    height: float
    broad: float
    stride: float
    coat: RGB
    legs: RGB
    skin: RGB
    hair: RGB
    skirt: bool
    bag: bool


@dataclass(frozen=True)
class Tree:
    """A tree; spread: half the width of the crown; density 0..1: opacity of the crown."""

    x: float
    near: float
    kind: int
    height: float
    spread: float
    leaf: RGB
    trunk: RGB
    density: float
    number: int


@dataclass(frozen=True)
class Pole:
    """A pole; face: colour of the lamp, sign or light; side: direction of the arm."""

    x: float
    near: float
    kind: int
    height: float
    color: RGB
    face: RGB
    side: int


Thing = Building | Car | Person | Tree | Pole


@dataclass(frozen=True)
class Skyline:
    """A distant row of houses: first column, height in pixels and tone of each (0 = a gap)."""

    color: RGB
    blocks: tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class Scene:
    """A whole scene; things are ordered from far to near, as they are painted."""

    camera: Camera
    weather: Weather
    street: Street
    things: tuple[Thing, ...]
    skyline: Skyline
    bonnet: RGB | None
