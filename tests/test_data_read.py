"""Decoding: every mode that radiographs come in, and every way in which a file is none."""

import json
import os
import random
import struct
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from rasters import planes, png, tiff

from fxcli.data import radiograph
from fxcli.data.radiograph import Caution
from fxcli.data.read import EXTENSIONS, MARK, read
from fxcli.errors import UnreadableImage

SIZE = (40, 30)  # width, height


def gradient(width=SIZE[0], height=SIZE[1]):
    """[H, W] uint8 that no turn or mirror leaves as it is."""
    return (np.arange(height)[:, None] * 5 + np.arange(width)[None, :]).astype(np.uint8)


def save(image, path, **options):
    image.save(path, **options)
    return path


def of_file(path, get):
    with Image.open(path) as image:
        return get(image)


def reason(path):
    with pytest.raises(UnreadableImage) as caught:
        read(path)
    assert caught.value.path == path
    assert caught.value.exit_code == 4
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_grey(tmp_path, suffix):
    path = save(
        Image.fromarray(gradient()), tmp_path / f"a{suffix}", **({"lossless": True} if suffix == ".webp" else {})
    )
    found = read(path)
    assert found.pixels.dtype == np.uint8
    assert np.array_equal(found.pixels, gradient())
    assert found.mark is None
    assert not found.is_phantom


def test_jpeg_is_decoded_as_pillow_does(tmp_path):
    path = save(Image.fromarray(gradient()), tmp_path / "a.jpg")
    assert np.array_equal(read(path).pixels, of_file(path, np.asarray))


def test_bits(tmp_path):
    bits = gradient() % 3 == 0
    assert np.array_equal(read(save(Image.fromarray(bits), tmp_path / "a.png")).pixels, bits * np.uint8(255))


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA", "LA"])
def test_grey_in_disguise_keeps_every_value(tmp_path, mode):
    path = save(Image.fromarray(gradient()).convert(mode), tmp_path / "a.png")
    assert of_file(path, lambda image: image.mode) == mode
    assert np.array_equal(read(path).pixels, gradient())


def test_colour_becomes_luminance(tmp_path):
    image = Image.new("RGB", SIZE, (200, 100, 50))
    expected = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert set(np.unique(read(save(image, tmp_path / "a.png")).pixels)) == {expected}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_black(tmp_path, mode):
    image = Image.fromarray(np.full(SIZE[::-1], 200, np.uint8)).convert(mode)
    alpha = np.full(SIZE[::-1], 255, np.uint8)
    alpha[:, :10], alpha[:, 10:20] = 0, 128
    image.putalpha(Image.fromarray(alpha))
    pixels = read(save(image, tmp_path / "a.png")).pixels
    assert [int(pixels[0, x]) for x in (0, 15, 30)] == [0, 100, 200]


def test_palette_with_a_transparent_colour(tmp_path):
    image = Image.fromarray((gradient() > 60).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 90, 90, 90])
    pixels = read(save(image, tmp_path / "a.png", transparency=0)).pixels
    assert np.array_equal(pixels, np.where(gradient() > 60, 90, 0))


@pytest.mark.parametrize(("mode", "colour"), [("L", 200), ("1", 1), ("I;16", 200), ("RGB", (200, 200, 200))])
def test_one_transparent_colour(tmp_path, mode, colour):
    values = np.where(gradient() > 60, 200, 100).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(values)
    image = image.point(lambda value: 255 * (value > 150), "1") if mode == "1" else image.convert(mode)
    path = save(image, tmp_path / "a.png", transparency=colour)
    assert of_file(path, lambda image: (image.mode, "transparency" in image.info)) == (mode, True)
    assert np.array_equal(read(path).pixels, np.where(gradient() > 60, 0, 0 if mode == "1" else 100))


def test_one_transparent_colour_of_16_bits(tmp_path):
    values = np.where(gradient()[..., None] > 60, 0xFF00, 0x6400).repeat(3, axis=2)
    path = tmp_path / "a.png"
    path.write_bytes(png(values, 2, transparent=struct.pack(">HHH", 0xFF00, 0xFF00, 0xFF00)))
    assert np.array_equal(read(path).pixels, np.where(gradient() > 60, 0, 100))


def test_cmyk(tmp_path):
    image = Image.merge("CMYK", [*[Image.new("L", SIZE)] * 3, Image.fromarray(255 - gradient())])
    path = save(image, tmp_path / "a.jpg", quality=100)
    assert of_file(path, lambda image: image.mode) == "CMYK"
    assert np.abs(read(path).pixels.astype(int) - gradient()).max() <= 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit(tmp_path, suffix):
    deep = gradient().astype(np.uint16) * 300
    found = read(save(Image.fromarray(deep), tmp_path / f"a{suffix}"))
    assert found.pixels.dtype == np.uint16
    assert np.array_equal(found.pixels, deep)


def test_16_bit_with_the_large_byte_first(tmp_path):
    deep = gradient().astype(np.uint16) * 300
    image = Image.frombytes("I;16B", SIZE, deep.astype(">u2").tobytes())
    found = read(save(image, tmp_path / "a.tif"))
    assert found.pixels.dtype == np.uint16
    assert found.pixels.dtype.isnative
    assert np.array_equal(found.pixels, deep)


@pytest.mark.parametrize(("dtype", "factor"), [(np.int32, -70_000), (np.float32, 0.25)])
def test_32_bit(tmp_path, dtype, factor):
    deep = (gradient().astype(float) * factor).astype(dtype)
    found = read(save(Image.fromarray(deep), tmp_path / "a.tif"))
    assert found.pixels.dtype == dtype
    assert np.array_equal(found.pixels, deep)


@pytest.mark.parametrize(("dtype", "inverse"), [(np.uint16, lambda x: 65535 - x), (np.float32, lambda x: -x)])
def test_tiff_whose_zero_is_white(tmp_path, dtype, inverse):
    deep = gradient().astype(dtype) * 100
    path = save(Image.fromarray(deep), tmp_path / "a.tif", tiffinfo={262: 0})
    assert of_file(path, lambda image: image.tag_v2[262]) == 0
    assert np.array_equal(read(path).pixels, inverse(deep))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".lzw.tif"])
@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda x: np.rot90(x, -1)),
        (7, lambda x: np.rot90(x, 2).T),
        (8, np.rot90),
    ],
)
def test_exif_orientation(tmp_path, suffix, orientation, turn):
    exif = Image.Exif()
    exif[274] = orientation
    # Blocks of one shade, so that JPEG keeps them.
    blocks = np.kron(np.array([[10, 80, 150], [40, 200, 240]], np.uint8), np.ones((16, 16), np.uint8))
    options = {"compression": "tiff_lzw"} if suffix == ".lzw.tif" else {}
    path = save(Image.fromarray(blocks), tmp_path / f"a{suffix}", exif=exif, **options)
    found = read(path)
    assert found.orientation == orientation
    assert found.pixels.shape == turn(blocks).shape
    assert np.abs(found.pixels.astype(int) - turn(blocks)).max() <= 2


def test_16_bit_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    deep = gradient().astype(np.uint16) * 300
    path = save(Image.fromarray(deep), tmp_path / "a.png", exif=exif)
    assert np.array_equal(read(path).pixels, np.rot90(deep, -1))


def exif_block(*entries, count=None):
    """An EXIF block of (tag, type, number of values, 4 bytes), by hand: Pillow writes no wrong ones."""
    parts = [struct.pack("<HHL", *entry[:3]) + entry[3] for entry in entries]
    return b"Exif\0\0II*\0" + struct.pack("<LH", 8, count or len(parts)) + b"".join(parts)


TURNED = (274, 3, 1, b"\6\0\0\0")


def test_exif_that_pillow_cannot_write(tmp_path):
    """An x resolution that is text: cameras do such things, and the turn is there all the same."""
    exif = exif_block(TURNED, (282, 2, 4, b"abc\0"))
    path = save(Image.fromarray(gradient()), tmp_path / "a.jpg", exif=exif + bytes(4))
    assert read(path).pixels.shape == SIZE


def test_exif_that_is_named_twice(tmp_path):
    path = save(Image.fromarray(gradient()), tmp_path / "a.jpg", exif=b"Exif\0\0" + exif_block(TURNED) + bytes(4))
    assert read(path).orientation == 6


def test_damaged_exif_may_hide_a_turn(tmp_path):
    path = save(Image.fromarray(gradient()), tmp_path / "a.jpg", exif=exif_block(TURNED, count=2))
    assert reason(path).startswith("damaged: Corrupt EXIF data")


def test_damaged_exif_that_pillow_passes_over_may_hide_a_turn(tmp_path):
    path = save(Image.fromarray(gradient()), tmp_path / "a.jpg", exif=exif_block(TURNED) + bytes(4))
    whole = path.read_bytes()
    assert read(path).pixels.shape != gradient().shape
    start = whole.index(b"Exif\0\0") + 6
    path.write_bytes(whole[:start] + b"XX" + whole[start + 2 :])
    assert reason(path) == "damaged: the EXIF block, which may hide a turn"


@pytest.mark.parametrize(
    ("start", "told"),
    [(b"\0\0\0\x18ftypheic", "HEIC"), (b"\0\0\0\x0cjP  \r\n", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000")],
)
def test_pictures_of_formats_that_are_known_and_not_read(tmp_path, start, told):
    path = tmp_path / "a.jpg"
    path.write_bytes(start + bytes(500))
    assert reason(path).startswith(told)


def test_nothing_is_printed_of_odd_pictures(tmp_path):
    """What warns in a program is no error there: a process of its own, with the warnings that users have."""
    palette = Image.fromarray(gradient()).convert("P")
    palette.info["transparency"] = bytes(range(256))
    save(palette, tmp_path / "a.png")
    Image.fromarray(np.full((40, 50), np.nan, np.float32)).save(tmp_path / "b.tif")
    signalling = np.array([[0x7FA00000, 0x3F800000] * 20] * 40, dtype=np.uint32).view(np.float32)
    Image.fromarray(signalling).save(tmp_path / "c.tif")
    code = (
        "import sys; from pathlib import Path; from fxcli.data.read import read\n"
        "from fxcli.data.preprocess import Clean; from fxcli.errors import UnreadableImage\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: Clean(64)(read(path), path); print('ok')\n"
        "    except UnreadableImage as error: print(error.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["ok", "no finite pixel value", "ok"]


def test_whole_numbers_of_32_bits_in_either_order(tmp_path):
    values = (gradient().astype(np.uint32) << 23) + 7
    for order in "<>":
        path = tmp_path / "a.tif"
        path.write_bytes(tiff(values, 1, order))
        assert np.array_equal(read(path).pixels, values)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_cut_off(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), dtype=np.uint8)
    path = save(Image.fromarray(noise), tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:-2000])
    assert reason(path).startswith("cut short: " if suffix == ".jpg" else "damaged: ")


def test_no_pictures(tmp_path):
    text = tmp_path / "a.jpg"
    text.write_text("not a picture")
    empty = tmp_path / "b.png"
    empty.touch()
    postscript = tmp_path / "c.jpg"
    postscript.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n")
    for path in (text, postscript):
        assert reason(path) == "not a picture, or of an unknown format"
    assert reason(empty) == "an empty file"
    assert reason(tmp_path / "gone.png") == "no such file"


@pytest.mark.skipif(os.name == "nt", reason="Windows names no reason of its own for a folder")
def test_folder(tmp_path):
    assert reason(tmp_path) == "this is a folder"


def test_permission(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert reason(tmp_path / "a.png") == "permission denied"


def test_content_decides(tmp_path):
    path = tmp_path / "a.jpg"
    save(Image.fromarray(gradient()), path, format="PNG")
    assert np.array_equal(read(path).pixels, gradient())


@pytest.mark.parametrize(("size", "fits"), [((16, 16), True), ((15, 400), False), ((400, 15), False)])
def test_too_small(tmp_path, size, fits):
    path = save(Image.new("L", size), tmp_path / "a.png")
    if fits:
        assert read(path).pixels.shape == size[::-1]
    else:
        assert reason(path) == f"too small: {size[0]} × {size[1]} px, at least 16 are needed a side"


def test_too_large(tmp_path, monkeypatch):
    path = save(Image.new("L", (60, 50)), tmp_path / "a.png")
    monkeypatch.setattr(radiograph, "MAX_PIXELS", 2999)
    assert reason(path) == "too many pixels: 60 × 50 px; at most 2,999 can be read"
    monkeypatch.setattr(radiograph, "MAX_PIXELS", 3000)
    assert read(path).pixels.shape == (50, 60)


@pytest.mark.parametrize("limit", [2000, 1000], ids=["warning", "error"])
def test_what_pillow_takes_for_a_bomb(tmp_path, monkeypatch, limit):
    path = save(Image.new("L", (60, 50)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert reason(path) == "too many pixels; at most 80,000,000 can be read"


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png", ".webp"])
def test_of_several_pages_or_frames_the_first_is_taken_with_a_caution(tmp_path, suffix):
    pages = [Image.fromarray(gradient() + shift) for shift in (0, 1, 2)]
    options = {"lossless": True} if suffix == ".webp" else {}
    found = read(save(pages[0], tmp_path / f"a{suffix}", save_all=True, append_images=pages[1:], **options))
    assert np.array_equal(found.pixels, gradient())
    assert found.cautions == (Caution.FIRST,)
    assert read(save(pages[0], tmp_path / f"b{suffix}", **options)).cautions == ()


def test_further_pictures_in_a_jpeg_are_previews(tmp_path):
    pages = [Image.fromarray(np.full((32, 32), value, np.uint8)) for value in (90, 200)]
    path = save(pages[0], tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pages[1:])
    assert of_file(path, lambda image: (image.format, image.n_frames)) == ("MPO", 2)
    assert set(np.unique(read(path).pixels)) == {90}
    assert read(path).cautions == ()


def marked(path, text, key=MARK):
    info = PngImagePlugin.PngInfo()
    info.add_text(key, text)
    return save(Image.fromarray(gradient()), path, pnginfo=info)


def test_mark(tmp_path):
    mark = {"clean": {"prepared_px": 40}, "phantom": True}
    found = read(marked(tmp_path / "a.png", json.dumps(mark)))
    assert found.mark == mark
    assert found.is_phantom
    assert not read(marked(tmp_path / "b.png", '{"clean": {}}')).is_phantom


@pytest.mark.parametrize("text", ["{", "[1]", "3", "", "[" * 100_000])
def test_marks_that_fx_never_wrote(tmp_path, text):
    assert read(marked(tmp_path / "a.png", text)).mark is None


def test_other_text_is_no_mark(tmp_path):
    assert read(marked(tmp_path / "a.png", "{}", key="Comment")).mark is None


def test_extensions_can_be_read(tmp_path):
    for suffix in set(EXTENSIONS) - {".dcm", ".dicom"}:
        assert read(save(Image.fromarray(gradient()), tmp_path / f"a{suffix}")).pixels.shape == SIZE[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".webp", ".gif"])
def test_damage_is_always_a_reason(tmp_path, suffix):
    """Whatever bytes are wrong, the picture is read or refused; nothing else escapes."""
    image = Image.fromarray(gradient())
    data = bytearray(save(image, tmp_path / f"whole{suffix}").read_bytes())
    rng, path, reasons = random.Random(0), tmp_path / f"a{suffix}", []
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            damaged[rng.randrange(min(len(data), 300))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            read(path)
        except UnreadableImage as error:
            reasons.append(error.reason)
    assert len(reasons) > 20
    assert all(reason and "\n" not in reason for reason in reasons)


def test_threads_leave_the_warning_filters_alone(tmp_path):
    path = save(Image.fromarray(gradient()), tmp_path / "a.png")
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [read(path) for _ in range(30)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("dtype", "sample_format"), [(np.float64, 3), (np.float32, 3), (np.int32, 2), (np.int16, 2), (np.int8, 2)]
)
def test_types_of_tiff_that_pillow_does_not_write(tmp_path, order, dtype, sample_format, deflated):
    values = (gradient().astype(float) - 90).astype(dtype)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, sample_format, order, deflated=deflated))
    assert np.array_equal(read(path).pixels, values)


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("sample_format", [1, None])
@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 0), (np.uint16, 8), (np.uint32, 24)])
def test_types_of_tiff_without_a_sign(tmp_path, order, dtype, bits, sample_format, deflated):
    values = gradient().astype(dtype) << bits
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, sample_format, order, deflated=deflated))
    assert np.array_equal(read(path).pixels, values)


def test_lab(tmp_path):
    lab = Image.merge("LAB", [Image.fromarray(gradient()), *[Image.new("L", SIZE, 128)] * 2])
    path = save(lab, tmp_path / "a.tif")
    assert of_file(path, lambda image: image.mode) == "LAB"
    assert np.array_equal(read(path).pixels, gradient())


@pytest.mark.parametrize("kind", [2, 4, 6])
def test_16_bits_in_several_channels(tmp_path, kind):
    """The upper 8 are kept; where those say next to nothing, it is refused and not shown as black."""
    path = tmp_path / "a.png"
    for factor, is_read in ((200, True), (16, False)):
        grey = gradient().astype(np.uint16) * factor
        opaque = np.full_like(grey, 65535)
        channels = {2: [grey] * 3, 4: [grey, opaque], 6: [grey] * 3 + [opaque]}[kind]
        path.write_bytes(png(np.dstack(channels), kind))
        if is_read:
            assert np.abs(read(path).pixels.astype(int) - grey // 256).max() <= 1
        else:
            assert reason(path) == "several channels of 16 bits, and few of them used: save it as grey of 16 bits"


def test_channels_of_a_tiff_that_lie_one_behind_the_other(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(planes(np.stack([gradient()] * 3)))
    assert np.array_equal(read(path).pixels, gradient())
    deep = gradient().astype(np.uint16) * 300
    for channels, photometric in ((3, 2), (4, 5)):
        path.write_bytes(planes(np.stack([deep] * channels), photometric))
        assert reason(path) == "channels of 16 bits, one behind the other: save it as grey of 16 bits"
    for deflated in (False, True):
        path.write_bytes(planes(np.stack([gradient(), np.full_like(gradient(), 255)]), 1, deflated=deflated))
        assert reason(path) == "grey and transparency, one behind the other: save it as grey"


@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("dtype", "sample_format"),
    [(np.uint8, 1), (np.uint16, 1), (np.int16, 2), (np.uint32, 1), (np.int32, 2), (np.float32, 3), (np.float64, 3)],
)
def test_one_channel_of_a_tiff_lies_behind_no_other(tmp_path, dtype, sample_format, order, deflated):
    values = gradient().astype(dtype)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(values, sample_format, order, deflated=deflated, planar=2))
    assert np.array_equal(read(path).pixels, values)


def test_one_channel_of_a_tiff_whose_zero_is_white_lies_behind_no_other(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(gradient(), 1, photometric=0, planar=2))
    assert np.array_equal(read(path).pixels, ~gradient())


def test_colour_is_a_caution(tmp_path):
    rgb = np.stack([gradient()] * 3, axis=2)
    assert read(save(Image.fromarray(rgb), tmp_path / "grey.png")).cautions == ()
    photograph = read(save(Image.fromarray(rgb // 2 + np.array([0, 40, 90], np.uint8)), tmp_path / "a.png"))
    assert photograph.cautions == (Caution.COLOUR,)
    assert photograph.colour_frac > 0.95


@pytest.mark.real
def test_real_pictures(real_data):
    """EXIF turns swap the sides; files that lack the end of the picture are refused; the rest is 8-bit grey."""
    turned, reasons = 0, []
    for path in sorted((real_data / "fracatlas" / "images").iterdir())[::5]:
        with Image.open(path) as image:
            size, orientation = image.size, image.getexif().get(274, 1)
        try:
            pixels = read(path).pixels
        except UnreadableImage as error:
            reasons.append(error.reason)
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape == (size if orientation in (5, 6, 7, 8) else size[::-1])
        turned += orientation != 1
    assert turned > 0
    assert reasons
    assert set(reasons) == {"cut short: the end of the picture is missing"}


def test_a_heat_map_is_no_radiograph(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text(MARK, json.dumps({"heat_map": True, "notice": "x"}))
    path = save(Image.fromarray(gradient()), tmp_path / "a.png", pnginfo=text)
    assert reason(path) == "a heat map that fx drew"
