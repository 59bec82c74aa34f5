"""Keypoints stay where they are on the thing, however the picture of it is turned, resized or mirrored."""

import numpy as np
import pytest
from PIL import Image

from fxcli.data import keypoints, phantom
from fxcli.data.keypoints import MOST, UNIT, find


@pytest.fixture(scope="module")
def picture():
    return phantom.draw(phantom.plan()[3], 256)


def repeated(first, second, place, *, mirrored=False, scale=1.0):
    """The fraction of keypoints that are found again: at the place they should be, and the nearest by descriptor."""
    theirs = second.mirrored() if mirrored else second.descriptors
    alike = (first.descriptors.astype(float) / UNIT) @ (theirs.astype(float) / UNIT).T
    expected = np.stack(place(first.frames[:, 0], first.frames[:, 1]), axis=1)
    nearest = second.frames[alike.argmax(axis=1)]
    near = np.linalg.norm(nearest[:, :2] - expected, axis=1) < 2.5
    sizes = np.abs(np.log(nearest[:, 2] / first.frames[:, 2] / scale)) < 0.5
    return float((near & sizes).mean())


def test_shapes_and_units(picture):
    found = find(picture)
    assert 40 < len(found) <= MOST
    assert found.frames.shape == (len(found), 4)
    assert found.descriptors.shape == (len(found), 128)
    assert np.linalg.norm(found.descriptors.astype(float), axis=1) == pytest.approx(UNIT, rel=0.02)
    assert (found.frames[:, :2] >= 0).all()
    assert (found.frames[:, :2] < 256).all()


def test_turned(picture):
    turned = find(np.ascontiguousarray(np.rot90(picture)))
    # Counter-clockwise: what was at (x, y) is at (y, 255 - x), and directions turn with it.
    assert repeated(find(picture), turned, lambda x, y: (y, 255 - x)) > 0.9


def test_mirrored(picture):
    found, mirror = find(picture), find(np.ascontiguousarray(picture[:, ::-1]))
    assert repeated(found, mirror, lambda x, y: (255 - x, y), mirrored=True) > 0.9
    assert repeated(found, mirror, lambda x, y: (255 - x, y)) < 0.2
    again = keypoints.Keypoints(mirror.frames, mirror.mirrored())
    assert np.array_equal(again.mirrored(), mirror.descriptors)


def test_resized_and_brightened(picture):
    half = np.asarray(Image.fromarray(picture).resize((160, 160), Image.Resampling.LANCZOS))
    found = find((half * 0.6 + 40).astype(np.uint8))
    place = 160 / 256
    share = repeated(found, find(picture), lambda x, y: ((x + 0.5) / place - 0.5, (y + 0.5) / place - 0.5), scale=1.6)
    assert share > 0.5


def test_a_blob_is_found_where_it_is_with_its_size():
    y, x = np.mgrid[:120, :140]
    for sigma in (3.0, 5.0):
        blob = 30 + 200 * np.exp(-((x - 81.3) ** 2 + (y - 52.6) ** 2) / (2 * sigma**2))
        frames = find(blob.astype(np.uint8)).frames
        best = frames[np.linalg.norm(frames[:, :2] - (81.3, 52.6), axis=1) < 1.0]
        assert len(best)
        assert np.abs(np.log2(best[:, 2] / sigma)).min() < 0.6


def test_edges_and_flat_pictures_have_none():
    assert len(find(np.full((100, 100), 50, np.uint8))) == 0
    edge = np.zeros((100, 100), np.uint8)
    edge[:, 50:] = 255
    inner = find(edge).frames
    assert len(inner[(np.abs(inner[:, 1] - 50) < 25)]) == 0
    assert len(find(np.zeros((8, 8), np.uint8))) == 0


def test_equal_pictures_have_equal_keypoints(picture):
    first, second = find(picture), find(picture.copy())
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.descriptors, second.descriptors)
