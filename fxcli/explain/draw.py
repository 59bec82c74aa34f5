"""From an answer of the pipeline to its heat map, in numbers and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from fxcli.data.preprocess import Cleaned
from fxcli.data.read import HEAT_MAP, MARK
from fxcli.errors import FxError, UsageError
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import notice
from fxcli.explain import overlay
from fxcli.explain.gradcam import at_layer, at_output
from fxcli.inference.pipeline import Answer, Pipeline
from fxcli.model.classifier import TrainedModel

# (clean picture, index of the class) → [h, w] unscaled.
Explainer = Callable[[Cleaned, int], Tensor]


@dataclass(frozen=True)
class HeatMap:
    """A heat map of one picture for one class.

    Attributes:
        target: Index of the class.
        probability: Of that class.
        saliency: [h, w] float32, unscaled Grad-CAM in logits.
        overlay: Over the radiograph.
        pair: The radiograph and the overlay side by side, with a caption.
        notice: That both pictures must carry; see `save`.
    """

    target: int
    probability: float
    saliency: np.ndarray
    overlay: Image.Image
    pair: Image.Image
    notice: str

    def save_overlay(self, path: Path) -> None:
        """Writes the overlay as a PNG that says what it is."""
        self._save(self.overlay, path)

    def save_pair(self, path: Path) -> None:
        """Writes the pair as a PNG that says what it is."""
        self._save(self.pair, path)

    def _save(self, image: Image.Image, path: Path) -> None:
        # `read` refuses what carries this: a heat map is no radiograph.
        text = PngImagePlugin.PngInfo()
        text.add_text(MARK, json.dumps({HEAT_MAP: True, "notice": self.notice}))
        image.save(path, format="PNG", pnginfo=text)


def draw_answer(
    model: TrainedModel, answer: Answer, *, target: int | None = None, explainer: Explainer | None = None
) -> HeatMap:
    """Draws a heat map.

    Args:
        model: That gave the answer.
        answer: With its clean picture and feature map.
        target: The class to explain; None is the predicted one.
        explainer: Of another layer (see `at_stage`), in place of the map at the backbone's output.

    Raises:
        FxError: The answer carries no picture.
    """
    if answer.logits is None or answer.cleaned is None or answer.feature_map is None:
        raise FxError("a heat map needs an answer with its picture", where=answer.path)
    chosen = int(answer.logits.argmax()) if target is None else target
    if explainer:
        saliency = explainer(answer.cleaned, chosen)
    else:
        saliency = at_output(
            model.classifier,
            answer.feature_map[None],
            torch.tensor([chosen], device=answer.feature_map.device),
        )[0]
    values = saliency.float().cpu().numpy()
    heat = overlay.upsampled(overlay.strength(values), answer.cleaned, model.preprocessing)
    probability = float(softmax(answer.logits)[chosen])
    caption = f"{'DEMO  ' if model.is_demo else ''}{model.classes[chosen]}  p = {probability:.2f}"
    return HeatMap(
        chosen,
        probability,
        values,
        overlay.overlay(answer.cleaned, heat),
        overlay.side_by_side(answer.cleaned, heat, caption),
        notice(demo=model.is_demo),
    )


def at_stage(model: TrainedModel, pipeline: Pipeline, stage: str) -> Explainer:
    """Explains at the end of a stage of the backbone.

    Args:
        model: Whose backbone it is.
        pipeline: Runs it.
        stage: Its name in the backbone's spec.

    Raises:
        UsageError: The backbone has no such stage.
    """
    stages = {each.name: each for each in model.spec.stages}
    if stage not in stages:
        raise UsageError(f"{model.spec.name} has no stage '{stage}'", hint=f"its stages: {', '.join(stages)}")
    layer = model.classifier.backbone.get_submodule(stages[stage].modules[-1])

    def explain(cleaned: Cleaned, target: int) -> Tensor:
        fitted = torch.from_numpy(pipeline.preprocessing.fit(cleaned).copy())[None, None]
        images = pipeline.batch(fitted)
        return at_layer(model.classifier, images, torch.tensor([target], device=images.device), layer)[0]

    return explain
