"""Grad-CAM (Selvaraju et al. 2017, eqs. 1 and 2): unscaled saliency maps.

With this head the gradient of a logit with respect to the last feature map is the head's weight row over h · w, so
the map at the backbone's output costs no backward pass; any other layer takes the general way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxcli.model.classifier import Classifier


@torch.no_grad()
def at_output(classifier: Classifier, feature_map: Tensor, targets: Tensor) -> Tensor:
    """Maps from a feature map that was computed anyway.

    Args:
        classifier: Its head is read.
        feature_map: [B, D, h, w].
        targets: [B] class indices, what is explained.

    Returns:
        [B, h, w] ≥ 0, in logits: its sum is at most the share of the logit that speaks for the class.
    """
    height, width = feature_map.shape[-2:]
    weights = classifier.head.weight.float()[targets] / (height * width)
    return torch.einsum("bd,bdhw->bhw", weights, feature_map.float()).relu()


def at_layer(classifier: Classifier, images: Tensor, targets: Tensor, layer: nn.Module) -> Tensor:
    """Maps at any layer, through autograd; no parameter's gradient is touched.

    Args:
        classifier: In eval mode.
        images: [B, 3, S, S] normalised.
        targets: [B] class indices.
        layer: A submodule that returns [B, C, h, w].

    Returns:
        [B, h, w] ≥ 0.
    """
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        output = output.detach().requires_grad_()
        kept.append(output)
        return output

    handle = layer.register_forward_hook(keep)
    try:
        with torch.enable_grad():
            logits = classifier(images)
            chosen = logits.gather(1, targets[:, None]).sum()
            (gradient,) = torch.autograd.grad(chosen, kept[-1])
    finally:
        handle.remove()
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * kept[-1].detach()).sum(dim=1).relu()
