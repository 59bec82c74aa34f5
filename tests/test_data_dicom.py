"""DICOM: what is read, as what, and what is refused with which words. Files are written here, or come with pydicom."""

import subprocess
import sys
import warnings

import pytest

from fxcli.data.read import read
from fxcli.errors import MissingDependency

pydicom, dicoms = pytest.importorskip("pydicom"), pytest.importorskip("dicoms")
dcmread, uid, radiograph, save = pydicom.dcmread, pydicom.uid, dicoms.radiograph, dicoms.save
BUNDLED, reason = dicoms.BUNDLED, dicoms.reason

# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CT_small.dcm", "CT (CT Image Storage), not a radiograph"),
        ("MR_small_RLE.dcm", "MR (MR Image Storage), not a radiograph"),
        ("ExplVR_BigEnd.dcm", "US (Ultrasound Image Storage), not a radiograph"),
        ("rtdose.dcm", "DICOM (RT Dose Storage), not a radiograph"),
        ("test-SR.dcm", "SR (Comprehensive SR Storage), not a radiograph"),
        ("waveform_ecg.dcm", "ECG (12-lead ECG Waveform Storage), not a radiograph"),
        ("dicomdirtests/DICOMDIR", "a DICOMDIR, which lists pictures and holds none"),
        ("dicomdirtests/DICOMDIR-implicit", "a DICOMDIR, which lists pictures and holds none"),
    ],
)
def test_other_kinds(name, words):
    assert reason(BUNDLED / name) == words


@pytest.mark.parametrize("modality", ["CR", "DX", "RG", "XA", "RF"])
def test_kinds_of_radiographs(tmp_path, modality):
    assert read(save(tmp_path / "a.dcm", radiograph(12), bits=12, Modality=modality)).cautions == ()


@pytest.mark.parametrize("modality", ["OT", "", None])
def test_what_may_be_anything_is_judged_by_its_class(tmp_path, modality):
    options = {"without": ["Modality"]} if modality is None else {"Modality": modality}
    capture, ct = uid.SecondaryCaptureImageStorage, uid.CTImageStorage
    assert read(save(tmp_path / "a.dcm", radiograph(12), bits=12, SOPClassUID=capture, **options)).pixels.any()
    path = save(tmp_path / "b.dcm", radiograph(12), bits=12, SOPClassUID=ct, **options)
    assert reason(path) == f"{modality or 'DICOM'} (CT Image Storage), not a radiograph"


def test_a_modality_that_could_be_anything_is_not_quoted(tmp_path):
    for value in ("SECRET", "A^B", "Ä"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = save(tmp_path / "a.dcm", radiograph(12), bits=12, Modality=value)
        assert reason(path) == "DICOM (Computed Radiography Image Storage), not a radiograph"


def test_no_pixels(tmp_path):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, without=["PixelData"])
    assert reason(path) == "DICOM (Computed Radiography Image Storage) without pixel data"


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_cut_short(tmp_path, cut):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12)
    path.write_bytes(path.read_bytes()[:-cut])
    assert reason(path) == f"cut short: {10240 - cut} of 10240 bytes of pixel data are there"


@pytest.mark.parametrize(
    "name", ["JPEGBaselineProcess1", "JPEGLosslessProcess14_1", "JPEGLSLossless", "JPEG2000Lossless"]
)
def test_compressed_and_cut_short(tmp_path, name):
    """Some decoders show what there is without a word."""
    pytest.importorskip("gdcm")
    path = dicoms.by_gdcm(save(tmp_path / "a.dcm", radiograph(8)), name)
    data = path.read_bytes()
    for part in (0.5, 0.8, 0.97):
        path.write_bytes(data[: int(part * len(data))])
        assert reason(path).startswith(("cut short: ", "damaged DICOM"))


def test_a_frame_without_its_end_in_a_file_that_has_one(tmp_path):
    made = dcmread(dicoms.as_jpeg(save(tmp_path / "a.dcm", radiograph(8))))
    frame = next(pydicom.encaps.generate_frames(made.PixelData, number_of_frames=1))
    made.PixelData = pydicom.encaps.encapsulate([frame[:-200]])
    made.save_as(tmp_path / "a.dcm")
    assert reason(tmp_path / "a.dcm") == "cut short: the end of the compressed picture is missing"


def test_more_pixels_than_are_there(tmp_path):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, Rows=640)
    assert reason(path) == "cut short: 10240 of 102400 bytes of pixel data are there"
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, Rows=60_000, Columns=60_000)
    assert reason(path).startswith("too many pixels: 60000 × 60000 px")
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, Rows=1)
    assert reason(path).startswith("too small: 80 × 1 px")
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, without=["Rows", "Columns"])
    assert reason(path) == "damaged DICOM: its header lacks Rows and Columns"


def test_a_compressed_frame_of_another_size(tmp_path):
    """Its own header is what a decoder allocates by, and may claim anything."""
    path = dicoms.as_jpeg(save(tmp_path / "a.dcm", radiograph(8)))
    data = bytearray(path.read_bytes())
    place = data.find(b"\xff\xc0")
    data[place + 5 : place + 9] = b"\xea\x60\xea\x60"
    path.write_bytes(data)
    assert reason(path) == "damaged DICOM: the compressed picture has another size than its header states"


def test_what_nothing_installed_can_decode(tmp_path, monkeypatch):
    path = dicoms.as_jpeg(save(tmp_path / "a.dcm", radiograph(8)))
    decoder = pydicom.pixels.get_decoder(uid.JPEGBaseline8Bit)
    monkeypatch.setattr(decoder, "_available", {})
    assert reason(path) == (
        "what decodes this DICOM (JPEG Baseline (Process 1)) is not installed: python -m pip install 'fxcli[dicom]'"
    )


def test_jpeg_of_12_bits_without_a_decoder_for_it(tmp_path, monkeypatch):
    """Pillow, which decodes those of 8, is there."""
    made = dcmread(BUNDLED / "JPGExtended.dcm")
    made.Modality = "CR"
    made.save_as(tmp_path / "a.dcm")
    assert read(tmp_path / "a.dcm").pixels.shape == (1024, 256)
    decoder = pydicom.pixels.get_decoder(uid.JPEGExtended12Bit)
    others = {name: plugin for name, plugin in decoder._available.items() if name != "fx"}
    assert "pillow" in others
    monkeypatch.setattr(decoder, "_available", others)
    assert reason(tmp_path / "a.dcm").startswith("what decodes this DICOM (JPEG Extended (Process 2 and 4)) is not")


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        (
            uid.MPEG4HP41,
            "DICOM that is compressed in a way that fx cannot decode (MPEG-4 AVC/H.264 High Profile / Level 4.1)",
        ),
        ("1.2.3.4.5", "DICOM that is compressed in a way that fx cannot decode"),
    ],
)
def test_what_nothing_can_decode(tmp_path, syntax, words):
    path = dicoms.as_jpeg(save(tmp_path / "a.dcm", radiograph(8)))
    made = dcmread(path)
    made.file_meta.TransferSyntaxUID = syntax
    made.save_as(path, implicit_vr=False, little_endian=True)
    assert reason(path) == words


def test_says_that_it_is_compressed_and_is_not(tmp_path):
    path = save(tmp_path / "a.dcm", radiograph(8))
    data = path.read_bytes()
    native, jpeg = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.50"
    length = len(native)
    at = data.find(native)
    path.write_bytes(data[: at - 2] + len(jpeg).to_bytes(2, "little") + jpeg + data[at + length :])
    assert reason(path) == "damaged DICOM: it says that it is compressed, and is not"


def test_without_pydicom_it_says_what_to_install(tmp_path, monkeypatch):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12)
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency) as caught:
        read(path)
    assert caught.value.exit_code == 7
    assert "fxcli[dicom]" in str(caught.value)


# --- people ---


def test_patients_and_studies_are_told_apart_but_not_named(tmp_path):
    stored = radiograph(12)
    a = read(save(tmp_path / "a.dcm", stored, bits=12))
    same = read(save(tmp_path / "b.dcm", stored, bits=12, PatientID="SECRET-ID-17 ", StudyInstanceUID="1.2.3"))
    other = read(save(tmp_path / "c.dcm", stored, bits=12, PatientID="SECRET-ID-18"))
    assert a.patient == same.patient != other.patient
    assert a.study == other.study != same.study
    for text in (a.patient, a.study, repr(a)):
        assert "SECRET" not in text
        assert "1.2." not in text
    nameless = read(save(tmp_path / "d.dcm", stored, bits=12, PatientID=""))
    assert nameless.patient not in ("", a.patient), "the name alone is known"
    nobody = read(save(tmp_path / "e.dcm", stored, bits=12, without=["PatientID", "PatientName", "StudyInstanceUID"]))
    assert (nobody.patient, nobody.study) == ("", "")


@pytest.mark.slow
def test_nothing_is_logged_or_warned(tmp_path):
    """pydicom warns of values that break a rule, and quotes them; and logs what decoders raise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(tmp_path / "a.dcm", radiograph(12), bits=12, PatientID="SECRET" * 20, StudyInstanceUID="SECRET.ä")
        broken = dicoms.as_jpeg(save(tmp_path / "b.dcm", radiograph(8), PatientName="SECRET=a=b=c=d"))
        (tmp_path / "c.dcm").write_bytes((BUNDLED / "SC_rgb_jpeg.dcm").read_bytes())
    data = bytearray(broken.read_bytes())
    place = data.find(b"\xff\xc4")
    data[place + 4 : place + 200] = bytes(196)
    broken.write_bytes(data)
    code = (
        "import sys; from pathlib import Path; from fxcli.data.read import read; from fxcli.errors import FxError\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: print(path.name, read(path).pixels.shape)\n"
        "    except FxError as error: print(path.name, error.reason)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "a.dcm (64, 80)",
        "b.dcm damaged DICOM: the compressed picture cannot be decoded",
        "c.dcm (256, 256)",
    ]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "keyword",
    ["Rows", "BitsAllocated", "BitsStored", "PhotometricInterpretation", "PixelRepresentation", "SamplesPerPixel"],
)
def test_what_a_header_lacks_is_named(tmp_path, keyword):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, without=[keyword])
    assert reason(path) == f"damaged DICOM: its header lacks {keyword}"


def test_a_section_that_says_it_is_a_radiograph(tmp_path):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, Modality="CR", SOPClassUID=uid.CTImageStorage)
    assert reason(path) == "CR (CT Image Storage), not a radiograph"


@pytest.mark.parametrize("bits", [0, 17])
def test_more_or_less_bits_than_there_are(tmp_path, bits):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, BitsStored=bits)
    assert reason(path) == f"damaged DICOM: {bits} bits stored of 16"


def test_a_modality_that_may_be_a_name(tmp_path):
    path = save(tmp_path / "a.dcm", radiograph(12), bits=12, Modality="HANS", SOPClassUID=uid.UltrasoundImageStorage)
    assert "HANS" not in reason(path)
