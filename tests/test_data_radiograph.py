"""What is told of a picture, and how much of it is coloured."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxcli.data import radiograph
from fxcli.data.radiograph import Caution, Radiograph, check_size, colour_frac, warn_of
from fxcli.errors import UnreadableImage

GREY = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)


def coloured(pixels, mode=None, **options):
    image = Image.fromarray(np.asarray(pixels, np.uint8))
    image = image.convert(mode) if mode else image
    if not options:
        return colour_frac(image)
    out = io.BytesIO()
    image.save(out, **options)
    with Image.open(out) as again:
        return colour_frac(again)


def test_colour():
    rgb = np.stack([GREY] * 3, axis=2)
    assert coloured(GREY) == 0
    assert coloured(rgb, format="JPEG", quality=30) < 0.01
    tinted = rgb // 2 + np.array([0, 40, 90])
    assert coloured(tinted) == 1
    assert coloured(tinted, format="JPEG") > 0.95
    half = rgb.copy()
    half[:, :60] = (200, 30, 30)
    for mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr"):
        assert coloured(half, mode) == pytest.approx(0.5, abs=0.05)
    for mode in ("L", "LA", "1", "F", "I"):
        assert coloured(half, mode) == 0
    assert colour_frac(Image.fromarray(GREY.astype(np.uint16) * 200)) == 0


def test_sizes_at_the_limits(monkeypatch):
    for size in ((16, 16), (8000, 10_000), (16, 5_000_000)):
        check_size(Path("a.png"), *size)
    for size, why in (
        ((15, 16), "too small"),
        ((16, 1), "too small"),
        ((0, 0), "too small"),
        ((8001, 10_000), "too many"),
    ):
        with pytest.raises(UnreadableImage, match=why):
            check_size(Path("a.png"), *size)
    monkeypatch.setattr(radiograph, "MAX_PIXELS", 255)
    with pytest.raises(UnreadableImage, match=r"too many pixels: 16 × 16 px; at most 255 can be read"):
        check_size(Path("a.png"), 16, 16)


def test_told_in_words_and_numbers(capsys):
    warn_of([])
    assert capsys.readouterr().err == ""
    warn_of([Caution.COLOUR, Caution.BLANK, Caution.COLOUR])
    assert capsys.readouterr().err.splitlines() == [
        "warning: 1 picture: blank: next to no contrast",
        "warning: 2 pictures: in colour: a photograph or a tinted scan",
    ]


def test_sizes_are_those_of_the_original():
    pixels = np.zeros((30, 40), np.uint8)
    assert (Radiograph(pixels).width_px, Radiograph(pixels).height_px) == (40, 30)
    drafted = Radiograph(pixels, full_px=(160, 120))
    assert (drafted.width_px, drafted.height_px) == (160, 120)
