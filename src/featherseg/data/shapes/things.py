"""Paint the things of a street scene of `shapes`: cars, people, trees, poles."""

import numpy as np

from featherseg.data.shapes.canvas import (
    RGB,
    Camera,
    Canvas,
    Patch,
    box_patch,
    fractal,
    gained,
    mix,
)
from featherseg.data.shapes.scene import (
    CAR,
    CONIFER,
    LAMP,
    PERSON,
    POLE,
    ROUND,
    SIGN,
    SIGNAL,
    TALL,
    TREE,
    VAN,
    Car,
    Person,
    Pole,
    Tree,
    Weather,
)

BODY, LOW, PANE, BRIGHT, TYRE, HUB, LIGHT, PLATE, TOP, SEAM, DARK = range(1, 12)

_BELTS = (0.62, 0.62, 0.52, 0.6)
"""Height of the belt line of each kind of car, as a share of the height."""

_CABINS = (
    (0.02, 0.72, 5.0, 1.7),
    (0.16, 0.7, 1.7, 1.7),
    (0.0, 0.93, 9.0, 3.0),
    (0.01, 0.72, 3.0, 1.7),
)
"""Start and end of the cabin of each kind of car, as shares of the length from the back, and the
slopes of the rear and front window.
"""


def paint_car(canvas: Canvas, camera: Camera, car: Car, weather: Weather) -> None:
    """Paint a car as a box: the end towards the camera and, if visible, the flank.

    The cabin may be set back.
    """
    start, end = _CABINS[car.kind][:2]
    setback = (start if car.ahead else 1 - end) * car.length + 0.12  # of the upright window
    if car.across or setback < 0.3 or car.near > 30:
        setback = 0.0
    instance, colors = canvas.new_instance(), _car_colors(car, weather)
    patches = [_cabin(camera, car, setback)] if setback else []
    patches.append(_body(camera, car, setback))
    for patch, parts in patches:
        if patch is not None:
            flank = np.float32(1.06 if (car.x > 0) == (weather.sun > 0) else 0.82)
            shade = np.where(patch.front, np.float32(0.95), flank) * (0.86 + 0.14 * patch.y)
            canvas.paint(
                patch.corner,
                parts,
                colors,
                CAR,
                nearness=1 / car.near,
                shade=shade,
                instance=instance,
            )


def _roof_seen(camera: Camera, car: Car, near: float) -> float:
    """Return how far the roof appears above the car's height, in metres at depth `near`."""
    far = car.near + (car.width if car.across else car.length * 0.75)
    return max(camera.height - car.height, 0.0) * max(1 - near / far, 0.0)


def _body(camera: Camera, car: Car, setback: float) -> tuple[Patch | None, np.ndarray]:
    """Return end and flank; if the cabin is set back, without the end above the belt line."""
    width, depth = (car.length, 0.0) if car.across else (car.width, car.length)
    left, right, over = car.x - width / 2, car.x + width / 2, _roof_seen(camera, car, car.near)
    patch = _box(camera, left, right, car.near, car.near + depth, car.height + over)
    if patch is None:
        return None, np.zeros((0, 0), np.uint8)
    across = _facing(patch, camera, car.x)
    if car.across:
        along = across + np.float32(width / 2)
        return patch, _flank(car, patch.y, along if car.ahead else width - along)
    parts = _end(car, patch.y, across, over)
    if setback:
        parts[patch.y > car.height * _BELTS[car.kind]] = 0
    inwards = patch.along if car.ahead else car.length - patch.along
    np.copyto(parts, _flank(car, patch.y, inwards, setback), where=~patch.front)
    return patch, parts


def _cabin(camera: Camera, car: Car, setback: float) -> tuple[Patch | None, np.ndarray]:
    """Return the window, `setback` metres into the car, and the boot lid or bonnet before it."""
    near, belt = car.near + setback, car.height * _BELTS[car.kind]
    # The near edge of the lid, in the plane of the cabin
    widest = (abs(car.x) + car.width / 2) * (near / car.near) - abs(car.x)
    over = _roof_seen(camera, car, near)
    patch = _stand(camera, car.x, near, 2 * widest, car.height + over)
    if patch is None:
        return None, np.zeros((0, 0), np.uint8)
    across = _facing(patch, camera, car.x)
    parts = _end(car, patch.y, across, over)
    below = np.maximum(camera.height - patch.y, np.float32(0.05))
    x = np.float32(car.x)
    on_lid = (across + x) * (max(camera.height - belt, 0.0) / below) - x
    lid = (np.abs(on_lid) < car.width / 2) & (below * car.near < (camera.height - belt) * near)
    np.copyto(parts, np.where(lid, np.uint8(TOP), np.uint8(0)), where=patch.y <= belt)
    return patch, parts


def _end(car: Car, y: np.ndarray, across: np.ndarray, over: float) -> np.ndarray:
    """Return parts (h, w) of rear or front at height y, `across` (w,) metres from the centre."""
    h, half = np.float32(car.height), car.width / 2
    belt = car.height * _BELTS[car.kind]
    taper = 0.08 if car.kind == VAN else 0.3
    lean = np.maximum(y - belt, 0) * np.float32(taper)
    out = np.abs(across)
    parts = np.full(y.shape, BODY, np.uint8)
    parts[y < h * 0.36] = LOW
    pane = (y > belt) & (y < h * 0.93) & (out + lean < half * 0.88)
    parts[pane] = PANE
    parts[pane & (y - across * 0.35 > belt + 0.3)] = BRIGHT
    parts[(y > h * 0.43) & (y < h * 0.55) & (out > half * 0.64)] = LIGHT
    if not car.ahead:
        parts[(y > h * 0.34) & (y < h * 0.5) & (out < half * 0.55)] = DARK
    parts[(y > h * 0.27) & (y < h * 0.35) & (out < 0.26)] = PLATE
    parts[(y > h * 0.57) & (y < h * 0.595)] = SEAM
    parts[y > h] = TOP
    under = y < h * 0.17
    parts[under] = 0
    parts[under & (out > half * 0.6) & (out < half * 0.95)] = TYRE
    left_lean = 0.0 if car.x > half else lean  # where a flank is visible, the cabin meets it
    right_lean = 0.0 if car.x < -half else lean
    outside = (across < left_lean - half) | (across > half - right_lean) | (y < 0) | (y > h + over)
    parts[outside | ((y > h) & (out + y - h > half * 0.8))] = 0
    return parts


def _flank(car: Car, y: np.ndarray, along: np.ndarray, setback: float | None = None) -> np.ndarray:
    """Return parts (h, w) of the side at height y (h, w), `along` (w,) metres from the rear.

    If an end of the car is visible too, the cabin rises vertically `setback` metres from that end.
    """
    h, length = np.float32(car.height), car.length
    belt = car.height * _BELTS[car.kind]
    start, end, steep_back, steep_front = _CABINS[car.kind]

    # The roof line of the cabin; a visible end has a steep edge
    rear, front = (along - start * length) * steep_back, (end * length - along) * steep_front
    if setback is not None and car.ahead:
        rear = (along - setback) * 40 + 1
    elif setback is not None:
        front = (length - setback - along) * 40 + 1
    cabin = np.minimum(rear, front) + belt
    cabin = np.minimum(cabin, h)  # (w,) roof line

    # Body, glass, pillars, lights and seams; above the outline there is no car
    ends = np.minimum(along, length - along)
    body = np.minimum(ends * 2.5 + h * 0.4, belt)  # (w,) bonnet and boot
    parts = np.full(y.shape, BODY, np.uint8)
    parts[y < h * 0.33] = LOW
    pane = (y > belt + 0.03) & (y < np.minimum(cabin, h * 0.93) - 0.05)
    if car.kind == VAN:
        pane &= along > length * 0.6
    pillar = (np.abs(along - length * 0.46) < 0.05) | (np.abs(along - length * 0.24) < 0.04)
    parts[pane & ~pillar] = PANE
    parts[(np.abs(along - length * 0.46) < 0.02) & (y < belt) & (y > h * 0.2)] = SEAM
    parts[(ends < 0.22) & (y > h * 0.44) & (y < h * 0.55)] = LIGHT
    parts[(y < h * 0.17) | (y > np.maximum(cabin, body))] = 0

    # Wheels of 0.32 m radius in arches of 0.4 m
    rise = (y - np.float32(0.32)) * (y - np.float32(0.32))
    for wheel in (0.19, 0.81):
        run = along - np.float32(length * wheel)
        radius2 = run * run + rise
        parts[radius2 < 0.16] = DARK
        parts[radius2 < 0.1024] = TYRE
        parts[radius2 < 0.045] = HUB
    parts[(along < 0) | (along > length) | (y < 0)] = 0
    return parts


def _car_colors(car: Car, weather: Weather) -> list[RGB]:
    lamp = 1 / weather.gain[0] if weather.lamps else 1.0
    light = gained((190, 20, 18) if car.ahead else (240, 236, 210), lamp)
    sky: RGB = (70.0, 70.0, 80.0)
    if weather.name != "night":
        sky = gained(weather.sky[1], 1 / weather.gain[1])
    glass = mix((36, 42, 50), sky, 0.12)
    return [
        car.color,
        gained(car.color, 0.72),
        glass,
        mix(glass, sky, 0.35),
        (22, 22, 24),
        (126, 128, 130),
        light,
        (205, 205, 195),
        mix(gained(car.color, 1.1), sky, 0.2),
        gained(car.color, 0.5),
        (30, 30, 32),
    ]


def _box(
    camera: Camera, left: float, right: float, near: float, far: float, top: float
) -> Patch | None:
    """Return the `box_patch` of a box on either side of the camera."""
    if right < 0:
        return box_patch(camera, right, left - right, near, far, top)
    return box_patch(camera, left, right - left, near, far, top)


def _stand(camera: Camera, x: float, z: float, width: float, height: float) -> Patch | None:
    """Return the pixels of an upright rectangle centred at x: a box without depth."""
    return _box(camera, x - width / 2, x + width / 2, z, z, height)


def _facing(patch: Patch, camera: Camera, x: float) -> np.ndarray:
    """Return metres to the right of x for each column of a patch, (w,) float32."""
    columns = np.arange(patch.y.shape[1]) + (patch.corner[1] + 0.5 - camera.vanish)
    return (columns * (patch.z.astype(np.float64) / camera.focal) - x).astype(np.float32)


SHOE, LEG, SKIN, COAT, SLEEVE, HAIR, BAG = range(1, 8)


def paint_person(canvas: Canvas, camera: Camera, person: Person, weather: Weather) -> None:
    """Paint legs, coat, arms and head: bands whose centre and half width depend only on y."""
    patch = _stand(camera, person.x, person.near, 0.56 * person.height, person.height)
    if patch is None or patch.y.shape[0] < 5:
        return

    # Places on the upright body, in units of its height: a across, y from the ground up
    a = _facing(patch, camera, person.x) * np.float32(1 / person.height)  # (w,)
    middle_column = patch.y.shape[1] // 2
    y = patch.y[:, middle_column : middle_column + 1] * np.float32(1 / person.height)  # (h, 1)
    parts = np.zeros(patch.y.shape, np.uint8)
    wide, stride = person.broad, person.stride

    def band(
        part: int, low: float, high: float, middle: np.ndarray | float, half: np.ndarray | float
    ) -> None:
        parts[(np.abs(a - middle) < half) & (y >= low) & (y < high)] = part

    # From the ground up; what is in front is painted last
    for leg in (-1, 1):
        middle = (0.5 - y) * (leg * stride * 0.22) + leg * 0.035
        band(LEG, 0.03, 0.52, middle, (y * 0.05 + 0.0325) * wide)
        band(SHOE, 0.0, 0.045, middle + 0.012 * stride, 0.042)
    if person.skirt:
        band(COAT, 0.28, 0.55, 0.0, (0.18 - y * 0.18) * wide)
    for arm in (-1, 1):
        swing = 0.09 + 0.1 * stride * arm
        band(SLEEVE, 0.45, 0.8, ((0.8 - y) * swing + 0.105 * wide) * arm, 0.027)
        band(SKIN, 0.42, 0.46, arm * (0.105 * wide + 0.36 * swing), 0.024)
    band(COAT, 0.46, 0.8, 0.0, (y * 0.09 + 0.044) * wide)
    band(COAT, 0.8, 0.83, 0.0, 1.87 - y * 2.2)
    band(SKIN, 0.82, 0.87, 0.0, 0.026)
    head = (y - 0.925) * (1 / 0.075)
    round_ = np.sqrt(np.maximum(1 - head * head, 0))
    band(SKIN, 0.85, 1.0, 0.0, round_ * 0.055)
    band(HAIR, 0.94, 1.0, 0.0, round_ * 0.06)
    if person.bag:
        band(BAG, 0.42, 0.6, 0.13 * wide, 0.045)

    # One side is in the sun
    shoes: RGB = (34.0, 30.0, 30.0)
    sleeves, bag = gained(person.coat, 0.82), gained(person.legs, 0.6)
    colors = [shoes, person.legs, person.skin, person.coat, sleeves, person.hair, bag]
    shade = np.where(a * weather.sun > 0, np.float32(0.9), np.float32(1.06))
    canvas.paint(
        patch.corner,
        parts,
        colors,
        PERSON,
        nearness=1 / person.near,
        shade=shade,
        instance=canvas.new_instance(),
    )


def paint_tree(canvas: Canvas, camera: Camera, tree: Tree, weather: Weather) -> None:
    """Paint trunk, branches and a crown with noisy outline; leaves are lighter towards the sun."""
    patch = _stand(camera, tree.x, tree.near, 2.4 * tree.spread, tree.height)
    if patch is None or patch.y.shape[0] < 4:
        return
    a = _facing(patch, camera, tree.x) * np.float32(1 / tree.spread)  # (w,) half widths of crown

    # Places in the crown, -1..1 either way, and two scales of noise there
    start = tree.height * (0.3, 0.14, 0.1, 0.0)[tree.kind]
    middle, half = (tree.height + start) / 2, (tree.height - start) / 2
    b = (patch.y - middle) * (1 / half)  # (h, w) -1..1 within the crown
    column = ((a + 4) * 64).astype(np.int32) + tree.number
    row = ((b + 4) * (64 * half / tree.spread)).astype(np.int32) + (tree.number >> 9)
    clumps = np.take(fractal(), ((row & 511) << 9) + (column & 511))  # (h, w)
    column = ((a + 4) * 230).astype(np.int32)
    row = ((b + 4) * (230 * half / tree.spread)).astype(np.int32)
    leaves = np.take(fractal(512, 9), ((row + tree.number & 511) << 9) + (column & 511))

    # How far a place is inside the outline: tiers of a conifer, or a ball
    if tree.kind == CONIFER:
        tier = b * 3.5
        room = (1 - b) * (0.56 - (tier - np.floor(tier)) * 0.16) - np.abs(a)
        room = room + leaves * 0.1 + clumps * 0.1
    else:
        room = 0.82 - a * a - b * b + clumps * 0.4 + leaves * 0.3
    inside = (room > 0) & (b > -1) & (b < 1)
    inside &= leaves * 0.55 + clumps * 0.45 < np.minimum(room, 0.6) + tree.density * 1.3 - 0.75

    # Six tones of leaves
    tone = (b + a * (weather.sun * -0.5)) * 1.3 + clumps * 1.6 + leaves * 2.4
    tones = np.clip(tone + 2.6, 0, 5.99).astype(np.uint8) + np.uint8(2)
    parts = np.where(inside, tones, np.uint8(0))

    # Trunk and branches, where no leaves are
    x = np.abs(a) * np.float32(tree.spread)
    wood = x < tree.height * 0.022 * (1 - 0.4 * b)
    if tree.kind != CONIFER:
        wood |= (np.abs(x - (patch.y - start * 0.9) * 0.5) < tree.height * 0.009) & (room > 0.1)
    wood &= (patch.y >= 0) & (b < (0.5 if tree.kind in (ROUND, TALL) else 0.0)) & ~inside
    parts[wood] = 1
    colors = [tree.trunk, *(gained(tree.leaf, 0.46 + 0.2 * i) for i in range(6))]
    canvas.paint(
        patch.corner, parts, colors, TREE, nearness=1 / tree.near, instance=canvas.new_instance()
    )


def paint_pole(canvas: Canvas, camera: Camera, pole: Pole, weather: Weather) -> None:
    """Paint a street lamp, a sign, a traffic light or a bollard, at least one pixel wide."""
    patch = _stand(camera, pole.x, pole.near, 3.4 if pole.kind == LAMP else 0.9, pole.height)
    if patch is None:
        return
    a, y, h = _facing(patch, camera, pole.x), patch.y, pole.height
    thick = max(0.045, 0.5 * pole.near / camera.focal)
    parts = ((np.abs(a) < thick) & (y >= 0) & (y < h)).astype(np.uint8)
    reach = a * pole.side
    if pole.kind == LAMP:
        parts[(y > h - max(0.1, thick * 1.5)) & (reach > 0) & (reach < 1.6)] = 1
        parts[(y > h - 0.22) & (reach > 0.9) & (reach < 1.6)] = 2
    elif pole.kind == SIGN:
        rise = y - np.float32(h - 0.33)
        parts[a * a + rise * rise < 0.1] = 3
        parts[a * a + rise * rise < 0.07] = 2
    elif pole.kind == SIGNAL:
        parts[(np.abs(a) < 0.16) & (y > h - 0.9) & (y < h)] = 4
        rise = y - np.float32(h - 0.2)
        parts[a * a + rise * rise < 0.011] = 2
    else:
        parts[(np.abs(a) < 0.08) & (y > h - 0.2)] = 3
    glow = 1.25 / weather.gain[0] if weather.lamps and pole.kind in (LAMP, SIGNAL) else 1.0
    colors = [pole.color, gained(pole.face, glow), (228.0, 228.0, 225.0), (28.0, 30.0, 30.0)]
    canvas.paint(patch.corner, parts, colors, POLE, nearness=1 / pole.near)
