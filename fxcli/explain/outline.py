"""Pictures of boxes: outlines over the radiograph, or over its heat map, with class and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fxcli.data.preprocess import Cleaned
from fxcli.explain.places import Drawing
from fxcli.explain.png import save_drawn
from fxcli.run.files import saying

# Bright on dark bone and on a heat map's violet alike. True boxes are dashed, too: not everybody tells colours apart.
_COLOUR, _TRUE = (64, 224, 208), (255, 64, 160)


def radiograph(cleaned: Cleaned) -> np.ndarray:
    """[H, W, 3] uint8: the radiograph without its border."""
    return np.asarray(Image.fromarray(cleaned.pixels).crop(cleaned.box).convert("RGB"))


def save(cleaned: Cleaned | None, told: Mapping[str, Any], target: Drawing, notice: str) -> None:
    """Writes the boxes of a row over its picture; where there is none, takes away what an earlier command drew.

    Args:
        cleaned: The picture, or None.
        told: The row's values: width_px, height_px and boxes.
        target: Where to.
        notice: That it carries.
    """
    if cleaned is None:
        target.remove()
        return
    with saying(target.file):
        target.file.parent.mkdir(parents=True, exist_ok=True)
    drawn = outlined(radiograph(cleaned), told["boxes"], (told["width_px"], told["height_px"]))
    save_drawn(drawn, target.file, notice, target.of)


def outlined(
    pixels: np.ndarray,
    boxes: Sequence[Mapping[str, Any]],
    size_px: tuple[int, int],
    true: Sequence[Sequence[float]] | np.ndarray = (),
) -> np.ndarray:
    """A picture with boxes.

    Args:
        pixels: [H, W, 3] uint8 of a radiograph, at any scale.
        boxes: As rows tell them, in pixels of the original.
        size_px: (width, height) of the original.
        true: [n, 4] left, top, right, bottom of true boxes, likewise; they are dashed, and bear no text.
    """
    if not boxes and not len(true):
        return pixels
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    scale = (image.width / size_px[0], image.height / size_px[1])
    thick = max(1, round(max(image.size) / 320))
    font = ImageFont.load_default(max(10, round(max(image.size) / 45)))
    for box in reversed(boxes):  # nothing covers the text of the surest, which stands first
        left, right = (box[side] * scale[0] for side in ("left", "right"))
        top, bottom = (box[side] * scale[1] for side in ("top", "bottom"))
        draw.rectangle((left, top, max(left, right), max(top, bottom)), outline=_COLOUR, width=thick)
        text = f"{box['class']} {box['score']:.2f}"
        x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
        x = min(max(0.0, left), max(0.0, image.width - (x1 - x0) - 2))
        y = top - (y1 - y0) - thick - 4 if top > (y1 - y0) + thick + 4 else bottom + thick
        y = min(y, max(0.0, image.height - (y1 - y0) - 4))
        draw.rectangle((x, y, x + (x1 - x0) + 2, y + (y1 - y0) + 4), fill=(0, 0, 0))
        draw.text((x + 1 - x0, y + 2 - y0), text, fill=_COLOUR, font=font)
    # Last: a told box that fits exactly shows between the dashes.
    for corners in true:
        _dash(draw, [side * scale[place % 2] for place, side in enumerate(corners)], thick)
    return np.asarray(image)


def _dash(draw: ImageDraw.ImageDraw, corners: Sequence[float], thick: int) -> None:
    left, top, right, bottom = corners
    dash = 4 * thick
    for x in np.arange(left, right, 2 * dash):
        for y in (top, bottom):
            draw.line((x, y, min(x + dash, right), y), fill=_TRUE, width=thick)
    for y in np.arange(top, bottom, 2 * dash):
        for x in (left, right):
            draw.line((x, y, x, min(y + dash, bottom)), fill=_TRUE, width=thick)
