"""Gradient-boosted trees for yes or no (Friedman 2001), with histograms (LightGBM, Ke et al. 2017).

Own code, because scikit-learn would be a dependency of 40 MB for this (docs/decisions/0015).
Letters: N rows, F features.
"""

from dataclasses import dataclass

import numpy as np

TREES, DEPTH, RATE = 60, 4, 0.15
BINS = 32
LEAST = 20
"""Least number of rows in a leaf."""

SHRINK = 1.0
"""lambda of a leaf's value: sum of gradients / (sum of hessians + lambda)."""


@dataclass(frozen=True)
class Trees:
    """Full binary trees of DEPTH: (feature, bin) of each node and the value of each leaf.

    cuts (F, BINS - 1) divide the values of features into bins.
    """

    cuts: np.ndarray
    prior: float
    nodes: np.ndarray  # (TREES, 2 ** DEPTH - 1, 2)
    leaves: np.ndarray  # (TREES, 2 ** DEPTH)

    def probability(self, rows: np.ndarray) -> np.ndarray:
        """Return the probability of yes of rows (N, F), (N,)."""
        bins = _binned(rows, self.cuts)
        total = np.full(len(rows), self.prior)
        for nodes, leaves in zip(self.nodes, self.leaves, strict=True):
            total += leaves[_leaf(bins, nodes)]
        return 1 / (1 + np.exp(-total))


def fit_trees(rows: np.ndarray, yes: np.ndarray, weights: np.ndarray) -> Trees:
    """Learn from rows (N, F) which are `yes` (N,) bool, without chance; weights (N,) sum to N."""
    cuts = np.zeros((rows.shape[1], 1))
    if len(rows):
        cuts = np.quantile(rows, np.linspace(0, 1, BINS + 1)[1:-1], axis=0).T
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
    """Return the leaf of each row, (N,): a row goes right if its bin is above the node's."""
    node, rows = np.zeros(len(bins), np.int64), np.arange(len(bins))
    for _ in range(DEPTH):
        feature, cut = nodes[node].T
        node = 2 * node + 1 + (bins[rows, feature] > cut)
    return node - (2**DEPTH - 1)


def _tree(
    bins: np.ndarray, gradient: np.ndarray, hessian: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (nodes, leaf values). At each level a node takes the cut with the largest gain.

    A node without a gain sends all rows to the left.
    """
    count, features = bins.shape
    nodes = np.zeros((2**DEPTH - 1, 2), np.int64)
    nodes[:, 1] = BINS
    node = np.zeros(count, np.int64)  # of each row, within its level
    for level in range(DEPTH):
        width = 2**level
        place = node[:, None] * (features * BINS) + np.arange(features) * BINS + bins  # (N, F)

        def below(values: np.ndarray, place: np.ndarray = place, width: int = width) -> np.ndarray:
            """Return the sums of values up to each bin, (width, F, BINS)."""
            spread = np.repeat(values, features)
            binned = np.bincount(place.ravel(), weights=spread, minlength=width * features * BINS)
            return binned.reshape(width, features, BINS).cumsum(axis=2)

        # Sums of gradient, hessian and rows to the left and to the right of each cut
        g, h, n = below(gradient), below(hessian), below(np.ones(count))
        right_g, right_h, right_n = g[..., -1:] - g, h[..., -1:] - h, n[..., -1:] - n
        together = g[..., -1:] ** 2 / (h[..., -1:] + SHRINK)
        gain = g**2 / (h + SHRINK) + right_g**2 / (right_h + SHRINK) - together
        gain = np.where((n >= LEAST) & (right_n >= LEAST), gain, 0).reshape(width, -1)
        for number, best in enumerate(gain.argmax(axis=1)):
            if gain[number, best] > 1e-9:
                nodes[width - 1 + number] = best // BINS, best % BINS
        feature, cut = nodes[width - 1 + node].T
        node = 2 * node + (bins[np.arange(count), feature] > cut)
    g = np.bincount(node, weights=gradient, minlength=2**DEPTH)
    h = np.bincount(node, weights=hessian, minlength=2**DEPTH)
    return nodes, RATE * g / (h + SHRINK)
