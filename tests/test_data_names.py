"""Names as text: whatever bytes a name has, it is valid UTF-8 in an output, no formula, and comes back unchanged."""

import csv
import io
import os
import random
import string

import pytest

from fxcli.data.names import (
    FORMULA,
    are_class_names,
    escaped,
    is_class_name,
    path_cell,
    path_of,
    text_cell,
    text_of,
    unescaped,
    without_middle,
)
from fxcli.evaluation.table import csv_line

# Pieces that names could be confused by, each with what surrounds it.
PIECES = [
    *(
        b"\xff",
        b"\xe9",
        b"\xc3",
        b"\xc3\xa9",
        "e\u0301".encode(),
        b"\\",
        b"\\udcff",
        b"\\udc5c",
        b"udcff",
        b"\\u",
        b"d8",
    ),
    *(b"=", b"+", b"-", b"@", b"\t", b"\r", b"\n", b"'", b'"', b",", b"./", b"a", b" ", "\uff1d".encode()),
]


def names(count=3000):
    rng = random.Random(0)
    for _ in range(count):
        yield b"".join(rng.choices(PIECES, k=rng.randint(1, 6))).decode("utf-8", "surrogateescape")


def test_every_name_comes_back():
    for name in names():
        text = escaped(name)
        text.encode("utf-8")
        assert unescaped(text) == name
        assert path_of(path_cell(name)) == name.removeprefix("./" if name[2:].startswith(FORMULA) else "")


def test_different_names_are_different_text():
    every = set(names())
    assert len({escaped(name) for name in every}) == len(every)


def test_every_name_comes_back_out_of_a_csv():
    every = list(names(500))
    text = "".join(csv_line([path_cell(name), "x"]) + "\n" for name in every)
    cells = [row[0] for row in csv.reader(io.StringIO(text, newline=""))]
    assert [unescaped(cell) for cell in cells] == [f"./{name}" if name.startswith(FORMULA) else name for name in every]
    assert not any(cell.startswith(FORMULA) for cell in cells)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"caf\xe9.png", r"caf\udce9.png"),
        (rb"a\udce9.png", r"a\udc5cudce9.png"),
        (rb"folder\file.png", r"folder\file.png"),
        ("cafe\u0301.png".encode(), "cafe\u0301.png"),
        ("caf\u00e9.png".encode(), "caf\u00e9.png"),
    ],
)
def test_what_is_written(raw, text):
    assert escaped(raw.decode("utf-8", "surrogateescape")) == text


@pytest.mark.skipif(os.name == "nt", reason="names are UTF-16 there")
def test_the_way_back_to_bytes():
    assert os.fsencode(path_of(r"caf\udce9.png")) == b"caf\xe9.png"


def test_the_surrogates_of_windows():
    assert escaped("a\ud83d.png") == r"a\ud83d.png"
    assert unescaped(r"a\ud83d.png") == "a\ud83d.png"


@pytest.mark.parametrize("text", ["=1+1", "-a", "+", "@x", "\tx", "\r", "\n=1", "＝1", "-1-1", "-inf", "-1_0", "- 1"])
def test_text_that_would_be_a_formula(text):
    assert text_cell(text) == f"'{text}"
    assert text_of(f"'{text}") == text


@pytest.mark.parametrize("text", ["", "a", "'a", "'", "-1", "-0.5", "+3e-7", "-.5", "1=1", "a-b", "é"])
def test_text_that_stays(text):
    assert text_cell(text) == text
    assert text_of(text) == text


@pytest.mark.parametrize("text", ["'=1", "''=1", "'-1"])
def test_text_that_looks_as_if_it_had_been_changed(text):
    assert text_cell(text) == f"'{text}"
    assert text_of(text_cell(text)) == text


@pytest.mark.parametrize("name", ["a", "Fracture_dislocation", "1.2-b", "_a", "a-"])
def test_class_names(name):
    assert is_class_name(name)


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "..", "_", "a b", "ä", "a\n", "=a", "<b>", "a/b", "a|b", "a\0", None, 3, "１"]
)
def test_what_names_no_class(name):
    assert not is_class_name(name)


def test_each_character_of_a_class_name():
    allowed = {chr(i) for i in range(0x3000) if is_class_name(f"a{chr(i)}")}
    assert allowed == {*string.ascii_letters, *string.digits, "_", ".", "-"}


@pytest.mark.parametrize("names", [[], "ab", ("a", "b"), ["a", "a"], ["a", 1], {"a": 1}, None])
def test_what_are_no_classes(names):
    assert not are_class_names(names)
    assert are_class_names(["a", "b"])


@pytest.mark.parametrize(
    ("most", "shown"), [(9, "abcdefghi"), (8, "abc…fghi"), (7, "abc…ghi"), (4, "a…hi"), (3, "a…i"), (1, "…")]
)
def test_of_a_long_text_the_middle_is_left_out(most, shown):
    assert without_middle("abcdefghi", most) == shown
    assert without_middle("", most) == ""
