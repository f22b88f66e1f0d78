"""Paint the static parts of a street scene of `shapes`: skyline, ground, shadows, buildings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featherseg.data.shapes.canvas import (
    HEIGHT,
    RGB,
    WIDTH,
    Camera,
    Canvas,
    Dice,
    box_patch,
    fractal,
    gained,
    grain,
    mix,
    noise_window,
    surfaces,
)
from featherseg.data.shapes.scene import (
    BRICK,
    BUILDING,
    CURTAIN,
    IVY,
    PAVEMENT,
    RIBBON,
    ROAD,
    Building,
    Car,
    Skyline,
    Street,
    Thing,
    Tree,
    Weather,
)


def paint_skyline(canvas: Canvas, camera: Camera, skyline: Skyline) -> None:
    """Paint the distant houses along the horizon, with some gaps."""
    horizon = camera.horizons(np.arange(WIDTH))
    heights, tones = np.zeros(WIDTH, np.float32), np.zeros(WIDTH, np.uint8)
    for column, height, tone in skyline.blocks:
        heights[column:], tones[column:] = height, tone
    top, bottom = max(int((horizon - heights).min()), 0), min(int(horizon.max()) + 2, HEIGHT)
    if top >= bottom:
        return
    rows = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
    inside = (rows > horizon - heights) & (rows < horizon + 1)
    colors = [gained(skyline.color, gain) for gain in (0.7, 0.85, 1.0, 1.2)]
    canvas.paint((top, 0), np.where(inside, tones, np.uint8(0)), colors, BUILDING, nearness=1 / 150)


@dataclass(frozen=True)
class Ground:
    """The pixels from row `top` down: x, z (h, W) in metres on the ground; `seen`: if it is hit.

    mottle (h, W) float32 in -1..1: noise fixed to the ground, for stains and shadows of trees.
    """

    top: int
    x: np.ndarray
    z: np.ndarray
    seen: np.ndarray
    mottle: np.ndarray


def ground_of(camera: Camera, looks: Dice) -> Ground:
    """Intersect the ray of every pixel below the horizon with the ground."""
    columns = np.arange(WIDTH)
    horizon = camera.horizons(columns)
    top = min(max(int(float(horizon.min())), 0), HEIGHT - 1)
    below = np.arange(top, HEIGHT, dtype=np.float32)[:, None] + np.float32(0.5) - horizon  # (h, W)
    scale = np.float32(camera.height) / np.maximum(below, np.float32(0.6))  # metres per pixel
    x = (columns + (0.5 - camera.vanish)).astype(np.float32) * scale
    z = scale * np.float32(camera.focal)
    column = ((x + 512) * 24).astype(np.int32) + looks.below(512) & 511
    row = (z * 10).astype(np.int32) + looks.below(512) & 511
    return Ground(top, x, z, below > 0.6, np.take(fractal(), (row << 9) + column))


KERB, STONE, ASPHALT, LINE = 1, 2, 3, 4


def paint_ground(canvas: Canvas, ground: Ground, street: Street, looks: Dice) -> None:
    """Paint road with lines, kerb and pavement, with their surface textures."""
    x, z = ground.x, ground.z
    # Kerb, pavement, asphalt and lines; a side street crosses all of them
    on_road = (x > street.left) & (x < street.right)
    kerb = (x > street.left - 0.28) & (x < street.right + 0.28)
    if street.crossing is not None:
        on_road |= (z > street.crossing[0]) & (z < street.crossing[1])
    parts = np.where(kerb, np.uint8(KERB), np.uint8(STONE))
    parts[on_road] = ASPHALT
    if street.paint:
        parts[_lines(x, z, street) & on_road] = LINE
    parts[~ground.seen] = 0
    shade = _surface_shade(ground, on_road, street, looks) if canvas.lit else 1.0
    paint: RGB = (street.paint, street.paint, street.paint * 0.98)
    colors = [street.kerb_color, street.pavement_color, street.road_color, paint]
    canvas.paint((ground.top, 0), parts, colors, PAVEMENT, nearness=1 / z, shade=shade)
    # The same parts once more for the class of the road
    parts[parts <= STONE] = 0
    canvas.paint((ground.top, 0), parts, colors, ROAD, nearness=1 / z, shade=shade)


def _lines(x: np.ndarray, z: np.ndarray, street: Street) -> np.ndarray:
    """Return where markings are: dashes, lines at the edges, zebra stripes before a side street."""
    beat = (z + street.dash_phase) * (1 / 6)
    dash = beat - np.floor(beat) < 0.5
    marks = np.zeros(x.shape, bool)
    for line in street.lines:
        marks |= (np.abs(x - line) < 0.08) & dash
    if street.edge_lines:
        marks |= np.abs(x - (street.left + 0.2)) < 0.07
        marks |= np.abs(x - (street.right - 0.2)) < 0.07
    if street.crossing is not None:
        start, stop = street.crossing
        marks &= (z < start - 3.6) | (z > stop)
        if street.zebra:
            marks |= (z > start - 3.6) & (z < start - 0.8) & (x - np.floor(x) < 0.5)
    return marks


def _surface_shade(ground: Ground, on_road: np.ndarray, street: Street, looks: Dice) -> np.ndarray:
    """Return texture, faded with the distance, and stains as a factor around 1, (h, W)."""
    column = ((ground.x + 512) * 64).astype(np.int32) + looks.below(256) & 255
    row = (ground.z * 64).astype(np.int32) + looks.below(256) & 255
    surface = np.where(on_road, np.int32(street.road_surface), np.int32(street.pavement_surface))
    fine = np.take(surfaces(), (surface << 16) + (row << 8) + column)
    return fine * (3 / (12 + ground.z)) + ground.mottle * 0.16 + 1


def cast_shadows(
    canvas: Canvas, ground: Ground, camera: Camera, weather: Weather, things: Sequence[Thing]
) -> None:
    """Darken the ground under cars and, in sunshine, in the shadow of every object."""
    under, beside = np.zeros(ground.x.shape, bool), np.zeros(ground.x.shape, bool)
    for thing in things:
        if isinstance(thing, Car):
            deep, wide = thing.length, thing.width
            if thing.across:
                deep, wide = wide, deep
            depths = (thing.near - 0.1, thing.near + deep)
            _mark(under, ground, camera, (thing.x, wide / 2 + 0.05), depths)
        if weather.shadow < 1:
            _mark_sunless(beside, ground, camera, weather.sun, thing)
    canvas.shade[ground.top :][under] *= np.float32(0.35)
    canvas.shade[ground.top :][beside] *= np.float32(weather.shadow)


def _mark_sunless(mask: np.ndarray, ground: Ground, camera: Camera, sun: int, thing: Thing) -> None:
    """Mark the shadow of a thing; it falls to the side `sun`, 0.8 times as long as the height."""
    reach, start, depths = thing.height * 0.8, 0.0, (thing.near - 0.15, thing.near + 0.15)
    match thing:
        case Building():
            if thing.side == sun:
                return
            depths = (thing.near, thing.far)
        case Car():
            start = (thing.length if thing.across else thing.width) / 2
            depths = (thing.near, thing.near + (thing.width if thing.across else thing.length))
        case Tree():
            crown = (thing.x + sun * reach * 0.7, thing.spread * 1.2)
            below = (thing.near - thing.spread, thing.near + thing.spread)
            _mark(mask, ground, camera, crown, below, ragged=True)
    _mark(mask, ground, camera, (thing.x + sun * (start + reach / 2), reach / 2), depths)


def _mark(
    mask: np.ndarray,
    ground: Ground,
    camera: Camera,
    across: tuple[float, float],
    depths: tuple[float, float],
    ragged: bool = False,
) -> None:
    """Mark the ground in `across` = (centre, half width) and `depths` = (near, far), in metres.

    ragged: mark a ragged oval, not a rectangle.
    """
    near, far = max(depths[0], 1.5), max(depths[1], 1.6)
    # Test only the pixels around the corners
    ends = [
        camera.column(across[0] + half, z) for half in (-across[1], across[1]) for z in (near, far)
    ]
    first, last = max(int(min(ends)), 0), min(int(max(ends)) + 1, WIDTH)
    if first >= last:
        return
    tilt, drop = (camera.horizon_at(first), camera.horizon_at(last)), camera.focal * camera.height
    start = max(int(min(tilt) + drop / far) - ground.top, 0)
    stop = min(int(max(tilt) + drop / near) + 1, HEIGHT) - ground.top
    if start >= stop:
        return
    box = (slice(start, stop), slice(first, last))
    dx = (ground.x[box] - across[0]) * (1 / across[1])
    dz = (ground.z[box] - (near + far) / 2) * (2 / (far - near))
    inside = (np.abs(dx) < 1) & (np.abs(dz) < 1)
    if ragged:
        inside = dx * dx + dz * dz + ground.mottle[box] < 0.9
    mask[box] |= inside & ground.seen[box]


WALL, PANE, MIRROR, LIT, FRAME, ROOF, SHOP, DOOR = range(1, 9)
_PANES = np.array([PANE, PANE, MIRROR, PANE, MIRROR, PANE, LIT, LIT], np.uint8)


def paint_building(
    canvas: Canvas, camera: Camera, b: Building, weather: Weather, looks: Dice
) -> None:
    """Paint a box with two visible faces, floors with windows, a ground floor and a roof."""
    patch = box_patch(camera, b.x, b.width, b.near, b.far, b.height + b.gable)
    if patch is None:
        return
    parts = _facade(b, patch.y, patch.along)
    half = abs(b.width) / 2
    pitch = np.maximum(1 - np.abs(patch.along - half) * (1 / half), 0) * b.gable
    top = np.where(patch.front, pitch + b.height, b.height).astype(np.float32)  # (w,)
    parts[(patch.y > top) | (patch.y < 0)] = 0
    shade: np.ndarray | float = 1.0
    if canvas.lit:
        side = 1.08 if b.side == weather.sun else 0.78
        shade = np.where(patch.front, np.float32(0.94), np.float32(side)) + (
            noise_window(grain(), looks, *patch.y.shape) * (0.2 if b.style == IVY else 0.05)
            + noise_window(fractal(), looks, *patch.y.shape) * (0.3 if b.style == IVY else 0.12)
        )
        if b.style == BRICK:
            course = patch.y * 5
            shade = shade - 0.1 * ((course - np.floor(course) < 0.3) & (parts == WALL))
    canvas.paint(
        patch.corner, parts, _facade_colors(b, weather), BUILDING, nearness=1 / patch.z, shade=shade
    )


def _facade(b: Building, y: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Return parts (h, w) at height y (h, w), `along` (w,) metres from the corner."""
    bay, floor = along * (1 / b.bay), y * (1 / b.floor_height)
    bay_number, floor_number = np.floor(bay), np.floor(floor)
    across, up = bay - bay_number, floor - floor_number  # 0..1 in a bay (w,), in a floor (h, w)
    width, height = b.window
    if b.style == RIBBON:
        width = 1.0
    elif b.style == CURTAIN:
        width, height = 0.94, 0.9
    beside, sill = np.abs(across - 0.5), 0.04 if b.style == CURTAIN else 0.25
    parts = np.full(y.shape, WALL, np.uint8)
    parts[up < 0.06] = FRAME
    parts[(up > sill - 0.03) & (up < sill + height + 0.03) & (beside < width / 2 + 0.04)] = FRAME
    window = (up > sill) & (up < sill + height) & (beside < width / 2) & (beside > 0.025)
    number = bay_number.astype(np.int32) * 73 + floor_number.astype(np.int32) * 179 + b.number
    np.copyto(parts, _PANES[(number * 40503 >> 5) & 7], where=window)
    ground_floor = y < b.floor_height
    parts[ground_floor] = SHOP
    parts[ground_floor & (beside < 0.4) & (beside > 0.03) & (up > 0.16) & (up < 0.72)] = PANE
    door = (bay_number.astype(np.int32) + b.number & 3) == 0  # (w,)
    parts[ground_floor & door & (up < 0.66)] = DOOR
    parts[y > b.height - 0.3] = ROOF
    return parts


def _facade_colors(b: Building, weather: Weather) -> list[RGB]:
    sky = gained(weather.sky[0], 1 / weather.gain[1])
    glass: RGB = mix((46, 52, 60), sky, 0.12)
    lit = gained((215, 185, 125), 1 / weather.gain[0]) if weather.lamps else mix(glass, b.wall, 0.4)
    mirror = mix((60, 68, 78), sky, 0.75 if b.style == CURTAIN else 0.4)
    frame = gained(b.wall, 0.86 if b.number & 1 else 1.12)
    return [b.wall, glass, mirror, lit, frame, b.roof, b.ground_floor, gained(b.ground_floor, 0.55)]
