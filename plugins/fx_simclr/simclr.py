"""SimCLR: two views of one picture attract, the views of all others in the batch repel (Chen et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fx_simclr import SimCLROptions
from fx_simclr.views import view
from fxcli import PretrainArgs


class SimCLR(nn.Module):
    """A backbone with SimCLR's projection head g(h) = W₂ ReLU(W₁ h), which is thrown away afterwards.

    Args:
        backbone: Images [B, 3, S, S] → feature map [B, D, h, w].
        num_features: D, also the width of the head.
        options: Temperature and size of the embedding.
    """

    def __init__(self, backbone: nn.Module, num_features: int, options: SimCLROptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Sequential(
            nn.Linear(num_features, num_features), nn.ReLU(), nn.Linear(num_features, options.embedding_dim)
        )
        self.temperature = options.temperature

    def loss(self, views: tuple[Tensor, Tensor]) -> Tensor:
        """The loss [] of two views, each [B, 3, S, S]; B is at least 2."""
        # In one batch, so that BatchNorm's statistics do not tell the views apart.
        embeddings = self.projector(self.backbone(torch.cat(views)).mean(dim=(2, 3)))
        self.embeddings = embeddings.detach()
        first, second = embeddings.float().chunk(2)
        return nt_xent(first, second, self.temperature)

    def after_step(self, progress: float) -> None:
        """Nothing: SimCLR has no state but its weights."""


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent, the mean of eq. 1 of Chen et al. 2020 over all 2B ordered positive pairs.

    Args:
        first: [B, E] embeddings of one view of each picture.
        second: [B, E] of the other.
        temperature: τ.

    Returns:
        [].
    """
    embeddings = functional.normalize(torch.cat([first, second]), dim=1)
    # In fp32 under autocast, too: alike embeddings differ in bits that bf16 does not have.
    with torch.autocast(embeddings.device.type, enabled=False):
        logits = embeddings @ embeddings.T / temperature
    logits = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf)
    partners = torch.arange(len(logits), device=logits.device).roll(len(first))
    return functional.cross_entropy(logits, partners)


def views(args: PretrainArgs) -> tuple[Callable[[Any], Any], ...]:
    """The transforms of the two views, which are alike."""
    options = cast(SimCLROptions, args.options)
    return (view(args.image_size_px, options, options.blur),) * 2


def build(backbone: nn.Module, args: PretrainArgs) -> SimCLR:
    """The backbone with a projection head of random weights."""
    return SimCLR(backbone, args.num_features, cast(SimCLROptions, args.options))
