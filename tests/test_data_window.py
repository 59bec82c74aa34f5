"""More than 8 bits become 8: every number type, against the plain way over float64."""

from pathlib import Path

import numpy as np
import pytest

from fxcli.data.window import to_8_bit
from fxcli.errors import UnreadableImage

TYPES = (np.uint16, np.int16, np.int8, np.int32, np.uint32, np.float32, np.float64)


def plainly(pixels, window):
    values = pixels.astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.5)) if window == "percentile" else (finite.min(), finite.max())
    low, high = (low, high) if high > low else (finite.min(), finite.max())
    inside = np.clip(np.where(np.isnan(values), low, values), low, high)
    return np.rint((inside - low) / ((high - low) or 1.0) * 255.0)


@pytest.mark.parametrize("window", ["percentile", "minmax"])
@pytest.mark.parametrize("dtype", TYPES)
def test_equals_the_plain_way(dtype, window):
    rng = np.random.default_rng(0)
    for _ in range(40):
        values = rng.normal(rng.uniform(-500, 500), 10 ** rng.uniform(-1, 5), rng.integers(1, 70, 2))
        if np.dtype(dtype).kind != "f":
            values = np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
        pixels = values.astype(dtype)
        found = to_8_bit(pixels, window, Path())
        assert found.dtype == np.uint8
        assert np.array_equal(found, plainly(pixels, window))


@pytest.mark.parametrize("dtype", TYPES)
def test_neither_black_nor_white(dtype):
    """Twelve bits in sixteen, or anything else: the values that there are are spread over all shades."""
    ramp = np.linspace(0, 100 if dtype == np.int8 else 4095, 10_000).reshape(100, 100).astype(dtype)
    shades = to_8_bit(ramp, "percentile", Path())
    assert np.mean((shades > 20) & (shades < 235)) > 0.8
    assert (shades.min(), shades.max()) == (0, 255)


def test_a_large_picture_is_done_in_blocks():
    pixels = np.random.default_rng(0).normal(0, 1, (700, 2000)).astype(np.float32)
    assert np.array_equal(to_8_bit(pixels, "percentile", Path()), plainly(pixels, "percentile"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_no_number(dtype):
    pixels = np.linspace(0, 1, 400).reshape(20, 20).astype(dtype)
    pixels[0, :3] = np.nan, np.inf, -np.inf
    shades = to_8_bit(pixels, "percentile", Path())
    assert list(shades[0, :3]) == [0, 255, 0]
    assert np.array_equal(shades, plainly(pixels, "percentile"))
    with pytest.raises(UnreadableImage, match="no finite pixel value"):
        to_8_bit(np.full((20, 20), np.nan, dtype), "minmax", Path("a.tif"))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_flat_picture_is_black(dtype):
    assert not to_8_bit(np.full((20, 20), 77, dtype), "percentile", Path()).any()


def test_8_bits_stay_what_they_are():
    pixels = np.full((20, 20), 3, np.uint8)
    assert to_8_bit(pixels, "percentile", Path()) is pixels
