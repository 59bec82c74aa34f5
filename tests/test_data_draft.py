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
    for prepared_px in (400, 200):
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


def test_a_very_long_one_is_read(tmp_path):
    Image.new("L", (20_000, 16), 90).save(tmp_path / "long.jpg")
    assert read(tmp_path / "long.jpg", draft_px=640).pixels.size > 0


@pytest.mark.slow
def test_answers_stay_within_the_stated_tolerance(trained, tmp_path):
    """On the README's word: mean |Δp| at most 0.01."""
    from fxcli.evaluation.agreement import compare
    from fxcli.inference.opened import open_model

    files = []
    for number, case in enumerate(phantom.plan(seed=5)[::30]):
        files.append(tmp_path / f"{number}.jpg")
        pixels = Image.fromarray(phantom.draw(case, 320))
        pixels.resize((960, 960), Image.Resampling.BICUBIC).save(files[-1], quality=92)
    exact, drafted = (open_model(str(trained.path), draft=draft).pipeline.logits(files) for draft in (False, True))
    assert not np.array_equal(exact, drafted)
    assert compare(exact, drafted).mean_abs_dp <= 0.01
