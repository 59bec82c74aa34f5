"""Unusual pictures are listed: coloured, blank, of an odd size, and with the edges of a slice."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fxcli.data import phantom
from fxcli.data.oddities import LEAST_CT_RATIO, ODD, ct_ratio, find
from fxcli.data.views import view


@pytest.fixture(scope="module")
def radiographs():
    cases = phantom.plan(seed=0, train_per_class=1, val_per_class=0, test_per_class=0)
    return [view(phantom.draw(case, 160)) for case in cases]


def slice_like():
    """Grey flesh on black with thin bright rings and specks, as a bone window shows it."""
    image = Image.new("L", (200, 200), 0)
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 30, 180, 170), fill=90)
    for x in range(50, 160, 25):
        for y in range(60, 150, 25):
            draw.ellipse((x, y, x + 14, y + 14), outline=255, width=2)
    return view(np.asarray(image))


def test_slices_stand_out(radiographs):
    assert ct_ratio(slice_like()) > LEAST_CT_RATIO
    assert max(map(ct_ratio, radiographs)) < LEAST_CT_RATIO


def test_find(radiographs):
    views = [*radiographs, slice_like(), view(np.full((50, 50), 3, np.uint8))]
    sizes = [160_000, 170_000, 150_000, 165_000, 155_000, 158_000, 162_000, 9_000_000, 2_500]
    colour = [0.0, 0.05, 0.1, 0.9, 0, 0, 0, 0, 0]
    found = find(views, colour, sizes)
    assert [(x.index, x.kind) for x in found] == [
        (2, "colour"),
        (3, "colour"),
        (7, "ct"),
        (7, "large"),
        (8, "blank"),
        (8, "small"),
    ]
    assert {x.kind for x in found} == set(ODD)
    assert found[3].value == 9.0


def test_nothing_odd(radiographs):
    assert find(radiographs, [0.0] * 7, [100] * 7) == []
    assert find([], [], []) == []


def test_where_most_have_one_size_a_little_less_is_not_unusual():
    sizes = [1024 * 1024] * 80 + [1020 * 1024] * 19 + [100 * 100]
    assert [(x.index, x.kind) for x in find([], [], sizes)] == [(99, "small")]
