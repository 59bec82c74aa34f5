"""DICOM files → radiographs; called by read alone. pydicom (extra `dicom`) parses and decodes, imported when needed.

Of what a file says about people nothing leaves this module but tokens that are equal for one patient or one study, and
no reason of an error quotes a value that could be a name.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import secrets
import threading
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from fxcli.data import dicom_pixels
from fxcli.data.dicom_header import Header, parse
from fxcli.data.radiograph import LEAST_COLOUR_FRAC, Caution, Radiograph, check_size, colour_frac
from fxcli.data.voi import show
from fxcli.errors import MissingDependency, UnreadableImage

# Kinds of radiographs by Modality; what may be one, or anything else, is judged by its SOP class.
_RADIOGRAPHS = {"CR", "DX", "DR", "RG", "XA", "RF", "PX", "IO"}
_ANYTHING = {"", "OT", "SC"}
_OTHERS = {"CT", "MR", "US", "NM", "PT", "MG", "BMD", "ES", "XC", "ECG", "SR", "SEG", "PR", "KO", "DOC", "RTIMAGE"}
# Computed and digital radiography, intra-oral, secondary capture, angiography and fluoroscopy (PS3.4 B.5).
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_SOP_CLASSES = {
    *("1", "1.1", "1.1.1", "1.3", "1.3.1", "7", "7.1", "7.2", "7.3", "7.4"),
    *("12.1", "12.1.1", "12.2", "12.2.1"),
}
# CT, MR, nuclear medicine and PET, whatever their Modality says.
_SECTIONS = {"2", "2.1", "2.2", "4", "4.1", "4.3", "4.4", "20", "128", "130"}
# What pixels cannot be shown without (PS3.3 C.7.6.3).
_OF_ANY = ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation")
_OF_WHOLE_NUMBERS = ("SamplesPerPixel", "BitsStored", "PixelRepresentation")
_FOR_PROCESSING = {"1.1.1", "1.3.1"}
_DICOMDIR = "1.2.840.10008.1.3.10"

# Tokens can be compared within a process, and tell nothing outside it.
_KEY = secrets.token_bytes(32)
_PREPARING = threading.Lock()


def read(handle: BinaryIO, path: Path) -> Radiograph:
    """Decodes the first frame of a DICOM file.

    Args:
        handle: At its beginning.
        path: Named in errors.

    Raises:
        UnreadableImage: No radiograph, without pixels, damaged, too small or large, or compressed in a way that nothing
            installed can decode.
        MissingDependency: pydicom is not installed.
    """
    _prepare_pydicom()
    try:
        header = parse(handle)
        _check_kind(header, path)
        check_size(path, *header.size_px)
        return _radiograph(header, path)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:
        # What pydicom says may quote what it stumbled over.
        raise UnreadableImage(path, f"damaged DICOM ({type(error).__name__})") from error


def _prepare_pydicom() -> None:
    try:
        import pydicom.config  # noqa: F401
    except ImportError as error:
        raise MissingDependency("pydicom", extra="dicom", purpose="reading DICOM") from error
    with _PREPARING:
        _set_up_pydicom()


@functools.cache
def _set_up_pydicom() -> None:
    import pydicom.config

    # It warns of values that break a rule, quotes them, and logs what decoders raise: names would be shown.
    logger = logging.getLogger("pydicom")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    warnings.filterwarnings("ignore", module="pydicom")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    dicom_pixels.add_decoder()


def _check_kind(header: Header, path: Path) -> None:
    """Whether it is a radiograph, as far as a header tells."""
    modality = str(header.dataset.get("Modality") or "").strip().upper()
    if header.sop_class == _DICOMDIR:
        raise UnreadableImage(path, "a DICOMDIR, which lists pictures and holds none")
    short = header.sop_class.removeprefix(_STORAGE)
    is_other_class = short != header.sop_class and short not in _SOP_CLASSES
    if short in _SECTIONS or (modality not in _RADIOGRAPHS and (is_other_class or modality not in _ANYTHING)):
        # Not whatever stands there: that may be a name.
        known = modality if modality in _OTHERS | _RADIOGRAPHS | _ANYTHING - {""} else "DICOM"
        raise UnreadableImage(path, f"{known}{dicom_pixels.in_words(header.sop_class)}, not a radiograph")
    if not header.pixel_keyword:
        raise UnreadableImage(path, f"DICOM{dicom_pixels.in_words(header.sop_class)} without pixel data")
    wanted = _OF_ANY + (_OF_WHOLE_NUMBERS if header.pixel_keyword == "PixelData" else ())
    if absent := [keyword for keyword in wanted if header.dataset.get(keyword) is None]:
        raise UnreadableImage(path, f"damaged DICOM: its header lacks {' and '.join(absent)}")
    stored, room = (int(header.dataset.get(name) or 1) for name in ("BitsStored", "BitsAllocated"))
    if header.dataset.get("BitsStored") == 0 or not 1 <= stored <= room:
        raise UnreadableImage(path, f"damaged DICOM: {header.dataset.BitsStored} bits stored of {room}")


def _radiograph(header: Header, path: Path) -> Radiograph:
    dataset = header.dataset
    stored, photometric = dicom_pixels.decode(header, path)
    colour, is_dropped = 0.0, False
    if photometric.startswith("MONOCHROME"):
        pixels, is_dropped = show(stored, dicom_pixels.display(stored, header))
    else:
        image = Image.fromarray(dicom_pixels.rgb(stored, dataset, photometric))
        pixels, colour = np.asarray(image.convert("L")), colour_frac(image)
    intent = str(dataset.get("PresentationIntentType") or "").strip().upper()
    odd = {
        Caution.FIRST: int(dataset.get("NumberOfFrames") or 1) > 1,
        Caution.COLOUR: colour >= LEAST_COLOUR_FRAC,
        Caution.WINDOW: is_dropped,
        Caution.FOR_PROCESSING: "FOR PROCESSING" in intent
        or header.sop_class.removeprefix(_STORAGE) in _FOR_PROCESSING,
    }
    return Radiograph(
        pixels,
        cautions=tuple(caution for caution, is_so in odd.items() if is_so),
        colour_frac=colour,
        patient=_token(dataset.get("PatientID")) or _token(dataset.get("PatientName")),
        study=_token(dataset.get("StudyInstanceUID")),
    )


def _token(value: object) -> str:
    text = str(value or "").strip()
    return hashlib.blake2b(text.encode("utf-8", "replace"), key=_KEY, digest_size=16).hexdigest() if text else ""
