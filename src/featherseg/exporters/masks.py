"""A model with pre- and postprocessing: images in, masks out, for programs without featherseg."""

from collections.abc import Callable

from torch import Tensor, nn

from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import resize, to_image

Note = Callable[[str, Tensor], None]
"""Called with the name and the output of a step."""


def _unheard(name: str, value: Tensor) -> None:
    """A Note that does nothing."""


class Masks(nn.Module):
    """Images (B, H, W, C) uint8 -> masks (B, H, W) uint8 of the likeliest class; three channels are
    RGB.

    Like `layers.resize.to_image` without a branch: logits are resized to the padded size and
    cropped to the image.
    """

    def __init__(self, model: SegmentationModel, note: Note = _unheard) -> None:
        super().__init__()
        self.model, self.note = model, note

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[1:3]
        images = normalise(
            pixels.permute(0, 3, 1, 2), self.model.mean, self.model.std
        )  # (B, C, H, W)
        self.note("normalise", images)
        out = self.model(images)
        self.note("logits", out.logits)
        padded = resize(
            out.logits, out.padded_size, align_corners=out.align_corners
        )  # (B, K, H', W')
        self.note("upsample", padded)
        scores = padded[:, :, :height, :width]  # (B, K, H, W)
        self.note("crop", scores)
        return scores.argmax(1).byte()


def mask_stages(model: SegmentationModel, pixels: Tensor, note: Note = _unheard) -> Tensor:
    """Return the model's scores as in prediction: images (B, H, W, C) uint8 -> (B, K, H, W)."""
    images = normalise(pixels.permute(0, 3, 1, 2), model.mean, model.std)
    note("normalise", images)
    out = model(images)
    note("logits", out.logits)
    note("upsample", resize(out.logits, out.padded_size, align_corners=out.align_corners))
    scores = to_image(out, out.image_size)
    note("crop", scores)
    return scores
