"""How little a picture resembles those that a model was trained on, from its pooled features.

With c = x − mean, z = c P and r² = ‖c‖² − Σ_j (z_j / ‖P_j‖)², the distance is √((mean_j z_j² + r² / residual) / 2): the
whitened coordinates along the main directions of the training features, and what of c lies outside them. To store are
`mean` [D], `projection` P [D, R], whose column P_j is direction j over its standard deviation, and the number
`residual`, the mean r² of the training pictures (0: leave that half and the division by 2 out). In torch:

    c = x - mean; z = c @ P
    r2 = ((c**2).sum(1) - ((z / P.norm(dim=0)) ** 2).sum(1)).clamp(min=0)
    distance = (((z**2).mean(1) + r2 / residual) / 2).sqrt()

The first half is the Mahalanobis distance of Lee et al. (2018, NeurIPS 31) to one Gaussian for all classes, the second
the residual of Wang et al. (2022, ViM, CVPR). A picture of another kind is far off in the one, or leaves the space of
the training pictures and shows in the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxcli.evaluation.intervals import Groups, codes_of

DIMENSIONS = 64
# With fewer pictures a direction, its variance is a guess.
PICTURES_PER_DIMENSION = 4


@dataclass(frozen=True)
class Novelty:
    """What training features look like.

    Attributes:
        mean: [D] float32.
        projection: [D, R] float32; a column is a direction over its standard deviation.
        residual: Mean square of what lies outside all R directions; 0 where nothing can.
    """

    mean: np.ndarray
    projection: np.ndarray
    residual: float

    def distance(self, features: np.ndarray) -> np.ndarray:
        """[N, D] → [N], about 1 for a training picture; O(N D R)."""
        centred = features.astype(np.float64) - self.mean
        projection = self.projection.astype(np.float64)
        z = centred @ projection
        square = np.mean(z**2, axis=1)
        if self.residual:
            within = ((z / np.linalg.norm(projection, axis=0)) ** 2).sum(axis=1)
            square = (square + np.maximum((centred**2).sum(axis=1) - within, 0) / self.residual) / 2
        distances: np.ndarray = np.sqrt(square)
        return distances


def fit(features: np.ndarray) -> Novelty:
    """Fits to the features of training pictures.

    R = min(64, D, N / 4) main directions of the covariance, fewer where pictures repeat. O(N D min(N, D)).

    Args:
        features: [N, D] finite, N ≥ 2.

    Raises:
        ValueError: There are fewer than two pictures, or all are alike.
    """
    from scipy.linalg import eigh

    count, width = features.shape
    if count < 2:
        raise ValueError(f"novelty needs the features of at least two pictures, not {count}")
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean
    # The smaller of the two products has the eigenvalues of both.
    small = count < width
    gram = (centred @ centred.T if small else centred.T @ centred) / count
    total = float(np.trace(gram))
    if total <= 0:
        raise ValueError(f"the features of all {count} pictures are equal")
    rank = max(1, min(DIMENSIONS, width, count // PICTURES_PER_DIMENSION))
    variances, directions = eigh(gram, subset_by_index=[len(gram) - rank, len(gram) - 1])
    kept = variances > 1e-9 * total
    variances, directions = variances[kept], directions[:, kept]
    if small:
        directions = centred.T @ directions / np.sqrt(variances * count)
    share = _shrinkage(centred, gram)
    shrunk = (1 - share) * variances + share * total / width
    residual = total - float(variances.sum())
    return Novelty(
        mean.astype(np.float32),
        (directions / np.sqrt(shrunk)).astype(np.float32),
        # Rounding leaves a little where every direction is kept.
        residual if residual > 1e-6 * total else 0.0,
    )


def _shrinkage(centred: np.ndarray, gram: np.ndarray) -> float:
    """How far variances are drawn towards their mean over all D, so that those of a small sample do not decide.

    Ledoit and Wolf (2004, Journal of Multivariate Analysis 88:365, lemma 3.5): b² / d² with d² = ‖S − μ I‖² and
    b² = (mean ‖x_k‖⁴ − ‖S‖²) / N, at most d². ‖S‖² is that of either product.
    """
    count, width = centred.shape
    square = float((gram**2).sum())
    far = square - float(np.trace(gram)) ** 2 / width
    noise = (float(((centred**2).sum(axis=1) ** 2).mean()) - square) / count
    return min(noise / far, 1.0) if far > 1e-12 * square else 1.0


def threshold(distances: np.ndarray, groups: Groups = None, quantile: float = 0.975) -> float:
    """The distance above which a picture is called unlike the training pictures.

    Args:
        distances: [N] of pictures that took no part in fitting, such as out-of-fold; N ≥ 1.
        groups: [N]; each weighs the same, however many pictures it holds. None: every picture is its own.
        quantile: Share of such pictures that are to stay below; the least distance that reaches it.
    """
    codes, _ = codes_of(groups, len(distances))
    order = np.argsort(distances, kind="stable")
    weights = (1 / np.bincount(codes))[codes][order]
    shares = np.cumsum(weights) / weights.sum()
    first = min(int(np.searchsorted(shares, quantile - 1e-9)), len(order) - 1)
    return float(distances[order[first]])
