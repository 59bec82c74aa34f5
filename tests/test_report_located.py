"""Pictures of a detector in a report: of which kind each is, in which order, and what is drawn on it."""

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fxcli.data.boxes import FILE, read_boxes
from fxcli.data.manifest import read_manifest
from fxcli.errors import DataError
from fxcli.evaluation.box_table import found_csv, read_found
from fxcli.evaluation.detection import Detections
from fxcli.report.blocks import Pictures, Text
from fxcli.report.kept import Kept
from fxcli.report.located import located
from fxcli.run.directory import Run
from fxcli.run.files import sha256_of

AWAY = [0.0, 0.0, 3.0, 3.0]


def detections(*boxes):
    """(corners, score), the surest first."""
    corners, scores = zip(*boxes, strict=True) if boxes else ((), ())
    return Detections(
        np.array(corners, np.float32).reshape(-1, 4), np.zeros(len(boxes), np.int64), np.array(scores, np.float32)
    )


@pytest.fixture
def folder(prepared_boxes):
    shutil.copytree(prepared_boxes, "boxed")
    return Path("boxed")


@pytest.fixture
def manifest(folder):
    return read_manifest(folder / "manifest.csv")


@pytest.fixture
def run(manifest):
    preprocessing = {
        "clean": {"prepared_px": 96, "window": "percentile"},
        "image_size_px": 96,
        "resize": "letterbox",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
    }
    header = {
        "preprocessing": preprocessing,
        "boxes_sha256": sha256_of(manifest.root / FILE),
        "operating_points": {"0.5": 0.4},
    }
    return Kept(Run(Path("runs/where")), {"task": "detect"}, "finished", header=header)


def text_of(manifest, found, groups=None):
    """The file of `fx evaluate`, of what was found on each picture of the validation part."""
    boxes = read_boxes(manifest).by_path
    rows = manifest.part("val")
    lines = [
        (row.path, (groups or {}).get(row.path, row.path), found[row.path], "", len(boxes[row.path])) for row in rows
    ]
    return found_csv(lines, ("fracture",), "notice")


def with_and_without(manifest):
    boxes = read_boxes(manifest).by_path
    paths = [row.path for row in manifest.part("val")]
    return [path for path in paths if len(boxes[path])], [path for path in paths if not len(boxes[path])], boxes


@pytest.fixture
def said(manifest):
    """Two are found; missed are one without a box, one beside it, a faint one; false are two, and one beside a hit."""
    has, none, boxes = with_and_without(manifest)
    (one, two, missed, beside, both, faint), at = has, lambda path: boxes[path].corners[0].tolist()
    found = {
        one: detections((at(one), 0.6)),
        two: detections((at(two), 0.9)),
        missed: detections(),
        beside: detections((AWAY, 0.5)),
        both: detections((at(both), 0.95), (AWAY, 0.45)),
        faint: detections((at(faint), 0.3)),
        none[0]: detections((AWAY, 0.7)),
        none[1]: detections((AWAY, 0.8)),
    }
    return {**{path: detections((AWAY, 0.1)) for path in none}, **found}


def shown(parts):
    return {
        part.title: [card.lines[-1] for block in part.blocks if isinstance(block, Pictures) for card in block.cards]
        for part in parts
    }


def test_each_picture_is_of_one_kind_and_the_surest_come_first(run, manifest, said):
    has, none, _ = with_and_without(manifest)
    source = {row.path: row.source or row.path for row in manifest.rows}
    (about, _), parts = located(run, manifest, text_of(manifest, said), 9)
    one, two, missed, beside, both, faint = (source[path] for path in has)
    assert shown(parts) == {
        "Found": [two, one],
        "Missed": [missed, faint, beside],
        "Told where nothing is": [source[none[1]], source[none[0]], both],
    }
    assert about.text.startswith(
        "12 pictures of the validation part: 2 found, 3 missed, 3 told where nothing is; on the rest, rightly, nothing."
    )
    assert "a score of 0.400 or more" in about.text
    lines = {name: [card.lines[:2] for card in part.blocks[0].cards] for name, part in zip("fmi", parts, strict=True)}
    assert lines["m"][:2] == [
        ["told: none; the surest has 0.00", "is there: 1 fracture"],
        ["told: none; the surest has 0.30", "is there: 1 fracture"],
    ]
    assert lines["i"][0] == ["told: fracture 0.80", "is there: nothing"]
    assert lines["i"][2] == ["told: fracture 0.95, fracture 0.45", "is there: 1 fracture"]


def test_the_froc_curve(run, manifest, said):
    """Of 12 pictures, 6 with a box; by falling scores boxes are right, right, wrong, wrong, right, …"""
    (_, curve), _ = located(run, manifest, text_of(manifest, said), 9)
    assert curve.table.columns == ["false boxes a picture", "true boxes that are found", "score"]
    assert curve.table.rows == [
        ["0.00", "16.7 %", "0.950"],
        ["0.00", "33.3 %", "0.900"],
        ["0.08", "33.3 %", "0.800"],
        ["0.17", "33.3 %", "0.700"],
        ["0.17", "50.0 %", "0.600"],
        ["0.25", "50.0 %", "0.500"],
        ["0.33", "50.0 %", "0.450"],
        ["0.33", "66.7 %", "0.300"],
        ["0.67", "66.7 %", "0.100"],
    ]
    assert "a score of 0.400 or more" in curve.caption
    assert "sensitivity 0.167 at 0.00 false boxes a picture, 0.667 at 0.67" in curve.svg
    nothing = {row.path: detections() for row in manifest.part("val")}
    about, _ = located(run, manifest, text_of(manifest, nothing), 3)
    assert len(about) == 1, "without any box there is no curve"


def test_one_of_each_group_and_no_more_than_are_wanted(run, manifest, said):
    has, none, _ = with_and_without(manifest)
    source = {row.path: row.source or row.path for row in manifest.rows}
    groups = dict.fromkeys([has[2], has[5], none[0], none[1]], "a patient")
    _, parts = located(run, manifest, text_of(manifest, said, groups), 2)
    assert shown(parts)["Missed"] == [source[has[2]], source[has[3]]]
    assert shown(parts)["Told where nothing is"] == [source[none[1]], source[has[4]]]
    assert [len(paths) for paths in shown(located(run, manifest, text_of(manifest, said), 1)[1]).values()] == [1, 1, 1]


def test_a_kind_without_pictures_says_so(run, manifest):
    nothing = {row.path: detections() for row in manifest.part("val")}
    _, parts = located(run, manifest, text_of(manifest, nothing), 3)
    assert [part.blocks for part in parts if part.title != "Missed"] == [[Text("None.")]] * 2


def test_true_boxes_and_told_ones_are_drawn(run, manifest, said):
    _, parts = located(run, manifest, text_of(manifest, said), 9)

    def colours(card):
        data = base64.b64decode(card.views[0].data)
        red, green, _ = np.moveaxis(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=int), 2, 0)
        return bool((red - green > 80).any()), bool((green - red > 80).any())

    _, missed, imagined = ([colours(card) for card in part.blocks[0].cards] for part in parts)
    assert missed == [(True, False), (True, False), (True, True)]
    assert imagined == [(False, True), (False, True), (True, True)]


def test_a_picture_that_cannot_be_read_leaves_the_others(run, manifest, said):
    has, _, _ = with_and_without(manifest)
    Path(manifest.root, has[1]).write_bytes(b"no picture")
    _, parts = located(run, manifest, text_of(manifest, said), 9)
    assert [len(card.views) for card in parts[0].blocks[0].cards] == [0, 1]


def test_what_does_not_belong_together_is_refused(run, manifest, said):
    text = text_of(manifest, said)
    with pytest.raises(ValueError, match="of other classes"):
        located(run, manifest, text.replace("fracture", "bent"), 3)
    with pytest.raises(ValueError, match="lack"):
        located(run, manifest, text.replace(",boxes,", ",b,", 1), 3)
    with pytest.raises(DataError, match="of 12 pictures that were looked at no boxes are known"):
        located(run, manifest, text.replace("pictures/", "others/"), 3)
    content = (manifest.root / FILE).read_text()
    (manifest.root / FILE).write_text(f"{content} ")
    with pytest.raises(DataError, match="changed since training"):
        located(run, manifest, text, 3)
    run.header.clear()
    with pytest.raises(DataError, match="not a preprocessing"):
        located(run, manifest, text, 3)


def test_what_was_found_reads_back():
    found = detections(([1, 2, 11.5, 22], 0.9), ([5, 5, 9, 9], 0.25))
    text = found_csv(
        [("=a.png", "=g", found, "", 1), ("b", "h", None, "cut", 0), ("c", "", detections(), "", 0)], ["x"], "n"
    )
    one, none = read_found(text, ["x"])
    assert (one.path, one.group, len(none.boxes)) == ("=a.png", "=g", 0)
    for name in ("corners", "labels", "scores"):
        assert np.array_equal(getattr(one.boxes, name), getattr(found, name))
