"""Interrupt work between two operations of torch; imported only where torch is."""

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class StopBetweenOperations(TorchDispatchMode):
    """While active, every operation of torch in this thread calls `stop` first."""

    def __init__(self, stop: Callable[[], None]) -> None:
        super().__init__()
        self.stop = stop

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.stop()
        return func(*args, **(kwargs or {}))
