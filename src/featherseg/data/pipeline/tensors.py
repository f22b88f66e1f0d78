"""A dataset as pairs of tensors, for a training loop of one's own."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from featherseg.core.types import SegmentationData


class TensorPairs(Dataset[tuple[Tensor, Tensor]]):
    """(image, label) of each sample: (C, H, W) float32, 0 to 1, and (H, W) int64, 255 = ignore."""

    def __init__(self, data: SegmentationData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self.data[index]
        image = sample.image.astype(np.float32) / np.iinfo(sample.image.dtype).max  # (H, W, C)
        label = sample.label.astype(np.int64)  # (H, W)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label)
