"""The page of contradicted labels: raw pictures are shown as they are cleaned, whatever their kind."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxcli.data import label_page
from fxcli.data.manifest import read_manifest


def shown(*names):
    """[h, w] uint8 of each picture of the page, and the page."""
    lines = [f"{name},{'ab'[index % 2]},train" for index, name in enumerate(names)]
    Path("manifest.csv").write_text("\n".join(["path,label,split", *lines]))
    said = {"label": "a", "predicted": "b", "p_label": 0.1, "p_predicted": 0.9}
    label_page.write(
        Path("page.html"), "model", read_manifest(Path("manifest.csv")), [{"path": name, **said} for name in names]
    )
    text = Path("page.html").read_text(encoding="utf-8")
    pictures = []
    for data in re.findall(r"data:image/jpeg;base64,([^\"]+)", text):
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            pictures.append(np.asarray(image))
    return pictures, text


def test_deep_and_turned_pictures_are_shown_as_they_are_cleaned():
    ramp = np.linspace(2000, 9000, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save("deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90° to the right
    Image.fromarray(np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)).save("turned.jpg", exif=exif)
    (deep, turned), _ = shown("deep.png", "turned.jpg")
    assert deep.shape == turned.shape == (192, 192)
    assert deep[:20].mean() < 30
    assert deep[-20:].mean() > 225
    assert turned[:, :20].mean() > 225
    assert turned[:, -20:].mean() < 30


def test_dicom_is_shown():
    pytest.importorskip("pydicom")
    from dicoms import radiograph, save

    save(Path("one.dcm"), radiograph(), bits=12)
    ((picture,), _) = shown("one.dcm")
    assert picture.std() > 30


def test_what_cannot_be_read_by_now_is_named():
    Path("gone.png").write_text("no picture")
    pictures, text = shown("gone.png")
    assert pictures == []
    assert "b (0.90), not a (0.10)<br>train, a: gone.png" in text
