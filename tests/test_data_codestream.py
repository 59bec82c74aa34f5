"""Headers of compressed frames, against the encoders that wrote them."""

import io

import numpy as np
import pytest
from PIL import Image

from fxcli.data.codestream import Coded, is_whole, look

PIXELS = (np.add.outer(np.arange(64) * 2, np.arange(80))).astype(np.uint8)


def encoded(kind, **options):
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"comment": b"x" * 300}),
        ("JPEG2000", {"no_jp2": True}),
        ("JPEG2000", {"no_jp2": False}),
    ],
)
def test_of_pillow(kind, options):
    frame = encoded(kind, **options)
    found = look(frame)
    assert found == Coded(80, 64, 8, 1, found.scans)
    assert (found.scans > 1) == ("progressive" in options)
    assert is_whole(frame)
    assert is_whole(frame + b"\0" * 40)
    assert not is_whole(frame[:-20])


def test_fill_bytes_before_a_marker():
    frame = encoded("JPEG")
    place = frame.find(b"\xff\xc0")
    assert look(frame[:place] + b"\xff\xff\xff" + frame[place:]) == Coded(80, 64, 8, 1)


def test_what_is_none(tmp_path):
    frame = encoded("JPEG")
    for bytes_ in (b"", b"\xff\xd8", b"no picture", frame[:60], b"\xff\x4f\xff\x51\0", encoded("PNG")):
        assert look(bytes_) is None
    before_any_frame = frame.replace(b"\xff\xc0", b"\xff\xda")
    assert look(before_any_frame) is None


def test_damage_is_none_or_a_size():
    rng = np.random.default_rng(0)
    for frame in (encoded("JPEG"), encoded("JPEG2000")):
        for _ in range(300):
            damaged = bytearray(frame)
            for place in rng.integers(0, 200, 5):
                damaged[place] = rng.integers(256)
            found = look(bytes(damaged[: rng.integers(len(frame))]))
            assert found is None or isinstance(found, Coded)
