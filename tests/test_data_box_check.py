"""Boxes on the pictures that are prepared: found, turned, checked."""

import math
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxcli.data import box_check
from fxcli.data.annotations import Annotated, Annotation, Source
from fxcli.data.box_check import are_turned, checked, label, match, placed
from fxcli.data.names import class_name
from fxcli.data.read import read
from fxcli.errors import DataError
from fxcli.recipe.load import load_default

SIZE = (100, 50)


def box(*corners, label="fracture", place=":1"):
    return Annotation(label, tuple(map(float, corners)), place)


def source(pictures, labels=("fracture",)):
    return Source(Path("boxes.json"), pictures, labels, has_endings=True)


def gather(known, classes, pictures):
    return box_check.gather(match(known, classes, [name for name, _, _ in pictures]), pictures)


# --- turning ---


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_as_pictures_do(orientation, suffix):
    """The oracle is the reader: a white rectangle in the stored file lies where the box comes to lie."""
    pixels = np.zeros((60, 90), np.uint8)
    pixels[10:25, 30:70] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = orientation
    image.save(f"x.{suffix}", exif=exif)
    seen = read(Path(f"x.{suffix}"))
    assert seen.orientation == orientation
    size = (seen.width_px, seen.height_px)
    (found,) = placed(Annotated((box(30, 10, 70, 25),), (90, 60)), size, orientation, turned=False)
    rows, columns = np.nonzero(seen.pixels)
    assert found.corners == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_boxes_on_turned_pictures_stay():
    boxes = (box(1, 2, 3, 4),)
    assert placed(Annotated(boxes, (50, 100)), (50, 100), 6, turned=False) == list(boxes), "the size tells"
    assert placed(Annotated(boxes, SIZE), SIZE, 3, turned=True) == list(boxes), "the source tells"
    (found,) = placed(Annotated(boxes, SIZE), SIZE, 3, turned=False)
    assert found.corners == (97, 46, 99, 48)
    (found,) = placed(Annotated((box(0.1, 0.2, 0.3, 0.4),)), (50, 100), 6, turned=False)
    assert found.corners == pytest.approx((5, 20, 15, 40)), "fractions are of the turned picture"


def test_the_source_tells_by_pictures_that_lie_on_their_side():
    def as_stored(*others):
        return are_turned([((100, 50), (50, 100), 6), *others])

    assert not are_turned([])
    assert not are_turned([(SIZE, SIZE, 1), (SIZE, SIZE, 3), ((50, 50), (50, 50), 6), ((1, 2), (50, 100), 6)])
    assert are_turned([((50, 100), (50, 100), 8)])
    assert not as_stored(((50, 100), (50, 100), 8))
    assert as_stored(((50, 100), (50, 100), 8), ((50, 100), (50, 100), 5))


def test_a_picture_of_another_size():
    with pytest.raises(DataError, match="its boxes refer to a picture of 99 × 50 px, and it has 100 × 50"):
        placed(Annotated((), (99, 50)), SIZE, 1, turned=False)
    with pytest.raises(DataError, match="50 × 100"):
        placed(Annotated((), (50, 100)), SIZE, 3, turned=False)


# --- checking ---


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (box(1, 1, math.nan, 3), "not a finite number"),
        (box(-math.inf, 1, 2, 3), "not a finite number"),
        (box(1, 1, 5, 5, label="x" * 100), "unknown class 'x"),
        (box(1, 1, 5, 5, label=""), "its number is that of no class"),
        (box(5, 1, 1, 3), "inverted"),
        (box(1, 5, 3, 1), "inverted"),
        (box(1, 1, 1, 3), "empty"),
        (box(1, 1, 9, 1.5), "empty"),
        (box(200, 1, 210, 9), "wholly outside"),
        (box(1, -20, 9, -10), "wholly outside"),
        (box(99.2, 10, 100.4, 30), "less than a pixel of it"),
        (box(99.5, 10, 110, 30), "less than a pixel of it"),
    ],
)
def test_boxes_that_are_left_out(wrong, told):
    kept, lines = checked([box(1, 2, 3, 4), wrong], SIZE, {"fracture"})
    assert kept == [box(1, 2, 3, 4)]
    assert len(lines) == 1
    assert lines[0].startswith(f":1: {told}")
    assert len(lines[0]) < 120


def test_boxes_that_are_cut():
    kept, lines = checked([box(-0.4, 0, 100.5, 50.3)], SIZE, {"fracture"})
    assert (kept, lines) == ([box(0, 0, 100, 50)], []), "rounding is no error"
    kept, lines = checked([box(-7, 10, 104.2, 20)], SIZE, {"fracture"})
    assert (kept, lines) == ([box(0, 10, 100, 20)], [":1: 7.0 px outside its picture"])


# --- gathering ---


@pytest.mark.parametrize("says", [None, True])
def test_pictures_without_boxes_do_not_tell_how_those_with_boxes_are_turned(says):
    """Their sizes may be from elsewhere; what fx itself wrote says how it counts."""
    known = source(
        {
            "a.png": Annotated((box(10, 10, 30, 20),), SIZE),
            "side.png": Annotated((box(1, 1, 9, 9),), SIZE),
            **{f"{n}.png": Annotated((), SIZE[::-1]) for n in range(3)},
        }
    )
    turned = [("a.png", SIZE, 3), ("side.png", SIZE[::-1], 6), *((f"{n}.png", SIZE[::-1], 6) for n in range(3))]
    found = gather(replace(known, are_turned=says), {}, turned)
    assert found.boxes[0][0].corners == ((10, 10, 30, 20) if says else (70, 30, 90, 40))


@pytest.mark.parametrize(("orientation", "other", "told"), [(3, 1, 1), (2, 4, 2), (1, 1, 0), (3, 6, 0)])
def test_what_no_size_tells_is_warned_of(capsys, orientation, other, told):
    """A picture that EXIF turns by 180° or mirrors has one size; one that lies on its side tells for all."""
    known = source({name: Annotated((box(10, 10, 30, 20),), SIZE) for name in ("a.png", "b.png")})
    size = SIZE[::-1] if other == 6 else SIZE
    pictures = [("a.png", SIZE, orientation), ("b.png", size, other)]
    gather(known, {}, pictures)
    warned = capsys.readouterr().err
    assert (f"those of {told} that EXIF turns are taken as stored" in warned) is bool(told)
    assert bool(warned) is bool(told)
    gather(replace(known, are_turned=True), {}, pictures)
    assert not capsys.readouterr().err


PICTURES = [("a.png", SIZE, 1), ("b.png", SIZE, 1), ("c.png", SIZE, 1)]


def test_gathered():
    found = gather(
        source({"a.png": Annotated((box(1, 2, 3, 4),), SIZE), "b.png": Annotated((), SIZE), "z.png": Annotated()}),
        {},
        PICTURES,
    )
    assert found.classes == ("fracture",)
    assert found.boxes == [[box(1, 2, 3, 4)], [], None]
    assert found.told() == (
        "1 boxes on 1 pictures, 1 pictures without one, and 1 of which the boxes' source tells nothing"
    )
    assert found.record() == {
        "classes": ["fracture"],
        "boxes": 1,
        "pictures_with": 1,
        "pictures_without": 1,
        "pictures_unknown": 1,
        "pictures_unused": 1,
        "wrong": [],
    }


def test_labels_become_classes():
    boxes = (box(1, 1, 5, 5, label="Bruch"), box(2, 2, 9, 9, label="Schraube"), box(1, 1, 9, 9, label="fissure"))
    known = source({"a.png": Annotated(boxes, SIZE, Path("a.txt"))}, ("Bruch", "Schraube", "fissure"))
    found = gather(known, {"Bruch": "fracture", "fissure": "fracture"}, PICTURES)
    assert found.classes == ("fracture",)
    assert [each.label for each in found.boxes[0]] == ["fracture", "fracture"]
    assert found.wrong == ["a.txt:1: unknown class 'Schraube'"]
    assert gather(known, {}, PICTURES).classes == ("Bruch", "Schraube", "fissure")


def test_labels_that_no_box_can_have_are_refused():
    known = source({"a.png": Annotated((box(1, 2, 3, 4),), SIZE)}, ("fracture", "implant"))
    for classes in ({"Fracture": "fracture", "implant": "implant"}, {"fracture": "fracture", "Fracture": None}):
        with pytest.raises(DataError, match=r"boxes\.json: these boxes have no label Fracture, which") as caught:
            match(known, classes, ["a.png"])
        assert caught.value.hint == "their labels: fracture, implant"
    assert gather(known, {"fracture": "fracture", "implant": "implant"}, PICTURES).without_box == ["implant"]
    assert gather(known, {"fracture": "fracture", "implant": None}, PICTURES).without_box == []


def test_labels_that_are_passed_over():
    boxes = (box(1, 1, 5, 5), box(2, 2, 9, 9, label="implant"), box(9, 9, 1, 1, label="implant"))
    known = source(
        {name: Annotated(boxes[start:], SIZE) for start, name in enumerate(["a.png", "b.png"])}, ("fracture", "implant")
    )
    classes = {"fracture": "fracture", "implant": None}
    found = gather(known, classes, PICTURES)
    assert (found.classes, found.boxes, found.wrong) == (("fracture",), [[boxes[0]], [], None], [])
    matched = match(known, classes, ["a.png", "b.png"])
    assert [label(matched, name) for name in ("a.png", "b.png")] == ["fracture", "no_fracture"], "and so a negative"
    with pytest.raises(DataError, match="no label of these boxes has a class"):
        match(known, {"implant": None}, ["a.png"])


def test_a_picture_of_unknown_labels_alone_gets_no_label():
    """It is no negative either."""
    other = box(1, 1, 5, 5, label="implant")
    known = source(
        {"a.png": Annotated((other,)), "b.png": Annotated((box(1, 1, 5, 5), other))}, ("fracture", "implant")
    )
    matched = match(known, {"fracture": "fracture"}, ["a.png", "b.png"])
    assert label(matched, "b.png") == "fracture"
    with pytest.raises(
        DataError, match=r"a\.png: all boxes of this picture are of unknown labels: 'implant'"
    ) as caught:
        label(matched, "a.png")
    assert "or null to pass them over" in caught.value.hint


def test_a_picture_whose_every_box_is_left_out_is_no_negative():
    found = gather(source({"a.png": Annotated((box(5, 5, 1, 1),), SIZE)}), {}, PICTURES)
    assert found.boxes == [None, None, None]
    assert len(found.wrong) == 1


def test_what_cannot_be_gathered():
    with pytest.raises(DataError, match="boxes of 1 pictures, none of them among these"):
        gather(source({"z.png": Annotated()}), {}, PICTURES)
    with pytest.raises(DataError, match=r"x/a\.png and y/a\.png are the same picture to these boxes"):
        gather(source({"a.png": Annotated((), SIZE)}), {}, [("x/a.png", SIZE, 1), ("y/a.png", SIZE, 1)])
    with pytest.raises(DataError, match=r"boxes\.json: a\.png: its boxes refer to a picture of 1 × 1"):
        gather(source({"a.png": Annotated((), (1, 1))}), {}, PICTURES)


def test_pictures_that_are_not_listed_may_be_negatives():
    """But none that may be one of those that are listed, and none of which the list tells of a crowd alone."""
    known = source(
        {
            "a.png": Annotated((box(1, 2, 3, 4),), SIZE),
            "cut.png": Annotated((box(5, 5, 1, 1),), SIZE),
            "crowd.png": Annotated((), (7, 7), is_known=False),
            "x/c.png": Annotated((box(1, 2, 3, 4),), SIZE),
            "y/c.png": Annotated((box(1, 2, 3, 4),), SIZE),
        }
    )
    names = ["a.png", "b.png", "in/a.png", "c.png", "cut.png", "crowd.png"]
    pictures = [(name, SIZE, 1) for name in names]
    assert box_check.gather(match(known, {}, names), pictures).boxes == [[box(1, 2, 3, 4)], *[None] * 5]
    matched = match(known, {}, names, "negative")
    found = box_check.gather(matched, pictures)
    assert found.boxes == [[box(1, 2, 3, 4)], [], [], None, None, None]
    assert found.unused == 2, "those that are c.png to it"
    assert [label(matched, name) for name in names[:3]] == ["fracture", "no_fracture", "no_fracture"]
    for name, hinted in (("c.png", True), ("crowd.png", False)):
        with pytest.raises(DataError, match=f"{name}: nothing is known of this picture") as caught:
            label(matched, name)
        assert ("boxes.unlisted=negative" in caught.value.hint) is hinted


def test_of_yolo_a_background_has_no_file():
    known = Source(Path("set"), {"train/labels/a": Annotated((box(0, 0, 1, 1),))}, ("fracture",), has_endings=False)
    names = ["train/images/a.jpg", "val/images/a.jpg", "train/images/b.jpg"]
    found = box_check.gather(match(known, {}, names, "negative"), [(name, SIZE, 1) for name in names])
    assert found.boxes == [[box(0, 0, 100, 50)], [], []]


def test_boxes_of_a_picture_that_cannot_be_read_are_not_those_of_another():
    """Nor are they unused: their picture is there."""
    known = match(source({"x/a.png": Annotated((box(1, 2, 3, 4),), SIZE)}), {}, ["x/a.png", "y/a.png"])
    found = box_check.gather(known, [("y/a.png", SIZE, 1)])
    assert (found.boxes, found.unused) == ([None], 0)


def test_labels_that_name_no_class_are_refused_before_pictures_are_read():
    known = source({"a.png": Annotated((), SIZE)}, ("distal radius", "ulna"))
    with pytest.raises(DataError, match=r"boxes\.json: 'distal radius' cannot name a class of boxes") as caught:
        match(known, {}, ["a.png"])
    assert """--set 'boxes.classes={"distal radius": distal_radius}'""" in caught.value.hint
    with pytest.raises(DataError, match="'-ulna' cannot name a class"):
        match(known, {"distal radius": "radius", "ulna": "-ulna"}, ["a.png"])
    assert match(known, {"distal radius": "radius", "ulna": "ulna"}, ["a.png"]).by_name
    with pytest.raises(DataError, match="no label of these boxes has a class"):
        match(source({"a.png": Annotated((), SIZE)}, ()), {}, ["a.png"])


@pytest.mark.parametrize("name", ["Colles' fracture", 'grade "II", open', "Brüche"])
def test_what_to_do_about_such_a_label_can_be_typed(name):
    with pytest.raises(DataError, match="cannot name a class of boxes") as caught:
        match(source({"a.png": Annotated((), SIZE)}, (name,)), {}, ["a.png"])
    (option,) = shlex.split(caught.value.hint.partition("--set ")[2])
    known = load_default(["data.source=x", "boxes.source=y", option], name="mine").recipe.boxes.classes
    assert known == {name: class_name(name)}


def test_labels_of_pictures():
    boxes = {name: Annotated((box(1, 1, 5, 5, label=name),)) for name in ("one", "two")}
    both = Annotated(boxes["one"].boxes + boxes["two"].boxes)
    two = source({"x": boxes["one"], "y": both, "z": Annotated()}, ("one", "two"))
    assert [label(match(two, {}, "xyz"), name) for name in "xyz"] == ["one", "boxed", "no_box"]
    assert [label(match(two, {"one": "f", "two": "f"}, "xyz"), name) for name in "xyz"] == ["f", "f", "no_f"]
    with pytest.raises(DataError, match="gone: nothing is known of this picture"):
        label(match(two, {}, "xyz"), "gone")
