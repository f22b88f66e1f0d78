"""The divisor of a loss in a training on several processes, which makes it that of one process."""

from torch import Tensor, distributed


def several_processes() -> bool:
    """Whether this is one of several processes of a training."""
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def mean_over_processes(total: Tensor) -> Tensor:
    """Return the mean over all processes of the divisor of a loss, a scalar.

    Gradients are averaged over the processes. Let s and n be the sums of losses and of weights of a
    process, and n' the mean of n: then mean(s / n') = sum(s) / sum(n), the loss of one process with
    all images. Every process must call this equally often.
    """
    if not several_processes():
        return total
    mean = total.detach().double()
    distributed.all_reduce(mean)
    return mean / distributed.get_world_size()
