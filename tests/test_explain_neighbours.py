"""The sheet of neighbours: which pictures stand on it, held against brute force, and what is written below them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import UnreadableImage
from fxcli.explain import neighbours
from fxcli.explain.neighbours import save_sheet, sheet
from fxcli.explain.places import is_drawn
from fxcli.inference.features import going_to
from fxcli.inference.opened import open_model

PREPROCESSING = Preprocessing(Clean(64), 32, "letterbox", (0.5,) * 3, (0.5,) * 3)


def draw(count, size=(48, 64)):
    """Pictures that are told apart by their grey value, 8 times their place."""
    files = []
    for place in range(count):
        file = Path("raw", f"folder_{place // 10}", f"{place}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, 8 * place).save(file)
        files.append(file)
    return files


def tile(pixels, row, column):
    """[150, 150] grey of a place on the sheet."""
    left = 10 + column * 160 + (24 if column else 0)
    top = 30 + row * 205
    return pixels[top : top + 150, left : left + 150, 0]


def nearest(features, query, readable):
    """By plain numpy, one by one."""
    cosines = {
        place: features[query] @ features[place] / np.linalg.norm(features[query]) / np.linalg.norm(features[place])
        for place in readable
        if place != query
    }
    return sorted(cosines, key=cosines.get, reverse=True)[:6]


def test_neighbours_are_those_of_brute_force():
    files = draw(31)
    features = np.random.default_rng(0).normal(size=(31, 5)).astype(np.float32)
    features[[3, 17]] = np.nan
    readable = [place for place in range(31) if place not in (3, 17)]
    drawn = sheet(features, readable, files, files, PREPROCESSING, "which")
    pixels = np.asarray(drawn)
    assert drawn.size == (10 + 24 + 7 * 160, 30 + 10 * 205)
    asked = [readable[number * 29 // 10] for number in range(10)]
    for row, query in enumerate(asked):
        shown = [tile(pixels, row, column)[75, 75] // 8 for column in range(7)]
        assert shown == [query, *nearest(features, query, readable)]


def test_few_pictures_make_a_small_sheet():
    files = draw(3, size=(64, 32))
    features = np.array([[1, 0], [1, 0.1], [0, 1]], dtype=np.float32)
    drawn = sheet(features, [0, 1, 2], files, files, PREPROCESSING, "which")
    assert drawn.size == (10 + 24 + 3 * 160, 30 + 3 * 205)
    pixels = np.asarray(drawn)
    assert [tile(pixels, 2, column)[75, 75] // 8 for column in range(3)] == [2, 1, 0]
    assert set(np.unique(tile(pixels, 2, 0))) == {0, 16}, "the picture in the middle of black"
    assert (tile(pixels, 2, 0)[38:112] == 16).all()


def test_what_is_written_below(monkeypatch):
    files = draw(12)
    features = np.random.default_rng(1).normal(size=(12, 4))
    written = []
    fitted = neighbours._fitted
    monkeypatch.setattr(neighbours, "_fitted", lambda text, *rest: written.append(text) or fitted(text, *rest))
    names = [Path(*file.parts[1:]) for file in files]
    sheet(features, range(12), files, names, PREPROCESSING, "which")
    assert written[:4] == ["which", "picture 1", "folder_0", "0.png"]
    others = nearest(features, 0, range(12))
    cosine = features[0] @ features[others[0]] / np.linalg.norm(features[0]) / np.linalg.norm(features[others[0]])
    assert written[4:7] == [f"{cosine:.3f}", f"folder_{others[0] // 10}", f"{others[0]}.png"]
    assert len(written) == 1 + 10 * 7 * 3
    written.clear()
    sheet(features, range(12), files, [Path("abc")] * 12, PREPROCESSING, "which")
    assert written[2:4] == ["", "abc"]


@pytest.mark.parametrize("text", ["short.png", "a" * 300, "橈骨" * 40, "new\nline\u202e\udcff.png", ""])
def test_text_fits_on_one_line(text):
    font = ImageFont.load_default(12)
    found = neighbours._fitted(text, font, 150)
    assert font.getlength(found) <= 150
    assert found.isprintable()
    assert ("…" in found) == (len(text) > 100 or "橈" in text)
    if len(text) > 100:
        assert found[0] == text[0]


def test_the_same_pictures_are_the_nearest_of_all():
    files = draw(9)
    features = np.random.default_rng(2).normal(size=(9, 6))
    features[7] = features[0] * 3
    pixels = np.asarray(sheet(features, range(9), files, files, PREPROCESSING, ""))
    assert tile(pixels, 0, 1)[75, 75] // 8 == 7


def test_it_says_what_it_is(trained):
    files = draw(4)
    with going_to(Path("learnt"), [str(file) for file in files], 2, beside=None) as kept:
        for row in np.random.default_rng(0).normal(size=(4, 1, 2)).astype(np.float32):
            kept.add(row)
    opened = open_model(str(trained.path))
    save_sheet(Path("learnt"), kept.readable, files, files, opened)
    assert is_drawn(Path("learnt/neighbours.png"))
    with Image.open("learnt/neighbours.png") as drawn:
        assert "not a medical device" in drawn.text["fx"]
        assert drawn.size == (10 + 24 + 4 * 160, 30 + 4 * 205)
    with pytest.raises(UnreadableImage, match="a heat map that fx drew"):
        PREPROCESSING.load(Path("learnt/neighbours.png"))


def test_a_picture_that_is_gone(trained):
    files = draw(3)
    files[1].unlink()
    with pytest.raises(UnreadableImage, match="no such file"):
        sheet(np.eye(3), range(3), files, files, PREPROCESSING, "")
