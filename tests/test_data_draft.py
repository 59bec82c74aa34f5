"""JPEG draft mode: a fraction of the work, nearly the same picture."""

import numpy as np
import pytest
from PIL import Image

from fxcli.data import phantom
from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.data.read import read

ORIENTATION = 274


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A large radiograph as a JPEG, 1600 × 1280 px."""
    pixels = phantom.draw(phantom.plan(seed=3)[0], 640)
    file = tmp_path_factory.mktemp("film") / "film.jpg"
    Image.fromarray(pixels).resize((1600, 1280), Image.Resampling.BICUBIC).save(file, quality=92)
    return file


def preprocessing(prepared_px):
    half = (0.5,) * 3
    return Preprocessing(Clean(prepared_px), 224, "letterbox", half, half)


@pytest.mark.parametrize(
    ("draft_px", "shape"), [(800, (640, 800)), (640, (640, 800)), (400, (320, 400)), (801, (1280, 1600))]
)
def test_the_smallest_fraction_that_is_enough(film, draft_px, shape):
    drafted = read(film, draft_px=draft_px)
    assert drafted.pixels.shape == shape
    assert (drafted.width_px, drafted.height_px) == (1600, 1280)
    assert read(film).pixels.shape == (1280, 1600)


def test_the_picture_hardly_changes(film):
    for prepared_px in (640, 300):
        tool = preprocessing(prepared_px)
        exact, drafted = tool.load(film), tool.load(film, draft=True)
        assert (drafted.box, drafted.width_px, drafted.height_px) == (exact.box, 1600, 1280)
        difference = np.abs(tool.fit(exact).astype(int) - tool.fit(drafted))
        assert 0 < difference.mean() < 1.0
        assert np.percentile(difference, 99) <= 6


def test_a_turned_one_keeps_its_size(film, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    with Image.open(film) as image:
        image.save(tmp_path / "turned.jpg", exif=exif)
    drafted = read(tmp_path / "turned.jpg", draft_px=640)
    assert drafted.pixels.shape == (800, 640)
    assert (drafted.width_px, drafted.height_px) == (1280, 1600)


@pytest.mark.parametrize("name", ["small.jpg", "large.png"])
def test_small_jpegs_and_other_formats_are_read_whole(film, tmp_path, name):
    with Image.open(film) as image:
        small = image.resize((1270, 1000)) if name == "small.jpg" else image
        small.save(tmp_path / name)
    exact, drafted = read(tmp_path / name), read(tmp_path / name, draft_px=640)
    assert np.array_equal(exact.pixels, drafted.pixels)
    assert drafted.full_px is None
