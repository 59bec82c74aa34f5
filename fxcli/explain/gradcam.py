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

from fxcli.errors import UsageError
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


def at_layer(
    members: Sequence[Classifier], images: Tensor, targets: Tensor, layer: str, method: str = "gradcam"
) -> Tensor:
    """Maps at any layer, through autograd; no parameter's gradient is touched.

    Args:
        members: In eval mode; they answer together.
        images: [B, 3, S, S] normalised.
        targets: [B] class indices.
        layer: Name of a submodule of their backbones that returns [B, C, h, w].
        method: One of METHODS.

    Returns:
        [B, h, w] ≥ 0: what speaks for the class in the mean of the members.
    """
    maps = []
    for member in members:
        ((activation, gradient),) = taken(member, images, targets, [member.backbone.get_submodule(layer)])
        maps.append(METHODS[method](activation, gradient))
    return torch.stack(maps).mean(dim=0).relu()


def check_size(network: Classifier, images: Tensor, own_px: int, name: str) -> None:
    """Whether a network sees pictures of another size than its own.

    Args:
        network: In eval mode.
        images: [1, 3, S, S] of the other size.
        own_px: The size that it was made for.
        name: Of its backbone.

    Raises:
        UsageError: It does not.
    """
    try:
        with torch.no_grad():
            network(images)
    except Exception as error:
        what = f"{name} was made for pictures of {own_px} px, and cannot see those of {images.shape[-1]}"
        raise UsageError(what, hint="without --size") from error


def taken(
    classifier: Classifier, images: Tensor, targets: Tensor, layers: Sequence[nn.Module]
) -> list[tuple[Tensor, Tensor]]:
    """What each layer returns, [B, C, h, w], and the gradient of the targets' logits there.

    The layers, submodules of a classifier in eval mode, stand in the order in which a picture passes them.
    """
    kept: dict[int, Tensor] = {}

    def keeping(number: int) -> Callable[[nn.Module, Any, Tensor], Tensor | None]:
        def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
            if number:
                kept[number] = output
                return None
            # The graph begins here.
            kept[number] = output.detach().requires_grad_()
            # The next layer may work in place, which torch forbids for a leaf.
            return kept[number].clone()

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
    """[B, h, w] before the ReLU (Selvaraju et al. 2017, eqs. 1 and 2)."""
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * activation).sum(dim=1)


def gradcam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """[B, h, w] before the ReLU (Chattopadhay et al. 2018, eqs. 6 and 19, by derivatives of the exponential logit).

    The paper presumes activations that a ReLU left. Where they end in a linear layer the quotient may pass through 0.
    """
    squared, cubed = gradient**2, gradient**3
    below = 2 * squared + activation.sum(dim=(2, 3), keepdim=True) * cubed
    alpha = torch.where(below.abs() > 1e-12, squared / below.where(below.abs() > 1e-12, torch.ones_like(below)), 0.0)
    weights = (alpha * gradient.relu()).sum(dim=(2, 3), keepdim=True)
    return (weights * activation).sum(dim=1)


def layercam(activation: Tensor, gradient: Tensor) -> Tensor:
    """[B, h, w] before the ReLU: each cell has a weight of its own (Jiang et al. 2021, eqs. 4 to 6)."""
    return (gradient.relu() * activation).sum(dim=1)


# What they give is cut at 0 after the mean over the networks that answer together: their answer is a mean, too.
METHODS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
}
