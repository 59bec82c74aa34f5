"""Pictures that may not belong into a set of radiographs: coloured, CT-like, blank, or of an unusual size.

Nothing follows from these but a line in the audit: whether such a picture belongs is for people to say. Called by
data/prepare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fxcli.data.radiograph import LEAST_COLOUR_FRAC
from fxcli.data.views import View

# On Bone Break, where 19 pictures are CT or MR by eye; see the README.
LEAST_CT_RATIO = 1.25
# Tukey's far fence: so many times the distance of the quartiles. Where most pictures have one size that is nothing,
# and what has half or twice the pixels is not unusual yet.
_FENCE, _LEAST_REACH = 3.0, np.log(2)

ODD = {
    "blank": "blank pictures",
    "colour": "coloured pictures",
    "ct": "pictures that may be CT or MR",
    "large": "unusually large pictures",
    "small": "unusually small pictures",
}


@dataclass(frozen=True)
class Oddity:
    """A picture for people to look at.

    Attributes:
        index: Of the picture.
        kind: A key of ODD.
        value: How much so: coloured fraction, see `ct_ratio`, 0, or megapixels.
    """

    index: int
    kind: str
    value: float


def find(views: Sequence[View], colour_fracs: Sequence[float], sizes: Sequence[int]) -> list[Oddity]:
    """All oddities of a set, by index.

    Args:
        views: Of the pictures.
        colour_fracs: See `radiograph.colour_frac`.
        sizes: Pixels of each raw picture.
    """
    found = [Oddity(i, "colour", frac) for i, frac in enumerate(colour_fracs) if frac >= LEAST_COLOUR_FRAC]
    for index, view in enumerate(views):
        if view.is_blank:
            found.append(Oddity(index, "blank", 0.0))
        elif (ratio := ct_ratio(view)) >= LEAST_CT_RATIO:
            found.append(Oddity(index, "ct", ratio))
    if sizes:
        scale = np.log(sizes)
        low, high = np.quantile(scale, (0.25, 0.75))
        reach = max(_FENCE * (high - low), _LEAST_REACH)
        found += [Oddity(i, "small", sizes[i] / 1e6) for i in np.flatnonzero(scale < low - reach).tolist()]
        found += [Oddity(i, "large", sizes[i] / 1e6) for i in np.flatnonzero(scale > high + reach).tolist()]
    return sorted(found, key=lambda oddity: (oddity.index, oddity.kind))


def ct_ratio(view: View) -> float:
    """How much of a picture is steep, against how much of it is bright.

    Slices (CT, MR) have thin bright bones with sharp edges; in a projection bones are broad and shade off. A hint, no
    more: sharpened radiographs of small bones look the same to it.
    """
    low, high = np.percentile(view.pixels, (1, 99.5))
    level = np.clip((view.pixels - low) / max(high - low, 1.0), 0, 1)
    steep = np.hypot(*np.gradient(ndimage.gaussian_filter(level, 1.0))) > 0.12
    return float(steep.mean() / ((level > 0.8).mean() + 0.02))
