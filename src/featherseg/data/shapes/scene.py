"""The words in which a street scene of `shapes` is planned: camera apart, everything that stands in it, in metres.

X is to the right of the camera, Z ahead of it; a side is -1 (left) or +1 (right). `plan` fills these in,
`street` and `things` paint them, `light` turns the paint into a photograph.
"""

from dataclasses import dataclass

from featherseg.data.shapes.canvas import RGB, Camera

ROAD, PAVEMENT, BUILDING, SKY, TREE, POLE, CAR, PERSON = range(8)
"""Class ids, in the order of `shapes.CLASSES`."""

PLAIN, BRICK, RIBBON, CURTAIN, IVY = range(5)
"""Styles of a facade; RIBBON: windows in bands, CURTAIN: all glass."""

HATCHBACK, SALOON, VAN, ESTATE = range(4)
ROUND, TALL, CONIFER, BUSH = range(4)
LAMP, SIGN, SIGNAL, BOLLARD = range(4)
"""Kinds of cars, of trees and of poles."""


@dataclass(frozen=True)
class Weather:
    """Light and air.

    gain: factor of each colour channel; sky: colour at the top and at the horizon; cover -1..1: how much of the sky is
    cloud; haze: depth in metres at which half the contrast is left; shadow: brightness of ground in shadow (1 = the sun
    is not seen); sun: the side that shadows fall to; noise: standard deviation in grey values; wet 0..1: how much the
    ground mirrors; rain: number of streaks; lamps: street lamps and windows are lit; beam: so are our headlights.
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
    """The ground: edges of the road, widths of the pavements, lanes (middle, goes ahead), lines between them.

    crossing: near..far of a street that crosses. zebra: it has stripes before it.
    Surfaces are indices into `canvas.SURFACES`; paint is the grey value of the lines, 0 = none.
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
        """X of the kerb on a side."""
        return self.left if side < 0 else self.right

    def frontage(self, side: int) -> float:
        """X of the line on which the buildings of a side stand."""
        return self.left - self.pavements[0] if side < 0 else self.right + self.pavements[1]


@dataclass(frozen=True)
class Building:
    """A box from `x` outwards (`width` carries the side's sign), near..far deep; a pitched roof where gable > 0.

    style: PLAIN .. IVY; window: share of a bay's width and of a floor's height that is glass.
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
    """A car whose middle is at x. kind: HATCHBACK .. ESTATE; ahead: we see its back, or, across, it drives right."""

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
    """Somebody who stands or walks; stride -1..1: how far the legs are apart and which one leads."""

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
    """kind: ROUND .. BUSH; spread: half the crown's width; density 0..1: how little is seen through it."""

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
    """kind: LAMP .. BOLLARD; face: colour of lamp, sign or light; side: where the arm points to."""

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
    """A far row of houses: column and height in pixels where each begins, and its tone (0 = a gap)."""

    color: RGB
    blocks: tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class Scene:
    """A whole scene; things are ordered far to near, as they are painted."""

    camera: Camera
    weather: Weather
    street: Street
    things: tuple[Thing, ...]
    skyline: Skyline
    bonnet: RGB | None
