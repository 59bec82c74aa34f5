"""fx prepare: every source it takes, nothing lost, nothing half-written, nothing destroyed."""

import functools
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sources import draw, files, fx, made, recipe, tree

from fxcli.data import convert as converting
from fxcli.data import phantom
from fxcli.data import prepare as preparing
from fxcli.data.boxes import FILE, read_boxes
from fxcli.data.manifest import read_manifest
from fxcli.data.paths import PathStyle
from fxcli.data.prepare import prepare
from fxcli.data.preprocess import Clean
from fxcli.data.read import read
from fxcli.errors import DataError
from fxcli.run import ledger

HEADS = (" class", " all  ")
LISTS = ("audit.html", "audit.json", "fingerprint.json", "manifest.csv")


# --- sources ---


def test_class_folders():
    tree()
    found = made("source")
    assert found.folder == Path("out")
    assert found.unreadable == []
    manifest = read_manifest(found.manifest)
    assert list(manifest.rows) == found.rows
    assert manifest.classes == ("one", "two")
    assert {row.split for row in found.rows} == {"train", "val", "test"}
    assert {(row.source, row.label) for row in found.rows} == {
        (f"{name}/{i}.png", name) for name in ("one", "two") for i in range(8)
    }
    assert files("out") == sorted(
        ["audit.html", "audit.json", "manifest.csv", "fingerprint.json", *(row.path for row in found.rows)]
    )
    for row in found.rows:
        raw = Path("source") / row.source
        assert row.sha256 == hashlib.sha256(raw.read_bytes()).hexdigest()
        assert (row.width_px, row.height_px, row.patient) == (32, 24, "")
        assert row.path.startswith(f"pictures/{row.split}/{row.label}/")


def test_a_prepared_picture_is_the_cleaned_raw_one():
    tree()
    clean = Clean(32)
    for row in made("source").rows:
        raw, prepared = Path("source") / row.source, Path("out") / row.path
        with Image.open(prepared) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))
        expected, found = clean(read(raw), raw), clean(read(prepared), prepared)
        assert np.array_equal(found.pixels, expected.pixels)
        assert found.box == expected.box


@pytest.mark.parametrize("pattern", ["{label}/{part}", "{part}/{label}"])
def test_given_splits(pattern):
    for part, count in (("Train", 14), ("Test", 3)):
        for label in ("one", "two"):
            draw(*(f"source/{pattern.format(label=label, part=part)}/{i}.png" for i in range(count)))
    found = made("source")
    for row in found.rows:
        assert (row.split == "test") == ("Test" in row.source)
    fingerprint = json.loads(Path("out/fingerprint.json").read_text())
    assert fingerprint["counts"] == {name: {"train": 12, "val": 2, "test": 3} for name in ("one", "two")}


def test_a_source_without_a_test_part_is_told_of(capsys):
    tree(parts=("Train", "Val"))
    assert {row.split for row in made("source").rows} == {"train", "val"}
    assert "the source names no test part, and none was drawn" in capsys.readouterr().err
    drawn = made("source", "drawn", split__policy="grouped").rows
    assert {row.split for row in drawn} == {"train", "val", "test"}
    assert "no test part" not in capsys.readouterr().err


def test_a_calibration_part_is_counted_where_people_see_it():
    tree(count=40)
    recipe = "task: prepare\ndata: {source: source, prepared_px: 32, workers: 0}\nsplit: {calibration_frac: 0.2}\n"
    Path("r.yaml").write_text(recipe, encoding="utf-8")
    done = fx("r.yaml", "--out", "out")
    assert done.exit_code == 0, done.output
    title, last = (next(line.split() for line in done.stdout.splitlines() if line.startswith(head)) for head in HEADS)
    assert title == ["class", "train", "val", "calibration", "test"]
    assert sum(map(int, last[1:])) == 80


def test_pictures_without_labels_are_all_for_training():
    draw(*(f"source/{number}.png" for number in range(6)), *(f"source/ward/{number}.png" for number in range(2)))
    shutil.copy("source/0.png", "source/ward/copy.png")
    found = made("source", data__labels="none")
    assert {(row.label, row.split) for row in found.rows} == {("", "train")}
    assert {row.path.count("/") for row in found.rows} == {2}
    assert read_manifest(found.manifest).classes == ()
    group_of = {row.source: row.group for row in found.rows}
    assert group_of["0.png"] == group_of["ward/copy.png"] != group_of["1.png"]
    figures = found.audit.figures()
    assert (figures["label_conflicts"], figures["disagreement_rate"], figures["label_ceiling"]) == (0, None, None)
    assert not [what for what, _ in found.audit.table() if "label" in what]
    assert json.loads(Path("out/fingerprint.json").read_text())["classes"] == []


def test_without_labels_given_parts_stand_and_others_may_be_drawn():
    draw(*(f"source/{part}/{number}.png" for part in ("Train", "Test") for number in range(9)))
    count = Counter(row.split for row in made("source", data__labels="none").rows)
    assert count == {"train": 9, "test": 9}
    drawn = made("source", "drawn", data__labels="none", split__policy="grouped", split__test_frac=0.5)
    assert {row.split for row in drawn.rows} == {"train", "val", "test"}
    lines = "path,label,split\n" + "".join(f"source/Train/{number}.png,,\n" for number in range(9))
    Path("list.csv").write_text(lines, encoding="utf-8")
    assert {(row.label, row.split) for row in made("list.csv", "listed", data__labels="none").rows} == {("", "train")}


def test_csv():
    draw(*(f"pictures/{i}.png" for i in range(12)))
    Path("list.csv").write_text("path,label\n" + "".join(f"pictures/{i}.png,c{i % 2}\n" for i in range(12)))
    found = made("list.csv")
    assert {(row.source, row.label) for row in found.rows} == {(f"pictures/{i}.png", f"c{i % 2}") for i in range(12)}


def test_other_columns_of_a_csv_stand_in_the_manifest():
    draw(*(f"pictures/{i}.png" for i in range(12)))
    lines = [f"{i}.png,{i % 2},{'wrist' if i < 6 else 'hip'}\n" for i in range(12)]
    Path("list.csv").write_text("file,fractured,body_part\n" + "".join(lines))
    columns = {"path": "file", "label": "fractured", "folder": "pictures"}
    found = made("list.csv", **{f"data__columns__{key}": value for key, value in columns.items()})
    again = read_manifest(found.manifest)
    assert {(row.source, row.column("body_part")) for row in again.rows} == {
        (f"{i}.png", "wrist" if i < 6 else "hip") for i in range(12)
    }
    assert {row.label for row in again.rows} == {"0", "1"}


def test_csv_with_patients_and_splits():
    draw(*(f"{i}.png" for i in range(24)))
    lines = [f"{i}.png,c{i // 2 % 2},SECRET{i // 2},{'test' if i >= 20 else 'train'}\n" for i in range(24)]
    Path("list.csv").write_text("file,label,who,part\n" + "".join(lines))
    changes = {"path": "file", "patient": "who", "split": "part"}
    found = made("list.csv", **{f"data__columns__{key}": value for key, value in changes.items()})
    by_patient = {}
    for row in found.rows:
        number = int(Path(row.source).stem)
        assert row.patient == f"p{number // 2 + 1:05d}", "a running number, for what a CSV has may be an id"
        assert (row.split == "test") == (number >= 20)
        by_patient.setdefault(row.patient, set()).add((row.split, row.group))
    assert all(len(places) == 1 for places in by_patient.values())
    assert len({group for places in by_patient.values() for _, group in places}) == 12
    assert {row.split for row in found.rows} == {"train", "val", "test"}
    assert not any(b"SECRET" in file.read_bytes() for file in Path("out").rglob("*") if file.is_file())


def test_groups_of_a_csv_tie_pictures():
    draw(*(f"{i}.png" for i in range(32)))
    lines = [f"{i}.png,c{i % 2},{f'SECRET{i // 4}' if i < 20 else ''},{i // 8 if i < 16 else ''}\n" for i in range(32)]
    Path("list.csv").write_text("path,label,group,patient\n" + "".join(lines))
    rows = {int(Path(row.source).stem): row for row in made("list.csv").rows}
    # 0 to 15 are of two patients, each with two groups; 16 to 19 one group; the others stand alone.
    assert [len({rows[i].group for i in part}) for part in (range(8), range(8, 16), range(16, 20))] == [1, 1, 1]
    assert len({row.group for row in rows.values()}) == 3 + 12
    assert all(len({rows[i].split for i in part}) == 1 for part in (range(8), range(8, 16), range(16, 20)))
    assert not any(b"SECRET" in file.read_bytes() for file in Path("out").rglob("*") if file.is_file())


def test_stand_ins_for_patients_and_groups_are_told(capsys):
    draw(*(f"{i}.png" for i in range(20)))
    lines = (f"{i}.png,{'ab'[i % 2]},{'nan' if i < 3 else i},{'nan' if i > 15 else i}\n" for i in range(20))
    Path("list.csv").write_text("path,label,group,patient\n" + "".join(lines))
    made("list.csv")
    told = capsys.readouterr().err
    for what, count in (("patient", 4), ("group", 3)):
        assert f"what may stand for no {what} ties pictures to one group: 'nan' ({count} pictures)" in told


def test_byte_equal_files_share_a_group():
    tree()
    shutil.copy("source/one/0.png", "source/one/copy.png")
    rows = {row.source: row for row in made("source").rows}
    assert rows["one/0.png"].group == rows["one/copy.png"].group
    assert rows["one/0.png"].split == rows["one/copy.png"].split
    assert len({row.group for row in rows.values()}) == 16
    assert json.loads(Path("out/fingerprint.json").read_text())["byte_equal_copies"] == 1


def test_names_that_collide_lose_nothing():
    draw(*(f"source/{label}/{name}" for label in ("one", "two") for name in ("a.png", "a.bmp", "a.tif", "A.png")))
    draw(
        *(f"source/{label}/{part}/{name}" for label in ("one", "two") for part in "xy" for name in ("a.png", "a b.png"))
    )
    draw("source/one/ä.png", "source/one/ö.png", "source/two/" + "long" * 40 + ".png", "source/two/CON.png")
    expected = files("source")
    found = made("source", data__classes={"one": "same", "two": "same"})
    assert sorted(row.source for row in found.rows) == expected
    assert len({row.path.lower() for row in found.rows}) == len(expected) == 20
    assert len(files("out/pictures")) == 20
    for row in found.rows:
        assert np.array_equal(read(Path("out") / row.path).pixels[4:28], read(Path("source") / row.source).pixels)
        assert all(c.isascii() and (c.isalnum() or c in "_.-/") for c in row.path)
        assert len(Path(row.path).name) < 90


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such names")
def test_a_name_that_is_not_text():
    tree()
    name = os.fsdecode(b"source/one/\xff.png")
    os.rename("source/one/0.png", name)
    found = made("source")
    assert len(found.rows) == 16
    assert r"one/\udcff.png" in [row.source for row in read_manifest(found.manifest).rows]


def test_the_same_sources_give_the_same_folder():
    tree()
    made("source", "a")
    made("source", "b", data__workers=3)
    made("source", "c", seed=1)
    assert files("a") == files("b")
    for name in files("a"):
        if name != "fingerprint.json":
            assert Path("a", name).read_bytes() == Path("b", name).read_bytes()
    assert Path("a/manifest.csv").read_bytes() != Path("c/manifest.csv").read_bytes()


# --- the phantom ---


@pytest.fixture
def tiny_plan(monkeypatch):
    plan = functools.partial(phantom.plan, train_per_class=2, val_per_class=1, test_per_class=1)
    monkeypatch.setattr(phantom, "plan", plan)


def test_phantom(tiny_plan):
    done = fx("phantom", "--set", "data.prepared_px=48", "--quiet")
    assert "DEMO" not in done.stdout
    manifest = read_manifest(Path("prepared/phantom/manifest.csv"))
    assert manifest.is_phantom
    assert manifest.classes == tuple(sorted(phantom.CLASSES))
    assert [len(manifest.part(name)) for name in ("train", "val", "test")] == [14, 7, 7]
    case = phantom.plan(seed=0)[0]
    (row,) = [row for row in manifest.rows if row.source == f"{case.name}.png"]
    picture = read(manifest.path_of(row))
    assert picture.is_phantom
    assert np.array_equal(picture.pixels, phantom.draw(case, 48))
    assert (row.label, row.split, row.patient, row.width_px) == (case.label, case.split, "p00001", 48)
    assert len({row.patient for row in manifest.rows}) == len({each.group for each in phantom.plan(seed=0)})
    boxes = read_boxes(manifest)
    assert boxes.classes == ("fracture",)
    assert boxes.by_path[row.path].corners.tolist() == [list(phantom.box(case, 48))]
    assert all(len(boxes.by_path[each.path]) == 1 for each in manifest.rows)
    (manifest.root / FILE).unlink()
    with pytest.raises(DataError, match="no boxes beside this manifest") as caught:
        read_boxes(manifest)
    assert "fx prepare phantom --overwrite" in caught.value.hint


def test_phantoms_stay_phantoms_when_they_are_prepared_again(tiny_plan):
    fx("phantom", "--set", "data.prepared_px=48", "--quiet")
    sets = ("--set", "data.prepared_px=48", "--set", "audit.search=false")
    fx("prepared/phantom/pictures", *sets, "--out", "again", "--quiet")
    manifest = read_manifest(Path("again/manifest.csv"))
    assert manifest.is_phantom
    assert len(manifest.rows) == 28
    assert read(manifest.path_of(manifest.rows[0])).is_phantom


def test_the_phantom_has_its_own_classes(tiny_plan):
    with pytest.raises(DataError, match="has its own classes"):
        made("phantom", data__classes={"curved": "bent"})


def test_phantoms_are_not_searched(tiny_plan, monkeypatch):
    monkeypatch.setattr(converting, "view", lambda pixels: pytest.fail("looked at"))
    found = made("phantom", audit__search=True, data__prepared_px=48)
    assert found.audit.pairs == []
    assert len(set(found.audit.groups)) < len(found.rows)
    assert {row.leaked for row in found.rows if row.split == "test"} == {"no"}


# --- what cannot be used ---


@pytest.mark.slow
def test_unreadable_files_are_listed_and_the_exit_code_says_so():
    tree()
    Path("source/one/text.jpg").write_text("no picture")
    Path("source/two/cut.png").write_bytes(Path("source/two/0.png").read_bytes()[:-40])
    Path("source/two/small.png").write_bytes(b"")
    done = fx("source", "--out", "out", "--json", code=9)
    record = json.loads(done.stdout)
    reasons = {entry["path"]: entry["reason"] for entry in record["unreadable"]}
    assert set(reasons) == {"one/text.jpg", "two/cut.png", "two/small.png"}
    assert reasons["one/text.jpg"] == "not a picture, or of an unknown format"
    assert "warning: one/text.jpg: not a picture" in done.stderr
    assert "3 of 19 pictures could not be used" in done.stderr
    assert json.loads(Path("out/fingerprint.json").read_text())["unreadable"] == record["unreadable"]
    assert len(read_manifest(Path("out/manifest.csv")).rows) == 16


def test_csv_rows_without_a_file():
    draw(*(f"{i}.png" for i in range(12)))
    lines = [f"{i}.png,c{i % 2}\n" for i in range(13)]
    Path("list.csv").write_text("path,label\n" + "".join(lines) + "a\0b.png,c0\n.,c1\n")
    reasons = {entry["path"]: entry["reason"] for entry in made("list.csv").unreadable}
    assert reasons == {"12.png": "no such file", "a\0b.png": "no such file", ".": "this is a folder"}
    Path("list.csv").write_text("path,label,split\n13.png,c0,train\n")
    with pytest.raises(DataError, match=r"13\.png: no picture can be read; the first: no such file") as caught:
        made("list.csv", "other", split__policy="given")
    assert caught.value.hint == "paths in list.csv are looked for from . on"
    with pytest.raises(DataError) as caught:
        made("list.csv", "other", split__policy="given", data__columns={"folder": "images"})
    assert caught.value.hint == "paths in list.csv are looked for from images on"


def test_nothing_readable():
    for file in files(tree()):
        Path("source", file).write_text(f"no picture {file}")
    with pytest.raises(DataError, match="no picture can be read; the first: not a picture"):
        made("source")
    assert os.listdir() == ["source"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__classes": {"one": "x"}}, "not in data.classes: two"),
        ({"data__classes": {"one": "x", "two": "x", "three": "y"}}, "without a picture: three"),
        ({"data__columns__patient": "p"}, "data.columns are for a CSV"),
        ({"split__policy": "given"}, "16 of 16 pictures have no split"),
        ({"data__source": None}, "the recipe names no source"),
        ({"data__source": "gone"}, "no such folder, CSV or Parquet"),
    ],
)
def test_recipes_that_do_not_fit_leave_nothing(changes, message):
    tree()
    with pytest.raises(DataError, match=message):
        made("source", **changes)
    assert os.listdir() == ["source"]


@pytest.mark.parametrize(("splits", "told"), [(["train"] * 15 + [""], "1 of 16 "), (["test"] * 16, "is for training")])
def test_splits_that_do_not_fit_are_told_of_before_any_picture_is_read(splits, told, monkeypatch):
    names = [f"source/{name}" for name in files(tree())]
    lines = [f"{name},{split},{name.split('/')[1]}\n" for name, split in zip(names, splits, strict=True)]
    Path("list.csv").write_text("path,split,label\n" + "".join(lines))
    monkeypatch.setattr(preparing, "convert", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(DataError, match=told):
        made("list.csv")


YOLO = "\n0 0.95 0.5 0.4 0.2\n"
VOC = """<annotation><size><width>32</width><height>24</height></size><object><name>fracture</name>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>90</xmax><ymax>9</ymax></bndbox></object></annotation>"""


@pytest.mark.parametrize(("suffix", "content", "place"), [("txt", YOLO, ":2"), ("xml", VOC, ": object 1")])
def test_hashed_names_do_not_stand_beside_boxes_either(suffix, content, place):
    """Files of boxes are called as their pictures are."""
    Path("boxes").mkdir()
    Path("boxes/classes.txt").write_text("fracture")
    for index in range(12):
        draw(f"source/{'ab'[index % 2]}/SECRET{index}.png")
        Path(f"boxes/SECRET{index}.{suffix}").write_text(content)
    clipping = recipe("source", boxes__source="boxes", boxes__bad="clip")
    found = prepare(clipping, Path("out"), paths=PathStyle.HASHED)
    assert not any(b"SECRET" in file.read_bytes() for file in Path("out").rglob("*") if file.is_file())
    wrong = json.loads(Path("out/fingerprint.json").read_text())["boxes"]["wrong"]
    assert {line.partition(place)[0] for line in wrong} == {row.source for row in found.rows}
    with pytest.raises(DataError, match=rf"boxes/SECRET0\.{suffix}{place}: "):
        prepare(recipe("source", boxes__source="boxes"), Path("other"), paths=PathStyle.HASHED)


# --- fingerprint ---


def test_fingerprint():
    tree()
    draw("source/one/copy of 1.png")
    shutil.copy("source/one/1.png", "source/one/copy of 1.png")
    Path("source/two/bad.png").write_text("no picture")
    with Image.new("L", (100, 40)) as wide:
        wide.save("source/two/0.png")
    made("source", data__window="minmax", data__licence="CC0")
    found = json.loads(Path("out/fingerprint.json").read_text())
    assert found["name"] == "test"
    assert found["source"] == "source"
    assert found["phantom"] is False
    assert found["licence"] == "CC0"
    assert found["clean"] == {"prepared_px": 32, "window": "minmax"}
    assert found["classes"] == ["one", "two"]
    assert sum(sum(row.values()) for row in found["counts"].values()) == 17
    assert found["groups"] == 16
    assert found["byte_equal_copies"] == 1
    assert found["width_px"] == {"min": 32, "q25": 32, "median": 32, "q75": 32, "max": 100}
    assert found["height_px"]["max"] == 40
    assert found["unreadable"] == [{"path": "two/bad.png", "reason": "not a picture, or of an unknown format"}]
    assert found["manifest_sha256"] == read_manifest(Path("out/manifest.csv")).digest
    assert found["recipe"]["data"]["source"] == "source"
    assert read_manifest(Path("out/manifest.csv")).clean() == Clean(32, "minmax")


def test_looks_at_a_test_part_outlive_its_preparation():
    tree()
    found = made("source")
    (found.folder / ledger.NAME).write_text("looks\n", encoding="utf-8")
    prepare(recipe("source"), found.folder, overwrite=True)
    assert (found.folder / ledger.NAME).read_text(encoding="utf-8") == "looks\n"
