"""Our networks under the names and calls of `../shared/reference/parity/check.py` (its docstring says what each is)."""

from torch import Tensor, dtype, nn

from featherseg import backbones
from featherseg.backbones.weights import load_official
from featherseg.evaluation.cost import count_parameters
from featherseg.layers.network import Backbone
from featherseg.models.cgrseg import VARIANTS, CGRSeg

OURS = {"van_b1": "van-b1", "cgrseg_t": "cgrseg-t"}
"""The checker's name -> ours."""


class OfficialBackbone:
    """A backbone of ours that takes the authors' state dict."""

    def __init__(self, backbone: Backbone) -> None:
        self.module: nn.Module = backbone
        self.backbone = backbone

    def load_official(self, state: dict[str, Tensor]) -> None:
        load_official(self.module, state)
        self.module.eval()

    def stages(self, images: Tensor) -> list[Tensor]:
        return self.backbone(images)

    def to(self, kind: dtype) -> None:
        self.module.to(kind)

    def param_count(self) -> int:
        return count_parameters(self.module)


class OfficialCGRSeg(OfficialBackbone):
    """CGRSeg, with what it has in between."""

    def __init__(self, network: CGRSeg) -> None:
        super().__init__(network.backbone)
        self.module = self.network = network

    def logits(self, images: Tensor) -> Tensor:
        return self.network(images).logits

    def taps(self, images: Tensor) -> dict[str, Tensor]:
        """Intermediate maps, (B, C, h, w), by the checker's names."""
        net = self.network
        assert net.context is not None
        assert net.prototype is not None
        first, last = net.context.refine[0], net.context.refine[-1]
        found: dict[str, Tensor] = {}
        handles = [
            first.register_forward_pre_hook(lambda _, given: found.update(pyramid_pooled=given[0])),
            last.register_forward_hook(lambda _, given, out: found.update(pyramid_context=out)),
            *(
                fuse.register_forward_hook(lambda _, given, out, stride=stride: found.update({f"fused_{stride}": out}))
                for fuse, stride in zip(net.decoder.fuse, (8, 16, 32), strict=True)
            ),
            net.prototype.embed.register_forward_hook(
                lambda _, given, out: found.update(coarse_logits=given[1], class_embedding=out)
            ),
            net.prototype.register_forward_hook(lambda _, given, out: found.update(dpg_out=out * given[0])),
        ]
        net(images)
        for handle in handles:
            handle.remove()
        return found


def factory(name: str, num_classes: int | None) -> OfficialBackbone:
    """`van_b1` and so on, untrained; num_classes is for networks."""
    ours = OURS[name]
    if num_classes is None:
        return OfficialBackbone(backbones.build(ours))
    return OfficialCGRSeg(CGRSeg(VARIANTS[ours], num_classes))
