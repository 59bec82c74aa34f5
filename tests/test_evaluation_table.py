import csv
import io
from pathlib import Path

import pytest

from fxcli.data.names import path_cell, path_of
from fxcli.evaluation.table import csv_line


def test_a_line_quotes_what_must_be_quoted():
    assert csv_line(["a,b", 1.5, "", 'say "x"']) == '"a,b",1.5,,"say ""x"""'


@pytest.mark.parametrize("start", "=+-@")
def test_no_path_is_a_formula(start):
    assert path_cell(f"{start}x.png") == f"./{start}x.png"
    assert path_cell(Path("a") / f"{start}x.png") == str(Path("a") / f"{start}x.png")


@pytest.mark.parametrize("cell", ["line\nbreak", "re\rturn", 'quo"te', "com,ma", "both\r\n", "plain"])
def test_a_line_reads_back_as_its_cells(cell):
    text = csv_line(["first", cell, "last"])
    assert next(csv.reader(io.StringIO(text, newline=""))) == ["first", cell, "last"]


@pytest.mark.parametrize("path", ["=cmd.png", "-a.png", "+1.png", "@b.png", "a/b.png", "./a.png"])
def test_a_path_comes_back_out_of_its_cell(path):
    cell = path_cell(path)
    assert cell[0] not in "=+-@"
    assert path_of(cell) == path
