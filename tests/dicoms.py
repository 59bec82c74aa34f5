"""DICOM files for tests: written with pydicom, compressed by whoever can. Import it after pytest.importorskip."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import dcmread, uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from fxcli.data.preprocess import Clean
from fxcli.data.read import read
from fxcli.errors import UnreadableImage

CR = "1.2.840.10008.5.1.4.1.1.1"
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
NATIVE = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)


def radiograph(bits=12, width=80, height=64, seed=0):
    """[H, W] stored values over nearly all of `bits` bits, smooth with some noise; unlike its mirror images."""
    rng = np.random.default_rng(seed)
    smooth = np.add.outer(np.arange(height) * 40, np.arange(width) * 10) + rng.integers(0, 20, (height, width))
    return (smooth * (2**bits - 1) // smooth.max()).astype(np.uint8 if bits <= 8 else np.uint16)


def dataset(pixels, *, bits=None, syntax=uid.ExplicitVRLittleEndian, **elements):
    """A computed radiograph with these stored values, [H, W], [H, W, 3] or [F, H, W] with NumberOfFrames."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID, made.SOPInstanceUID = CR, uid.generate_uid(entropy_srcs=["fx"])
    made.Modality, made.PatientName, made.PatientID = "CR", "Secret^Name", "SECRET-ID-17"
    made.StudyInstanceUID = uid.generate_uid(entropy_srcs=["study"])
    colours = pixels.ndim == 3 and "NumberOfFrames" not in elements
    made.Rows, made.Columns = pixels.shape[:2] if colours else pixels.shape[-2:]
    made.SamplesPerPixel = 3 if colours else 1
    made.PhotometricInterpretation = "RGB" if colours else "MONOCHROME2"
    if colours:
        made.PlanarConfiguration = 0
    made.BitsAllocated = pixels.dtype.itemsize * 8
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
    made.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    made["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def save(path, pixels, **options):
    """Writes what `dataset` makes; `without` names elements to leave out."""
    without = options.pop("without", ())
    made = dataset(pixels, **options)
    for keyword in without:
        delattr(made, keyword)
    made.save_as(path, enforce_file_format=True)
    return Path(path)


def lut(first, entries, bits=16):
    """An item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item.LUTData = np.asarray(entries, dtype="<u2").tobytes()
    item["LUTData"].VR = "OW"
    return item


def as_jpeg(path, **options):
    """Replaces the pixels by an 8-bit JPEG of them, JPEG Baseline (.50)."""
    made = dcmread(path)
    out = io.BytesIO()
    Image.fromarray(made.pixel_array).save(out, format="JPEG", quality=95, **options)
    made.PixelData = encapsulate([out.getvalue()])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    made.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    made.save_as(path, enforce_file_format=True)
    return path


def by_gdcm(path, name):
    """Compresses a file anew as gdcm.TransferSyntax of this name."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, name)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


def reason(path):
    """Why a file is refused, which must not quote what it says of people."""
    with pytest.raises(UnreadableImage) as caught:
        read(path)
    assert "SECRET" not in caught.value.reason
    return caught.value.reason


def shown(path):
    """The clean picture of a file, as models see it."""
    return Clean(64)(read(path), path).pixels
