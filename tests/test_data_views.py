"""What is kept of a picture: no bars, eight orientations, and keypoints in its own pixels."""

import distortions
import imagehash
import numpy as np
import pytest
from PIL import Image

from fxcli.data import phantom
from fxcli.data.views import ORIENTATIONS, SIDE_PX, oriented, trimmed, view


@pytest.fixture(scope="module")
def picture():
    return phantom.draw(phantom.plan()[0], 200)


def test_size(picture):
    pixels = picture[:, :150] // 2 + np.random.default_rng(0).integers(0, 40, (200, 150), dtype=np.uint8)
    seen = view(pixels)
    assert seen.pixels.shape == (SIDE_PX, 96)
    assert seen.pixels.dtype == np.uint8
    assert not seen.is_blank
    frames = seen.keypoints.frames
    assert len(frames) > 20
    assert frames[:, 0].max() < 96
    assert 100 < frames[:, 1].max() < SIDE_PX


@pytest.mark.parametrize("shape", [(16, 16), (16, 400), (3000, 20), (1, 1)])
@pytest.mark.parametrize("fill", ["noise", "flat"])
def test_any_shape(shape, fill):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8) if fill == "noise" else np.full(shape, 77, np.uint8)
    seen = view(pixels)
    assert max(seen.pixels.shape) == SIDE_PX
    assert seen.hashes.shape == (ORIENTATIONS,)
    assert seen.is_blank == (fill == "flat" or shape == (1, 1))


def test_bars_are_trimmed_from_outside_in():
    inside = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    framed = np.full((80, 90), 255, np.uint8)
    framed[10:70, 20:80] = 3
    framed[15:55, 40:70] = inside
    assert np.array_equal(trimmed(framed), inside)
    assert np.array_equal(trimmed(inside), inside)
    flat = np.full((30, 40), 9, np.uint8)
    assert trimmed(flat) is flat


def test_noise_of_jpeg_in_a_bar_is_a_bar(picture):
    framed = distortions.re_encoded(distortions.barred(picture), 60)
    assert trimmed(framed).shape[1] <= 202


def test_orientations_are_the_eight_of_a_square():
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = {oriented(pixels, k).tobytes() + bytes(oriented(pixels, k).shape) for k in range(ORIENTATIONS)}
    assert len(found) == 8
    assert np.array_equal(oriented(pixels, 0), pixels)
    assert np.array_equal(oriented(pixels, 4), pixels[:, ::-1])
    assert np.array_equal(oriented(oriented(pixels, 1), 3), pixels)
    for k in (0, 2, 4, 5, 6, 7):
        assert np.array_equal(oriented(oriented(pixels, k), k), pixels)


@pytest.mark.slow
def test_hashes_are_those_of_the_oriented_picture(picture):
    seen = view(picture)
    square = Image.fromarray(seen.pixels).resize((32, 32), Image.Resampling.LANCZOS)
    plain = imagehash.phash(square)
    assert int(seen.hashes[0]) == int(str(plain), 16)
    for k in range(ORIENTATIONS):
        again = view(np.ascontiguousarray(oriented(picture, k)))
        assert int(np.bitwise_count(again.hashes[0] ^ seen.hashes[k])) <= 4
