"""How both methods make a view of a radiograph. Draws come from torch's global generator; the caller seeds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchvision.transforms import v2

from fx_simclr import ViewOptions


def view(image_size_px: int, options: ViewOptions, blur: float) -> Callable[[Any], Any]:
    """A transform uint8 [1 or 3, H, W] → uint8 [3, S, S], after Chen et al. 2020, appendix A, without its colours.

    Args:
        image_size_px: S.
        options: Amplitudes.
        blur: Probability of the Gaussian blur.
    """
    changes = [
        # ratio is torchvision's and the paper's: 3/4 to 4/3.
        v2.RandomResizedCrop(image_size_px, scale=(options.min_crop_frac, 1.0)),
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.ColorJitter(brightness=options.brightness, contrast=options.contrast)], p=0.8),
        # The kernel spans a tenth of the side, and its length must be odd.
        v2.RandomApply([v2.GaussianBlur(image_size_px // 20 * 2 + 1, sigma=(0.1, 2.0))], p=blur),
        v2.RGB(),
    ]
    transform: Callable[[Any], Any] = v2.Compose(changes)
    return transform
