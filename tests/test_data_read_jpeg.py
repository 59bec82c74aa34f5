"""JPEGs that end early: whole, or refused."""

import io

import numpy as np
import pytest
from PIL import Image

from fxcli.data.radiograph import Caution
from fxcli.data.read import read
from fxcli.errors import UnreadableImage


def reason(path):
    with pytest.raises(UnreadableImage) as caught:
        read(path)
    return caught.value.reason


def jpeg(mode="L", seed=0, **options):
    """Bytes of a JPEG with much detail down to its last block."""
    noise = np.random.default_rng(seed).integers(0, 255, (72, 88, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(out, "JPEG", quality=85, **options)
    return out.getvalue()


KINDS = [
    ("L", {}),
    ("RGB", {}),
    ("RGB", {"subsampling": 0, "optimize": True}),
    ("CMYK", {}),
    ("L", {"progressive": True}),
    ("RGB", {"progressive": True}),
    ("L", {"restart_marker_blocks": 3}),
]


@pytest.mark.parametrize(("mode", "options"), KINDS)
@pytest.mark.parametrize("draft_px", [None, 36])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(tmp_path, mode, options, draft_px):
    path, data = tmp_path / "a.jpg", jpeg(mode, **options)
    assert data.endswith(b"\xff\xd9")
    path.write_bytes(data)
    whole = read(path, draft_px=draft_px)
    assert Caution.NO_END not in whole.cautions
    for rest in (b"", b"\xff", b"\0" * 500):
        path.write_bytes(data[:-2] + rest)
        found = read(path, draft_px=draft_px)
        assert np.array_equal(found.pixels, whole.pixels)
        assert found.full_px == whole.full_px
        assert found.cautions == (*whole.cautions, Caution.NO_END)


@pytest.mark.parametrize(("mode", "options"), KINDS)
def test_a_film_behind_a_jpeg_is_nothing_of_it(tmp_path, mode, options):
    """Telephones put one there; its bytes look like markers of every kind."""
    path, data = tmp_path / "a.jpg", jpeg(mode, **options)
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xc2\0\x11" + b"\xff\xda\0\x08\1\1\0\0\x3f\0" * 200 + b"film" * 50
    path.write_bytes(data)
    whole = read(path)
    path.write_bytes(data + film)
    found = read(path)
    assert np.array_equal(found.pixels, whole.pixels)
    assert found.cautions == whole.cautions


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "options"), KINDS)
def test_a_jpeg_that_is_cut_short_is_refused_or_whole_all_the_same(tmp_path, mode, options):
    """Wherever it is cut: no pixel is ever shown that was not in the file."""
    path, data, taken = tmp_path / "a.jpg", jpeg(mode, **options), 0
    path.write_bytes(data)
    whole = read(path).pixels
    for cut in [*range(3, 40), *range(40, len(data), 211)]:
        for rest in (b"", b"\0" * 300):
            path.write_bytes(data[:-cut] + rest)
            try:
                found = read(path)
            except UnreadableImage:
                continue
            assert np.array_equal(found.pixels, whole)
            taken += 1
    # The last byte holds a few bits at most, and at times none.
    assert taken <= 4


@pytest.mark.parametrize(("mode", "options"), KINDS)
def test_a_jpeg_that_was_cut_and_ended_all_the_same_is_refused(tmp_path, mode, options):
    path, data = tmp_path / "a.jpg", jpeg(mode, **options)
    # At nine tenths, the last of its nine rows of blocks is hurt alone: of a baseline one nothing tells that.
    for part in (0.3, 0.4, 0.6, 0.75, *([0.9] if "progressive" in options else [])):
        path.write_bytes(data[: int(part * len(data))] + b"\xff\xd9")
        assert reason(path) == "cut short: the end of the picture is missing"


@pytest.mark.parametrize("rest", [b"", b"\0" * 9000, b"\xff\xd9"])
def test_a_jpeg_of_a_telephone_with_a_preview_is_held_to_the_same(tmp_path, rest):
    pages = [Image.open(io.BytesIO(jpeg(seed=seed))) for seed in (1, 2)]
    path = tmp_path / "a.jpg"
    pages[0].save(path, format="MPO", save_all=True, append_images=pages[1:])
    whole = path.read_bytes()
    assert read(path).cautions == ()
    path.write_bytes(whole[:-300])
    assert read(path).cautions == (), "the preview alone is hurt"
    end = whole.index(b"\xff\xd9")
    path.write_bytes(whole[: end // 2] + rest)
    assert reason(path) == "cut short: the end of the picture is missing"
    path.write_bytes(whole[: end // 2] + rest + whole[end + 2 :])
    assert reason(path).startswith(("cut short", "damaged")), "the end of the preview is none of the picture's"


def test_a_jpeg_that_ends_in_grey_is_whole(tmp_path):
    blocks = np.kron(np.array([[10, 200], [90, 90]], np.uint8), np.ones((24, 24), np.uint8))
    path = tmp_path / "a.jpg"
    Image.fromarray(blocks).save(path, quality=95)
    found = read(path)
    assert set(np.unique(found.pixels[-1])) == {90}
    assert found.cautions == ()
    # A colour profile may hold what looks like a progressive one's first pass.
    Image.fromarray(blocks).save(path, quality=95, icc_profile=b"\xff\xc2\xff\xda\0\x08\1\x09\0\0\0\0")
    assert read(path).cautions == ()


def test_a_progressive_jpeg_without_its_last_pass_is_refused(tmp_path):
    """Nothing of a pass that is there is missing, and the picture would be a blurred one."""
    path, data = tmp_path / "a.jpg", jpeg("RGB", progressive=True)
    ends = [place for place in range(len(data)) if data[place : place + 2] in (b"\xff\xda", b"\xff\xc4")]
    assert len(ends) > 10
    for end in ends:
        path.write_bytes(data[:end])
        assert reason(path)


def test_a_thumbnail_in_a_jpeg_does_not_hide_missing_passes(tmp_path):
    path, thumbnail = tmp_path / "a.jpg", jpeg("RGB")
    data = jpeg("RGB", progressive=True, extra=b"\xff\xe5" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail)
    assert thumbnail in data
    path.write_bytes(data[:-2])
    assert read(path).cautions[-1] == Caution.NO_END
    path.write_bytes(data[: data.rfind(b"\xff\xda")])
    assert reason(path)
