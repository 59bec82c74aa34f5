"""From an answer of the pipeline to its heat map, in numbers and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fxcli.data.preprocess import Cleaned
from fxcli.errors import FxError, UsageError
from fxcli.evaluation.predictions import notice
from fxcli.explain import outline, overlay
from fxcli.explain.gradcam import at_layer, at_output, check_size
from fxcli.explain.png import save_drawn
from fxcli.inference.engines import TorchEngine
from fxcli.inference.opened import Opened
from fxcli.inference.pipeline import Answer
from fxcli.zoo.specs import BackboneSpec

# (clean picture, index of the class) → [h, w] unscaled.
Explainer = Callable[[Cleaned, int], np.ndarray]


@dataclass(frozen=True)
class HeatMap:
    """A heat map of one picture for one class.

    Attributes:
        target: Index of the class.
        probability: Of that class.
        saliency: [h, w] float32, unscaled; at the backbone's output, in logits.
        cleaned: The picture.
        heat: [H, W] float32, evidence over the radiograph, likewise.
        caption: Of the pair.
        unit: Of `heat`, in words.
        notice: That both pictures must carry.
    """

    target: int
    probability: float
    saliency: np.ndarray
    cleaned: Cleaned
    heat: np.ndarray
    caption: str
    unit: str
    notice: str

    @property
    def coloured(self) -> np.ndarray:
        """[H, W, 3] uint8: the map over the radiograph."""
        return overlay.overlay(self.cleaned, self.heat)

    def save_overlay(self, path: Path, boxes: Sequence[Mapping[str, Any]] = (), of: str | None = None) -> None:
        """Writes the map over the radiograph, with the boxes of a detector, as a PNG that says what it is.

        Args:
            path: The file.
            boxes: As rows tell them.
            of: The row that it stands beside, see places.Drawing.
        """
        size_px = (self.cleaned.width_px, self.cleaned.height_px)
        save_drawn(outline.outlined(self.coloured, boxes, size_px), path, self.notice, of)

    def save_pair(self, path: Path) -> None:
        """Writes the radiograph and the overlay side by side, with a caption, as a PNG that says what it is."""
        pair = overlay.side_by_side(self.cleaned, self.heat, self.caption, self.unit)
        save_drawn(np.asarray(pair), path, self.notice)


def draw_answer(
    opened: Opened, answer: Answer, *, target: int | None = None, explainer: Explainer | None = None
) -> HeatMap:
    """Draws a heat map.

    Args:
        opened: The model that gave the answer.
        answer: With its clean picture and class maps.
        target: The class to explain; None is the predicted one.
        explainer: Of another layer (see `at_stage`), in place of the map at the backbone's output.

    Raises:
        FxError: The answer carries no picture.
    """
    if answer.logits is None or answer.cleaned is None or answer.maps is None:
        raise FxError("a heat map needs an answer with its picture", where=answer.path)
    model = opened.model
    chosen = int(answer.logits.argmax()) if target is None else target
    saliency = explainer(answer.cleaned, chosen) if explainer else at_output(answer.maps, chosen)
    probability = float(opened.say(answer).probabilities[chosen])
    return HeatMap(
        target=chosen,
        probability=probability,
        saliency=saliency,
        cleaned=answer.cleaned,
        heat=overlay.upsampled(overlay.strength(saliency), answer.cleaned, model.preprocessing),
        caption=f"{'DEMO  ' if model.is_demo else ''}{model.classes[chosen]}  p = {probability:.2f}",
        unit="of this stage's evidence, no logits" if explainer else "logits for the class",
        notice=notice(model.info),
    )


def at_stage(
    engine: TorchEngine, spec: BackboneSpec, stage: str, method: str = "gradcam", size_px: int | None = None
) -> Explainer:
    """Explains at the end of a stage of the backbone.

    Args:
        engine: In fp32, not made for speed: hooks and gradients need the layers as they were trained. Nothing else may
            run it meanwhile: a hook sees every forward pass, whichever thread makes it.
        spec: Of the backbone.
        stage: Its name there.
        method: One of gradcam.METHODS.
        size_px: Of the input that is explained; None: the model's own.

    Raises:
        UsageError: The backbone has no such stage, or cannot see pictures of this size.
    """
    stages = {each.name: each for each in spec.stages}
    if stage not in stages:
        raise UsageError(f"{spec.name} has no stage '{stage}'", hint=f"its stages: {', '.join(stages)}")
    name, own_px = stages[stage].modules[-1], engine.preprocessing.image_size_px
    seen = replace(engine.preprocessing, image_size_px=size_px or own_px)
    if size_px:
        check_size(engine.members[0], engine.batch(np.zeros((1, 1, size_px, size_px), np.uint8)), own_px, spec.name)

    def explain(cleaned: Cleaned, target: int) -> np.ndarray:
        images = engine.batch(np.array(seen.fit(cleaned)[None, None]))
        targets = torch.tensor([target], device=images.device)
        return at_layer(engine.members, images, targets, name, method)[0].float().cpu().numpy()

    return explain
