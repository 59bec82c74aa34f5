"""Pixels of DICOM: every way in which they are written, compressed and coloured."""

import numpy as np
import pytest
from PIL import Image

from fxcli.data.radiograph import Caution
from fxcli.data.read import read

pydicom, dicoms = pytest.importorskip("pydicom"), pytest.importorskip("dicoms")
dcmread, uid, radiograph, save = pydicom.dcmread, pydicom.uid, dicoms.radiograph, dicoms.save
BUNDLED, NATIVE, reason = dicoms.BUNDLED, dicoms.NATIVE, dicoms.reason


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("is_signed", [False, True])
def test_native(tmp_path, syntax, bits, is_signed):
    stored = radiograph(bits)
    if is_signed:
        stored = (stored.astype(int) - 2 ** (bits - 1)).astype(f"i{stored.dtype.itemsize}")
    found = read(save(tmp_path / "a", stored, bits=bits, syntax=syntax))
    expected = stored if bits > 8 or not is_signed else stored.astype(int) + 128
    assert np.array_equal(found.pixels, expected)
    assert found.cautions == ()


@pytest.mark.parametrize(
    ("name", "syntax", "all_bits", "tolerance"),
    [
        ("JPEGBaselineProcess1", uid.JPEGBaseline8Bit, (8,), 2),
        ("JPEGExtendedProcess2_4", uid.JPEGExtended12Bit, (8,), 2),
        ("JPEGLosslessProcess14", uid.JPEGLossless, (8, 12, 16), 0),
        ("JPEGLosslessProcess14_1", uid.JPEGLosslessSV1, (8, 12, 16), 0),
        ("JPEGLSLossless", uid.JPEGLSLossless, (8, 12, 16), 0),
        ("JPEGLSNearLossless", uid.JPEGLSNearLossless, (8, 12, 16), 2),
        ("JPEG2000Lossless", uid.JPEG2000Lossless, (8, 12, 16), 0),
        ("JPEG2000", uid.JPEG2000, (8, 12, 16), 2),
        ("RLELossless", uid.RLELossless, (8, 12, 16), 0),
    ],
)
def test_compressed(tmp_path, name, syntax, all_bits, tolerance):
    pytest.importorskip("gdcm")
    for bits in all_bits:
        stored = radiograph(bits)
        path = dicoms.by_gdcm(save(tmp_path / f"{bits}.dcm", stored, bits=bits), name)
        assert dcmread(path).file_meta.TransferSyntaxUID == syntax
        assert np.abs(read(path).pixels.astype(float) - stored).max() <= tolerance


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize(
    ("syntax", "options", "tolerance"),
    [
        (uid.JPEGExtended12Bit, {"level": 98, "bitspersample": 12}, 9),
        *(
            (uid.JPEGLossless, {"lossless": True, "bitspersample": 12, "predictor": number}, 0)
            for number in range(1, 8)
        ),
    ],
)
def test_encoders_of_libjpeg_turbo(tmp_path, syntax, options, tolerance, is_signed):
    imagecodecs = pytest.importorskip("imagecodecs")
    stored = radiograph(12)
    made = dicoms.dataset(stored, bits=12, PixelRepresentation=int(is_signed))
    made.PixelData = pydicom.encaps.encapsulate([imagecodecs.jpeg8_encode(stored, **options)])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = syntax
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    expected = (stored << 4).view(np.int16) >> 4 if is_signed else stored
    apart = np.abs(read(tmp_path / "a.dcm").pixels.astype(int) - expected)
    # Where a value is at the end of the range, a small error wraps round.
    assert (apart[apart < 4000] <= tolerance).all()
    assert (apart >= 4000).mean() < 0.01


def test_jpeg_of_12_bits_as_a_camera_wrote_it(tmp_path):
    """A file of pydicom; these three values are those of its own tests, which need another decoder."""
    made = dcmread(BUNDLED / "JPGExtended.dcm")
    made.Modality = "CR"
    made.save_as(tmp_path / "a.dcm")
    pixels = read(tmp_path / "a.dcm").pixels
    assert [pixels[420, 140], pixels[230, 120], pixels[128, 128]] == [244, 95, 20]


def test_baseline_jpeg_of_pillow(tmp_path):
    stored = radiograph(8)
    found = read(dicoms.as_jpeg(save(tmp_path / "a.dcm", stored)))
    assert np.abs(found.pixels.astype(int) - stored).max() < 12


@pytest.mark.parametrize("name", ["JPEGLSLossless", "JPEG2000Lossless"])
def test_encoders_of_pydicom(tmp_path, name):
    stored = radiograph(12)
    made = dicoms.dataset(stored, bits=12)
    made.compress(getattr(uid, name))
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path / "a.dcm").pixels, stored)


def test_bits_at_the_upper_end_of_a_word(tmp_path):
    stored = radiograph(12)
    path = save(tmp_path / "a.dcm", stored << 4, bits=12, HighBit=15)
    assert np.array_equal(read(path).pixels, stored)


def test_bits_that_do_not_belong_to_the_picture(tmp_path):
    """Old files keep an overlay in the unused ones."""
    stored = radiograph(12)
    path = save(tmp_path / "a.dcm", stored | 0x8000, bits=12)
    assert np.array_equal(read(path).pixels, stored)


def test_one_bit(tmp_path):
    stored = radiograph(8) > 90
    path = save(tmp_path / "a.dcm", np.packbits(stored.ravel(), bitorder="little").reshape(1, -1))
    made = dcmread(path)
    made.Rows, made.Columns, made.BitsAllocated, made.BitsStored, made.HighBit = 64, 80, 1, 1, 0
    made.save_as(path)
    assert np.array_equal(read(path).pixels, stored * np.uint8(255))


def test_float_pixel_data(tmp_path):
    stored = radiograph(12).astype(np.float32) / 7
    stored[0, 0] = np.nan
    made = dicoms.dataset(stored)
    del made.PixelData, made.BitsStored, made.HighBit, made.PixelRepresentation
    made.FloatPixelData = stored.tobytes()
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path / "a.dcm").pixels, stored, equal_nan=True)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_first_of_several_frames(tmp_path, compressed):
    frames = np.stack([radiograph(12, seed=seed) for seed in range(3)])
    path = save(tmp_path / "a.dcm", frames, bits=12, NumberOfFrames=3)
    if compressed:
        path = dicoms.by_gdcm(path, "JPEGLSLossless")
    found = read(path)
    assert np.array_equal(found.pixels, frames[0])
    assert found.cautions == (Caution.FIRST,)


# --- colours ---


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_rgb(tmp_path, planar, bits):
    grey = radiograph(8)
    rgb = np.dstack([grey, grey // 2, 255 - grey])
    expected = np.asarray(Image.fromarray(rgb).convert("L"))
    stored = rgb if bits == 8 else rgb.astype(np.uint16) * 257
    made = dicoms.dataset(stored)
    made.PlanarConfiguration = planar
    made.PixelData = (stored if planar == 0 else stored.transpose(2, 0, 1)).tobytes()
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    found = read(tmp_path / "a.dcm")
    assert np.array_equal(found.pixels, expected)
    assert found.cautions == (Caution.COLOUR,)


def test_grey_in_three_channels_is_no_colour(tmp_path):
    grey = radiograph(8)
    found = read(save(tmp_path / "a.dcm", np.dstack([grey] * 3)))
    assert np.array_equal(found.pixels, grey)
    assert found.cautions == ()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette(tmp_path, bits):
    stored = radiograph(8)
    ramp = np.arange(256, dtype=f"<u{bits // 8}") * (1 if bits == 8 else 257)
    made = dicoms.dataset(stored, PhotometricInterpretation="PALETTE COLOR")
    for name, values in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", ramp * 0)):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(made, f"{name}PaletteColorLookupTableData", values.tobytes())
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    rgb = np.dstack([stored, 255 - stored, stored * 0])
    found = read(tmp_path / "a.dcm")
    assert np.array_equal(found.pixels, np.asarray(Image.fromarray(rgb).convert("L")))
    assert found.cautions == (Caution.COLOUR,)


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("SC_*.dcm")), ids=lambda path: path.stem)
def test_colours_of_pydicom(path):
    """Secondary captures in every way that colours are compressed: the reference is pydicom's own decoding."""
    if dcmread(path).Rows < 16:
        assert reason(path).startswith("too small: ")
        return
    found = read(path)
    made = dcmread(path)
    frames = made.pixel_array if "NumberOfFrames" in made and made.NumberOfFrames > 1 else [made.pixel_array]
    expected = (frames[0] >> (made.BitsStored - 8)).astype(np.uint8)
    assert np.array_equal(found.pixels, np.asarray(Image.fromarray(expected).convert("L")))
