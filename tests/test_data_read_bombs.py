"""Small files that claim to be huge are refused by their headers; large radiographs are not."""

import importlib
import importlib.util
import io
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from rasters import bombs

from fxcli.data import containers
from fxcli.data.read import read
from fxcli.errors import UnreadableImage

BOMBS = """
import sys, time
from pathlib import Path
from PIL import Image
from fxcli.data.read import read
from fxcli.errors import UnreadableImage

def peak_kib():
    # Not getrusage: what it tells began in the process that this one was forked from.
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

folder = Path(sys.argv[1])
try:
    read(folder / "warm.png")
except UnreadableImage:
    pass
for path in sorted(folder.glob("a.*")):
    before, began = peak_kib(), time.process_time()
    try:
        read(path)
        print(path.name, "read")
    except UnreadableImage as error:
        print(path.name, f"{time.process_time() - began:.3f}", (peak_kib() - before) // 1024, error.reason)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells the peak of one process")
def test_bombs_are_refused_by_their_headers(tmp_path):
    """In 0.2 s of the processor each, and without taking memory, in a fresh process, where a peak would show."""
    bombs(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "warm.png")
    done = subprocess.run([sys.executable, "-c", BOMBS, tmp_path], capture_output=True, text=True, check=True)
    lines = [line.split(maxsplit=3) for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["a.bmp", "a.gif", "a.jpg", "a.png", "a.tif", "a.webp"]
    for _, took, peak_mb, why in lines:
        assert float(took) < 0.2
        assert int(peak_mb) < 8
        assert why.startswith("too many pixels; at most 80,000,000")


def test_a_radiograph_of_42_million_pixels_is_accepted(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (6480, 6485), 90).save(path, compress_level=1)
    assert read(path).pixels.shape == (6485, 6480)


NARROW = """
import resource, sys
from pathlib import Path
from fxcli.data.read import read
from fxcli.errors import UnreadableImage

paths = list(map(Path, sys.argv[1:]))
for path in paths:
    read(path)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (4 << 20), -1))
for path in paths:
    try:
        print(path.name, read(path).pixels.shape)
    except UnreadableImage as error:
        print(path.name, error.reason)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="only Linux tells what a process has taken")
def test_a_healthy_picture_for_which_there_is_no_memory_is_not_damaged(tmp_path):
    names = ["a.png", "a.jpg", "a.tif", "a.bmp"]
    for name in names:
        Image.new("L", (6000, 6000), 90).save(tmp_path / name)
    if importlib.util.find_spec("pydicom"):
        dicoms = importlib.import_module("dicoms")
        dicoms.save(tmp_path / "a.dcm", np.full((6000, 6000), 90, np.uint16))
        names.append("a.dcm")
    # Freed memory is given back, and not kept for the next: one thread, one arena.
    env = {**os.environ, "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NARROW, *(tmp_path / name for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert done.stdout.splitlines() == [f"{name} the memory of the computer is used up" for name in names]


def huge(path, start, size):
    """A file that claims room, and takes none of the disk."""
    with path.open("wb") as handle:
        handle.write(start)
        handle.truncate(size)
    return path


def reason(path):
    began = time.process_time()
    with pytest.raises(UnreadableImage) as caught:
        read(path)
    assert time.process_time() - began < 1
    return caught.value.reason


def jpeg_file(tmp_path):
    path = tmp_path / "small.jpg"
    Image.new("L", (64, 64), 90).save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.dcm", "a.jpg"])
def test_files_that_no_picture_needs(tmp_path, name):
    """Sparse ones: copied in part, or made to fill a disk."""
    start = {"a.png": b"\x89PNG\r\n\x1a\n", "a.tif": b"II*\0", "a.dcm": b"\0" * 128 + b"DICM", "a.jpg": b"\xff\xd8\xff"}
    assert reason(huge(tmp_path / name, start[name], 1 << 36)).startswith("a file of 65,536 MiB: more than")


def test_a_jpeg_whose_end_is_far_away(tmp_path):
    whole = jpeg_file(tmp_path)
    path = huge(tmp_path / "a.jpg", whole[:-2], containers.MAX_JPEG_BYTES + 1)
    assert reason(path) == "a file of 256 MiB: more than 256 is no radiograph"


@pytest.mark.parametrize("start", [slice(20), None], ids=["header", "end"])
def test_a_jpeg_of_zeros_in_place_of_a_picture(tmp_path, start):
    """Pillow would go over them one by one, behind an end marker, too."""
    path = huge(tmp_path / "a.jpg", jpeg_file(tmp_path)[start] if start else b"\xff\xd8\xff\xd9", 200 << 20)
    assert reason(path) == "cut short or damaged: a JPEG without a picture"


@pytest.mark.parametrize("size", [2, 3, 10, 100, -2])
def test_a_jpeg_that_was_copied_in_part(tmp_path, size):
    """Nothing wrong stands there: it ends before its picture."""
    whole, path = jpeg_file(tmp_path), tmp_path / "a.jpg"
    path.write_bytes(whole[: size if size > 0 else whole.rindex(b"\xff\xda")])
    assert reason(path) == "cut short or damaged: a JPEG without a picture"


def test_a_little_junk_between_markers_is_skipped_as_decoders_do(tmp_path):
    whole = jpeg_file(tmp_path)
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:20] + b"\xff" * 9 + whole[20:])
    assert read(path).pixels.shape == (64, 64)


def test_a_png_of_many_chunks(tmp_path):
    path = tmp_path / "a.png"
    Image.new("L", (64, 64), 90).save(path)
    head, rest = path.read_bytes()[:33], path.read_bytes()[33:]
    chunk = b"\0\0\0\0" + b"teSt" + zlib.crc32(b"teSt").to_bytes(4, "big")
    path.write_bytes(head + chunk * 3 + rest)
    assert read(path).pixels.shape == (64, 64)
    path.write_bytes(head + chunk * 1_000_000 + rest)
    assert reason(path) == "damaged: more than 200,000 chunks of a PNG"


def progressive(side_px, scans):
    """A progressive JPEG whose last scan stands there again and again: next to no bytes, and all the work."""
    out = io.BytesIO()
    Image.new("L", (side_px, side_px), 90).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rfind(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + b"\xff\xd9"


def test_a_jpeg_of_many_scans(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(progressive(2000, 2000))
    assert path.stat().st_size < 1 << 20
    assert reason(path) == "damaged: a JPEG of more than 100 scans"
    path.write_bytes(progressive(64, 3))
    assert read(path).pixels.shape == (64, 64)


@pytest.mark.parametrize("place", [2, -2])
def test_a_jpeg_of_many_markers(tmp_path, place):
    whole, path = jpeg_file(tmp_path), tmp_path / "a.jpg"
    path.write_bytes(whole[:place] + b"\xff\xfe\0\2" * 50 + whole[place:])
    assert read(path).pixels.shape == (64, 64)
    path.write_bytes(whole[:place] + b"\xff\xfe\0\2" * 10_000_000 + whole[place:])
    assert reason(path) == "damaged: a JPEG of more than 10,000 markers"


def test_scans_that_hide_where_decoders_skip_nothing(tmp_path):
    """Where a restart marker is waited for, they go on behind whatever no marker is called."""
    data, path = progressive(64, 1), tmp_path / "a.jpg"
    scan = data[data.rfind(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + b"\xff\x02\x7f\xff" + scan * 200 + b"\xff\xd9")
    assert reason(path) == "damaged: a JPEG of more than 100 scans"


def tiled(tile, side_px=64):
    """A TIFF of one tile, by hand."""
    tags = [(256, side_px), (257, side_px), (258, 8), (259, 1), (262, 1), (277, 1)]
    tags += [(322, tile[0]), (323, tile[1]), (324, 8), (325, side_px**2)]
    entries = b"".join(struct.pack("<HHIL", tag, 4, 1, value) for tag, value in tags)
    data = bytes(range(90, 91)) * side_px**2
    return b"II*\0" + struct.pack("<L", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_small_tiff_of_a_huge_tile(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiled((64, 64)))
    assert (read(path).pixels == 90).all()
    path.write_bytes(tiled((16_000, 131_056)))
    assert reason(path) == "damaged: tiles of 16000 × 131056 px in a picture of 64 px"
