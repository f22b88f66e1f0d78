"""A warning if an image has another range of values than the training images."""

import logging
from weakref import WeakSet

import numpy as np

from featherseg.data.images.image_range import range_note
from featherseg.inference.runtimes import Runtime

_warned: WeakSet[Runtime] = WeakSet()

log = logging.getLogger("featherseg")


def warn_of_range(runtime: Runtime, image: np.ndarray, name: str) -> None:
    """Warn once per runtime if the values of an image (H, W, C) do not fit its training."""
    if runtime not in _warned and (note := range_note(image, runtime.image_range)):
        log.warning("%s %s (said once)", name, note)
        _warned.add(runtime)
