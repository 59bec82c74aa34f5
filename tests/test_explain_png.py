import numpy as np
import pytest
from PIL import Image

from fxcli.explain.png import write_png


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr("fxcli.explain.png.zlib.compress", fail)
    with pytest.raises(OSError, match="no space"):
        write_png(tmp_path / "out" / "a.png", np.zeros((4, 4, 3), np.uint8), "fx", "{}")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (64, 33)])
def test_pillow_reads_what_was_written(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    write_png(tmp_path / "a.png", pixels, "fx", '{"notice": "§"}')
    with Image.open(tmp_path / "a.png") as image:
        # verify() looks at the checksum of every chunk.
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        assert (image.mode, image.format) == ("RGB", "PNG")
        assert image.text == {"fx": '{"notice": "§"}'}
        assert np.array_equal(np.asarray(image), pixels)
