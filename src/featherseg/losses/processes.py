"""What a training over several processes divides its losses by, so that they are those of one process."""

from torch import Tensor, distributed


def several_processes() -> bool:
    """Whether this is one of several processes of a training."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def mean_over_processes(total: Tensor) -> Tensor:
    """The mean over all processes of a sum that a loss is divided by, scalar; of one process the sum itself.

    Gradients are averaged over P processes, so with s and n each process's sums of losses and of weights, and n' the
    mean of n, mean(s / n') = sum(s) / sum(n): the loss of one process with all images, however unequally the pixels
    that count are shared out. Every process has to call it equally often.
    """
    if not several_processes():
        return total
    mean = total.detach().double()
    distributed.all_reduce(mean)
    return mean / distributed.get_world_size()
