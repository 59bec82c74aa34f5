"""Peers of `fx predict --cam`: pytorch-grad-cam, in speed and in numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision.models import resnet50

from bench import fx
from bench.peers_predict import NUM_CLASSES, pictures, usual_transform, write_rows

# Longer side of the overlays that fx draws.
OVERLAY_PX = 640


def grad_cam(*, batch_size: int) -> Callable[..., None]:
    """A folder → overlays of the predicted class below out/cam, as large as fx's, and a table of the classes."""
    network, transform = resnet50(num_classes=NUM_CLASSES).eval(), usual_transform()
    explainer = GradCAM(model=network, target_layers=[network.layer4[-1]])

    def run(*, folder: str, out: str) -> None:
        drawn, rows = Path(out) / "cam", []
        drawn.mkdir(exist_ok=True)
        files = pictures(folder)
        for first in range(0, len(files), batch_size):
            batch = files[first : first + batch_size]
            images = [Image.open(file).convert("RGB") for file in batch]
            maps = explainer(input_tensor=torch.stack([transform(image) for image in images]), targets=None)
            answers = explainer.outputs.detach().softmax(1).tolist()
            for file, image, heat, answer in zip(batch, images, maps, answers, strict=True):
                _overlay(image, heat).save(drawn / f"{file.stem}.png")
                rows.append([file.name, *answer])
        write_rows(out, rows)

    return run


def _overlay(image: Image.Image, heat: np.ndarray) -> Image.Image:
    factor = OVERLAY_PX / max(image.size)
    shown = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    pixels = np.asarray(shown, dtype=np.float32) / 255
    return Image.fromarray(show_cam_on_image(pixels, cv2.resize(heat, shown.size), use_rgb=True))


def correlation(*, model: str) -> Callable[..., dict[str, Any]]:
    """Compares the unscaled maps of `fx cam` with pytorch-grad-cam's, in fp32, on the same input and class.

    run(folder, out) gives the smallest correlation over the pictures, and how many have evidence.
    """
    from fxcli.model import classifier as models
    from fxcli.zoo.plugins import load_zoo

    # `fx cam` takes an engine once `fx predict` does; fp32 is then what must be asked for.
    options = [] if fx.lacks("cam", "--precision") else ["--precision", "fp32"]
    opened = models.load(Path(model), load_zoo())
    network, preprocessing = opened.network, opened.preprocessing
    explainer = GradCAM(model=network, target_layers=[network.backbone])

    def run(*, folder: str, out: str) -> dict[str, Any]:
        fx.invoke(["cam", folder, "--model", model, "--out", out, "--quiet", *options])
        found = []
        for file in pictures(folder):
            pixels = torch.from_numpy(preprocessing.fit(preprocessing.load(file)).copy())[None, None]
            (named,) = Path(out).rglob(f"{file.stem}*.npy")
            one, other = np.load(named), _unscaled(explainer, preprocessing.normalise(pixels))
            # Of two maps without evidence there is no correlation; one without and one with do not agree.
            if one.any() or other.any():
                found.append(float(np.nan_to_num(np.corrcoef(one.ravel(), other.ravel())[0, 1])))
        return {"correlation": min(found), "pictures": len(found)}

    return run


def _unscaled(explainer: GradCAM, images: torch.Tensor) -> np.ndarray:
    """[h, w]: the map before pytorch-grad-cam stretches it to 0…1 and to the size of the input."""
    explainer(input_tensor=images, targets=None)
    targets = [ClassifierOutputTarget(int(explainer.outputs.argmax()))]
    (activations,), (gradients,) = (
        explainer.activations_and_grads.activations,
        explainer.activations_and_grads.gradients,
    )
    layer = explainer.target_layers[0]
    raw = explainer.get_cam_image(images, layer, targets, activations.detach().numpy(), gradients.numpy())
    return np.maximum(raw[0], 0)
