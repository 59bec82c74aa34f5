"""Training pictures with boxes: which come in an epoch, and that the boxes move with the picture."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fxcli.data.augment import Augmenter
from fxcli.data.boxed import BoxedPictures, collate, with_negatives
from fxcli.data.boxes import Boxes
from fxcli.data.dataset import Batches, Draw, loader
from fxcli.data.preprocess import Clean, Preprocessing
from fxcli.errors import UnreadableImage
from fxcli.recipe.schema import Augment

SEEN = Preprocessing(Clean(64), 64, "letterbox", (0.5,) * 3, (0.5,) * 3)


def boxes(*corners):
    return Boxes(np.array(corners, np.float32).reshape(-1, 4), np.zeros(len(corners), np.int64))


def white(left, top, right, bottom, side=64):
    """A black picture with a white rectangle."""
    picture = np.zeros((side, side), np.uint8)
    picture[top:bottom, left:right] = 255
    return picture


# --- which come ---


def test_every_positive_once_and_as_many_negatives_anew():
    is_positive = [index % 5 == 0 for index in range(50)]
    count, order = with_negatives(is_positive, 1.0)
    assert count == 20
    epochs = [order(np.random.default_rng(seed)) for seed in range(3)]
    for epoch in epochs:
        assert len(epoch) == len(set(epoch.tolist())) == 20
        assert sorted(index for index in epoch if is_positive[index]) == list(range(0, 50, 5))
    assert len({frozenset(epoch.tolist()) for epoch in epochs}) == 3
    assert not np.array_equal(epochs[0], np.sort(epochs[0]))


@pytest.mark.parametrize(("negatives", "count"), [(0, 4), (0.5, 6), (100, 10)])
def test_no_more_negatives_than_there_are(negatives, count):
    found, order = with_negatives([True] * 4 + [False] * 6, negatives)
    assert found == len(order(np.random.default_rng(0))) == count


# --- boxes move with the picture ---


@pytest.mark.parametrize(
    "augment",
    [
        Augment(),
        Augment(hflip=1.0),
        Augment(vflip=1.0),
        Augment(translate_frac=0.2),
        Augment(scale=(0.7, 1.3)),
        Augment(hflip=0.5, vflip=0.5, translate_frac=0.1, scale=(0.8, 1.2), brightness=0.1, contrast=0.1),
    ],
)
def test_the_box_stays_around_what_it_was_around(augment):
    picture, before = white(20, 24, 34, 40), boxes((20, 24, 34, 40))
    augmenter = Augmenter(augment, SEEN)
    for seed in range(20):
        view, after = augmenter.with_boxes(picture, before, seed)
        rows, columns = np.nonzero(view[0].numpy() > 100)
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert after.corners[0] == pytest.approx(seen, abs=1.6), seed
        assert view.shape == (1, 64, 64)
        assert view.dtype == torch.uint8


@pytest.mark.parametrize("augment", [Augment(rotate_deg=45), Augment(rotate_deg=20, shear_deg=15, scale=(0.8, 1.2))])
def test_a_turned_box_lies_close_around_what_was_round_in_it(augment):
    y, x = np.mgrid[:64, :64] + 0.5
    inside = ((x - 27) / 7) ** 2 + ((y - 32) / 16) ** 2 < 1
    augmenter = Augmenter(augment, SEEN)
    for seed in range(20):
        view, after = augmenter.with_boxes(np.uint8(255 * inside), boxes((20, 16, 34, 48)), seed)
        rows, columns = np.nonzero(view[0].numpy() > 100)
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert after.corners[0] == pytest.approx(seen, abs=1.6), seed


def test_a_box_that_leaves_the_picture_is_dropped_and_one_at_its_border_cut():
    augmenter = Augmenter(Augment(translate_frac=0.5), SEEN)
    counts = set()
    for seed in range(40):
        _, after = augmenter.with_boxes(white(0, 0, 20, 20), boxes((0, 0, 20, 20)), seed)
        counts.add(len(after))
        for left, top, right, bottom in after.corners:
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 64
            assert (right - left) * (bottom - top) >= 0.25 * 400 - 1
    assert counts == {0, 1}


def test_a_view_is_a_function_of_its_seed_alone():
    augmenter = Augmenter(Augment(hflip=0.5, scale=(0.5, 1.5), brightness=0.3), SEEN)
    first = augmenter.with_boxes(white(20, 24, 34, 40), boxes((20, 24, 34, 40)), 3)
    torch.manual_seed(9)
    random.seed(9)
    before = torch.get_rng_state()
    second = augmenter.with_boxes(white(20, 24, 34, 40), boxes((20, 24, 34, 40)), 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], second[0])
    assert np.array_equal(first[1].corners, second[1].corners)


def test_a_picture_without_boxes_stays_one():
    _, after = Augmenter(Augment(hflip=1.0, rotate_deg=10), SEEN).with_boxes(white(0, 0, 9, 9), boxes(), 1)
    assert after.corners.shape == (0, 4)
    assert after.labels.shape == (0,)


# --- batches ---


def pictures(count=6):
    paths = []
    for index in range(count):
        paths.append(Path(f"{index}.png"))
        Image.fromarray(white(8, 8, 20, 8 + 2 * (index + 1))).save(paths[-1])
    boxed = [boxes((8, 8, 20, 8 + 2 * (index + 1))) if index % 2 == 0 else boxes() for index in range(count)]
    return BoxedPictures(paths, boxed, SEEN, Augment())


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_pictures_and_targets(workers):
    found = list(loader(pictures(), Batches(6, 4, seed=0), workers=workers, join=collate))
    assert [len(batch[1]) for batch in found] == [4, 2]
    images, targets = found[0]
    assert images.shape == (4, 1, 64, 64)
    for image, target in zip(images, targets, strict=True):
        assert target["boxes"].shape == (len(target["labels"]), 4)
        if len(target["labels"]):
            assert target["labels"].tolist() == [1], "0 is the background"
            assert image[0, 9, 9] > 200
            assert target["boxes"][0, :3].tolist() == [8, 8, 20]


def test_an_unreadable_picture_comes_as_its_error():
    dataset = pictures()
    Path("2.png").write_bytes(b"nothing")
    assert isinstance(dataset[Draw(2, 0)], UnreadableImage)
    assert isinstance(collate([dataset[Draw(0, 0)], dataset[Draw(2, 0)]]), UnreadableImage)
