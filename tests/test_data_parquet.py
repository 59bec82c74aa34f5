import csv
import io
import json
import sys
from datetime import date
from pathlib import Path

import pytest

from fxcli.data import parquet, scan
from fxcli.data.parquet import Kind
from fxcli.errors import DataError, MissingDependency
from fxcli.evaluation.table import csv_line, kind_of
from fxcli.recipe.preparation import Columns

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ODD = [
    'a "quoted", one',
    "two\nlines",
    "a\rreturn",
    "ä, decomposed ä",
    "\\udcff",
    "'=cmd",
    " spaces ",
    "NULL",
    "nan",
    "1e5",
]


def written(columns, rows, **options):
    lines = "".join(f"{csv_line(row)}\n" for row in [list(columns), *rows])
    parquet.write(io.BytesIO(lines.encode()), Path("table.parquet"), columns, **options)
    return pq.read_table("table.parquet")


def test_text_is_kept_to_the_letter():
    table = written({"path": Kind.TEXT, "reason": Kind.TEXT}, [[text, ""] for text in ODD])
    assert table.column("path").to_pylist() == ODD
    assert table.column("reason").null_count == len(ODD)


def test_each_kind_has_its_type_and_an_empty_cell_is_null():
    box = {"class": "x", "score": 0.5, "left": 1.25, "top": 0.0, "right": 3.0, "bottom": 4.5}
    cells = {
        Kind.TEXT: ("text", "text", pa.string()),
        Kind.NUMBER: ("0.100001", 0.100001, pa.float64()),
        Kind.SINGLE: ("-1.2345679", -1.2345678806304932, pa.float32()),
        Kind.COUNT: ("640", 640, pa.int64()),
        Kind.TRUTH: ("true", True, pa.bool_()),
        Kind.TEXTS: ("a|b", ["a", "b"], pa.list_(pa.string())),
        Kind.BOXES: (json.dumps([box]), [box], None),
    }
    assert set(cells) == set(Kind)
    table = written({kind.value: kind for kind in cells}, [[text for text, _, _ in cells.values()], [""] * len(cells)])
    assert table.to_pylist() == [
        {kind.value: value for kind, (_, value, _) in cells.items()},
        dict.fromkeys(cells),
    ]
    for kind, (_, _, wanted) in cells.items():
        assert wanted is None or table.schema.field(kind.value).type == wanted


def test_a_table_without_rows_is_one_with_its_columns():
    table = written({"path": Kind.TEXT, "p_x": Kind.NUMBER}, [])
    assert table.num_rows == 0
    assert table.schema.names == ["path", "p_x"]


def test_rows_beyond_one_block_are_all_there(monkeypatch):
    monkeypatch.setattr(parquet, "_BLOCK_BYTES", 4096)
    rows = [[f"{number}\n{'x' * (number % 50)}", str(number)] for number in range(3000)]
    table = written({"path": Kind.TEXT, "n": Kind.COUNT}, rows)
    assert table.column("path").to_pylist() == [path for path, _ in rows]
    assert table.column("n").to_pylist() == list(range(3000))


def test_what_is_told_about_rows_is_found_again():
    written({"path": Kind.TEXT}, [["a"], ["b"]], about={"begun": "1.5"})
    assert parquet.about_of(Path("table.parquet")).items() >= {"begun": "1.5", "rows": "2"}.items()
    whole = Path("table.parquet").read_bytes()
    Path("torn.parquet").write_bytes(whole[: len(whole) // 2])
    assert parquet.about_of(Path("torn.parquet")) == {}
    assert parquet.about_of(Path("gone.parquet")) == {}


def test_columns_of_predictions_have_kinds():
    assert [kind_of(name) for name in ("path", "class", "p_linear", "logit_linear", "set", "notice")] == [
        *(Kind.TEXT, Kind.TEXT, Kind.NUMBER, Kind.SINGLE, Kind.TEXTS, Kind.TEXT)
    ]


def test_beside_a_csv_and_away_again():
    Path("a.csv").write_text("path,p_x\nb,0.5\n", encoding="utf-8")
    parquet.beside(Path("a.csv"), kind_of)
    assert pq.read_table("a.parquet").to_pylist() == [{"path": "b", "p_x": 0.5}]
    parquet.forget(Path("a.csv"))
    parquet.forget(Path("a.csv"))
    assert not Path("a.parquet").exists()


def test_what_cannot_be_written_is_told():
    Path("a.csv").write_text("path,p_x\nb,half\n", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be written as Parquet"):
        parquet.beside(Path("a.csv"), kind_of)
    assert not list(Path().glob("a.parquet*"))


def test_a_list_of_others_is_read_as_text():
    table = pa.table(
        {
            "path": pa.array(["a.png", "b.png", "a.png"]).dictionary_encode(),
            "label": pa.array(["x", None, "y"], pa.large_string()),
            "age": pa.array([41, None, 7], pa.int16()),
            "dose": [0.1, 2.0, None],
            "portable": [True, False, None],
            "on": [date(2020, 1, 2), None, None],
        }
    )
    pq.write_table(table, "list.parquet")
    header, rows = parquet.read_table(Path("list.parquet"))
    assert header == ["path", "label", "age", "dose", "portable", "on"]
    assert [place for place, _ in rows] == [f"list.parquet:{number}" for number in (1, 2, 3)]
    cells = [list(row.values()) for _, row in rows]
    assert cells[0] == ["a.png", "x", "41", "0.1", "true", "2020-01-02"]
    assert cells[1][1:] == ["", "", cells[1][3], "false", ""]
    assert float(cells[1][3]) == 2.0


def test_names_of_a_lists_columns_lose_their_blanks_as_those_of_a_csv():
    """pandas keeps them where it makes a Parquet of a CSV."""
    pq.write_table(pa.table({"path": ["1.png"], " label": ["a"], " hospital": ["b"]}), "list.parquet")
    (found,) = scan.table(Path("list.parquet"), Columns())
    assert (found.folder, found.extra) == ("a", {"hospital": "b"})
    pq.write_table(pa.table({"path": ["1.png"], "label": ["a"], " label": ["b"]}), "list.parquet")
    with pytest.raises(DataError, match="two columns are called 'label'"):
        scan.table(Path("list.parquet"), Columns())


def test_paths_are_those_of_rows():
    pq.write_table(pa.table({"path": ["./=x.png", "b\\udcff.png"], "other": [1, 2]}), "list.parquet")
    assert [str(path) for path in parquet.read_paths(Path("list.parquet"))] == ["=x.png", "b\udcff.png"]


def test_the_files_of_a_folder_are_one_list():
    Path("many.parquet").mkdir()
    for name in ("part-2", "part-1"):
        pq.write_table(pa.table({"path": [f"{name}.png"]}), f"many.parquet/{name}.parquet")
    Path("many.parquet/_SUCCESS").touch()
    Path("many.parquet/part-2.parquet").rename("many.parquet/part-2.PARQUET")
    assert [path.name for path in parquet.read_paths(Path("many.parquet"))] == ["part-1.png", "part-2.png"]
    Path("none.parquet").mkdir()
    with pytest.raises(DataError, match="a list in parts"):
        list(parquet.read_paths(Path("none.parquet")))


def refused(made, told, read=lambda path: list(parquet.read_paths(path))):
    if made is not None:
        pq.write_table(made, "list.parquet")
    with pytest.raises(DataError) as caught:
        read(Path("list.parquet"))
    assert told in str(caught.value)


def test_what_is_no_list_is_told():
    refused(pa.table({"file": ["a"]}), "list.parquet: no column 'path'\n  → columns: file")
    refused(pa.table({"path": ["a", None]}), "list.parquet:2: no path in this row")
    refused(pa.table({"path": pa.array([], pa.string())}), "list.parquet: it lists no picture")
    refused(pa.table({"path": [["a"]]}), "list.parquet: column 'path' is list")
    refused(pa.table({"path": [b"\xff"]}), "list.parquet: column 'path' is binary")
    doubled = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["path", "path"])
    refused(doubled, "two columns are called 'path'", parquet.read_table)


@pytest.mark.parametrize("content", [b"", b"path\na\n", b"PAR1", b"PAR1" + bytes(100) + b"PAR1"])
def test_what_is_no_parquet_is_told(content):
    Path("list.parquet").write_bytes(content)
    for read in (parquet.read_table, lambda path: list(parquet.read_paths(path))):
        refused(None, "list.parquet: this Parquet file cannot be read: ", read)


def test_a_file_that_is_torn_anywhere_is_told():
    pq.write_table(pa.table({"path": [f"{number}.png" for number in range(500)]}), "whole.parquet")
    whole = Path("whole.parquet").read_bytes()
    for end in range(0, len(whole), 97):
        Path("list.parquet").write_bytes(whole[:end])
        refused(None, "cannot be read", parquet.read_table)


def test_a_list_without_end_is_not_read(monkeypatch):
    pq.write_table(pa.table({"path": ["a.png"] * 1000}), "list.parquet")
    monkeypatch.setattr(parquet, "_PATHS_LIMIT_ROWS", 999)
    refused(None, "more than 999 rows")
    monkeypatch.setattr(parquet, "_LIST_LIMIT_BYTES", 10)
    refused(None, "this is no list of pictures", parquet.read_table)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary()])
def test_one_long_text_in_many_rows_is_never_unpacked(kind):
    # Stored once, and a terabyte as text of its own in each row.
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000_000, pa.int32()), pa.array(["x" * 100_000], kind))
    pq.write_table(pa.table({"path": column}), "list.parquet", store_schema=False)
    assert Path("list.parquet").stat().st_size < 1 << 20
    refused(None, "this is no list of pictures", parquet.read_table)
    refused(None, "longer than paths can be")


def test_without_pyarrow_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for ask in (parquet.require, lambda: parquet.read_table(Path("a.parquet"))):
        with pytest.raises(MissingDependency) as caught:
            ask()
        assert caught.value.exit_code == 7
        assert "python -m pip install 'fxcli[parquet]'" in str(caught.value)


def test_cells_are_those_of_the_csv():
    """An independent reader of the CSV finds the same."""
    rows = [[text, f"{index / 7:.6f}"] for index, text in enumerate(ODD)]
    table = written({"path": Kind.TEXT, "p_x": Kind.NUMBER}, rows)
    text = "".join(f"{csv_line(row)}\n" for row in rows)
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert [[row["path"], f"{row['p_x']:.6f}"] for row in table.to_pylist()] == read
