"""Laying one picture over another: known maps are found again, and the score is what it says."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from fxcli.data import alignment, phantom
from fxcli.data.alignment import Affine, agreement, by_keypoints, by_orientation
from fxcli.data.keypoints import Keypoints
from fxcli.data.views import ORIENTATIONS, View, oriented, view


@pytest.fixture(scope="module")
def picture():
    # With a little of something everywhere, so that nothing is a bar to be trimmed.
    clouds = np.random.default_rng(7).integers(0, 70, (40, 40), dtype=np.uint8)
    clouds = np.asarray(Image.fromarray(clouds).resize((256, 256), Image.Resampling.BICUBIC))
    return (phantom.draw(phantom.plan()[5], 256) * 0.7 + clouds).astype(np.uint8)


def off_by(found, expected, shape):
    """The largest distance, in pixels of the second view, between two maps of the corners of the first."""
    height, width = shape
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]])
    first, second = (corners @ affine.matrix.T + affine.shift for affine in (found, expected))
    return np.abs(first - second).max()


def moved(picture, matrix, shift=(0, 0)):
    """A picture whose place (x, y), from the centre, shows what the given one has at matrix · (x, y) + shift."""
    centre = np.array([127.5, 127.5])
    swap = np.array(matrix, float)[::-1, ::-1]
    offset = centre - swap @ centre + np.array(shift, float)[::-1]
    return np.clip(ndimage.affine_transform(picture.astype(float), swap, offset, order=3), 0, 255).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
def test_by_orientation_is_exact(orientation, picture):
    one = view(picture[:, 40:200])
    back = {1: 3, 3: 1}.get(orientation, orientation)
    other = view(np.ascontiguousarray(oriented(picture[:, 40:200], back)))
    assert oriented(other.pixels, orientation).shape == one.pixels.shape
    affine = by_orientation(one, other, orientation)
    y, x = 37, 21
    column, row = np.rint(affine.matrix @ (x, y) + affine.shift).astype(int)
    shown = np.arange(other.pixels.size).reshape(other.pixels.shape)
    assert shown[row, column] == oriented(shown, orientation)[y, x]
    assert agreement(one, other, affine).score > 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    "matrix",
    [
        [[1, 0], [0, 1]],
        [[0.8, 0], [0, 0.8]],
        [[0.7, 0], [0, 0.9]],
        [[-1, 0], [0, 1]],
        [[0.9, 0.25], [-0.25, 0.9]],
        [[0.1, 0.85], [0.85, -0.1]],
    ],
    ids=["same", "scaled", "stretched", "mirrored", "turned a little", "turned and mirrored"],
)
def test_a_known_map_is_found_again(matrix, picture):
    one, other = view(moved(picture, matrix)), view(picture)
    assert one.pixels.shape == other.pixels.shape == (128, 128)
    matrix = np.array(matrix, float)
    expected = Affine(matrix, np.array([63.5, 63.5]) - matrix @ (63.5, 63.5))
    guess = by_keypoints(one, other)
    assert guess is not None
    assert off_by(guess, expected, (128, 128)) < 8
    found = agreement(one, other, guess)
    assert off_by(found.affine, expected, (128, 128)) < 1.5
    assert found.score > 0.85


def test_a_bad_guess_is_mended(picture):
    one = view(picture)
    found = agreement(one, one, Affine(np.eye(2) * 1.03, np.array([2.0, -2.5])))
    assert off_by(found.affine, Affine(np.eye(2), np.zeros(2)), (128, 128)) < 0.5
    assert found.score > 0.97
    assert found.overlap_frac == pytest.approx(1.0, abs=0.04)


def test_overlap_is_a_fraction_of_the_smaller_picture(picture):
    one, other = view(picture), view(picture[:, :128])
    guess = by_keypoints(one, other)
    found = agreement(one, other, guess)
    assert found.score > 0.9
    assert found.overlap_frac == pytest.approx(1.0, abs=0.05)
    left, right = view(picture[:, :160]), view(picture[:, 80:])
    found = agreement(left, right, by_keypoints(left, right))
    assert found.score > 0.9
    # 80 of 160 columns.
    assert found.overlap_frac == pytest.approx(0.5, abs=0.06)


def test_without_overlap_there_is_no_agreement(picture):
    one = view(picture)
    found = agreement(one, one, Affine(np.eye(2), np.array([500.0, 0.0])))
    assert (found.score, found.overlap_frac) == (0.0, 0.0)


def test_brightness_and_contrast_do_not_matter_but_detail_does(picture):
    one = view(picture)
    still = Affine(np.eye(2), np.zeros(2))
    darker = view((picture * 0.5 + 60).astype(np.uint8))
    assert agreement(one, darker, still).score > 0.9
    rng = np.random.default_rng(0)
    blurred = ndimage.gaussian_filter(picture.astype(float), 6)
    other = view(np.clip(blurred + rng.normal(0, 20, picture.shape), 0, 255).astype(np.uint8))
    assert agreement(one, other, still).score < 0.5


def test_score_is_the_weighted_mean_of_local_correlations(picture):
    """Against windows cut out one by one, at a few places."""
    rng = np.random.default_rng(1)
    a = picture[:128, :128].astype(np.float32)
    b = a + rng.normal(0, 12, a.shape).astype(np.float32)
    found = alignment._agreement(a, b, Affine(np.eye(2), np.zeros(2)), sigma_px=2.5)
    fine_a, fine_b = (x - ndimage.gaussian_filter(x, 2.5, mode="nearest") for x in (a, b))
    y, x = np.mgrid[:128, :128]
    local = []
    for row in range(24, 104, 8):
        for column in range(24, 104, 8):
            near = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 8.0**2)) * (np.abs(y - row) <= 20)
            near *= np.abs(x - column) <= 20
            common, one, other = ((near * v).sum() / near.sum() for v in (fine_a * fine_b, fine_a**2, fine_b**2))
            local.append(common / np.sqrt((one + 1) * (other + 1)))
    assert min(local) < found.score < max(local)
    assert 0.2 < found.score < 0.95


def test_too_few_keypoints_give_no_map(picture):
    one = view(picture)
    few = Keypoints(one.keypoints.frames[:3], one.keypoints.descriptors[:3])
    assert by_keypoints(one, View(one.pixels, few, one.hashes, False)) is None
    assert by_keypoints(View(one.pixels, few, one.hashes, False), one) is None


def test_affine():
    affine = Affine(np.array([[0.0, 2.0], [-1.0, 0.5]]), np.array([3.0, 40.0]))
    there = affine.matrix @ (5, 7) + affine.shift
    back = affine.inverse()
    assert back.matrix @ there + back.shift == pytest.approx((5, 7))
    assert affine.box((10, 20), within=(100, 100)) == (3, 20, 23, 45)
    assert affine.box((10, 20), within=(30, 15)) == (3, 20, 15, 30)
    assert affine.is_plausible
    assert not Affine(np.eye(2) * 6, np.zeros(2)).is_plausible
    assert not Affine(np.diag([0.1, 0.1]), np.zeros(2)).is_plausible
    assert not Affine(np.diag([1.0, 3.0]), np.zeros(2)).is_plausible
    assert not Affine(np.array([[1.0, 1.0], [1.0, 1.0]]), np.zeros(2)).is_plausible


def test_warping_against_pillow(picture):
    """Pillow samples at pixel centres + 0.5 in both pictures."""
    affine = Affine(np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([6.0, 20.0]))
    seen, inside = alignment._warped(picture.astype(np.float32), affine, (200, 180))
    (a, b), (d, e) = affine.matrix
    c, f = affine.shift + 0.5 - affine.matrix @ (0.5, 0.5)
    expected = Image.fromarray(picture.astype(np.float32)).transform(
        (180, 200), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BILINEAR
    )
    assert inside.mean() > 0.9
    assert np.abs(seen - np.asarray(expected))[inside].max() < 1.5
