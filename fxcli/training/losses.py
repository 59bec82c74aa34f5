"""Losses over class probabilities, so that labels, smoothed labels and mixed labels are one case."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fxcli.recipe.schema import Train


def class_weights(settings: Train, targets: Sequence[int], count: int) -> Tensor:
    """[K] weights: ones, or inversely proportional to the frequency with mean 1 over pictures."""
    if settings.class_weights == "none":
        return torch.ones(count)
    frequency = np.bincount(targets, minlength=count)
    return torch.from_numpy(len(targets) / (count * np.maximum(frequency, 1))).float()


def loss(logits: Tensor, targets: Tensor, weights: Tensor, settings: Train) -> Tensor:
    """The recipe's loss of a batch.

    Args:
        logits: [B, K].
        targets: [B, K] probabilities, before smoothing.
        weights: [K].
        settings: loss, focal_gamma, label_smoothing.

    Returns:
        [] weighted mean. Cross-entropy equals torch's with these weights and smoothing; focal is Lin et al. 2017,
        eq. 4, summed over the classes of a soft target.
    """
    smoothed = targets * (1 - settings.label_smoothing) + settings.label_smoothing / targets.shape[1]
    log_p = functional.log_softmax(logits.float(), dim=1)
    if settings.loss == "focal":
        log_p = log_p * (1 - log_p.exp()).clamp(min=0) ** settings.focal_gamma
    return -(smoothed * weights * log_p).sum() / (targets * weights).sum()
