import numpy as np
import pytest
from PIL import Image

from fxcli.data.preprocess import Clean, Cleaned, Preprocessing
from fxcli.errors import FxError
from fxcli.explain import overlay
from fxcli.explain.draw import draw_answer
from fxcli.inference.opened import open_model


def preprocessing(resize="letterbox"):
    return Preprocessing(Clean(64), 32, resize, (0.5,) * 3, (0.5,) * 3)


def picture(box):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 100
    return Cleaned(pixels, box, box[2] - box[0], box[3] - box[1])


def test_upsampled_covers_the_radiograph_without_padding():
    wide = picture((0, 16, 64, 48))
    saliency = np.zeros((4, 4), np.float32)
    saliency[1:3, 3] = 1
    heat = overlay.upsampled(saliency, wide, preprocessing())
    assert heat.shape == (32, 64)
    assert heat[8:24, 56:].min() > 0.9
    assert heat[:, :30].max() == 0


def test_cells_of_the_border_are_not_on_the_radiograph():
    wide = picture((0, 16, 64, 48))
    assert overlay.cells_on(wide, preprocessing(), 4).tolist() == [[False] * 4, [True] * 4, [True] * 4, [False] * 4]
    odd = overlay.cells_on(wide, preprocessing(), 5)
    assert odd.all(axis=1).tolist() == [False, True, True, True, False], "whole or in part"
    assert overlay.cells_on(wide, preprocessing("crop"), 4).all()
    assert overlay.cells_on(wide, preprocessing("squash"), 4).all()


def test_upsampled_is_zero_where_a_cropped_model_saw_nothing():
    wide = picture((0, 16, 64, 48))
    heat = overlay.upsampled(np.ones((4, 4), np.float32), wide, preprocessing("crop"))
    assert heat[:, :16].max() == 0
    assert heat[:, 16:48].min() == 1
    assert heat[:, 48:].max() == 0


def test_squash_covers_all():
    heat = overlay.upsampled(np.ones((4, 4), np.float32), picture((0, 16, 64, 48)), preprocessing("squash"))
    assert heat.shape == (32, 64)
    assert heat.min() == 1


def test_no_evidence_stays_grey_and_weak_evidence_stays_weak():
    square = picture((0, 0, 64, 64))
    none = np.asarray(overlay.overlay(square, np.zeros((64, 64), np.float32)), float)
    weak = np.asarray(overlay.overlay(square, np.full((64, 64), 0.2, np.float32)), float)
    strong = np.asarray(overlay.overlay(square, np.full((64, 64), 9.0, np.float32)), float)
    assert np.array_equal(none, np.full((64, 64, 3), 100.0))
    assert 0 < np.abs(weak - none).mean() < np.abs(strong - none).mean() / 2


def test_strength_is_evidence_as_if_the_whole_picture_looked_like_the_cell():
    assert overlay.strength(np.full((2, 2), 0.5)).tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_pair_holds_both_and_a_caption():
    pair = overlay.side_by_side(picture((16, 0, 48, 64)), np.ones((64, 32), np.float32), "hairline  p = 0.42", "logits")
    assert isinstance(pair, Image.Image)
    assert pair.width >= 2 * 224
    below = np.asarray(pair)[448:]
    assert below.max() > 200


def test_draw_answer_explains_the_answer_or_the_target(trained, prepared):
    opened = open_model(str(trained.path))
    file = next((prepared / "pictures" / "test" / "class_1").iterdir())
    answer = next(opened.pipeline.map(lambda answer: answer, [file]))
    made = draw_answer(opened, answer)
    assert made.target == answer.logits.argmax()
    other = draw_answer(opened, answer, target=(made.target + 1) % 3)
    assert made.saliency.shape == (8, 8)
    assert not np.array_equal(made.saliency, other.saliency)
    assert made.probability > other.probability
    assert made.caption.startswith("class_")
    opened.model.info["demo"] = True
    demo = draw_answer(opened, answer)
    assert demo.notice.startswith("DEMO")
    assert demo.caption.startswith("DEMO  class_")
    with pytest.raises(FxError, match="needs an answer with its picture"):
        draw_answer(opened, answer.row)
