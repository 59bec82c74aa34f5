"""BYOL: from one view, predicts what a slowly following copy of the net sees in the other (Grill et al. 2020)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fx_simclr import BYOLOptions
from fx_simclr.views import view
from fxcli import PretrainArgs


class BYOL(nn.Module):
    """The online net (backbone, projector, predictor) and the target (a moving average of the first two).

    Args:
        backbone: Images [B, 3, S, S] → feature map [B, D, h, w]; it is the online net's, and the one to keep.
        num_features: D.
        options: Widths, and the momentum at the start.
    """

    def __init__(self, backbone: nn.Module, num_features: int, options: BYOLOptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = _mlp(num_features, options.hidden_dim, options.embedding_dim)
        self.predictor = _mlp(options.embedding_dim, options.hidden_dim, options.embedding_dim)
        self.target_backbone = copy.deepcopy(backbone).requires_grad_(False)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)
        self.momentum = options.momentum

    def loss(self, views: tuple[Tensor, Tensor]) -> Tensor:
        """The symmetric loss [] of two views, each [B, 3, S, S]; B is at least 2."""
        projections = [self.projector(_pooled(self.backbone, images)) for images in views]
        self.embeddings = torch.cat(projections).detach()
        predictions = [self.predictor(each) for each in projections]
        with torch.no_grad():
            targets = [self.target_projector(_pooled(self.target_backbone, images)) for images in views]
        return distance(predictions[0], targets[1]) + distance(predictions[1], targets[0])

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Moves the target towards the online net: ξ ← τξ + (1 − τ)θ.

        Args:
            progress: Share of all steps that is done, in [0, 1].
        """
        tau = momentum(self.momentum, progress)
        pairs = ((self.target_backbone, self.backbone), (self.target_projector, self.projector))
        for target, online in pairs:
            for follower, leader in zip(target.parameters(), online.parameters(), strict=True):
                follower.lerp_(leader, 1 - tau)


def distance(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared distance of the unit vectors, eq. 2 of Grill et al. 2020: 2 − 2 cos, [B, E] twice → [] in [0, 4]."""
    return 2 - 2 * functional.cosine_similarity(predictions.float(), targets.float(), dim=1).mean()


def momentum(start: float, progress: float) -> float:
    """τ at a share of all steps, from `start` to 1 along a cosine (Grill et al. 2020, section 3.2)."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2


def views(args: PretrainArgs) -> tuple[Callable[[Any], Any], ...]:
    """The transforms of the two views; they differ in how often they blur."""
    options = cast(BYOLOptions, args.options)
    return tuple(view(args.image_size_px, options, blur) for blur in options.blur)


def build(backbone: nn.Module, args: PretrainArgs) -> BYOL:
    """The online net, with heads of random weights, and its target, equal to it at first."""
    return BYOL(backbone, args.num_features, cast(BYOLOptions, args.options))


def _mlp(width_in: int, hidden: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width_in, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width_out))


def _pooled(backbone: nn.Module, images: Tensor) -> Tensor:
    return backbone(images).mean(dim=(2, 3))  # type: ignore[no-any-return]
