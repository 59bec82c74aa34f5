"""From an answer of the pipeline to its heat map, in numbers and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fxcli.errors import FxError
from fxcli.evaluation.metrics import softmax
from fxcli.explain import overlay
from fxcli.explain.gradcam import at_output
from fxcli.inference.pipeline import Answer
from fxcli.model.classifier import TrainedModel


@dataclass(frozen=True)
class HeatMap:
    """A heat map of one picture for one class.

    Attributes:
        target: Index of the class.
        probability: Of that class.
        saliency: [h, w] float32, unscaled Grad-CAM in logits.
        overlay: Over the radiograph.
        pair: The radiograph and the overlay side by side, with a caption.
    """

    target: int
    probability: float
    saliency: np.ndarray
    overlay: Image.Image
    pair: Image.Image


def draw_answer(
    model: TrainedModel, answer: Answer, *, target: int | None = None, saliency: Tensor | None = None
) -> HeatMap:
    """Draws a heat map.

    Args:
        model: That gave the answer.
        answer: With its clean picture and feature map.
        target: The class to explain; None is the predicted one.
        saliency: [h, w] of another layer, in place of the map at the backbone's output.

    Raises:
        FxError: The answer carries no picture.
    """
    if answer.logits is None or answer.cleaned is None or answer.feature_map is None:
        raise FxError("a heat map needs an answer with its picture", where=answer.path)
    chosen = int(answer.logits.argmax()) if target is None else target
    if saliency is None:
        saliency = at_output(
            model.classifier,
            answer.feature_map[None],
            torch.tensor([chosen], device=answer.feature_map.device),
        )[0]
    values = saliency.float().cpu().numpy()
    heat = overlay.upsampled(overlay.strength(values), answer.cleaned, model.preprocessing)
    probability = float(softmax(answer.logits)[chosen])
    caption = f"{model.classes[chosen]}  p = {probability:.2f}"
    return HeatMap(
        chosen,
        probability,
        values,
        overlay.overlay(answer.cleaned, heat),
        overlay.side_by_side(answer.cleaned, heat, caption),
    )
