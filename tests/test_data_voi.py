"""What is shown of stored values: closed forms, and pydicom's own functions as oracle."""

import numpy as np
import pytest

from fxcli.data.voi import Display, Lut, Window, show

STORED = np.arange(4096, dtype=np.uint16).reshape(64, 64)
LEVELS = np.arange(4096.0)
RANGE = (0.0, 4095.0)


@pytest.mark.parametrize(
    ("window", "points"),
    [
        # PS3.3 C.11.2.1.2.1, the example of the standard: c=2048, w=4096 shows everything.
        (Window(2048, 4096), [(0, 0), (4095, 1), (2047.5, 0.5)]),
        (Window(2048, 2), [(2047, 0), (2048, 1), (2047.5, 0.5)]),
        (Window(1000, 500), [(750, 0), (999.5, 0.5), (1249, 1), (4095, 1)]),
        (Window(1000, 500, "LINEAR_EXACT"), [(750, 0), (1000, 0.5), (1250, 1), (900, 0.3)]),
        (Window(1000, 500, "SIGMOID"), [(1000, 0.5), (1250, 1 / (1 + np.exp(-2))), (500, 1 / (1 + np.exp(4)))]),
    ],
)
def test_windows_in_closed_form(window, points):
    values, expected = np.array(points).T
    assert window(values) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("rescale", [(1.0, 0.0), (0.5, -1000.0), (2.0, 24.0)])
def test_windows_as_pydicom_has_them(function, rescale):
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_modality_lut, apply_windowing

    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 12, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 900, 1300, function
    dataset.RescaleSlope, dataset.RescaleIntercept = rescale
    expected = apply_windowing(apply_modality_lut(STORED, dataset), dataset)
    low, high = rescale[1], 4095 * rescale[0] + rescale[1]
    display = Display(RANGE, rescale, Window(900, 1300, function))
    found, is_dropped = show(STORED, display)
    assert not is_dropped
    assert np.abs(found - (expected - low) / (high - low) * 255).max() <= 0.5 + 1e-9


def test_huge_values_do_not_overflow_a_sigmoid():
    assert list(Window(0, 1, "SIGMOID")(np.array([-1e9, 1e9]))) == [0, 1]


@pytest.mark.parametrize("first", [0, 100, -50])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_tables_as_pydicom_has_them(first, bits):
    pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset
    from pydicom.pixels import apply_modality_lut, apply_voi

    entries = np.linspace(0, 2**bits - 1, 250).astype(np.uint16)
    item, dataset = Dataset(), Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries), first, bits], entries.tolist()
    item["LUTData"].VR = "US"
    dataset.VOILUTSequence = [item]
    values = np.arange(-60, 196, dtype=np.int16)
    lut = Lut(first, entries, bits)
    assert np.array_equal(lut(values.astype(float)) * (2**bits - 1), apply_voi(values, dataset))
    if bits != 12:
        dataset.ModalityLUTSequence = [item]
        assert np.array_equal(lut.look_up(values.astype(float)), apply_modality_lut(values, dataset))


def test_a_table_of_8_bits_with_many_entries():
    """pydicom indexes it with 8 bits, and so wraps round."""
    lut = Lut(0, np.repeat(np.arange(256, dtype=np.uint16), 16), 8)
    assert np.array_equal(lut(LEVELS) * 255, LEVELS // 16)


def test_bits_that_no_entry_uses_do_not_count():
    """A table that states 16 bits and holds 12 would be black."""
    lut = Lut(0, np.arange(4096, dtype=np.uint16), 16)
    assert lut(np.array([0.0, 4095.0])) == pytest.approx([0, 1])
    assert not Lut(0, np.zeros(8, np.uint16), 16)(LEVELS).any()


@pytest.mark.parametrize("voi", [None, Window(1500, 2000), Window(1500, 2000, "SIGMOID")])
@pytest.mark.parametrize("rescale", [(1.0, 0.0), (0.25, 7.0)])
def test_both_kinds_of_monochrome_show_the_same(voi, rescale):
    """MONOCHROME1 with values and window mirrored, against MONOCHROME2."""
    plain, _ = show(STORED, Display(RANGE, rescale, voi))
    if voi is not None:
        top, half = 4095 * rescale[0] + 2 * rescale[1], 0.5 if voi.function == "LINEAR" else 0.0
        voi = Window(top - (voi.centre - half) + half, voi.width, voi.function)
    mirrored, _ = show(4095 - STORED, Display(RANGE, rescale, voi, is_inverted=True))
    assert plain.dtype == mirrored.dtype
    assert np.array_equal(plain, mirrored)
    assert len(np.unique(plain)) > 50


def test_inversion_comes_after_the_window():
    """Twelve bits, MONOCHROME1: the window is of the values as they are stored."""
    found, _ = show(STORED, Display(RANGE, voi=Window(500, 400, "LINEAR_EXACT"), is_inverted=True))
    assert (found.flat[300], found.flat[500], found.flat[700]) == (255, 128, 0)


@pytest.mark.parametrize("is_inverted", [False, True])
@pytest.mark.parametrize("voi", [None, Window(2000, 3000)])
def test_padding_is_black_and_no_part_of_what_is_windowed(is_inverted, voi):
    stored = np.clip(STORED, 1000, 2000)
    stored[:5] = 4095
    found, _ = show(stored, Display(RANGE, voi=voi, is_inverted=is_inverted, padding=(4000, 4095)))
    if voi is None:
        assert found.dtype == np.float32
        assert np.isnan(found[:5]).all()
        assert np.nanmax(found) - np.nanmin(found) == 1000
    else:
        assert not found[:5].any()
    assert np.isfinite(found[5:]).all()


def test_up_to_8_bits_are_as_they_are_meant_to_be_seen():
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(show(stored, Display((0, 255)))[0], stored)
    assert np.array_equal(show(stored, Display((0, 255), is_inverted=True))[0], 255 - stored)
    assert np.array_equal(show(stored.view(np.int8), Display((-128, 127)))[0], stored.view(np.int8) + np.int16(128))
    bits = (stored > 99).astype(np.uint8)
    assert np.array_equal(show(bits, Display((0, 1)))[0], bits * 255)
    deep, _ = show(stored, Display((0, 255), rescale=(2.0, 0.0)))
    assert np.array_equal(deep, stored * 2.0)
    assert deep.dtype != np.uint8, "rescaled values are to be windowed"


@pytest.mark.parametrize("voi", [Window(-5000, 10), Window(60_000, 100), Lut(0, np.full(9, 77, np.uint16), 8)])
@pytest.mark.parametrize("is_inverted", [False, True])
def test_a_window_that_shows_next_to_nothing_is_dropped(voi, is_inverted):
    """White, black and flat pictures are no use; all there is is shown instead."""
    found, is_dropped = show(STORED, Display(RANGE, voi=voi, is_inverted=is_inverted))
    if isinstance(voi, Lut):
        assert not is_dropped, "one grey is between black and white"
        return
    assert is_dropped
    assert np.array_equal(found, show(STORED, Display(RANGE, is_inverted=is_inverted))[0])
    shallow = (STORED % 256).astype(np.uint8)
    assert np.array_equal(show(shallow, Display((0, 255), voi=voi))[0], shallow)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float32, np.float64])
def test_wide_types_are_shown_without_a_table(dtype):
    wide = STORED.astype(dtype) * 3
    display = Display((0.0, 3 * 4095.0), voi=Window(6000, 9000))
    expected = np.rint(255 * np.clip((wide.astype(float) - 5999.5) / 8999 + 0.5, 0, 1))
    assert np.array_equal(show(wide, display)[0], expected)
    assert np.array_equal(show(wide, Display((0.0, 3 * 4095.0)))[0], wide)


def test_what_is_no_number_is_black():
    stored = STORED.astype(np.float32) / 4095
    stored[0, :2] = np.nan
    found, _ = show(stored, Display((0.0, 1.0), voi=Window(0.5, 1.0, "LINEAR_EXACT")))
    assert not found[0, :2].any()
    assert found[-1, -1] == 255
    assert np.isnan(show(stored, Display((0.0, 1.0)))[0][0, 0])


@pytest.mark.parametrize(
    ("rescale", "dtype"),
    [((1.0, 0.0), np.uint16), ((1.0, -1024.0), np.int16), ((0.5, 0.0), np.float32), ((20.0, 0.0), np.float32)],
)
def test_values_are_kept_exactly(rescale, dtype):
    found, _ = show(STORED, Display(RANGE, rescale))
    assert found.dtype == dtype
    assert np.array_equal(found, STORED * rescale[0] + rescale[1])
