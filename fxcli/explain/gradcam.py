"""Grad-CAM (Selvaraju et al. 2017, eqs. 1 and 2) and its kin: unscaled saliency maps.

At the backbone's output the map comes from the class maps of the forward pass, and costs no backward pass; any other
layer takes the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    ((activation, gradient),) = taken(classifier, images, targets, [layer])
    return gradcam(activation, gradient)


def taken(
    classifier: Classifier, images: Tensor, targets: Tensor, layers: Sequence[nn.Module]
) -> list[tuple[Tensor, Tensor]]:
    """What each layer returns, [B, C, h, w], and the gradient of the targets' logits there; arguments as of `at_layer`.

    The layers stand in the order in which a picture passes them.
    """
    kept: dict[int, Tensor] = {}

    def keeping(number: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
            if number:
                kept[number] = output
                return None
            # The graph begins here.
            kept[number] = output.detach().requires_grad_()
            return kept[number]

        return keep

    handles = [layer.register_forward_hook(keeping(number)) for number, layer in enumerate(layers)]
    try:
        with torch.enable_grad():
            logits = classifier(images)
            chosen = logits.gather(1, targets[:, None]).sum()
            outputs = [kept[number] for number in range(len(layers))]
            gradients = torch.autograd.grad(chosen, outputs)
    finally:
        for handle in handles:
            handle.remove()
    return [(output.detach(), gradient) for output, gradient in zip(outputs, gradients, strict=True)]


def gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """[B, h, w] ≥ 0 (Selvaraju et al. 2017, eqs. 1 and 2)."""
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * activation).sum(dim=1).relu()


def gradcam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """[B, h, w] ≥ 0 (Chattopadhay et al. 2018, eqs. 6 and 19: the derivatives of the exponential of the logit)."""
    squared, cubed = gradient**2, gradient**3
    below = 2 * squared + activation.sum(dim=(2, 3), keepdim=True) * cubed
    alpha = torch.where(below.abs() > 1e-12, squared / below.where(below.abs() > 1e-12, torch.ones_like(below)), 0.0)
    weights = (alpha * gradient.relu()).sum(dim=(2, 3), keepdim=True)
    return (weights * activation).sum(dim=1).relu()


def layercam(activation: Tensor, gradient: Tensor) -> Tensor:
    """[B, h, w] ≥ 0: each cell has a weight of its own (Jiang et al. 2021, eqs. 4 to 6)."""
    return (gradient.relu() * activation).sum(dim=1).relu()


METHODS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
}
