"""The C extension; `portable` has the first three in numpy, torch has the others."""

import numpy as np

def upsample_argmax(
    logits: np.ndarray,
    mask: np.ndarray,
    rows: np.ndarray,
    row_shares: np.ndarray,
    columns: np.ndarray,
    column_shares: np.ndarray,
    /,
) -> bool: ...
def joint_counts(
    label: np.ndarray, prediction: np.ndarray, counts: np.ndarray, classes: int, ignored: int, /
) -> bool: ...
def pixel_to_region(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    context: np.ndarray,
    prior: np.ndarray,
    scale: float,
    squared: bool,
    first: int,
    stop: int,
    /,
) -> None: ...
def upsample_cross_entropy(
    logits: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    row_shares: np.ndarray,
    columns: np.ndarray,
    column_shares: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray | None,
    losses: np.ndarray | None,
    gradient: np.ndarray | None,
    edge: np.ndarray | None,
    last: int,
    ignored: int,
    smoothing: float,
    /,
) -> tuple[bool, float, float]: ...
def depthwise_backward(
    x: np.ndarray,
    pull: np.ndarray,
    weight: np.ndarray,
    to_x: np.ndarray,
    to_weight: np.ndarray,
    to_bias: np.ndarray | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    first: int,
    stop: int,
    /,
) -> None: ...
def norm_sums(
    x: np.ndarray,
    pull: np.ndarray | None,
    table: np.ndarray,
    sums: np.ndarray,
    low: float,
    high: float,
    first: int,
    stop: int,
    /,
) -> None: ...
def norm_apply(
    x: np.ndarray,
    pull: np.ndarray | None,
    table: np.ndarray,
    out: np.ndarray,
    low: float,
    high: float,
    first: int,
    stop: int,
    /,
) -> None: ...
def resize_backward(
    pull: np.ndarray,
    out: np.ndarray,
    rows: np.ndarray,
    row_shares: np.ndarray,
    columns: np.ndarray,
    column_shares: np.ndarray,
    /,
) -> None: ...
def pixel_to_region_backward(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    pull: np.ndarray,
    prior: np.ndarray,
    outside: np.ndarray,
    to_query: np.ndarray,
    to_key: np.ndarray,
    to_value: np.ndarray,
    to_prior: np.ndarray,
    scale: float,
    difference: bool,
    /,
) -> None: ...
def clones() -> list[str]: ...
def chosen() -> str: ...
def use(name: str, /) -> None: ...
