"""manifest.csv and fingerprint.json: what is written is read again to the letter, and nothing else is accepted."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from fxcli.data.manifest import (
    COLUMNS,
    SPLITS,
    Manifest,
    Row,
    counted,
    counts,
    read_manifest,
    write_manifest,
)
from fxcli.data.preprocess import Clean
from fxcli.data.table import read_table
from fxcli.errors import DataError

ROWS = [
    Row(
        path="pictures/train/a/1.png",
        label="a",
        split="train",
        group="g0",
        patient="p 1",
        source="a/1.jpg",
        width_px=640,
        height_px=480,
        sha256="ab" * 32,
        extra={"age": "71", "note": ""},
    ),
    Row(path="pictures/val/b/2.png", label="b", split="val"),
    Row(path="pictures/test/b/3.png", label="b", split="test", leaked="yes", extra={"scanner": "x"}),
]


def touch(root=Path()):
    for row in ROWS:
        (root / row.path).parent.mkdir(parents=True, exist_ok=True)
        (root / row.path).touch()


def written(rows=ROWS, file=Path("manifest.csv")):
    touch()
    write_manifest(file, rows)
    return file


def of_text(text, encoding="utf-8"):
    touch()
    file = Path("manifest.csv")
    file.write_text(text, encoding=encoding, newline="")
    return file


# --- round trip ---


def test_several_columns_together():
    row = Row(path="a.png", label="b", split="test", extra={"leg": "1", "a+b": "own"})
    assert row.column("leg+label") == "1 + b"
    assert row.column("a+b") == "own"
    with pytest.raises(DataError, match="no column 'arm'"):
        row.column("leg+arm")


def test_round_trip_with_unknown_columns():
    found = read_manifest(written())
    full = {"age": "", "note": "", "scanner": ""}
    assert found.rows == tuple(replace(row, extra={**full, **row.extra}) for row in ROWS)
    assert Path("manifest.csv").read_text().splitlines()[0] == ",".join([*COLUMNS, "age", "note", "scanner"])
    write_manifest(Path("again.csv"), found.rows)
    assert Path("again.csv").read_bytes() == Path("manifest.csv").read_bytes()


@pytest.mark.parametrize(
    "cell",
    [
        'a "quoted", cell',
        "two\nlines",
        "two\r\nlines",
        "a\rb",
        "\r",
        " spaces ",
        "größe 橈骨 🦴",
        "'",
        "=1+1",
        "a\tb",
        '"',
    ],
)
def test_round_trip_of_odd_cells(cell):
    row = replace(ROWS[0], patient=cell, source=cell, extra={"note": cell, f"odd {cell}": "x"})
    assert read_manifest(written([row])).rows == (row,)


@pytest.mark.parametrize("cell", ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "'=a", "-1.5"])
def test_no_cell_is_a_formula(cell):
    row = replace(ROWS[0], patient=cell, source=f"./{cell}", extra={"note": cell, cell: "x"})
    with written([row]).open(newline="", encoding="utf-8") as handle:
        cells = [text for line in csv.reader(handle) for text in line]
    assert not [text for text in cells if text.startswith(("=", "+", "-", "@", "\t", "\r")) and text != "-1.5"]
    found = read_manifest(Path("manifest.csv")).rows[0]
    assert found == row
    assert read_manifest(written([found])).rows[0] == row


def test_bytes_that_are_not_text_become_escapes():
    name = b"a/\xff.jpg".decode("utf-8", "surrogateescape")
    assert read_manifest(written([replace(ROWS[0], source=name)])).rows[0].source == r"a/\udcff.jpg"


def test_lines_end_the_same_everywhere():
    assert b"\r" not in written().read_bytes()


def test_byte_order_mark():
    file = of_text(written().read_text(), encoding="utf-8-sig")
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    assert [row.path for row in read_manifest(file).rows] == [row.path for row in ROWS]


def test_only_path_label_and_split_are_needed():
    file = of_text("split,path,label\ntest,pictures/val/b/2.png,b\n\n")
    assert read_manifest(file).rows == (Row(path="pictures/val/b/2.png", label="b", split="test"),)


def test_empty_sizes_are_unknown():
    file = of_text("path,label,split,width_px\npictures/val/b/2.png,b,test,\n")
    assert read_manifest(file).rows[0].width_px == 0


def test_properties():
    found = read_manifest(written())
    assert found.classes == ("a", "b")
    assert [row.path for row in found.part("test")] == ["pictures/test/b/3.png"]
    assert found.part("calibration") == []
    assert found.path_of(found.rows[0]) == Path("pictures/train/a/1.png")
    assert found.digest == hashlib.sha256(Path("manifest.csv").read_bytes()).hexdigest()
    assert found.file == Path("manifest.csv")


def test_pictures_may_lie_elsewhere(tmp_path):
    touch(tmp_path / "there")
    (tmp_path / "run").mkdir()
    write_manifest(tmp_path / "run" / "manifest.csv", ROWS)
    with pytest.raises(DataError, match="3 of 3 pictures are not there"):
        read_manifest(tmp_path / "run" / "manifest.csv")
    found = read_manifest(tmp_path / "run" / "manifest.csv", root=tmp_path / "there")
    assert found.path_of(found.rows[1]).is_file()


def test_straddling():
    rows = [replace(row, group=group) for row, group in zip(ROWS, ("g0", "g1", "g1"), strict=True)]
    written(rows)
    assert [row.path for row in read_manifest(Path("manifest.csv")).straddling] == ["pictures/test/b/3.png"]
    written([replace(row, group=group) for row, group in zip(ROWS, ("g0", "g0", "g1"), strict=True)])
    assert read_manifest(Path("manifest.csv")).straddling == []
    # Without groups nothing is known.
    written([replace(row, group="") for row in ROWS])
    assert read_manifest(Path("manifest.csv")).straddling == []


def test_parts_that_are_pooled_become_the_training_part():
    rows = tuple(Row(path=f"{split}.png", label="a", split=split) for split in SPLITS)
    manifest = Manifest(Path("manifest.csv"), Path(), rows, "0")
    assert manifest.pooled(["train"]) is manifest
    whole = manifest.pooled(SPLITS)
    assert {row.split for row in whole.rows} == {"train"}
    assert [row.path for row in whole.rows] == [row.path for row in rows]
    assert whole.digest != manifest.digest
    some = manifest.pooled(["test", "calibration"])
    assert [(row.path, row.split) for row in some.rows] == [
        ("val.png", "val"),
        ("calibration.png", "train"),
        ("test.png", "train"),
    ]


def test_leaked_is_yes_or_no_or_nothing():
    written([replace(ROWS[2], leaked="perhaps")])
    with pytest.raises(DataError, match="leaked 'perhaps' is neither yes nor no"):
        read_manifest(Path("manifest.csv"))


def test_counts():
    rows = [replace(ROWS[0], split=split) for split in ("test", "train", "val", "train")]
    table = counts([*rows, ROWS[2], replace(ROWS[1], split="calibration")])
    assert table == {"a": {"train": 2, "val": 1, "test": 1}, "b": {"calibration": 1, "test": 1}}
    assert [list(row) for row in table.values()] == [["train", "val", "test"], ["calibration", "test"]]


# --- errors ---


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../1.png",
        "pictures/../../1.png",
        "pictures\\1.png",
        "C:/1.png",
        "C:1.png",
        "//server/share/1.png",
        "",
        "a\0b.png",
    ],
)
def test_paths_that_leave_the_folder(path):
    file = of_text("path,label,split\n" + f'pictures/val/b/2.png,b,val\n"{path}",a,train\n')
    with pytest.raises(DataError, match=r"manifest\.csv:3: path .* leaves the manifest's folder"):
        read_manifest(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\npictures/val/b/2.png,b\n", "manifest.csv: no column split\n  → its columns: path, label"),
        ("", "manifest.csv: no column path, label, split"),
        ("path,label,split\n", "manifest.csv: this manifest lists no picture"),
        ("path,label,split\npictures/val/b/2.png,b,Train\n", "manifest.csv:2: split 'Train' is none of train, val"),
        ("path,label,split\npictures/val/b/2.png,b c,val\n", "manifest.csv:2: class 'b c': only letters"),
        (
            "path,label,split\npictures/val/b/2.png,b,val\nx.png,,val\n",
            "manifest.csv: 1 of 2 pictures have no label, the first: x.png",
        ),
        ("path,label,split\npictures/val/b/2.png,ü,val\n", "manifest.csv:2: class 'ü': only letters"),
        ("path,label,split\npictures/val/b/2.png,-b,val\n", "manifest.csv:2: class '-b': only letters"),
        ("path,label,split\npictures/val/b/2.png,..,val\n", "manifest.csv:2: class '..': only letters"),
        ("path,label,split\npictures/val/b/2.png,b\n", "manifest.csv:2: this row has 2 cells, the header 3"),
        ("path,label,split\npictures/val/b/2.png,b,val,x\n", "manifest.csv:2: this row has 4 cells, the header 3"),
        ("path,label,split,split\na,b,val,val\n", "manifest.csv: two columns are called 'split'"),
        (
            "path,label,split\npictures/val/b/2.png,b,val\npictures/./val/b/2.png,b,val\n",
            "1 pictures are listed twice, the first: pictures/val/b/2.png",
        ),
        (
            "path,label,split\ngone.png,b,val\npictures/val/b/2.png,b,val\npictures,b,val\n",
            "2 of 3 pictures are not there, the first: gone.png",
        ),
        ('path,label,split\n"a\nb.png",b,val\nx.png,b,bad\n', "manifest.csv:4: split 'bad'"),
        ('path,label,split\n"a.png,b,val\n', "this CSV cannot be read"),
        ("path,label,split,width_px\npictures/val/b/2.png,b,val,-3\n", "width_px '-3' is not a number of pixels"),
        ("path,label,split,height_px\npictures/val/b/2.png,b,val,1.5\n", "height_px '1.5' is not a number"),
        (
            "path,label,split,height_px\npictures/val/b/2.png,b,val," + "9" * 5000 + "\n",
            "height_px '99999999999999999999' is not a number",
        ),
    ],
)
def test_bad_manifests(text, message):
    with pytest.raises(DataError) as caught:
        read_manifest(of_text(text))
    assert message in str(caught.value)
    assert caught.value.exit_code == 4


def test_pictures_without_labels_have_no_class():
    manifest = read_manifest(of_text("path,label,split\npictures/val/b/2.png,,val\n"))
    assert manifest.classes == ()
    assert counted(manifest.rows) == (["class", "val"], [["(no label)", "1"], ["all", "1"]])
    with pytest.raises(DataError, match="these pictures have no labels") as caught:
        manifest.require_labels()
    assert f"fx train pretrain_simclr --set data.manifest={manifest.file}" in caught.value.hint


def test_absent_manifest(tmp_path):
    with pytest.raises(DataError, match=r"no such manifest\n  → fx prepare RECIPE makes one"):
        read_manifest(tmp_path / "gone.csv")
    with pytest.raises(DataError) as caught:
        read_manifest(tmp_path)
    assert caught.value.hint == f"name the file: {tmp_path / 'manifest.csv'}"


def test_not_utf8():
    file = of_text("path,label,split\nü.png,b,val\n", encoding="latin-1")
    with pytest.raises(DataError, match="this CSV cannot be read: 'utf-8' codec"):
        read_manifest(file)


def test_read_csv_names_the_line_a_row_ends_on():
    Path("a.csv").write_text('x,y\n1,"2\n3"\n\n4,5\n')
    assert read_table(Path("a.csv")) == (
        ["x", "y"],
        [("a.csv:3", {"x": "1", "y": "2\n3"}), ("a.csv:5", {"x": "4", "y": "5"})],
    )


# --- fingerprint ---


def test_fingerprint():
    found = read_manifest(written())
    assert found.fingerprint() == {}
    assert found.clean() == Clean()
    assert found.is_phantom is False
    values = {"phantom": True, "clean": {"prepared_px": 128, "window": "minmax"}}
    Path("fingerprint.json").write_text(json.dumps(values))
    assert found.fingerprint() == values
    assert found.clean() == Clean(128, "minmax")
    assert found.is_phantom is True


@pytest.mark.parametrize("text", ["{", "[]", "", "\xff", "[" * 100_000])
def test_damaged_fingerprint(text):
    found = read_manifest(written())
    Path("fingerprint.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"fingerprint\.json: damaged: "):
        found.fingerprint()


@pytest.mark.parametrize("clean", [3, {}, {"prepared_px": 8, "window": "minmax"}, {"prepared_px": 64, "size": 3}])
def test_damaged_clean(clean):
    found = read_manifest(written())
    Path("fingerprint.json").write_text(json.dumps({"clean": clean}))
    with pytest.raises(DataError, match=r"fingerprint\.json: damaged: not a cleaning of fx"):
        found.clean()
