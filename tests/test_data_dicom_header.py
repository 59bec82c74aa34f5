"""Headers of DICOM: how files begin, and what hostile ones claim."""

import sys
import zlib

import numpy as np
import pytest
from peaks import peak_of

from fxcli.data.read import read
from fxcli.errors import UnreadableImage

pydicom, dicoms = pytest.importorskip("pydicom"), pytest.importorskip("dicoms")
dcmread, uid, radiograph, save = pydicom.dcmread, pydicom.uid, dicoms.radiograph, dicoms.save
BUNDLED, NATIVE, reason = dicoms.BUNDLED, dicoms.NATIVE, dicoms.reason


def test_by_content_whatever_the_name(tmp_path):
    stored = radiograph(12)
    for name in ("IM000001", "1.2.840.113619.2", "picture.jpg", "a.dcm"):
        assert np.array_equal(read(save(tmp_path / name, stored, bits=12)).pixels, stored)


@pytest.mark.parametrize("syntax", NATIVE[:3], ids=lambda syntax: syntax.name)
def test_without_a_preamble_or_a_word_on_how_it_is_written(tmp_path, syntax):
    stored = radiograph(12)
    whole = save(tmp_path / "a.dcm", stored, bits=12, syntax=syntax).read_bytes()
    start = whole.find(b"\0\x08" if syntax == uid.ExplicitVRBigEndian else b"\x08\0", 140 + whole[140])
    meta_bytes = 144 + int.from_bytes(whole[140:144], "little")
    assert start == meta_bytes
    for name, data in (("bare", whole[start:]), ("meta", whole[132:]), ("zeros", bytes(132) + whole[132:])):
        (tmp_path / name).write_bytes(data)
    assert np.array_equal(read(tmp_path / "bare").pixels, stored)
    assert np.array_equal(read(tmp_path / "meta").pixels, stored)
    assert reason(tmp_path / "zeros") == "not a picture, or of an unknown format"


def test_the_type_of_an_element_is_missing(tmp_path):
    """Explicit by its own word, implicit in fact: a file of pydicom's."""
    assert read(BUNDLED / "SC_rgb_jpeg.dcm").pixels.shape == (256, 256)


# --- hostile files ---


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of one process")
def test_a_deflated_bomb_is_not_inflated(tmp_path):
    stored = radiograph(12)
    warm, path = save(tmp_path / "b.dcm", stored, bits=12), tmp_path / "a.dcm"
    made = dicoms.dataset(stored, bits=12, syntax=uid.DeflatedExplicitVRLittleEndian)
    made.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    whole = zlib.decompress(data[start:], -zlib.MAX_WBITS)
    deflate = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    packed = [deflate.compress(whole), *(deflate.compress(bytes(1 << 20)) for _ in range(150)), deflate.flush()]
    path.write_bytes(data[:start] + b"".join(packed))
    assert path.stat().st_size < 1 << 20
    code = "from fxcli.data.read import read; read(Path(sys.argv[1]))"
    (before, _), (peak, _) = peak_of(code, warm), peak_of(code, path)
    assert peak - before < 60
    assert np.array_equal(read(path).pixels, stored)


def test_a_frame_of_many_channels(tmp_path):
    """Each is one to make room for, whatever the header says of the file."""
    made = dicoms.dataset(radiograph(16), syntax=uid.ExplicitVRLittleEndian)
    made.compress(uid.JPEG2000Lossless)
    made.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    data = bytearray((tmp_path / "a.dcm").read_bytes())
    at = data.find(b"\xff\x4f\xff\x51") + 40
    assert data[at : at + 2] == b"\0\1"
    data[at : at + 2] = b"\x40\0"
    (tmp_path / "a.dcm").write_bytes(data)
    assert reason(tmp_path / "a.dcm") == "damaged DICOM: the compressed picture has 16384 channels in 1 scans"


def test_a_frame_of_many_scans(tmp_path):
    path = dicoms.as_jpeg(save(tmp_path / "a.dcm", radiograph(8)), progressive=True)
    encapsulate, generate_frames = pydicom.encaps.encapsulate, pydicom.encaps.generate_frames
    made = dcmread(path)
    frame = next(generate_frames(made.PixelData, number_of_frames=1))
    last = frame.rfind(b"\xff\xda")
    end = frame.rfind(b"\xff\xd9")
    made.PixelData = encapsulate([frame[:last] + frame[last:end] * 1000 + b"\xff\xd9"])
    made.save_as(path, enforce_file_format=True)
    assert "channels in 1" in reason(path)


def test_a_number_of_frames_is_only_a_number(tmp_path):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, NumberOfFrames=2**31 - 1)
    assert np.array_equal(read(path).pixels, radiograph(12))


def test_a_lossless_frame_that_crashes_gdcm(tmp_path):
    """Its scan says that 212 bits were cut off; a segmentation fault would end the batch."""
    pytest.importorskip("gdcm")
    path = dicoms.by_gdcm(save(tmp_path / "a.dcm", radiograph(12), bits=12), "JPEGLosslessProcess14_1")
    data = bytearray(path.read_bytes())
    scan = data.find(b"\xff\xda\0\x08\x01")
    data[scan + 9] = 0xD4
    path.write_bytes(data)
    assert reason(path) == "damaged DICOM: the compressed picture cannot be decoded"


@pytest.mark.slow
def test_damage_is_always_a_reason(tmp_path):
    """Whatever bytes are wrong, the picture is read or refused, without a word of what the file says of people."""
    files = [
        save(tmp_path / "a.dcm", radiograph(12), bits=12, WindowCenter=2000, WindowWidth=3000, RescaleSlope=1),
        dicoms.as_jpeg(save(tmp_path / "b.dcm", radiograph(8))),
        save(tmp_path / "c.dcm", radiograph(12), bits=12, syntax=uid.DeflatedExplicitVRLittleEndian),
        save(tmp_path / "d.dcm", radiograph(12), bits=12, syntax=uid.ImplicitVRLittleEndian),
    ]
    rng, path, reasons = np.random.default_rng(0), tmp_path / "x.dcm", []
    for file in files:
        whole = file.read_bytes()
        for _ in range(120):
            damaged = bytearray(whole)
            for place in rng.integers(128, 1100, rng.integers(1, 9)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged[: rng.choice([len(whole), rng.integers(len(whole))])])
            try:
                read(path)
            except UnreadableImage as error:
                reasons.append(error.reason)
    assert len(reasons) > 100
    for each in reasons:
        assert each
        assert "SECRET" not in each
        assert "Secret" not in each
        assert "\n" not in each
