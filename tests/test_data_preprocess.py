"""Clean and fit: one path from any radiograph to the model's input, and the marks that keep it one."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from fxcli.data.preprocess import Clean, Cleaned, Preprocessing, letterbox
from fxcli.data.radiograph import Caution, Radiograph
from fxcli.data.read import MARK, read
from fxcli.errors import DataError, UnreadableImage

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def cleaned_of(pixels, path, side=64, window="percentile", mark=None):
    return Clean(side, window)(Radiograph(pixels, mark), path)


def save_marked(pixels, mark, path):
    info = PngImagePlugin.PngInfo()
    info.add_text(MARK, json.dumps(mark))
    Image.fromarray(pixels).save(path, pnginfo=info)
    return path


def preprocessing(**changes):
    return replace(Preprocessing(Clean(64), 32, "letterbox", MEAN, STD), **changes)


# --- clean: the window ---


def test_8_bit_is_untouched(tmp_path):
    pixels = noise(64, 64) // 2 + 20
    for window in ("percentile", "minmax"):
        assert np.array_equal(cleaned_of(pixels, tmp_path, window=window).pixels, pixels)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_minmax_takes_the_full_range(tmp_path, dtype):
    deep = np.linspace(1000, 1000 + 255 * 4, 64 * 64).reshape(64, 64).astype(dtype)
    expected = ((deep.astype(float) - deep.min()) / (float(deep.max()) - float(deep.min())) * 255).round()
    assert np.array_equal(cleaned_of(deep, tmp_path, window="minmax").pixels, expected)


def test_percentile_is_not_led_by_a_few_pixels(tmp_path):
    deep = np.random.default_rng(0).integers(1000, 3000, (64, 64)).astype(np.uint16)
    deep[0, :8], deep[0, 8:16] = 65535, 0
    low, high = np.percentile(deep, (0.5, 99.5))
    expected = (np.clip((deep - low) / (high - low), 0, 1) * 255).round()
    found = cleaned_of(deep, tmp_path).pixels
    assert np.array_equal(found, expected)
    assert set(found[0, :8]) == {255}
    assert set(found[0, 8:16]) == {0}
    assert found.std() > 60
    assert cleaned_of(deep, tmp_path, window="minmax").pixels.std() < 15, "here the few pixels do lead"


def test_percentiles_that_are_equal_fall_back_to_the_range(tmp_path):
    deep = np.full((64, 64), 500, np.uint16)
    deep[30, 30] = 700
    found = cleaned_of(deep, tmp_path).pixels
    assert found[30, 30] == 255
    assert np.count_nonzero(found) == 1


@pytest.mark.parametrize("window", ["percentile", "minmax"])
@pytest.mark.parametrize("value", [0, 7, 65535])
def test_flat_is_black(tmp_path, window, value):
    assert not cleaned_of(np.full((64, 64), value, np.uint16), tmp_path, window=window).pixels.any()


@pytest.mark.parametrize("window", ["percentile", "minmax"])
def test_values_that_are_not_numbers(tmp_path, window):
    deep = np.linspace(-2, 2, 64 * 64, dtype=np.float32).reshape(64, 64)
    plain = cleaned_of(deep, tmp_path, window=window).pixels
    deep = deep.copy()
    deep[32, :3] = np.nan, np.inf, -np.inf
    found = cleaned_of(deep, tmp_path, window=window).pixels
    assert list(found[32, :3]) == [0, 255, 0]
    assert np.abs(found[33:].astype(int) - plain[33:]).max() <= 1


@pytest.mark.parametrize("window", ["percentile", "minmax"])
@pytest.mark.parametrize(("dtype", "value"), [(np.float32, 3e38), (np.int32, 2_000_000_000)])
def test_huge_values_do_not_overflow(tmp_path, dtype, value, window):
    deep = np.full((64, 64), -value, dtype)
    deep[:32] = value
    found = cleaned_of(deep, tmp_path, window=window).pixels
    assert set(np.unique(found[:32])) == {255}
    assert set(np.unique(found[32:])) == {0}


@pytest.mark.parametrize("mark", [None, "prepared"])
def test_blank_pictures_have_a_caution(tmp_path, mark):
    """Nothing but noise and a letter; not so a small bone on much black."""

    def cautions(pixels):
        path, clean = tmp_path / "a.png", Clean(64)
        cleaned = clean(Radiograph(pixels), path)
        if mark:
            cleaned = clean(Radiograph(cleaned.pixels, clean.mark(cleaned)), path)
        return cleaned.cautions

    noise = np.random.default_rng(0).integers(100, 120, (100, 80)).astype(np.uint8)
    lettered = noise.copy()
    lettered[:6, :6] = 255
    for blank in (noise, lettered, np.zeros((64, 64), np.uint8), np.full((50, 90), 3000, np.uint16)):
        assert cautions(blank) == (Caution.BLANK,)
    bone = np.zeros((100, 100), np.uint8)
    bone[40:60, 40:60] = np.arange(0, 200, 10)
    for picture in (bone, np.tile(np.arange(80, dtype=np.uint8), (64, 1))):
        assert cautions(picture) == ()


def test_cautions_of_the_reader_are_kept(tmp_path):
    found = Clean(64)(Radiograph(np.zeros((64, 64), np.uint8), cautions=(Caution.FIRST,)), tmp_path)
    assert found.cautions == (Caution.FIRST, Caution.BLANK)


def test_nothing_finite_is_refused(tmp_path):
    with pytest.raises(UnreadableImage, match="no finite pixel value") as caught:
        cleaned_of(np.full((64, 64), np.nan, np.float32), tmp_path / "a.tif")
    assert caught.value.path == tmp_path / "a.tif"


# --- clean: the letterbox ---


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((64, 64), (0, 0, 64, 64)),
        ((640, 640), (0, 0, 64, 64)),
        ((128, 64), (0, 16, 64, 48)),
        ((64, 128), (16, 0, 48, 64)),
        ((30, 20), (0, 10, 64, 53)),
        ((16, 64_000), (31, 0, 32, 64)),
        ((64_000, 16), (0, 31, 64, 32)),
        ((63, 64), (0, 0, 63, 64)),
    ],
)
def test_letterbox(size, box):
    assert letterbox(*size, 64) == box


@pytest.mark.parametrize(("height", "width"), [(20, 160), (160, 20), (33, 47), (64, 64), (16, 4096), (4096, 16)])
def test_clean_keeps_the_whole_radiograph_on_black(tmp_path, height, width):
    found = cleaned_of(np.full((height, width), 200, np.uint8), tmp_path)
    left, top, right, bottom = found.box
    assert (found.width_px, found.height_px) == (width, height)
    assert found.pixels.shape == (64, 64)
    assert set(np.unique(found.pixels[top:bottom, left:right])) == {200}
    assert found.pixels.astype(int).sum() == 200 * (right - left) * (bottom - top)


def test_clean_scales_as_pillow_does(tmp_path):
    pixels = noise(100, 50)
    found = cleaned_of(pixels, tmp_path)
    expected = np.asarray(Image.fromarray(pixels).resize((32, 64), Image.Resampling.BICUBIC))
    assert found.box == (16, 0, 48, 64)
    assert np.array_equal(found.pixels[:, 16:48], expected)


# --- clean: the mark ---


@pytest.mark.parametrize("shape", [(90, 70), (30, 200), (64, 64), (16, 4000)])
def test_clean_is_never_applied_twice(tmp_path, shape):
    raw, prepared, clean = tmp_path / "raw.png", tmp_path / "prepared.png", Clean(64)
    Image.fromarray(noise(*shape)).save(raw)
    first = clean(read(raw), raw)
    save_marked(first.pixels, clean.mark(first), prepared)
    second = clean(read(prepared), prepared)
    assert np.array_equal(second.pixels, first.pixels)
    assert (second.box, second.width_px, second.height_px) == (first.box, first.width_px, first.height_px)
    assert not second.is_phantom


def test_a_phantom_stays_one(tmp_path):
    clean, path = Clean(64), tmp_path / "a.png"
    first = clean(Radiograph(noise(64, 64), {"phantom": True}), path)
    assert first.is_phantom
    save_marked(first.pixels, clean.mark(first), path)
    assert clean(read(path), path).is_phantom


def test_without_a_mark_it_would_be_cleaned_twice(tmp_path):
    first = cleaned_of(noise(30, 60), tmp_path)
    second = cleaned_of(first.pixels, tmp_path)
    assert second.box != first.box


@pytest.mark.parametrize("other", [Clean(32), Clean(64, "minmax")])
def test_prepared_with_other_settings_is_refused(tmp_path, other):
    first = other(Radiograph(noise(30, 60), None), tmp_path)
    with pytest.raises(UnreadableImage, match="prepared with other settings") as caught:
        Clean(64)(Radiograph(first.pixels, other.mark(first)), tmp_path)
    assert str(other.prepared_px) in caught.value.reason


@pytest.mark.parametrize(
    "change",
    [
        {"width_px": None},
        {"width_px": 0},
        {"width_px": -60},
        {"height_px": "30"},
        {"height_px": 30.0},
        {"height_px": True},
        {"height_px": 10**400},
    ],
)
def test_forged_mark_is_refused(tmp_path, change):
    first = cleaned_of(noise(30, 60), tmp_path)
    mark = Clean(64).mark(first)
    assert cleaned_of(first.pixels, tmp_path, mark=mark).box == first.box
    with pytest.raises(UnreadableImage, match="was changed since"):
        cleaned_of(first.pixels, tmp_path, mark={**mark, **change})


@pytest.mark.parametrize("pixels", [noise(64, 63), noise(128, 128), noise(64, 64).astype(np.uint16)])
def test_mark_on_other_pixels_is_refused(tmp_path, pixels):
    mark = {"clean": asdict(Clean(64)), "width_px": 60, "height_px": 30}
    with pytest.raises(UnreadableImage, match="was changed since"):
        cleaned_of(pixels, tmp_path, mark=mark)


@pytest.mark.parametrize("clean", [None, [], "x", {}, {"prepared_px": 64}])
def test_mark_that_makes_no_sense_is_refused(tmp_path, clean):
    with pytest.raises(UnreadableImage, match="prepared with other settings"):
        cleaned_of(noise(64, 64), tmp_path, mark={"clean": clean, "width_px": 64, "height_px": 64})


def test_mark_says_what_was_done(tmp_path):
    first = cleaned_of(noise(30, 60), tmp_path)
    settings = {"prepared_px": 64, "window": "percentile"}
    assert Clean(64).mark(first) == {"clean": settings, "width_px": 60, "height_px": 30}
    assert Clean(64).mark(replace(first, is_phantom=True))["phantom"] is True


# --- fit ---


@pytest.fixture
def wide():
    """A square of 64 whose radiograph is 64 × 31, each column of one shade, brighter to the right."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[16:47] = np.arange(64, dtype=np.uint8) * 2 + 100
    return Cleaned(pixels, (0, 16, 64, 47), 128, 62)


@pytest.mark.parametrize(
    ("resize", "region"),
    [("letterbox", (0, 0, 64, 64)), ("squash", (0, 16, 64, 47)), ("crop", (16, 16, 47, 47))],
)
def test_region(wide, resize, region):
    assert preprocessing(resize=resize).region(wide.box) == region


@pytest.mark.parametrize("box", [(0, 31, 64, 32), (31, 0, 32, 64), (0, 0, 64, 64), (5, 0, 58, 64)])
@pytest.mark.parametrize("resize", ["letterbox", "squash", "crop"])
def test_region_is_never_empty(box, resize):
    cleaned = Cleaned(noise(64, 64), box, 10, 10)
    left, top, right, bottom = preprocessing(resize=resize).region(cleaned.box)
    assert 0 <= left < right <= 64
    assert 0 <= top < bottom <= 64
    assert preprocessing(resize=resize).fit(cleaned).shape == (32, 32)
    if resize == "crop":
        assert right - left == bottom - top
        assert box[0] <= left
        assert right <= box[2]
        assert box[1] <= top
        assert bottom <= box[3]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["letterbox", "squash", "crop"])
def test_fit_scales_the_region_as_pillow_does(wide, resize, interpolation):
    made = preprocessing(resize=resize, interpolation=interpolation)
    left, top, right, bottom = made.region(wide.box)
    cut = Image.fromarray(wide.pixels[top:bottom, left:right])
    expected = cut.resize((32, 32), Image.Resampling[interpolation.upper()])
    found = made.fit(wide)
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.asarray(expected))


def test_fit_shows_what_it_should(wide):
    letterboxed, squashed, cropped = (preprocessing(resize=name).fit(wide) for name in ("letterbox", "squash", "crop"))
    assert not letterboxed[:7].any()
    assert letterboxed[16].min() > 90
    assert squashed.min() > 90
    assert np.ptp(squashed[16]) > 100
    assert cropped.min() > 90
    assert np.ptp(cropped[16]) < 70


def test_fit_at_the_prepared_size_changes_nothing(tmp_path):
    cleaned = cleaned_of(noise(64, 64), tmp_path)
    assert np.array_equal(preprocessing(image_size_px=64).fit(cleaned), cleaned.pixels)


def test_load_reads_and_cleans(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(30, 60)).save(path)
    assert np.array_equal(preprocessing().load(path).pixels, cleaned_of(noise(30, 60), path).pixels)
    with pytest.raises(UnreadableImage, match="no such file"):
        preprocessing().load(tmp_path / "gone.png")


def test_normalise_numbers():
    images = torch.tensor([[0, 51], [204, 255]], dtype=torch.uint8).view(1, 1, 2, 2)
    found = preprocessing().normalise(images)
    assert found.shape == (1, 3, 2, 2)
    assert found.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        expected = [(value / 255 - mean) / std for value in (0, 51, 204, 255)]
        assert found[0, channel].flatten().tolist() == pytest.approx(expected, abs=1e-6)


# --- the mapping ---


def test_mapping_round_trip():
    made = preprocessing(resize="crop", interpolation="bicubic", clean=Clean(320, "minmax"))
    again = Preprocessing.from_mapping(json.loads(json.dumps(made.to_mapping())))
    assert again == made
    assert hash(again) == hash(made)


@pytest.mark.parametrize(
    "change",
    [
        {"resize": "stretch"},
        {"resize": ["crop"]},
        {"interpolation": "nearest"},
        {"interpolation": ["bilinear"]},
        {"image_size_px": 31},
        {"image_size_px": 2049},
        {"image_size_px": 224.5},
        {"image_size_px": "224"},
        {"image_size_px": True},
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, float("nan")]},
        {"mean": [0.5, 0.5, None]},
        {"mean": 0.5},
        {"std": [0.5, 0.5, 0.0]},
        {"std": [0.5, 0.5, float("inf")]},
        {"std": [0.5, 0.5, -0.5]},
        {"std": [0.5, 0.5, "x"]},
        {"clean": None},
        {"clean": {"prepared_px": 640}},
        {"clean": {"prepared_px": 640, "window": "median"}},
        {"clean": {"prepared_px": 640, "window": ["minmax"]}},
        {"clean": {"prepared_px": "640", "window": "minmax"}},
        {"clean": {"prepared_px": 5000, "window": "minmax"}},
        {"clean": {"prepared_px": 640, "window": "minmax", "clahe": 2}},
        {"gamma": 1.0},
    ],
)
def test_mapping_is_validated(change):
    with pytest.raises(DataError) as caught:
        Preprocessing.from_mapping({**preprocessing().to_mapping(), **change})
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", ["clean", "image_size_px", "resize", "mean", "std"])
def test_mapping_must_be_complete(name):
    values = preprocessing().to_mapping()
    del values[name]
    with pytest.raises(DataError, match="not a preprocessing of fx"):
        Preprocessing.from_mapping(values)


@pytest.mark.parametrize("values", [None, [], "x"])
def test_mapping_must_be_one(values):
    with pytest.raises(DataError, match="not a preprocessing of fx"):
        Preprocessing.from_mapping(values)
