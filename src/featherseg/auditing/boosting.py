"""Gradient-boosted trees for yes or no (Friedman 2001; histograms as in LightGBM, Ke et al. 2017), in numpy.

Own code, as scikit-learn, which has the same, would be a dependency of 40 MB for these lines (docs/decisions/0015).
"""

from dataclasses import dataclass

import numpy as np

TREES, DEPTH, RATE = 60, 4, 0.15
BINS = 32
LEAST = 20
"""Rows in a leaf, at least."""

SHRINK = 1.0
"""lambda of a leaf's value: sum of gradients / (sum of hessians + lambda)."""


@dataclass(frozen=True)
class Trees:
    """cuts (F, BINS - 1) turn features to bins; each tree is a full binary one of DEPTH: (feature, bin) by node, values
    by leaf.
    """

    cuts: np.ndarray
    prior: float
    nodes: np.ndarray  # (TREES, 2 ** DEPTH - 1, 2)
    leaves: np.ndarray  # (TREES, 2 ** DEPTH)

    def probability(self, rows: np.ndarray) -> np.ndarray:
        """(N, F) -> the probability of yes (N,)."""
        bins = _binned(rows, self.cuts)
        total = np.full(len(rows), self.prior)
        for nodes, leaves in zip(self.nodes, self.leaves, strict=True):
            total += leaves[_leaf(bins, nodes)]
        return 1 / (1 + np.exp(-total))


def fit_trees(rows: np.ndarray, yes: np.ndarray, weights: np.ndarray) -> Trees:
    """Learn from rows (N, F) which are `yes` (N,) bool; the same rows give the same trees. weights (N,) sum to N."""
    cuts = (
        np.quantile(rows, np.linspace(0, 1, BINS + 1)[1:-1], axis=0).T
        if len(rows)
        else np.zeros((rows.shape[1], 1))
    )
    bins = _binned(rows, cuts)
    share = np.clip((weights * yes).sum() / max(weights.sum(), 1e-9), 1e-3, 1 - 1e-3)
    prior = float(np.log(share / (1 - share)))
    total, nodes, leaves = np.full(len(rows), prior), [], []
    for _ in range(TREES):
        chance = 1 / (1 + np.exp(-total))
        gradient, hessian = weights * (yes - chance), weights * chance * (1 - chance)
        tree, values = _tree(bins, gradient, hessian)
        total += values[_leaf(bins, tree)]
        nodes.append(tree)
        leaves.append(values)
    return Trees(cuts, prior, np.array(nodes), np.array(leaves))


def _binned(rows: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    columns = [
        np.searchsorted(cut, column, side="right") for cut, column in zip(cuts, rows.T, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.uint8)


def _leaf(bins: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """The leaf that each row falls into, (N,): to the right where its bin is above the node's."""
    at, every = np.zeros(len(bins), np.int64), np.arange(len(bins))
    for _ in range(DEPTH):
        feature, cut = nodes[at].T
        at = 2 * at + 1 + (bins[every, feature] > cut)
    return at - (2**DEPTH - 1)


def _tree(
    bins: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, leaf values): level by level each node takes the cut that gains most; one that gains nothing sends all
    rows to the left.
    """
    count, features = bins.shape
    nodes = np.zeros((2**DEPTH - 1, 2), np.int64)
    nodes[:, 1] = BINS
    at = np.zeros(count, np.int64)  # node within its level
    for level in range(DEPTH):
        width = 2**level
        place = at[:, None] * (features * BINS) + np.arange(features) * BINS + bins  # (N, F)

        def sums(values: np.ndarray, place: np.ndarray = place, width: int = width) -> np.ndarray:
            spread = np.repeat(values, features)
            binned = np.bincount(place.ravel(), weights=spread, minlength=width * features * BINS)
            return binned.reshape(width, features, BINS).cumsum(axis=2)

        g, h, n = sums(gradient), sums(hessian), sums(np.ones(count))
        rest_g, rest_h, rest_n = g[..., -1:] - g, h[..., -1:] - h, n[..., -1:] - n
        gain = (
            g**2 / (h + SHRINK)
            + rest_g**2 / (rest_h + SHRINK)
            - g[..., -1:] ** 2 / (h[..., -1:] + SHRINK)
        )
        gain = np.where((n >= LEAST) & (rest_n >= LEAST), gain, 0).reshape(width, -1)
        for node, best in enumerate(gain.argmax(axis=1)):
            if gain[node, best] > 1e-9:
                nodes[width - 1 + node] = best // BINS, best % BINS
        feature, cut = nodes[width - 1 + at].T
        at = 2 * at + (bins[np.arange(count), feature] > cut)
    g = np.bincount(at, weights=gradient, minlength=2**DEPTH)
    h = np.bincount(at, weights=hessian, minlength=2**DEPTH)
    return nodes, RATE * g / (h + SHRINK)
