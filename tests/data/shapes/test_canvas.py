"""The canvas of synthetic scenes: repeatable dice, an inverse camera, paint that covers."""

import numpy as np
import pytest

from featherseg.data.shapes.canvas import HEIGHT, WIDTH, Camera, Canvas, Dice, box_patch, fractal
from featherseg.data.shapes.street import ground_of

CAMERA = Camera(focal=350.0, height=1.6, vanish=230.0, horizon=118.0, roll=0.03)


def test_dice_repeat_for_a_seed_and_differ_between_seeds():
    first, again, other = (Dice(*seed) for seed in ((1, 2), (1, 2), (2, 1)))
    draws = [[dice.uniform(0, 1) for _ in range(5)] for dice in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]
    assert first.bytes(11).tolist() == again.bytes(11).tolist()


def test_dice_follow_the_raw_words_of_pcg64():
    words = [int(w) for w in np.random.PCG64(np.random.SeedSequence((5, 6))).random_raw(3)]
    dice = Dice(5, 6)
    assert dice.uniform(-1, 3) == -1 + 4 * ((words[0] >> 11) / 2**53)
    assert dice.below(10) == (words[1] >> 32) * 10 // 2**32
    assert dice.bytes(8).tobytes() == words[2].to_bytes(8, "little")


def test_noise_tiles_without_a_seam():
    noise = fractal()
    inside = np.abs(np.diff(noise, axis=1)).max()
    assert np.abs(noise[:, 0] - noise[:, -1]).max() <= inside


@pytest.mark.parametrize(("x", "width"), [(4.0, 3.0), (-4.0, -3.0), (-0.9, 1.8)])
def test_every_pixel_of_a_box_projects_back_onto_itself(x, width):
    patch = box_patch(CAMERA, x, width, near=8.0, far=14.0, top=2.5)
    assert patch is not None
    side = 1 if width > 0 else -1
    for i in range(0, patch.y.shape[0], 7):
        for j in range(0, patch.y.shape[1], 5):
            z, along = float(patch.z[j]), float(patch.along[j])
            place = (
                x + side * along if patch.front[j] else x
            )  # the flank lies in the plane x, `along` metres deep
            assert z == pytest.approx(8.0 if patch.front[j] else 8.0 + along, rel=1e-4)
            column = CAMERA.column(place, z)
            assert column == pytest.approx(patch.corner[1] + j + 0.5, abs=0.01)
            assert CAMERA.row(column, float(patch.y[i, j]), z) == pytest.approx(
                patch.corner[0] + i + 0.5, abs=0.01
            )


def test_a_box_in_the_middle_shows_no_flank():
    patch = box_patch(CAMERA, -0.9, 1.8, near=8.0, far=14.0, top=2.5)
    assert patch is not None
    assert patch.front.all()


@pytest.mark.parametrize("x", [40.0, -40.0])
def test_a_box_beside_the_image_has_no_pixels(x):
    assert box_patch(CAMERA, x, 1.0 if x > 0 else -1.0, near=8.0, far=9.0, top=2.0) is None


def test_every_pixel_of_the_ground_projects_back_onto_itself():
    ground = ground_of(CAMERA, Dice(0))
    for i in range(20, ground.x.shape[0], 31):
        for j in range(0, WIDTH, 37):
            assert ground.seen[i, j]
            x, z = float(ground.x[i, j]), float(ground.z[i, j])
            assert CAMERA.column(x, z) == pytest.approx(j + 0.5, abs=0.02)
            assert CAMERA.row(j + 0.5, 0.0, z) == pytest.approx(ground.top + i + 0.5, abs=0.02)


def test_later_paint_hides_earlier_paint_and_what_is_hidden_has_no_id():
    canvas = Canvas(background=3)
    hidden, partly, front = (canvas.new_instance() for _ in range(3))
    block = np.ones((4, 4), np.uint8)
    for corner, instance in (((10, 10), hidden), ((10, 8), partly), ((10, 10), front)):
        canvas.paint(corner, block, [(9.0, 9.0, 9.0)], 6, nearness=0.1, instance=instance)
    ids = canvas.instances()
    assert np.unique(ids).tolist() == [0, 1, 2]
    assert (ids[10:14, 8:10] == 1).all()
    assert (ids[10:14, 10:14] == 2).all()
    assert (canvas.label() == np.where(ids > 0, 6, 3)).all()


def test_part_zero_is_not_painted_and_parts_pick_their_colour():
    canvas = Canvas(background=0)
    parts = np.array([[0, 1], [2, 0]], np.uint8)
    canvas.paint(
        (HEIGHT - 2, 0), parts, [(10.0, 20.0, 30.0), (40.0, 50.0, 60.0)], 5, nearness=1.0, shade=0.5
    )
    assert canvas.label()[-2:, :2].tolist() == [[0, 5], [5, 0]]
    assert canvas.color()[:, -2, 1].tolist() == [5.0, 10.0, 15.0]
    assert canvas.color()[:, -1, 0].tolist() == [20.0, 25.0, 30.0]
