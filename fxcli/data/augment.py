"""Random changes of training pictures (per picture) and of batches (Mixup, CutMix). Seeds come from outside.

Each picture's draw is a function of its seed alone, so workers and resuming change nothing.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from fxcli.data.boxes import Boxes
from fxcli.data.preprocess import Cleaned, Preprocessing
from fxcli.recipe.schema import Augment

_MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}
_ELASTIC_SIGMA_PX = 5.0
# Of a box that a picture's border cuts, as a share of its area.
_LEAST_LEFT = 0.25


class Augmenter:
    """Clean picture → what the model may see of it → augmented view at the model's size.

    Args:
        settings: The recipe's section.
        preprocessing: For the region, size and interpolation.
    """

    def __init__(self, settings: Augment, preprocessing: Preprocessing) -> None:
        self.settings, self.preprocessing = settings, preprocessing
        self.changes = _changes(settings, preprocessing)

    def seen(self, cleaned: Cleaned) -> np.ndarray:
        """What is changed: the model's view, [S, S] uint8; or, to be cropped, all that it may see, [h, w]."""
        if not self.settings.crop_scale:
            return self.preprocessing.fit(cleaned)
        left, top, right, bottom = self.preprocessing.region(cleaned.box)
        return cleaned.pixels[top:bottom, left:right]

    def __call__(self, seen: np.ndarray, seed: int) -> Tensor:
        """One view.

        Args:
            seen: What `seen` gives of a picture.
            seed: Decides every draw.

        Returns:
            [1, S, S] uint8.
        """
        # torchvision draws from torch's global generator: fork it, so that nothing outside is moved. Only the CPU's is
        # seeded: torch.manual_seed would move a GPU's too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            view = torch.from_numpy(seen.copy())[None]
            for change in self.changes:
                view = change(view)
            return view

    def with_boxes(self, seen: np.ndarray, boxes: Boxes, seed: int) -> tuple[Tensor, Boxes]:
        """One view and the boxes on it; those of which less than a quarter is left are dropped.

        The corners of a turned box lie on a larger one, and would teach boxes that are too large. What is in a box is
        taken for an ellipse, and the box around that, turned, is the new one (Kalra et al. 2021, ICCV).

        Args:
            seen: As above, uncropped.
            boxes: In its pixels.
            seed: Decides every draw.

        Returns:
            [1, S, S] uint8, and the boxes in its pixels.
        """
        view = tv_tensors.Image(torch.from_numpy(seen.copy())[None])
        corners = tv_tensors.BoundingBoxes(
            torch.from_numpy(_axes(boxes.corners)), format="XYXY", canvas_size=seen.shape, clamping_mode=None
        )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            for change in self.changes:
                view, corners = change(view, corners)
        moved = _around(corners.as_subclass(Tensor).numpy())
        high = np.tile(np.array(seen.shape[::-1], np.float32), 2)
        kept = np.clip(moved, 0, high).astype(np.float32)
        sides, whole = kept[:, 2:] - kept[:, :2], moved[:, 2:] - moved[:, :2]
        is_left = (sides.min(axis=1, initial=np.inf) >= 1) & (sides.prod(axis=1) >= _LEAST_LEFT * whole.prod(axis=1))
        return view.as_subclass(Tensor), Boxes(kept[is_left], boxes.labels[is_left])


def _axes(corners: np.ndarray) -> np.ndarray:
    """[n, 4] → [2 n, 4]: the axes of the ellipses in boxes, first the level ones, as boxes of no height or width."""
    left, top, right, bottom = corners.T
    x, y = (left + right) / 2, (top + bottom) / 2
    return np.concatenate([np.stack([left, y, right, y], axis=1), np.stack([x, top, x, bottom], axis=1)])


def _around(axes: np.ndarray) -> np.ndarray:
    """[2 n, 4] → [n, 4]: boxes around the ellipses that have these for conjugate axes, as `_axes` before any change."""
    level, upright = np.split(axes, 2)
    middle = (level[:, :2] + level[:, 2:]) / 2
    half = np.hypot(level[:, 2:] - level[:, :2], upright[:, 2:] - upright[:, :2]) / 2
    return np.concatenate([middle - half, middle + half], axis=1)


def _changes(settings: Augment, preprocessing: Preprocessing) -> list[v2.Transform]:
    """The transforms of torchvision, geometry first; every amplitude of zero is left out."""
    found: list[v2.Transform] = []
    if settings.crop_scale:
        size, mode = preprocessing.image_size_px, _MODES[preprocessing.interpolation]
        found.append(v2.RandomResizedCrop(size, scale=settings.crop_scale, interpolation=mode))
    if settings.hflip:
        found.append(v2.RandomHorizontalFlip(settings.hflip))
    if settings.vflip:
        found.append(v2.RandomVerticalFlip(settings.vflip))
    if settings.rotate_deg or settings.translate_frac or settings.scale or settings.shear_deg:
        found.append(
            v2.RandomAffine(
                degrees=settings.rotate_deg,
                translate=(settings.translate_frac,) * 2 if settings.translate_frac else None,
                scale=settings.scale,
                shear=settings.shear_deg or None,
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if settings.elastic:
        # torchvision's alpha is what noise, uniform in ±1, is multiplied by after it was smoothed, in half pixels.
        # Smoothing leaves 1 / (2 √π σ) of its standard deviation 1 / √3: alpha for a root mean square of one pixel.
        alpha = 4 * math.sqrt(3 * math.pi) * _ELASTIC_SIGMA_PX
        found.append(v2.ElasticTransform(alpha=alpha * settings.elastic, sigma=_ELASTIC_SIGMA_PX))
    if settings.brightness or settings.contrast:
        found.append(v2.ColorJitter(brightness=settings.brightness, contrast=settings.contrast))
    if settings.erase:
        found.append(v2.RandomErasing(p=settings.erase, scale=settings.erase_scale))
    return found


def mix(images: Tensor, targets: Tensor, settings: Augment, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, eq. 1) or CutMix (Yun et al. 2019, eq. 1) of a batch with itself, permuted.

    Args:
        images: [B, C, H, W].
        targets: [B, K] class probabilities.
        settings: `mixup` and `cutmix` are the α of Beta(α, α); with both, one is drawn.
        rng: Decides every draw.

    Returns:
        Mixed images and targets; the same tensors when both are off.
    """
    choices = [name for name in ("mixup", "cutmix") if getattr(settings, name) > 0]
    if not choices:
        return images, targets
    kind = choices[int(rng.integers(len(choices)))]
    lam = float(rng.beta(getattr(settings, kind), getattr(settings, kind)))
    other = torch.from_numpy(rng.permutation(len(images))).to(images.device)
    if kind == "mixup":
        images = images * lam + images[other] * (1 - lam)
    else:
        height, width = images.shape[-2:]
        cut = (1 - lam) ** 0.5
        x, y = rng.integers(width), rng.integers(height)
        left, right = (int(np.clip(x + sign * width * cut / 2, 0, width)) for sign in (-1, 1))
        top, bottom = (int(np.clip(y + sign * height * cut / 2, 0, height)) for sign in (-1, 1))
        images = images.clone()
        images[..., top:bottom, left:right] = images[other][..., top:bottom, left:right]
        # The rectangle was cut off at the border: count what was really replaced.
        lam = 1 - (right - left) * (bottom - top) / (width * height)
    return images, targets * lam + targets[other] * (1 - lam)
