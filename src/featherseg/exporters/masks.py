"""A model with what stands before and behind it: images in, masks out, for programs that have no code of ours."""

from collections.abc import Callable

from torch import Tensor, nn

from featherseg.layers.model import SegmentationModel
from featherseg.layers.normalise import normalise
from featherseg.layers.resize import resize, to_image

Note = Callable[[str, Tensor], None]
"""Is told the name of a step and what it gives."""


def _unheard(name: str, value: Tensor) -> None:
    """A Note that nobody reads."""


class Masks(nn.Module):
    """uint8 images (B, H, W, C), RGB for three channels -> masks (B, H, W) uint8: at every pixel the likeliest class.

    As `layers.resize.to_image` does it, in a form without a branch: logits are brought to the padded size and cropped
    there. Ties go to the lowest class.
    """

    def __init__(self, model: SegmentationModel, note: Note = _unheard) -> None:
        super().__init__()
        self.model, self.note = model, note

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[1:3]
        images = normalise(pixels.permute(0, 3, 1, 2), self.model.mean, self.model.std)  # (B, C, H, W)
        self.note("normalise", images)
        out = self.model(images)
        self.note("logits", out.logits)
        padded = resize(out.logits, out.padded_size, align_corners=out.align_corners)  # (B, K, H', W')
        self.note("upsample", padded)
        scores = padded[:, :, :height, :width]  # (B, K, H, W)
        self.note("crop", scores)
        return scores.argmax(1).byte()


def mask_stages(model: SegmentationModel, pixels: Tensor, note: Note = _unheard) -> Tensor:
    """The same steps as prediction takes them, to compare with: images (B, H, W, C) uint8 -> scores (B, K, H, W)."""
    images = normalise(pixels.permute(0, 3, 1, 2), model.mean, model.std)
    note("normalise", images)
    out = model(images)
    note("logits", out.logits)
    note("upsample", resize(out.logits, out.padded_size, align_corners=out.align_corners))
    scores = to_image(out, out.image_size)
    note("crop", scores)
    return scores
