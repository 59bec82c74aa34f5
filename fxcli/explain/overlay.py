"""Pictures of heat maps: colours laid over the radiograph, and the pair beside each other.

Maps are not stretched to their own maximum: colour means evidence in logits, so that a map without evidence stays
grey and two pictures can be compared.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fxcli.data.preprocess import Cleaned, Preprocessing

# Evidence, in logits, that full colour means at least; stronger maps are scaled to their own maximum.
FULL_COLOUR_LOGITS = 2.0

_SHOWN_PX = 448
_BAR_PX = 44

# Dark violet over red to yellow: brightness rises all the way, so that it also reads in grey.
_COLOURS = np.array(
    [
        [20, 11, 52],
        [87, 15, 109],
        [151, 38, 102],
        [209, 67, 67],
        [243, 121, 25],
        [252, 180, 30],
        [252, 255, 164],
    ],
    dtype=np.float64,
)


def strength(saliency: np.ndarray) -> np.ndarray:
    """[h, w] unscaled map → evidence of each cell in logits, as if the whole picture looked like it."""
    return saliency * saliency.size


def upsampled(saliency: np.ndarray, cleaned: Cleaned, preprocessing: Preprocessing) -> np.ndarray:
    """The map over the radiograph itself, padding and crop undone.

    Args:
        saliency: [h, w], over the model's input.
        cleaned: The picture.
        preprocessing: Says which part of the picture the model saw.

    Returns:
        [H, W] float32 over `cleaned.box`; zero where the model saw nothing.
    """
    side = cleaned.pixels.shape[0]
    left, top, right, bottom = (round(x) for x in preprocessing.region(cleaned.box))
    seen = Image.fromarray(saliency.astype(np.float32)).resize(
        (max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC
    )
    whole = Image.new("F", (side, side))
    whole.paste(seen, (left, top))
    # Bicubic swings below zero beside a peak.
    heat: np.ndarray = np.maximum(np.asarray(whole.crop(cleaned.box)), 0.0)
    return heat


def cells_on(cleaned: Cleaned, preprocessing: Preprocessing, cells: int) -> np.ndarray:
    """[cells, cells] bool: which cells of a map over the model's input lie on the radiograph, and not in the border."""
    region, found = preprocessing.region(cleaned.box), []
    for near, far, begins, ends in zip(region[:2], region[2:], cleaned.box[:2], cleaned.box[2:], strict=True):
        edges = np.linspace(near, far, cells + 1)
        found.append((edges[1:] > begins) & (edges[:-1] < ends))
    across, down = found
    return np.outer(down, across)


def overlay(cleaned: Cleaned, heat: np.ndarray) -> np.ndarray:
    """The radiograph with the map in colour, [H, W, 3] uint8.

    Args:
        cleaned: The picture.
        heat: [H, W] evidence in logits over `cleaned.box`.
    """
    left, top, right, bottom = cleaned.box
    level = heat * (255 / max(FULL_COLOUR_LOGITS, float(heat.max())))
    place = np.clip(level + 0.5, 0, 255).astype(np.intp) * 256 + cleaned.pixels[top:bottom, left:right]
    mixed: np.ndarray = _mixed()[place]
    return mixed


@functools.cache
def _mixed() -> np.ndarray:
    """[256 · 256, 3] uint8: what each level of the map over each grey value looks like, level by level."""
    level, grey = np.linspace(0, 1, 256)[:, None, None], np.arange(256.0)[None, :, None]
    alpha = 0.6 * level**0.75
    mixed = grey * (1 - alpha) + _coloured(level[..., 0]) * alpha
    return mixed.round().astype(np.uint8).reshape(-1, 3)


def side_by_side(cleaned: Cleaned, heat: np.ndarray, caption: str, unit: str) -> Image.Image:
    """The radiograph, its overlay, and a line that says what is shown, with the colour scale and its unit."""
    grey = Image.fromarray(cleaned.pixels).crop(cleaned.box).convert("RGB")
    factor = _SHOWN_PX / max(grey.size)
    size = (max(1, round(grey.width * factor)), max(1, round(grey.height * factor)))
    gap = 8
    sheet = Image.new("RGB", (max(2 * size[0] + gap, 360), size[1] + _BAR_PX), (16, 16, 16))
    sheet.paste(grey.resize(size, Image.Resampling.BICUBIC), (0, 0))
    sheet.paste(Image.fromarray(overlay(cleaned, heat)).resize(size, Image.Resampling.BICUBIC), (size[0] + gap, 0))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((4, size[1] + 4), caption, fill=(235, 235, 235), font=font)
    ramp = _coloured(np.tile(np.linspace(0, 1, 120), (10, 1))).astype(np.uint8)
    sheet.paste(Image.fromarray(ramp), (4, size[1] + 26))
    top = max(FULL_COLOUR_LOGITS, float(heat.max()))
    draw.text((130, size[1] + 23), f"0 to {top:.1f} {unit}", fill=(170, 170, 170), font=font)
    return sheet


def _coloured(level: np.ndarray) -> np.ndarray:
    """[H, W] in [0, 1] → [H, W, 3] in [0, 255]."""
    places = np.linspace(0, 1, len(_COLOURS))
    return np.stack([np.interp(level, places, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
