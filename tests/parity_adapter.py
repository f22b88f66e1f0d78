"""Our networks under the names and calls of `../shared/reference/parity/check.py` (its docstring says what each is)."""

from torch import Tensor, dtype

from featherseg import backbones
from featherseg.backbones.weights import load_official
from featherseg.evaluation.cost import count_parameters
from featherseg.layers.network import Backbone

BACKBONES = {"van_b1": "van-b1"}  # the checker's name -> ours


class OfficialBackbone:
    """A backbone of ours that takes the authors' state dict."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def load_official(self, state: dict[str, Tensor]) -> None:
        load_official(self.backbone, state)
        self.backbone.eval()

    def stages(self, images: Tensor) -> list[Tensor]:
        return self.backbone(images)

    def to(self, kind: dtype) -> None:
        self.backbone.to(kind)

    def param_count(self) -> int:
        return count_parameters(self.backbone)


def factory(name: str, num_classes: int | None) -> OfficialBackbone:
    """`van_b1` and so on, untrained; num_classes is for networks."""
    return OfficialBackbone(backbones.build(BACKBONES[name]))
