"""How DICOM is shown: rescale, tables, windows, padding and the two kinds of MONOCHROME, as files state them."""

import io
import warnings

import numpy as np
import pytest

from fxcli.data.radiograph import Caution
from fxcli.data.read import read

pydicom, dicoms = pytest.importorskip("pydicom"), pytest.importorskip("dicoms")
dcmread, uid, radiograph, save = pydicom.dcmread, pydicom.uid, dicoms.radiograph, dicoms.save
NATIVE, shown = dicoms.NATIVE, dicoms.shown


def test_rescale_window_and_inversion(tmp_path):
    stored = radiograph(12)
    path = save(
        tmp_path / "a.dcm", stored, bits=12, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=3000, WindowWidth=2000
    )
    expected = np.rint(255 * np.clip((2.0 * stored - 100 - 2999.5) / 1999 + 0.5, 0, 1))
    found = read(path)
    assert np.array_equal(found.pixels, expected)
    assert found.pixels.dtype == np.uint8
    path = save(
        tmp_path / "b.dcm",
        stored,
        bits=12,
        WindowCenter=["1500", "9"],
        WindowWidth=["2000", "1"],
        PhotometricInterpretation="MONOCHROME1",
        VOILUTFunction="LINEAR_EXACT",
    )
    expected = np.rint(255 * (1 - np.clip((stored - 1500.0) / 2000 + 0.5, 0, 1)))
    assert np.array_equal(read(path).pixels, expected)


def test_sigmoid(tmp_path):
    stored = radiograph(12)
    path = save(tmp_path / "a.dcm", stored, bits=12, WindowCenter=2000, WindowWidth=1500, VOILUTFunction="SIGMOID")
    assert np.array_equal(read(path).pixels, np.rint(255 / (1 + np.exp(-4 * (stored - 2000.0) / 1500))))


@pytest.mark.parametrize("syntax", NATIVE[:3], ids=lambda syntax: syntax.name)
def test_tables(tmp_path, syntax):
    """A modality table, then the first of two VOI tables, which goes before the window."""
    stored = radiograph(12)
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    modality = np.minimum(np.arange(4096) * 2, 5000)
    voi = (np.sqrt(np.arange(5000)) * 900).astype(int)
    items = [dicoms.lut(0, modality), dicoms.lut(1000, voi), dicoms.lut(0, np.zeros(9, int))]
    for item in items:
        item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(f"{order}u2").tobytes()
    path = save(
        tmp_path / "a.dcm",
        stored,
        bits=12,
        syntax=syntax,
        ModalityLUTSequence=items[:1],
        VOILUTSequence=items[1:],
        WindowCenter=1,
        WindowWidth=2,
    )
    index = np.clip(modality[stored] - 1000, 0, 4999)
    assert np.array_equal(read(path).pixels, np.rint(255 * voi[index] / 65535))


def test_a_table_that_begins_below_zero(tmp_path):
    stored = (radiograph(12).astype(int) - 2048).astype(np.int16)
    item = dicoms.lut(-2048, np.arange(4096) * 16)
    item["LUTDescriptor"].VR = "SS"
    path = save(tmp_path / "a.dcm", stored, bits=12, VOILUTSequence=[item])
    assert np.array_equal(read(path).pixels, np.rint((stored + 2048.0) * 16 / 65535 * 255))


@pytest.mark.parametrize("syntax", NATIVE[:2], ids=lambda syntax: syntax.name)
def test_signed_padding(tmp_path, syntax):
    stored = (radiograph(12).astype(int) - 2048).astype(np.int16)
    stored[:6] = -2000
    stored[6:9] = -1990
    path = save(tmp_path / "a.dcm", stored, bits=12, syntax=syntax)
    made = dcmread(path)
    for keyword, value in (("PixelPaddingValue", -2000), ("PixelPaddingRangeLimit", -1985)):
        setattr(made, keyword, value)
        made[keyword].VR = "SS"
    made.save_as(path)
    pixels = read(path).pixels
    assert np.isnan(pixels[:9]).all()
    assert np.array_equal(pixels[9:], stored[9:])
    assert not shown(path)[:5].any()


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("padding", [None, 0])
def test_both_kinds_of_monochrome_give_one_picture(tmp_path, bits, padding):
    stored, top = radiograph(bits), 2**bits - 1
    extra, mirrored = {}, {}
    if padding is not None:
        stored[:5] = padding
        extra, mirrored = {"PixelPaddingValue": padding}, {"PixelPaddingValue": top - padding}
    plain = save(tmp_path / "2.dcm", stored, bits=bits, **extra)
    other = save(
        tmp_path / "1.dcm",
        (top - stored).astype(stored.dtype),
        bits=bits,
        PhotometricInterpretation="MONOCHROME1",
        **mirrored,
    )
    assert np.array_equal(shown(plain), shown(other))
    assert shown(plain).std() > 30


@pytest.mark.parametrize(("centre", "width"), [(100_000, 10), (-5, 2), (0, 4)])
def test_a_window_beside_the_picture(tmp_path, centre, width):
    path = save(tmp_path / "a.dcm", radiograph(12) // 2 + 1000, bits=12, WindowCenter=centre, WindowWidth=width)
    found = read(path)
    assert found.cautions == (Caution.WINDOW,)
    assert shown(path)[shown(path) > 0].std() > 40


@pytest.mark.parametrize(
    "values", [("", ""), ("abc", "100"), ("100", "0"), ("100", "-5"), ("nan", "100"), (None, "100")]
)
def test_a_window_that_is_none(tmp_path, values):
    made = dicoms.dataset(radiograph(12), bits=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.WindowWidth = "77777777"
        if values[0] is not None:
            made.WindowCenter = "66666666"
        out = io.BytesIO()
        made.save_as(out, enforce_file_format=True)
    data = out.getvalue()
    for known, value in zip((b"66666666", b"77777777"), values, strict=True):
        data = data.replace(known, (value or "").ljust(8).encode())
    (tmp_path / "a.dcm").write_bytes(data)
    found = read(tmp_path / "a.dcm")
    assert np.array_equal(found.pixels, radiograph(12))
    assert found.cautions == ()


def test_a_rescale_that_is_none(tmp_path):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, RescaleSlope=0, RescaleIntercept=5)
    assert np.array_equal(read(path).pixels, radiograph(12) + 5)


def test_for_processing(tmp_path):
    stored = radiograph(12)
    path = save(tmp_path / "a.dcm", stored, bits=12, PresentationIntentType="FOR PROCESSING")
    assert read(path).cautions == (Caution.FOR_PROCESSING,)
    digital = f"{dicoms.CR}.1"
    assert read(save(tmp_path / "b.dcm", stored, bits=12, SOPClassUID=f"{digital}.1")).cautions == (
        Caution.FOR_PROCESSING,
    )
    path = save(tmp_path / "c.dcm", stored, bits=12, SOPClassUID=digital, PresentationIntentType="FOR PRESENTATION")
    assert read(path).cautions == ()
