"""Pictures and DICOM files that were changed at random: each is read or refused, see fuzzing."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from fuzzing import FEW, ODD_BYTES, amounts, fuzz, one_of
from PIL import Image, PngImagePlugin

from fxcli.data.preprocess import Clean
from fxcli.data.read import read


def pictures():
    rng = np.random.default_rng(0)
    grey = Image.fromarray(np.add.outer(np.arange(40) * 3, np.arange(48) * 2).astype(np.uint8))
    deep = Image.fromarray(rng.integers(0, 4096, (40, 48)).astype(np.uint16))
    colour = Image.merge("RGB", (grey, grey, grey.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))
    text = PngImagePlugin.PngInfo()
    text.add_text(
        "fx", json.dumps({"clean": {"prepared_px": 64, "window": "percentile"}, "width_px": 9, "height_px": 9})
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, kind, options in (
        (grey, "PNG", {"pnginfo": text}),
        (deep, "PNG", {}),
        (colour.quantize(7), "PNG", {"transparency": 2}),
        (colour.convert("RGBA"), "PNG", {}),
        (grey, "JPEG", {"exif": exif}),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (deep, "TIFF", {"compression": "tiff_lzw"}),
        (grey.convert("F"), "TIFF", {}),
        (grey, "TIFF", {"save_all": True, "append_images": [grey]}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}),
        (colour, "BMP", {}),
        (grey, "WEBP", {}),
        (colour, "WEBP", {"lossless": True}),
        (grey, "GIF", {"save_all": True, "append_images": [grey.rotate(90)]}),
        (grey, "MPO", {"save_all": True, "append_images": [grey]}),
    ):
        out = io.BytesIO()
        image.save(out, kind, **options)
        yield out.getvalue()


def look_at(content):
    path = Path("picture")
    path.write_bytes(content)
    # A warning is an error in tests alone, and would be taken for damage.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        # As `read` has it: these are refused.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            cleaned = Clean(64)(read(path), path)
        finally:
            assert not told, [str(each.message) for each in told]
    assert cleaned.pixels.shape == (64, 64)


@amounts("picture")
def test_pictures(count):
    ends = fuzz(count, one_of(list(pictures()), ODD_BYTES), look_at)
    assert set(ends) == {"used", "UnreadableImage"}


def dicom_files():
    import dicoms

    for bits, options in (
        (8, {}),
        (12, {"WindowCenter": 2000, "WindowWidth": 1500}),
        (16, {"RescaleSlope": 2, "RescaleIntercept": -100, "PhotometricInterpretation": "MONOCHROME1"}),
        (12, {"VOILUTSequence": [dicoms.lut(0, [0, 100, 4000])], "PixelPaddingValue": 0}),
    ):
        path = Path("seed.dcm")
        dicoms.save(
            path, dicoms.radiograph(bits, width=24, height=20), **({"bits": bits} if bits == 12 else {}), **options
        )
        yield path.read_bytes()


def coded_dicom_files():
    import dicoms
    from pydicom import dcmread, uid

    path = Path("seed.dcm")
    for syntax in ("ImplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian"):
        yield dicoms.save(path, dicoms.radiograph(12, 40, 36), bits=12, syntax=getattr(uid, syntax)).read_bytes()
    yield dicoms.save(path, np.stack([dicoms.radiograph(12, 40, 36)] * 2), bits=12, NumberOfFrames=2).read_bytes()
    yield dicoms.as_jpeg(dicoms.save(path, dicoms.radiograph(8, 40, 36))).read_bytes()
    for syntax in ("RLELossless", "JPEGLSLossless", "JPEG2000Lossless"):
        made = dcmread(dicoms.save(path, dicoms.radiograph(16, 40, 36)))
        made.compress(getattr(uid, syntax))
        made.save_as(path, enforce_file_format=True)
        yield path.read_bytes()


@pytest.mark.parametrize("files", [dicom_files, coded_dicom_files])
@amounts("dicom")
def test_dicom_files(count, files):
    pytest.importorskip("pydicom")
    pytest.importorskip("fxcli.data.dicom")
    # The preamble is the same 128 bytes in all of them, and says nothing.
    seeds = [content[128:] for content in files()]
    for rest in seeds:
        look_at(bytes(128) + rest)
    ends = fuzz(count, one_of(seeds, ODD_BYTES), lambda rest: look_at(bytes(128) + rest))
    assert "UnreadableImage" in ends
    # Few changes leave such small pictures whole: of a small number of files, none may be used.
    assert set(ends) <= {"used", "UnreadableImage"}
    assert "used" in ends or count == FEW
