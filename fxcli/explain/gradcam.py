"""Grad-CAM (Selvaraju et al. 2017, eqs. 1 and 2): unscaled saliency maps.

At the backbone's output the map comes from the class maps of the forward pass, and costs no backward pass; any other
layer takes the general way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fxcli.model.classifier import Classifier


def at_output(maps: np.ndarray, target: int) -> np.ndarray:
    """The map at the backbone's output, from class maps that the forward pass gave.

    Args:
        maps: [K, h, w], see Classifier.class_maps.
        target: The class to explain.

    Returns:
        [h, w] ≥ 0, in logits: its sum is at most the share of the logit that speaks for the class. All zero where
        nothing does.
    """
    found: np.ndarray = np.maximum(maps[target], 0)
    return found


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
