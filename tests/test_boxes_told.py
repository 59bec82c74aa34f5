"""Boxes in rows, in COCO and on pictures."""

import io
import json

import numpy as np

from fxcli.evaluation import box_table
from fxcli.evaluation.detection import Detections
from fxcli.evaluation.lines import Lines
from fxcli.evaluation.table import csv_line
from fxcli.explain import outline

FOUND = Detections(
    np.array([[1.004, 2, 11, 22], [5, 5, 9, 9]], np.float32), np.array([1, 0]), np.array([0.9, 0.2], np.float32)
)


def test_only_sure_boxes_are_told_and_the_surest_score_always():
    told = box_table.told(FOUND, ["a", "b"], (40, 30), 0.5)
    assert told["boxes"] == [{"class": "b", "score": 0.9, "left": 1.0, "top": 2.0, "right": 11.0, "bottom": 22.0}]
    assert (told["width_px"], told["height_px"]) == (40, 30)
    none = box_table.told(FOUND, ["a", "b"], (40, 30), 0.95)
    assert none["boxes"] == []
    assert none["box_score"] == 0.9


def test_cells_are_json_that_reads_back():
    table = box_table.BoxTable({"demo": True})
    record = table.record("x.png", **box_table.told(FOUND, ["a", "b"], (40, 30), 0.1))
    cells = dict(zip(table.columns, table.cells(record), strict=True))
    assert json.loads(cells["boxes"]) == record["boxes"]
    assert cells["notice"].startswith("DEMO")
    bad = table.cells(table.record("y.png", status="error", reason="=cut short"))
    assert bad[:3] == ["y.png", "error", "'=cut short"]
    assert bad[3:7] == ["", "", "", ""]


def test_coco_leaves_out_what_was_not_read():
    table = box_table.BoxTable({})
    rows = [
        table.record("bad.png", status="error", reason="none"),
        table.record("x.png", **box_table.told(FOUND, ["a", "b"], (40, 30), 0.1)),
        table.record("y.png", **box_table.told(FOUND.above(0.95), ["a", "b"], (40, 30), 0.1)),
    ]
    coco = box_table.found_coco(rows, ["a", "b"])
    assert [image["file_name"] for image in coco["images"]] == ["x.png", "y.png"]
    assert [(each["image_id"], each["category_id"], each["bbox"]) for each in coco["annotations"]] == [
        (1, 2, [1.0, 2.0, 10.0, 20.0]),
        (1, 1, [5.0, 5.0, 4.0, 4.0]),
    ]
    assert [each["id"] for each in coco["annotations"]] == [1, 2]
    # The same of what rows became in a file.
    as_csv = [csv_line(table.columns), *(csv_line(table.cells(row)) for row in rows)]
    assert box_table.found_coco(box_table.read_told(as_csv, json_lines=False), ["a", "b"]) == coco
    as_json = [json.dumps(row) for row in rows]
    assert box_table.found_coco(box_table.read_told(as_json, json_lines=True), ["a", "b"]) == coco


def test_rows_of_very_many_boxes_are_found_again():
    table = box_table.BoxTable({})
    one = box_table.told(FOUND, ["a", "b"], (40, 30), 0.1)
    rows = [table.record(f"{n}.png", **{**one, "boxes": one["boxes"] * (2000 if n == 1 else 1)}) for n in range(3)]
    lines = Lines(table, json=False)
    text = lines.head + "".join(map(lines.line, rows))
    assert lines.found(io.BytesIO(text.encode())).order == ["0.png", "1.png", "2.png"]
    told = box_table.read_told(io.StringIO(text, newline=""), json_lines=False)
    assert [row["boxes"] for row in told] == [row["boxes"] for row in rows]


def test_outlines_lie_where_the_box_is_at_any_scale():
    boxes = box_table.told(FOUND, ["a", "b"], (40, 30), 0.5)["boxes"]
    for scale in (1, 8):
        pixels = np.full((30 * scale, 40 * scale, 3), 90, np.uint8)
        drawn = outline.outlined(pixels, boxes, (40, 30))
        assert drawn.shape == pixels.shape
        rows, columns = np.nonzero((drawn == (64, 224, 208)).all(axis=2))
        assert abs(columns.min() - 1 * scale) <= 1
        assert abs(rows.min() - 2 * scale) <= 1 or scale == 1
        assert rows.max() <= 22 * scale + 1 or scale == 1
    assert np.array_equal(outline.outlined(pixels, [], (40, 30)), pixels)


def test_a_label_never_leaves_a_small_picture():
    boxes = box_table.told(FOUND, ["a_rather_long_name_of_a_class", "b"], (12, 24), 0.1)["boxes"]
    assert outline.outlined(np.zeros((24, 12, 3), np.uint8), boxes, (12, 24)).shape == (24, 12, 3)


def test_true_boxes_are_dashed_where_they_are():
    pixels = np.full((100, 200, 3), 90, np.uint8)
    drawn = outline.outlined(pixels, [], (400, 200), np.array([[40.0, 50, 240, 150]]))
    rows, columns = np.nonzero((drawn == (255, 64, 160)).all(axis=2))
    assert (columns.min(), columns.max(), rows.min()) == (20, 120, 25)
    assert 70 <= rows.max() <= 75
    top = (drawn[25, 20:121] == (255, 64, 160)).all(axis=1)
    assert 0.4 < top.mean() < 0.7
    assert np.array_equal(outline.outlined(pixels, [], (400, 200)), pixels)


def test_nothing_covers_the_surest_box():
    """Of two boxes in one place, the text of the surer one is seen."""
    pixels = np.full((320, 320, 3), 90, np.uint8)
    boxes = [{"class": name, "score": 0.5, "left": 100, "top": 100, "right": 200, "bottom": 200} for name in "ai"]
    both, one = (outline.outlined(pixels, some, (320, 320)) for some in (boxes, boxes[:1]))
    text = slice(75, 99), slice(100, 150)
    assert np.array_equal(both[text], one[text])
