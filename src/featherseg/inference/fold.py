"""Batch norms and layer scales as part of the convolutions beside them."""

from torch import nn

from featherseg.inference.dataflow import links
from featherseg.layers.folding import factors, scale_inputs, scale_outputs
from featherseg.layers.model import SegmentationModel, merge_paths
from featherseg.layers.scale import LayerScale


def fold(model: SegmentationModel) -> None:
    """Make batch norms and layer scales part of convolutions, in place, if the result stays equal.

    This is so if the whole result of a convolution goes into one of them, or their whole result
    into a convolution without padding; one forward shows where. The model must be in eval mode.
    """
    merge_paths(model)
    for block in list(model.modules()):
        if fold_own := getattr(block, "fold_own", None):  # more than its data flow shows
            fold_own()
    home: dict[str, str] = {}  # a folded layer -> the convolution that it is part of
    for name, behind in links(model, (nn.Conv2d, nn.BatchNorm2d, LayerScale)):
        before = home.get(name, name)
        first, second = model.get_submodule(before), model.get_submodule(behind)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d | LayerScale):
            scale_outputs(first, *factors(second))
            home[behind] = before
        elif (
            isinstance(first, nn.BatchNorm2d | LayerScale)
            and isinstance(second, nn.Conv2d)
            and _sees_all(second)
        ):
            scale_inputs(second, *factors(first))
            home[before] = behind
    for name in home:
        model.set_submodule(name, nn.Identity())
    model.eval()  # the new layers as well


def _sees_all(conv: nn.Conv2d) -> bool:
    """Whether there are no groups, and no padding zeros, which a shift would have to change."""
    return conv.groups == 1 and conv.padding == (0, 0)
