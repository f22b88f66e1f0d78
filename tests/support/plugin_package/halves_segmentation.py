"""A model, a dataset and a loss that another package adds to featherseg (docs/architecture.md)."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from featherseg.core.types import ClassInfo, DataFacts, SegOutput
from featherseg.data.images.labels import LabelMap
from featherseg.data.images.pairs import Listing, NamedData, files_by_stem, make_pairs
from featherseg.layers.model import ModelConfig, ModelEntry
from featherseg.layers.own_model import OwnModel
from featherseg.layers.resize import to_image

CLASSES = (ClassInfo("dark", (0, 0, 0)), ClassInfo("bright", (255, 255, 255)))


class TwoStridesConfig(ModelConfig):
    """`width` may be set in a recipe: model.width = 16."""

    width: int = 8


class TwoStrides(nn.Module):
    """Logits at a quarter of the image."""

    mean, std, size_divisor = (127.0, 127.0, 127.0), (64.0, 64.0, 64.0), 4

    def __init__(self, config: TwoStridesConfig, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Conv2d(3, config.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, config.width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(config.width, classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes, H / 4, W / 4)."""
        return self.layers(images)


TWO_STRIDES = ModelEntry(
    lambda config, classes: OwnModel(TwoStrides(config, classes)),
    TwoStridesConfig(backbone="none"),
    "no paper",
)


class Halves(NamedData):
    """SPLIT/images/*.png and SPLIT/masks/*.png, whose values are the classes."""

    facts = DataFacts("halves", CLASSES, "CC0", image_size=(32, 48))

    @classmethod
    def list_files(cls, root: Path, splits: Sequence[str]) -> Listing:
        """The files of the splits."""
        pairs = {}
        for split in splits:
            images, masks = (files_by_stem(root / split / kind) for kind in ("images", "masks"))
            pairs[split] = make_pairs(list(images), images, masks)
        return Listing("halves", CLASSES, LabelMap({0: 0, 1: 1}, expected="0 and 1"), pairs, "CC0")


class PlainMean(nn.Module):
    """The mean cross-entropy over the labelled pixels."""

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(self, out: SegOutput, labels: Tensor) -> Tensor:
        """A model's output, labels (B, H, W) -> scalar."""
        logits = to_image(out, (labels.shape[1], labels.shape[2]))
        return F.cross_entropy(logits, labels, ignore_index=255, label_smoothing=self.smoothing)


def plain_mean(
    model: nn.Module, class_weights: list[float] | None, smoothing: float = 0.0
) -> PlainMean:
    """As a recipe names it: loss.name = "plain-mean", loss.options.smoothing = 0.1."""
    return PlainMean(smoothing)
