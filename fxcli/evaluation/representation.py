"""What features are worth before anything is trained on them: nearest neighbours, and whether they collapsed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fxcli.evaluation.weighted import mean_of_defined, ratio

NEIGHBOURS = 20
# Of the softmax over similarities that weighs neighbours (Wu et al. 2018, section 3.4).
TEMPERATURE = 0.07
# A representation with less than this has collapsed: all pictures are alike, or differ in one direction alone.
LEAST_SPREAD, LEAST_RANK = 1e-3, 1.5
# Of the embeddings that a pretraining's loss compares: two pictures have a cosine of 1 − 0.05² = 0.9975 then. On
# FracAtlas random weights began at 0.19 or more (ResNet-50, ViT, ConvNeXt, MobileNet), and short runs of SimCLR and
# BYOL stayed at 0.35 or more.
LEAST_EMBEDDING_SPREAD = 0.05
# Rows that are compared at once: features may lie in a file that does not fit into memory.
_CHUNK = 1024


class Neighbour(NamedTuple):
    """Another picture, by its place among all, and the cosine of both features."""

    place: int
    cosine: float


def normalised(features: np.ndarray) -> np.ndarray:
    """[N, D] of length 1; what is zero stays so."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    found: np.ndarray = np.divide(features, length, out=np.zeros_like(features, dtype=np.float64), where=length > 0)
    return found


def knn(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, n_classes: int) -> np.ndarray:
    """Classes of the NEIGHBOURS most similar features vote, each with exp(cosine / TEMPERATURE) (Wu et al. 2018).

    Args:
        bank: [N, D].
        labels: [N] class indices.
        queries: [M, D].
        n_classes: K.

    Returns:
        [M] class indices.
    """
    similar = normalised(queries) @ normalised(bank).T
    count = min(NEIGHBOURS, len(bank))
    nearest = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    weight = np.exp((np.take_along_axis(similar, nearest, axis=1) - 1) / TEMPERATURE)
    votes = np.zeros((len(queries), n_classes))
    for label in range(n_classes):
        votes[:, label] = np.where(labels[nearest] == label, weight, 0).sum(axis=1)
    found: np.ndarray = votes.argmax(axis=1)
    return found


def nearest(features: np.ndarray, queries: Sequence[int], among: Sequence[int], count: int) -> list[list[Neighbour]]:
    """The others that are most similar to each query, the most similar first.

    Args:
        features: [N, D]; may be a memory map.
        queries: Places in it.
        among: Places that are compared with, without those whose features are not finite.
        count: Of neighbours, at most.
    """
    asked, own = normalised(features[list(queries)]), np.array(queries)[:, None]
    places: np.ndarray = np.zeros((len(queries), 0), dtype=np.int64)
    similar: np.ndarray = np.zeros((len(queries), 0))
    for start in range(0, len(among), _CHUNK):
        chunk = np.array(among[start : start + _CHUNK])
        found = np.where(chunk == own, -np.inf, asked @ normalised(features[chunk]).T)
        places = np.hstack([places, np.broadcast_to(chunk, found.shape)])
        similar = np.hstack([similar, found])
        best = np.argsort(-similar, axis=1, kind="stable")[:, :count]
        places, similar = np.take_along_axis(places, best, axis=1), np.take_along_axis(similar, best, axis=1)
    return [
        [Neighbour(int(place), float(cosine)) for place, cosine in zip(*row, strict=True) if np.isfinite(cosine)]
        for row in zip(places, similar, strict=True)
    ]


def balanced_accuracy(predicted: np.ndarray, targets: np.ndarray, n_classes: int) -> float:
    """Mean over the classes that occur of the share that is right."""
    hits = np.bincount(targets[predicted == targets], minlength=n_classes)
    return float(mean_of_defined(ratio(hits, np.bincount(targets, minlength=n_classes))))


def spread(features: np.ndarray) -> float:
    """√D times the mean standard deviation of normalised features [N, D] (Chen and He 2021, section 4.1).

    1 where they point everywhere, 0 where they are all alike.
    """
    return float(normalised(features).std(axis=0).mean() * np.sqrt(features.shape[1]))


def effective_rank(features: np.ndarray) -> float:
    """Exp of the entropy of the singular values of centred features [N, D] (Roy and Vetterli 2007, definition 1).

    1 where they differ in one direction alone, or not at all.
    """
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False)
    if not values.sum():
        return 1.0
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
