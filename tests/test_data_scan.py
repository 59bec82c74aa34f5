"""Finding pictures: nothing is passed over that is one, and nothing is guessed."""

import os
import shlex
from pathlib import Path

import pytest

from fxcli.data.scan import SourcePicture, class_tree, labels, pictures, source, table
from fxcli.errors import DataError, NothingFound
from fxcli.recipe.preparation import Columns


def touch(*names):
    """Empty files below the current folder: nothing here opens a picture."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names(found):
    return [path.as_posix() for path in found]


def write(text, name="list.csv", encoding="utf-8"):
    Path(name).write_text(text, encoding=encoding, newline="")
    return Path(name)


# --- pictures ---


def test_pictures_below_folders_sorted():
    touch("in/b/2.JPG", "in/b/1.png", "in/a/deep/er/x.tiff", "in/z.webp", "in/a.bmp", "in/c/y.jpeg")
    expected = ["in/a/deep/er/x.tiff", "in/a.bmp", "in/b/1.png", "in/b/2.JPG", "in/c/y.jpeg", "in/z.webp"]
    assert names(pictures([Path("in")])) == expected


def test_what_is_no_picture_is_passed_over():
    touch("in/1.png", "in/notes.txt", "in/.hidden.png", "in/.cache/2.png", "in/__MACOSX/._1.png", "in/Thumbs.db")
    assert names(pictures([Path("in")])) == ["in/1.png"]


def test_a_named_file_is_taken_as_it_is():
    touch("x.dat", "in/1.png")
    assert names(pictures([Path("x.dat"), Path("in"), Path("x.dat")])) == ["x.dat", "in/1.png", "x.dat"]


def test_a_folder_that_is_called_like_a_picture():
    touch("in/folder.png/1.png")
    assert names(pictures([Path("in")])) == ["in/folder.png/1.png"]


def test_nothing_found():
    touch("in/notes.txt")
    with pytest.raises(NothingFound, match=r"in: no picture found here, but 1 \.txt") as caught:
        pictures([Path("in")])
    assert caught.value.exit_code == 4
    assert ".webp" in caught.value.hint
    with pytest.raises(DataError, match="gone: no such file or folder"):
        pictures([Path("gone")])


def test_nothing_at_all():
    Path("in").mkdir()
    with pytest.raises(NothingFound, match="in: no picture found here: there is nothing in it"):
        pictures([Path("in")])
    assert pictures([Path("in")], keep_absent=True) == [Path("in")]


def test_what_is_passed_over_is_told(capsys):
    touch("a/1.png", "a/notes.txt", "a/.DS_Store", "b/2.png", "b/more.txt")
    pictures([Path("a"), Path("b")])
    assert capsys.readouterr().err == "passed over: 2 .txt, 1 hidden or of the system\n"
    pictures([Path("a/1.png")])
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize("target", ["gone.png", "1.png"])
def test_a_named_link_that_leads_nowhere_is_a_row_of_its_own(target):
    touch("2.png")
    Path("1.png").symlink_to(target)
    assert pictures([Path("1.png"), Path("2.png")]) == [Path("1.png"), Path("2.png")]


def test_a_class_folder_that_cannot_be_listed_is_an_error(monkeypatch):
    touch("in/one/1.png", "in/locked/2.png")
    real = os.scandir

    def refuse(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(pictures([Path("in")])) == ["in/locked", "in/one/1.png"]
    with pytest.raises(DataError, match="locked: this folder cannot be listed: Permission denied"):
        class_tree(Path("in"))


# --- class folders ---


@pytest.mark.parametrize("train", ["Train", "train", "TRAINING"])
def test_class_tree_with_splits_below_or_above(train):
    touch(f"a/one/{train}/1.png", "a/one/Test/2.png", "a/two/valid/3.png", f"b/{train}/one/1.png", "b/val/two/3.png")
    found = {picture.name: (picture.folder, picture.split) for picture in class_tree(Path("a"))}
    assert found == {
        f"one/{train}/1.png": ("one", "train"),
        "one/Test/2.png": ("one", "test"),
        "two/valid/3.png": ("two", "val"),
    }
    found = {picture.name: (picture.folder, picture.split) for picture in class_tree(Path("b"))}
    assert found == {f"{train}/one/1.png": ("one", "train"), "val/two/3.png": ("two", "val")}


def test_class_tree_without_splits():
    touch("a/one/1.png", "a/one/patient7/left/2.png", "a/two/3.png")
    found = class_tree(Path("a"))
    assert [(picture.folder, picture.split, picture.patient) for picture in found] == [
        ("one", None, None),
        ("one", None, None),
        ("two", None, None),
    ]
    assert found[1] == SourcePicture(Path("a/one/patient7/left/2.png"), "one/patient7/left/2.png", "one")


def test_class_tree_with_loose_pictures():
    touch("a/one/1.png", "a/2.png", "a/train/3.png")
    with pytest.raises(
        DataError, match=r"2 pictures lie in no class folder, the first: 2\.png(.|\n)*data\.labels=none"
    ):
        class_tree(Path("a"))


def test_class_tree_with_two_splits_for_a_picture():
    touch("a/train/one/test/1.png")
    with pytest.raises(DataError, match=r"folders of two splits: train/one/test/1\.png"):
        class_tree(Path("a"))
    touch("b/train/one/training/1.png")
    assert class_tree(Path("b"))[0].split == "train"


# --- CSV ---


def test_table():
    file = write("path,label\npictures/1.png, Hairline \n./pictures//x/../2.png,Spiral\n")
    assert table(file, Columns()) == [
        SourcePicture(Path("pictures/1.png"), "pictures/1.png", "Hairline"),
        SourcePicture(Path("pictures/2.png"), "pictures/2.png", "Spiral"),
    ]


def test_table_paths_are_relative_to_it(tmp_path):
    Path("lists").mkdir()
    absolute = tmp_path / "there" / "3.png"
    file = write(f"path,label\n1.png,a\n../2.png,a\n{absolute},a\n", "lists/a.csv")
    found = table(file, Columns())
    assert [picture.path for picture in found] == [Path("lists/1.png"), Path("lists/../2.png"), absolute]
    assert [picture.name for picture in found] == ["1.png", "../2.png", absolute.as_posix()]


def test_table_takes_customary_columns():
    file = write(
        "split,patient,label,path,age\nTraining,p1,a,1.png,3\nTEST,,b,2.png,4\nvalid,p2,a,3.png,5\n,p3,a,4.png,\n"
    )
    found = [(picture.split, picture.patient) for picture in table(file, Columns())]
    assert found == [("train", "p1"), ("test", None), ("val", "p2"), (None, "p3")]


def test_table_with_named_columns():
    file = write("file,type,subject,part,label,study\n1.png,a,p1,test,x,s1\n")
    columns = Columns(path="file", label="type", patient="subject", split="part", group="study")
    assert table(file, columns) == [SourcePicture(Path("1.png"), "1.png", "a", "test", "p1", "s1")]


def test_table_keeps_other_columns_and_may_lie_beside_its_pictures():
    Path("lists").mkdir()
    file = write("file_name,fractured,hand,label,sha256\nIMG1.jpg,0,1,seen,abc\n", "lists/images.csv")
    columns = Columns(path="file_name", label="fractured", folder="images")
    assert table(file, columns) == [SourcePicture(Path("lists/images/IMG1.jpg"), "IMG1.jpg", "0", extra={"hand": "1"})]


def test_table_says_which_columns_are_not_used(capsys):
    columns = "path,label,Patient,patient_id,Subject ID,Split,patient_age,body_part,study,sha256,source"
    table(write(f"{columns}\n{','.join('1' * 11)}\n"), Columns())
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "list.csv: left out, for the manifest has its own columns of these names: sha256, source"
    told = [("Patient", "patient"), ("patient_id", "patient"), ("Subject ID", "patient"), ("Split", "split")]
    sets = [shlex.split(line.rpartition("; if so: ")[2]) for line in said[1:]]
    assert sets == [["--set", f"data.columns.{role}={name}"] for name, role in told]
    assert all(line.startswith("warning: list.csv: the column '") for line in said[1:])
    table(write("path,class,label,who,patient_id\n1.png,a,b,c,d\n"), Columns(label="class", patient="who"))
    assert capsys.readouterr().err == (
        "list.csv: left out, for the manifest has its own columns of these names: label\n"
    )


def test_table_from_a_spreadsheet():
    file = write('path,label\r\n"a, b.png","c ""d"""\r\n"two\r\nlines.png",e\r\n', encoding="utf-8-sig")
    assert [(p.name, p.folder) for p in table(file, Columns())] == [("a, b.png", 'c "d"'), ("two\r\nlines.png", "e")]
    spaced = table(write("path, label, split, hospital, source\n1.png, a, Test,b,c\n"), Columns())[0]
    assert (spaced.split, spaced.extra) == ("test", {"hospital": "b"}), "blanks after commas"


@pytest.mark.parametrize("pad", [",", ",, ,"])
def test_columns_that_excel_pads_are_none(pad):
    """Where something once stood there; a column without a name that holds something is kept."""
    assert [
        (p.name, p.extra) for p in table(write(f"path,label{pad}\n1.png,a{pad.replace(' ', '')}\n"), Columns())
    ] == [("1.png", {})]
    assert table(write("path,label,\n1.png,a,7\n"), Columns())[0].extra == {"": "7"}
    with pytest.raises(DataError, match="two columns are called ''"):
        table(write("path,label,,,\n1.png,a,,6,7\n"), Columns())


def test_rows_that_excel_pads_are_none():
    assert [p.name for p in table(write("path,label\r\n1.png,a\r\n,\r\n2.png,b\r\n,\r\n"), Columns())] == [
        "1.png",
        "2.png",
    ]
    with pytest.raises(DataError, match="this file lists no picture"):
        table(write("path,label\r\n,\r\n"), Columns())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\n1.png,a\n", r"no column 'label' \(label\)(.|\n)*set data\.columns\.label=…; .*data\.labels=none"),
        ("path;label\n1.png;a\n", "list.csv: ';' stands between its cells, where a comma must"),
        ("path\tlabel\n1.png\ta\n", r"'\\t' stands between its cells"),
        ("", r"no column 'path' \(path\)"),
        ("path,label\n", "list.csv: this file lists no picture"),
        ("path,label\n1.png,a\n\n,a\n", "list.csv:4: no path in this row"),
        ('path,label\n"1\n.png",a\n2.png, \n', r"list.csv:4: no label in this row(.|\n)*data\.labels=none"),
        ("path,label,split\n1.png,a,tets\n", "list.csv:2: split 'tets' is none of train, training, val"),
        ("path,label\n1.png,a\n1.png,b,c\n", "list.csv:3: this row has 3 cells, the header 2"),
        ("path,label\n1.png\n", "list.csv:2: this row has 1 cells, the header 2"),
        ("path,label,path\n1.png,a,2.png\n", "two columns are called 'path'"),
        ("path,label, path\n1.png,a,2.png\n", "two columns are called 'path'"),
        ("path,label\n1.png,a\n2.png,a\n./1.png,b\n", r"listed 2 times: 1\.png"),
        ('path,label\n"1.png,a\n', "this CSV cannot be read: unexpected end of data"),
    ],
)
def test_table_errors(text, message):
    with pytest.raises(DataError, match=message):
        table(write(text), Columns())


def test_table_suggests_columns():
    with pytest.raises(DataError) as caught:
        table(write("path,label,patient_id\n1.png,a,p\n"), Columns(patient="patientid"))
    assert "its columns are path, label, patient_id; set data.columns.patient=patient_id" in str(caught.value)


def test_table_in_another_encoding():
    with pytest.raises(DataError, match=r"cannot be read: 'utf-8' codec can't decode[^\n]*\n  → save it as UTF-8"):
        table(write("path,label\nü.png,a\n", encoding="latin-1"), Columns())


# --- source ---


def test_source_is_a_folder_or_a_csv():
    touch("a/one/1.png")
    assert source(Path("a"), Columns())[0].folder == "one"
    assert source(write("path,label\n1.png,two\n"), Columns())[0].folder == "two"
    with pytest.raises(DataError, match="gone: no such folder, CSV or Parquet"):
        source(Path("gone"), Columns())
    with pytest.raises(DataError, match=r"data\.columns are for a CSV"):
        source(Path("a"), Columns(patient="id"))


# --- classes ---


def found_in(*folders):
    return [SourcePicture(Path("x"), "x", folder) for folder in folders]


def test_every_folder_is_a_class_by_default():
    found = found_in("Hairline Fracture", "b-1.0", "b-1.0", "größe_")
    assert labels(found, {}, Path("a")) == {
        "Hairline Fracture": "Hairline_Fracture",
        "b-1.0": "b-1.0",
        "größe_": "gr__e",
    }


def test_classes_that_differ_in_case_alone_are_told_of(capsys):
    found = found_in("Oblique", "oblique", "Spiral")
    assert len(set(labels(found, {}, Path("a")).values())) == 3
    assert capsys.readouterr().err == (
        "warning: a: Oblique and oblique are two classes; data.classes makes one of them\n"
    )
    labels(found, {"Oblique": "oblique", "oblique": "oblique", "Spiral": "spiral"}, Path("a"))
    assert capsys.readouterr().err == ""


def test_mapped_classes():
    classes = {"Spiral": "curved", "Oblique": "curved", "Hairline": "thin"}
    assert labels(found_in("Hairline", "Oblique", "Spiral"), classes, Path("a")) == classes


@pytest.mark.parametrize(
    ("folders", "classes", "message"),
    [
        (["a", "c"], {"a": "x", "b": "x"}, "not in data.classes: c\n  without a picture: b"),
        (["a", "A"], {"a": "x"}, "not in data.classes: A"),
        (["a"], {"a": "x", "b": "y"}, "without a picture: b"),
        (["a b", "a_b"], {}, "'a b' and 'a_b' would become one class, a_b"),
        (["..", "a"], {}, "'..' gives no usable class name"),
        (["橈骨", "a"], {}, "'橈骨' gives no usable class name"),
        # Nothing is left of either: they do not become one class.
        (["橈骨", "正常"], {}, "'橈骨' gives no usable class name"),
        (["橈骨", "正常"], {}, '--set "data.classes={FOLDER: class, …}" names all of them'),
        (["a"], {"a": ".."}, "'a' gives no usable class name"),
        (["a"], {"a": "-x"}, "'a' gives no usable class name"),
        (["a"], {"a": "<x>"}, "'a' gives no usable class name"),
        (["-a", "a"], {}, "'-a' and 'a' would become one class, a"),
    ],
)
def test_classes_that_do_not_fit(folders, classes, message):
    with pytest.raises(DataError) as caught:
        labels(found_in(*folders), classes, Path("here"))
    assert message in str(caught.value)
    assert str(caught.value).startswith("here: ")


@pytest.mark.real
def test_real_class_tree(real_data):
    found = class_tree(real_data / "bone_break")
    assert len(found) == 1129
    assert len({picture.folder for picture in found}) == 10
    assert [sum(picture.split == name for picture in found) for name in ("train", "test", "val", None)] == [
        989,
        140,
        0,
        0,
    ]


def test_absent_paths_are_kept_when_asked(tmp_path):
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "gone.png", tmp_path / "empty", tmp_path / ("x" * 300)]
    assert pictures(paths, keep_absent=True) == paths
