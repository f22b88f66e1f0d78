"""One training step: normalise, forward, loss, optimiser, EMA; its state is resumed exactly."""

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from featherseg.core.errors import TrainingError
from featherseg.data.pipeline.loader import Batch
from featherseg.layers.model import SegmentationModel
from featherseg.recipe.tables import TrainTable
from featherseg.training.loss import compute_loss
from featherseg.training.optimisers import build_optimizer, build_schedule

SEED_STRIDE = 1_000_003
"""A prime, so that two seeds share no micro-batch's random numbers."""


class SegmentationModule(pl.LightningModule):
    """The model with its loss and optimiser, as Lightning drives it.

    Randomness inside the model is seeded from (seed, micro-batch, rank), so no generator state
    needs saving. `make_loader(start, rank, world)` returns the batches from micro-batch `start` on.
    """

    def __init__(
        self,
        model: SegmentationModel,
        loss: nn.Module,
        settings: TrainTable,
        *,
        steps: int,
        make_loader: Callable[[int, int, int], DataLoader[Batch]],
    ) -> None:
        super().__init__()
        self.model: Any = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss, self.settings, self.steps, self.make_loader = loss, settings, steps, make_loader
        self.micro_batch = 0
        self.average: dict[str, Tensor] = {}
        # Those since the last optimiser step, with their parts
        self.losses: list[dict[str, float]] = []
        self.lr = 0.0

    def on_fit_start(self) -> None:
        """Start the EMA, or continue a checkpoint's, once the model is on its device."""
        if self.settings.ema or self.settings.ema_share:
            start = self.average or self.model.state_dict()
            self.average = {
                key: value.detach().to(self.device, copy=True) for key, value in start.items()
            }

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the batches that are left; Lightning calls it after loading the checkpoint."""
        return self.make_loader(self.micro_batch, self.trainer.global_rank, self.trainer.world_size)

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule that follows its steps."""
        optimizer = build_optimizer(self.model, self.loss, self.settings)
        schedule = build_schedule(optimizer, self.settings, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the scalar loss of images (B, C, H, W) uint8/uint16 and labels (B, H, W) uint8."""
        torch.manual_seed(
            self.settings.seed * SEED_STRIDE + self.micro_batch * 64 + self.global_rank
        )
        self.micro_batch += 1
        total, parts = compute_loss(self.model, self.loss, batch, self.trainer.global_step)
        values = {key: value.detach() for key, value in {"loss": total, **parts}.items()}
        if self.trainer.world_size > 1:  # the mean over all ranks, so that all stop or none
            means = self.trainer.strategy.reduce(
                torch.stack(list(values.values())), reduce_op="mean"
            )
            values = dict(zip(values, means, strict=True))
        self.losses.append({key: float(value) for key, value in values.items()})
        if not math.isfinite(self.losses[-1]["loss"]):  # a number already: no wait for the device
            self.lr = self.trainer.optimizers[0].param_groups[-1]["lr"]
            raise self._diverged(
                f"the loss is {self.losses[-1]['loss']}", self.trainer.global_step + 1
            )
        return total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update the EMA; a later hook would come after the checkpoint."""
        self.lr = args[2].param_groups[-1]["lr"]  # (epoch, batch index, optimizer, closure)
        super().optimizer_step(*args, **kwargs)
        if not self.average:
            return
        decay = self.settings.average_decay(self.steps)
        decay = min(decay, (1 + self.trainer.global_step) / (10 + self.trainer.global_step))
        with torch.no_grad():
            for key, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[key].lerp_(value, 1 - decay)
                else:
                    self.average[key].copy_(value)

    def check_finite(self, step: int) -> None:
        """Raise TrainingError naming `step` and the first tensor with values that are not finite.

        Called before weights are kept: they, or the optimiser's state, may be infinite while the
        loss is still finite.
        """
        tensors = {
            **self.model.state_dict(),
            **{f"EMA of {key}": value for key, value in self.average.items()},
        }
        tensors |= {f"loss.{key}": value for key, value in self.loss.state_dict().items()}
        for optimizer in self.trainer.optimizers:
            states = enumerate(optimizer.state.values())
            tensors |= {
                f"optimizer.{n}.{k}": v
                for n, state in states
                for k, v in state.items()
                if torch.is_tensor(v)
            }
        floats = {key: value for key, value in tensors.items() if value.is_floating_point()}
        finite = torch.stack(
            [value.isfinite().all().to(self.device) for value in floats.values()]
        ).tolist()
        if not all(finite):
            raise self._diverged(
                f"{list(floats)[finite.index(False)]} has values that are not finite", step
            )

    def _diverged(self, what: str, step: int) -> TrainingError:
        """Return the error of a training that diverged at `step`, with remedies."""
        settings = self.settings
        remedies = [f"a lower learning rate (--set train.lr={settings.lr / 10:.3g})"]
        remedies += [] if settings.warmup_steps else ["a warm-up (--set train.warmup_steps=500)"]
        remedies += [] if settings.precision == "fp32" else ["--set train.precision=fp32"]
        return TrainingError(
            f"{what} at step {step}, with a learning rate of {self.lr:.3g}. Training stopped "
            "there: last.ckpt and the kept weights are from earlier steps.",
            "Resuming would lead to the same step, so start a new run (from these weights with "
            f"--init RUN, if a validation has kept some) and try {', '.join(remedies)}.",
        )

    def take_record(self) -> dict[str, float]:
        """Return the mean loss of the last step's micro-batches and its learning rate (head).

        Also the parts of the loss of a panoptic model: semantic, center, offset.
        """
        losses, self.losses = self.losses, []
        means = {key: sum(loss[key] for loss in losses) / len(losses) for key in losses[0]}
        return {"loss": means.pop("loss"), "lr": self.lr} | {
            f"loss_{key}": value for key, value in means.items()
        }

    def kept_state(self) -> dict[str, Tensor]:
        """Return the weights that are validated and kept: the EMA's if there is one."""
        return self.average or self.model.state_dict()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state that Lightning does not save."""
        checkpoint["micro_batch"], checkpoint["average"] = self.micro_batch, self.average

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore that state."""
        state = checkpoint["state_dict"]
        for key in [
            key for key in state if key.startswith("net.")
        ]:  # checkpoints of earlier versions
            state["model." + key.removeprefix("net.")] = state.pop(key)
        self.micro_batch, self.average = checkpoint["micro_batch"], checkpoint["average"]
