"""Plan a street scene of `shapes` at random: places and colours of things, and the weather."""

from collections.abc import Sequence

from featherseg.data.shapes.canvas import HEIGHT, RGB, WIDTH, Camera, Dice, gained, jitter, mix
from featherseg.data.shapes.scene import (
    BOLLARD,
    BRICK,
    BUSH,
    CONIFER,
    CURTAIN,
    ESTATE,
    HATCHBACK,
    IVY,
    LAMP,
    PLAIN,
    RIBBON,
    ROUND,
    SALOON,
    SIGN,
    SIGNAL,
    TALL,
    VAN,
    Building,
    Car,
    Person,
    Pole,
    Scene,
    Skyline,
    Street,
    Thing,
    Tree,
)
from featherseg.data.shapes.weather import plan_weather

FAR = 85.0
"""Depth in metres beyond which there is only the skyline."""

WALLS: tuple[RGB, ...] = (
    (200, 190, 172), (178, 150, 120), (160, 88, 68), (128, 70, 58), (150, 148, 146),
    (112, 112, 118), (216, 210, 198), (196, 168, 96), (128, 146, 104), (104, 122, 92),
    (176, 192, 206), (92, 96, 104), (206, 150, 118), (140, 120, 104), (146, 108, 62),
    (160, 180, 200), (118, 108, 78), (186, 190, 194),
)  # fmt: skip
CAR_COLORS: tuple[RGB, ...] = (
    (28, 28, 31), (52, 54, 58), (98, 100, 104), (140, 142, 146), (178, 180, 182), (222, 222, 220),
    (226, 226, 226), (70, 76, 88), (152, 26, 28), (28, 52, 112), (32, 74, 52), (184, 150, 60),
    (122, 104, 84), (58, 100, 150),
)  # fmt: skip
CLOTHES: tuple[RGB, ...] = (
    (30, 30, 34), (48, 52, 66), (84, 84, 88), (120, 116, 110), (190, 186, 178), (226, 224, 220),
    (132, 30, 34), (44, 66, 118), (58, 88, 60), (176, 140, 88), (196, 92, 44), (102, 74, 56),
    (150, 166, 178), (200, 178, 60),
)  # fmt: skip
LEAVES: tuple[RGB, ...] = (
    (58, 92, 42), (72, 104, 48), (44, 74, 40), (88, 116, 58), (104, 122, 72), (150, 122, 48),
    (176, 110, 42), (142, 74, 40), (112, 94, 66), (92, 90, 76), (60, 78, 60), (116, 104, 84),
)  # fmt: skip
SLABS: tuple[RGB, ...] = (
    (165, 160, 152), (140, 138, 136), (120, 118, 118), (172, 118, 98), (105, 104, 106),
    (188, 178, 158), (96, 96, 98),
)  # fmt: skip
ROOFS: tuple[RGB, ...] = ((98, 60, 50), (74, 74, 80), (120, 84, 66), (64, 58, 56))
TRUNKS: tuple[RGB, ...] = ((82, 68, 54), (104, 98, 90), (62, 52, 44))
SKINS: tuple[RGB, ...] = ((224, 180, 150), (190, 140, 106), (128, 86, 62), (88, 58, 44))
HAIRS: tuple[RGB, ...] = ((36, 28, 24), (84, 58, 38), (150, 118, 70), (140, 138, 136), (30, 30, 34))
SIGNS: tuple[RGB, ...] = ((190, 32, 34), (32, 70, 160), (230, 230, 228), (226, 186, 40))
METALS: tuple[RGB, ...] = ((90, 92, 95), (140, 142, 145), (50, 56, 52))


CAR_SIZES = ((1.74, 3.9, 1.46), (1.82, 4.6, 1.44), (1.95, 5.0, 2.15), (1.84, 4.5, 1.6))
"""Width, length and height of each kind of car, in metres."""

TREE_SIZES = ((4.0, 9.0, 0.42), (7.0, 13.0, 0.2), (5.0, 11.0, 0.24), (0.8, 1.8, 0.8))
"""Least and largest height of each kind of tree, in metres, and its spread per metre of height."""


def plan_scene(dice: Dice) -> Scene:
    """Plan a scene, as a function of the dice only."""
    camera = Camera(
        focal=dice.uniform(270, 430),
        height=dice.uniform(1.25, 2.3),
        vanish=WIDTH * dice.uniform(0.2, 0.8),
        horizon=HEIGHT * dice.uniform(0.22, 0.66),
        roll=dice.uniform(-0.05, 0.05),
    )
    # The order of the draws is part of the scene: a change to it changes all scenes
    weather, street = plan_weather(dice), _street(dice)
    things: list[Thing] = _traffic(dice, street) + _crossing_people(dice, street)
    for side in (-1, 1):
        buildings = _buildings(dice, street, side)
        things += buildings
        things += _parked(dice, street, side)
        things += _avenue(dice, street, side)
        things += _garden(dice, street, side, buildings)
        things += _poles(dice, street, side)
        things += _walkers(dice, street, side)
    things.sort(key=lambda thing: -(thing.far if isinstance(thing, Building) else thing.near))
    drives = street.left < 0 < street.right
    bonnet = jitter(dice, dice.choose(CAR_COLORS), 10) if drives and dice.chance(0.2) else None
    return Scene(camera, weather, street, tuple(things), _skyline(dice, camera), bonnet)


def _skyline(dice: Dice, camera: Camera) -> Skyline:
    column, blocks = 0, []
    while column < WIDTH:
        height = camera.focal * dice.uniform(2, 14) / 150
        blocks.append((column, height, 0 if dice.chance(0.12) else 1 + dice.below(4)))
        column += 6 + dice.below(40)
    return Skyline(jitter(dice, (150, 150, 155), 30), tuple(blocks))


def _street(dice: Dice) -> Street:
    # Widths in metres, and where the camera is: it drives in the first forward lane, or a person
    # on a pavement carries it
    lane, start = dice.uniform(2.9, 3.6), dice.uniform(9, 40)
    here, there = dice.choose(((1, 1), (1, 1), (2, 1), (2, 2), (1, 0), (1, 2)))
    bays = dice.choose((0.0, 0.0, 2.2)), dice.choose((0.0, 2.2, 2.2))
    pavements = dice.uniform(1.8, 6.0), dice.uniform(1.8, 6.0)
    left, right = -lane * (there + 0.5) - bays[0], lane * (here - 0.5) + bays[1]
    if dice.chance(0.75):
        move = dice.uniform(-0.5, 0.5)
    else:
        on_right = -right - pavements[1] * dice.uniform(0.3, 0.7)
        on_left = -left + pavements[0] * dice.uniform(0.3, 0.7)
        move = dice.choose((on_right, on_left))

    # Colours
    tone = dice.uniform(72, 158)
    road = jitter(dice, (tone, tone, tone * 1.03), 10)
    pavement = jitter(dice, dice.choose(SLABS), 18)
    if dice.chance(0.2):
        pavement = jitter(dice, road, 8)  # asphalt on both sides of the kerb
    return Street(
        left=left + move,
        right=right + move,
        pavements=pavements,
        lanes=tuple((move + lane * i, i >= 0) for i in range(-there, here)),
        lines=tuple(move + lane * (i + 0.5) for i in range(-there, here - 1)),
        dash_phase=dice.uniform(0, 6),
        edge_lines=dice.chance(0.4),
        crossing=(start, start + dice.uniform(6, 10)) if dice.chance(0.45) else None,
        zebra=dice.chance(0.6),
        road_surface=dice.choose((0, 0, 0, 0, 3)),
        pavement_surface=dice.choose((0, 1, 1, 2, 3)),
        road_color=road,
        pavement_color=pavement,
        kerb_color=jitter(dice, (160, 158, 155), 28),
        paint=dice.choose((0.0, 150.0, 205.0, 225.0)),
    )


def _off_crossing(street: Street, near: float, far: float) -> bool:
    """Return whether near..far keeps at least one metre from the side street."""
    return street.crossing is None or far < street.crossing[0] - 1 or near > street.crossing[1] + 1


def _buildings(dice: Dice, street: Street, side: int) -> list[Building]:
    tall = dice.choose((6.0, 9.0, 14.0, 20.0, 30.0))
    openness = dice.choose((0.0, 0.1, 0.25, 0.6))
    buildings: list[Building] = []
    z = dice.uniform(-8.0, 2.0)
    while z < FAR:
        near, far = max(z, 1.2), z + dice.uniform(7, 20)
        if street.crossing is not None and not _off_crossing(street, near, far):
            far = min(far, street.crossing[0] - 1.5)
            z = street.crossing[1] + 1.5
        else:
            z = far
        if far < near + 2:
            continue
        if dice.chance(openness):
            z += dice.uniform(0, 6)
            continue
        buildings.append(_building(dice, side, street.frontage(side), (near, far), tall))
    return buildings


def _building(
    dice: Dice, side: int, frontage: float, depth: tuple[float, float], tall: float
) -> Building:
    floor = dice.uniform(2.9, 3.7)
    height = max(floor * int(tall * dice.uniform(0.7, 1.5) / floor), floor)
    style = dice.choose(
        (PLAIN, PLAIN, PLAIN, PLAIN, BRICK, BRICK, BRICK, RIBBON, RIBBON, CURTAIN, IVY)
    )
    wall = jitter(dice, dice.choose(LEAVES[:5]) if style == IVY else dice.choose(WALLS), 18)
    return Building(
        side=side,
        x=frontage + side * dice.choose((0.0, 0.0, 0.0, 0.6, 1.5, 4.0)),
        width=side * dice.uniform(8, 16),
        near=depth[0],
        far=depth[1],
        height=height + dice.uniform(0.3, 0.9),
        gable=dice.uniform(1.5, 3.5) if height < 14 and dice.chance(0.6) else 0.0,
        style=style,
        wall=wall,
        roof=jitter(dice, dice.choose(ROOFS), 12),
        ground_floor=mix(wall, dice.choose(CLOTHES), dice.choose((0.0, 0.2, 0.6))),
        floor_height=floor,
        bay=dice.uniform(1.7, 3.6),
        window=(dice.uniform(0.35, 0.75), dice.uniform(0.4, 0.62)),
        number=dice.below(1 << 14),
    )


def _car(dice: Dice, x: float, near: float, ahead: bool, across: bool = False) -> Car:
    kind = dice.choose((HATCHBACK, HATCHBACK, SALOON, SALOON, VAN, ESTATE))
    width, length, height = CAR_SIZES[kind]
    size, color = dice.uniform(0.94, 1.06), jitter(dice, dice.choose(CAR_COLORS), 14)
    return Car(x, near, kind, width * size, length * size, height * size, color, ahead, across)


def _parked(dice: Dice, street: Street, side: int) -> list[Thing]:
    cars: list[Thing] = []
    if dice.chance(0.35):
        return cars
    x = street.edge(side) - side * 1.15
    occupied, z = dice.choose((0.25, 0.5, 0.95)), dice.uniform(3.0, 9.0)
    while z < 42:
        car = _car(dice, x + dice.uniform(-0.12, 0.12), z, ahead=side > 0 or dice.chance(0.3))
        if dice.chance(occupied) and _off_crossing(street, z, z + car.length):
            cars.append(car)
        z += car.length + dice.uniform(0.6, 2.4)
    return cars


def _traffic(dice: Dice, street: Street) -> list[Thing]:
    cars: list[Thing] = []
    for lane, ahead in street.lanes:
        z = dice.uniform(7, 32)
        while z < 50 and dice.chance(0.6):
            cars.append(_car(dice, lane + dice.uniform(-0.35, 0.35), z, ahead))
            z += dice.uniform(8, 22)
    if street.crossing is not None:
        near, far = street.crossing
        x, z = dice.uniform(-16, 4), near + (far - near) * dice.choose((0.25, 0.6))
        while x < 14 and dice.chance(0.55):
            cars.append(_car(dice, x, z, ahead=dice.chance(0.5), across=True))
            x += dice.uniform(5.4, 11)
    return cars


def _avenue(dice: Dice, street: Street, side: int) -> list[Thing]:
    """Plan a row of trees of the same kind along the kerb."""
    leaf, kind = dice.choose(LEAVES), dice.choose((ROUND, ROUND, ROUND, TALL, CONIFER))
    dense = dice.uniform(0.45, 1.0)
    trees: list[Thing] = []
    if dice.chance(0.5):
        return trees
    z, step = dice.uniform(5, 16), dice.uniform(7, 14)
    while z < 55:
        if dice.chance(0.8) and _off_crossing(street, z, z):
            trees.append(_tree(dice, street.edge(side) + side * 0.9, z, kind, leaf, dense))
        z += step * dice.uniform(0.85, 1.15)
    return trees


def _garden(dice: Dice, street: Street, side: int, buildings: Sequence[Building]) -> list[Thing]:
    """Plan trees of all kinds in the gaps between the buildings on one side."""
    trees: list[Thing] = []
    for _ in range(dice.below(9)):
        x, z = street.frontage(side) + side * dice.uniform(1, 12), dice.uniform(8, 60)
        kind = dice.choose((ROUND, ROUND, TALL, CONIFER, BUSH))
        tree = _tree(dice, x, z, kind, dice.choose(LEAVES), dice.uniform(0.45, 1.0))
        if _off_crossing(street, z, z) and not any(b.near - 1 < z < b.far + 1 for b in buildings):
            trees.append(tree)
    return trees


def _tree(dice: Dice, x: float, z: float, kind: int, leaf: RGB, dense: float) -> Tree:
    low, high, slim = TREE_SIZES[kind]
    height = dice.uniform(low, high)
    return Tree(
        x=x,
        near=z,
        kind=kind,
        height=height,
        spread=height * slim * dice.uniform(0.8, 1.2),
        leaf=jitter(dice, leaf, 16),
        trunk=jitter(dice, dice.choose(TRUNKS), 12),
        density=min(dense * dice.uniform(0.85, 1.15), 1.0),
        number=dice.below(1 << 18),
    )


def _poles(dice: Dice, street: Street, side: int) -> list[Thing]:
    x, metal = street.edge(side) + side * 0.45, jitter(dice, dice.choose(METALS), 14)
    poles: list[Thing] = []
    if dice.chance(0.4):
        z, step, height = dice.uniform(10, 28), dice.uniform(16, 30), dice.uniform(5.5, 8)
        while z < 45:
            poles.append(Pole(x, z, LAMP, height, metal, (250, 236, 190), -side))
            z += step
    for _ in range(dice.choose((0, 0, 1, 1, 2))):
        sign_x, z = x + side * dice.uniform(0, 0.5), dice.uniform(9, 34)
        poles.append(Pole(sign_x, z, SIGN, dice.uniform(2.4, 3.2), metal, dice.choose(SIGNS), 1))
    if street.crossing is not None and dice.chance(0.4):
        face = dice.choose(((230.0, 40.0, 30.0), (40.0, 210.0, 90.0)))
        poles.append(Pole(x, street.crossing[0] - 0.8, SIGNAL, 3.4, metal, face, 1))
    if dice.chance(0.1):
        poles += [
            Pole(x, 7 + 2.2 * i, BOLLARD, 0.95, gained(metal, 0.8), metal, 1) for i in range(6)
        ]
    return poles


def _walkers(dice: Dice, street: Street, side: int) -> list[Thing]:
    breadth = street.pavements[0] if side < 0 else street.pavements[1]
    people: list[Thing] = []
    for _ in range(dice.below(5)):
        x = street.edge(side) + side * dice.uniform(0.5, breadth - 0.3)
        people += _group(dice, x, 6 + 30 * dice.uniform(0, 1) * dice.uniform(0.2, 1))
    return people


def _crossing_people(dice: Dice, street: Street) -> list[Thing]:
    """Plan people on the zebra crossing before the side street."""
    if street.crossing is None or street.crossing[0] < 10 or not dice.chance(0.5):
        return []
    x, z = dice.uniform(street.left, street.right - 1), street.crossing[0] - dice.uniform(1.5, 3.5)
    people = _group(dice, x, z)
    return people + _group(dice, x + dice.uniform(0.8, 3), z) if dice.chance(0.6) else people


def _group(dice: Dice, x: float, z: float) -> list[Thing]:
    people: list[Thing] = []
    for _ in range(dice.choose((1, 1, 1, 2, 2, 3))):
        people.append(_person(dice, x, z))
        x, z = x + dice.uniform(0.35, 0.75), z + dice.uniform(-0.4, 0.6)
    return people


def _person(dice: Dice, x: float, z: float) -> Person:
    return Person(
        x=x,
        near=z,
        height=dice.uniform(1.58, 1.9) if dice.chance(0.88) else dice.uniform(1.0, 1.4),
        broad=dice.uniform(0.88, 1.15),
        stride=dice.uniform(-1, 1),
        coat=jitter(dice, dice.choose(CLOTHES), 16),
        legs=jitter(dice, dice.choose(CLOTHES[:10]), 12),
        skin=jitter(dice, dice.choose(SKINS), 10),
        hair=jitter(dice, dice.choose(HAIRS), 10),
        skirt=dice.chance(0.22),
        bag=dice.chance(0.35),
    )
