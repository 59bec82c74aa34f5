"""Small files that claim to be huge are refused by their headers; large radiographs are not."""

import os
import subprocess
import sys

import pytest
from PIL import Image
from rasters import bombs

from fxcli.data.read import read

BOMBS = """
import io, resource, struct, sys, time
from pathlib import Path
from PIL import Image
from fxcli.data.read import read
from fxcli.errors import UnreadableImage

folder = Path(sys.argv[1])
try:
    read(folder / "warm.png")
except UnreadableImage:
    pass
for path in sorted(folder.glob("a.*")):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        read(path)
        print(path.name, "read")
    except UnreadableImage as error:
        took, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(path.name, f"{took:.3f}", peak // 1024, error.reason)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no resource module")
def test_bombs_are_refused_by_their_headers(tmp_path):
    """In less than 0.2 s each, and without taking memory, in a fresh process, where a peak would show."""
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
