"""What goes through a model together, and that nobody pays for another's image."""

import numpy as np
import pytest
from support.models.color_model import Gated, answer_of, color_predictor, image, poisoned, until

from featherseg.serving.batching import Worker


@pytest.fixture
def gated():
    """A worker whose model waits, busy with one image; later images wait in the queue."""
    predictor = Gated(batch=3)
    worker = Worker(predictor, batch=3)
    first = worker.submit(image(99, (8, 9)))
    until(first.running)
    yield predictor, worker
    predictor.gate.set()
    worker.close(60)


def test_images_of_one_size_that_wait_go_together_in_their_order(gated):
    predictor, worker = gated
    sizes = [(24, 40), (16, 16), (24, 40), (24, 40), (24, 40), (16, 16)]
    images = [image(i, size) for i, size in enumerate(sizes)]
    answers = [worker.submit(pixels) for pixels in images]
    predictor.gate.set()
    for pixels, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer.result(60).mask, answer_of(pixels))
    assert predictor.seen == [1, 3, 2, 1]


def test_eight_and_sixteen_bits_do_not_go_together(gated):
    predictor, worker = gated
    deep = image(1).astype(np.uint16) * 257
    answers = [worker.submit(image(0)), worker.submit(deep)]
    predictor.gate.set()
    assert [answer.result(60).mask.shape for answer in answers] == [(24, 40)] * 2
    assert predictor.seen == [1, 1, 1]


def test_what_is_given_up_while_it_waits_is_never_run(gated):
    predictor, worker = gated
    given_up, kept = worker.submit(image(0)), worker.submit(image(1))
    assert given_up.cancel()
    predictor.gate.set()
    kept.result(60)
    assert predictor.seen == [1, 1]


def test_an_image_at_which_the_model_fails_fails_alone():
    sizes = []
    predictor = Gated(batch=4)
    worker = Worker(predictor, batch=4, observe=sizes.append)
    first = worker.submit(image(5))
    until(first.running)
    good = [worker.submit(image(seed)) for seed in range(2)]
    bad = worker.submit(poisoned())
    predictor.gate.set()
    with pytest.raises(RuntimeError, match="a secret of the server"):
        bad.result(60)
    for seed, answer in enumerate(good):
        np.testing.assert_array_equal(answer.result(60).mask, answer_of(image(seed)))
    assert sizes == [1, 3]
    worker.close(60)


def test_closing_finishes_what_waits(gated):
    predictor, worker = gated
    last = worker.submit(image(3))
    predictor.gate.set()
    worker.close(60)
    assert not worker.alive
    assert last.done()


def test_models_take_turns():
    first, second = Gated(), Gated()
    workers = [Worker(predictor, batch=1) for predictor in (first, second)]
    answers = [worker.submit(image(0)) for worker in workers]
    until(lambda: first.seen or second.seen)
    assert len(first.seen + second.seen) == 1
    first.gate.set()
    second.gate.set()
    assert all(answer.result(60) for answer in answers)
    for worker in workers:
        worker.close(60)


def test_a_batch_gives_the_masks_of_its_images_alone():
    together = color_predictor(batch=8)
    images = [image(seed) for seed in range(8)]
    for found, pixels in zip(together(images), images, strict=True):
        np.testing.assert_array_equal(found.mask, together(pixels).mask)
