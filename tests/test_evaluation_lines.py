"""Predictions as lines: made, and found again wherever a file was cut short."""

import csv
import io
import json

import numpy as np
import pytest

from fxcli.data.names import path_cell, path_of
from fxcli.evaluation.lines import Lines, Place
from fxcli.evaluation.predictions import PredictionTable

PATHS = [
    "a.png",
    "q\"u,o'te.png",
    "new\nline.png",
    "re\rturn.png",
    "both\r\n.png",
    '"',
    "\u2028\x85.png",
    "é\udce9.png",
]


def lines(json=False):
    return Lines(PredictionTable(["x", "y"], {"name": "m"}), json=json)


def record(made, path, status="ok", reason=""):
    given = {"probabilities": np.array([0.25, 0.75])} if status == "ok" else {}
    return made.table.record(path_cell(path), status=status, reason=reason, **given)


def written(made, paths=PATHS):
    text = made.head + "".join(made.line(record(made, path)) for path in paths)
    return text.encode("utf-8")


@pytest.mark.parametrize("is_json", [False, True])
def test_rows_are_found_as_they_were_written(is_json):
    made = lines(is_json)
    found = made.found(io.BytesIO(written(made)))
    assert [path_of(path) for path in found.order] == PATHS
    assert found.end == len(written(made))
    for path, place in found.places.items():
        assert place.is_answer
        assert written(made)[place.start : place.end].decode() == made.line(record(made, path_of(path)))


@pytest.mark.parametrize("is_json", [False, True])
def test_cut_short_anywhere(is_json):
    made = lines(is_json)
    whole = written(made)
    ends = [len(made.head), *(place.end for place in made.found(io.BytesIO(whole)).places.values())]
    for length in range(len(whole) + 1):
        found = made.found(io.BytesIO(whole[:length]))
        complete = [end for end in ends if end <= length]
        assert len(found.order) == max(0, len(complete) - 1)
        assert found.end == (complete[-1] if complete else 0)


@pytest.mark.parametrize("is_json", [False, True])
@pytest.mark.parametrize("junk", [b"\0" * 50, b"\0" * 20 + b"\n", b"\xff\n", b'"\n', b"[]\n", b"a,b\n", b"{}\n"])
def test_what_a_power_cut_leaves_ends_the_rows(is_json, junk):
    made = lines(is_json)
    whole = written(made, PATHS[:2])
    found = made.found(io.BytesIO(whole + junk + made.line(record(made, "late.png")).encode()))
    assert len(found.order) == 2
    assert found.end == len(whole)


def test_of_another_table_nothing_is_found():
    other = Lines(PredictionTable(["x", "z"], {"name": "m"}), json=False)
    found = other.found(io.BytesIO(written(lines())))
    assert (found.order, found.end) == ([], 0)


def test_errors_and_rows_that_come_again():
    made = lines()
    rows = [
        record(made, "a.png", "error", "bad"),
        record(made, "b.png"),
        record(made, "c.png", "abstained", "unsure"),
        record(made, "a.png"),
        record(made, "b.png", "error", "gone"),
    ]
    texts = [made.line(row).encode() for row in rows]
    found = made.found(io.BytesIO(made.head.encode() + b"".join(texts)))
    starts = np.cumsum([len(made.head), *map(len, texts)])
    assert found.order == ["a.png", "b.png", "c.png", "a.png", "b.png"]
    assert found.places == {
        "a.png": Place(starts[3], starts[4], True),
        "c.png": Place(starts[2], starts[3], False),
    }


def test_json_lines_are_one_line_each_for_every_reader():
    made = lines(json=True)
    text = written(made).decode()
    assert len(text.splitlines()) == len(text.split("\n")) - 1 == len(PATHS)
    assert [path_of(json.loads(line)["path"]) for line in text.splitlines()] == PATHS


def test_a_reason_is_no_formula():
    made = lines()
    row = made.line(record(made, "a.png", "error", "=cmd|'/c calc'!A1"))
    (cells,) = csv.reader([row])
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert "'=cmd" in row


def test_names_of_the_files():
    assert (lines().file_name, lines(json=True).file_name) == ("predictions.csv", "predictions.jsonl")
    assert lines(json=True).head == ""
