"""Muon for matrices: momentum whose singular values are made about one; AdamW for other weights.

Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024
(kellerjordan.github.io/posts/muon), in the scale of Liu et al., "Muon is scalable for LLM
training", arXiv:2502.16982, Sec. 2.2. In that scale weights move as far as with AdamW, so AdamW's
rates and decay can be used. torch.optim.Muon takes no convolutions.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.95
"""Jordan et al."""

ITERATIONS = 3
"""As in Jordan's training of convolutions (airbench94_muon.py); his language models use five."""

POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of the iteration (Jordan et al.)."""

UPDATE_RMS = 0.2
"""Root mean square of an AdamW update, divided by its rate (Liu et al., Sec. 2.2)."""


class Muon(Optimizer):
    """Muon for groups with `matrices`: weights (out, in, ...), each a matrix (out, in * ...).

    half: Whether the matrices are multiplied in bf16.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, lr: float, half: bool) -> None:
        groups = list(groups)
        self.adamw = AdamW(groups, lr=lr, fused=True)
        super().__init__(groups, self.adamw.defaults)
        self.dtype = torch.bfloat16 if half else torch.float32

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step of all groups, and return what the closure returns."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        with torch.no_grad():
            self._step_matrices()
        self.adamw.param_groups = [group for group in self.param_groups if not group["matrices"]]
        self.adamw.state = self.state
        self.adamw.step()
        return loss

    def _step_matrices(self) -> None:
        """Update the matrices by Nesterov momentum; equal shapes, also transposed, go together."""
        alike: dict[tuple[int, ...], list[tuple[nn.Parameter, dict[str, Any], Tensor]]] = {}
        for group in self.param_groups:
            for weight in group["params"] if group["matrices"] else []:
                gradient, state = weight.grad, self.state[weight]
                if gradient is None:
                    continue
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
                ahead = (
                    gradient.lerp(momentum, MOMENTUM).flatten(1).to(self.dtype)
                )  # (out, in * ...)
                alike.setdefault(tuple(sorted(ahead.shape)), []).append((weight, group, ahead))
        for (low, high), group_of_shape in alike.items():
            wide = orthogonalise(
                torch.stack([x if len(x) == low else x.mT for *_, x in group_of_shape])
            )  # (N, low, high)
            for (weight, group, x), update in zip(group_of_shape, wide, strict=True):
                lr, oriented = group["lr"], update if len(x) == low else update.mT
                weight.mul_(1 - lr * group["weight_decay"])
                weight.add_(oriented.reshape(weight.shape), alpha=-lr * UPDATE_RMS * high**0.5)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Return matrices (N, m, n), m <= n, with singular values between about 0.5 and 1.2.

    The smallest singular values may stay below. A Newton-Schulz iteration, in the precision of the
    matrices.
    """
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = POLYNOMIAL
    for _ in range(ITERATIONS):
        gram = x @ x.mT  # (N, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
