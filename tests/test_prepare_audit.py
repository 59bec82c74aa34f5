"""fx prepare: what its audit finds in drawn and in real pictures, and what becomes of it."""

import csv
import json
import os
import shutil
from pathlib import Path

import distortions
import pytest
from PIL import Image
from sources import files, fx, made, tree

from fxcli.data import audit, phantom
from fxcli.data.manifest import read_manifest
from fxcli.errors import DataError


@pytest.fixture(scope="module")
def drawn():
    """Drawn pictures of 14 patients."""
    cases = {case.group: case for case in phantom.plan(seed=5, train_per_class=3, val_per_class=0, test_per_class=0)}
    return [phantom.draw(case, 128) for case in cases.values()]


def audited(source, out="out", **changes):
    return made(source, out, audit__search=True, **changes)


def leaking(drawn):
    """one and two, Train and Test: of three test pictures each, the first has a mirrored twin in training."""
    for index, pixels in enumerate(drawn):
        label, part = ("one", "two")[index % 2], "Test" if index < 6 else "Train"
        Path("source", label, part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(f"source/{label}/{part}/{index:02d}.png")
        if index < 2:
            Path("source", label, "Train").mkdir(exist_ok=True)
            Image.fromarray(distortions.mirrored(pixels)).save(f"source/{label}/Train/twin{index}.png")
    # A copy of a training picture, under another label.
    Image.fromarray(distortions.resized(drawn[8], 0.8)).save("source/two/Train/08 small.png")
    return "source"


TWINS = {"one/Train/twin0.png", "two/Train/twin1.png"}
LEAKED = {"one/Test/00.png", "two/Test/01.png"}


def by_source(found):
    return {row.source: row for row in found.rows}


@pytest.mark.slow
def test_what_the_audit_finds(drawn):
    found = audited(leaking(drawn), data__prepared_px=160)
    record = json.loads(Path("out/audit.json").read_text())
    assert {frozenset((pair["a"], pair["b"])) for pair in record["pairs"]} == {
        frozenset(("one/Test/00.png", "one/Train/twin0.png")),
        frozenset(("two/Test/01.png", "two/Train/twin1.png")),
        frozenset(("one/Train/08.png", "two/Train/08 small.png")),
    }
    assert {pair["kind"] for pair in record["pairs"]} == {"same_picture"}
    assert set(record["leaked_test"]) == LEAKED
    assert [sorted(group) for group in record["groups"]] == sorted(
        sorted((pair["a"], pair["b"])) for pair in record["pairs"]
    )
    (conflict,) = record["label_conflicts"]
    assert dict(zip(conflict["paths"], conflict["labels"], strict=True)) == {
        "one/Train/08.png": "one",
        "two/Train/08 small.png": "two",
    }
    assert record["dropped"] == []
    rows = by_source(found)
    assert {source for source, row in rows.items() if row.leaked == "yes"} == LEAKED
    assert {source for source, row in rows.items() if row.leaked == "no"} == {
        row.source for row in found.rows if row.split == "test"
    } - LEAKED
    assert rows["one/Train/08.png"].group == rows["two/Train/08 small.png"].group
    assert rows["one/Train/08.png"].split == rows["two/Train/08 small.png"].split
    assert json.loads(Path("out/fingerprint.json").read_text())["audit"] == record["figures"]
    assert "data:image/jpeg" in Path("out/audit.html").read_text()
    assert read_manifest(found.manifest).rows == tuple(found.rows)
    assert len(read_manifest(found.manifest).straddling) == 2


@pytest.mark.slow
def test_dropping_leaks_keeps_every_test_picture(drawn):
    whole, found = audited(leaking(drawn), "whole"), audited("source", "clean", audit__leaks="drop_train")
    rows = by_source(found)
    assert set(files("source")) - set(rows) == TWINS
    assert {source for source, row in rows.items() if row.leaked == "yes"} == LEAKED
    assert sum(row.split == "test" for row in found.rows) == 6
    assert read_manifest(found.manifest).straddling == []
    assert len(files("clean/pictures")) == len(found.rows)
    record = json.loads(Path("clean/audit.json").read_text())
    assert {entry["path"] for entry in record["dropped"]} == TWINS
    assert record["figures"]["dropped"] == 2
    # What stays is where it was, so that the two sets compare.
    assert all(rows[row.source].split == row.split for row in whole.rows if row.source in rows)


@pytest.mark.slow
def test_copies_with_other_labels_can_be_left_out(drawn):
    found = audited(leaking(drawn), audit__label_conflicts="drop")
    assert set(files("source")) - set(by_source(found)) == {"one/Train/08.png", "two/Train/08 small.png"}


def test_pictures_of_which_none_is_left_are_told_of():
    tree(parts=("Train",))
    for index in range(8):
        shutil.copy(f"source/one/Train/{index}.png", f"source/two/Train/{index}.png")
    with pytest.raises(DataError, match="all 16 pictures are left out: copies of each bear other labels") as caught:
        made("source", audit__label_conflicts="drop")
    assert "audit.label_conflicts=report" in caught.value.hint
    assert os.listdir() == ["source"]


@pytest.mark.slow
def test_refusing_leaves_nothing(drawn):
    with pytest.raises(DataError, match="2 of 6 test pictures share a group with a picture that is learnt from") as e:
        audited(leaking(drawn), audit__leaks="refuse")
    assert "one/Test/00.png and one/Train/twin0.png" in str(e.value)
    assert "audit.leaks=report prepares all the same, and its audit.json lists all groups" in e.value.hint
    assert os.listdir() == ["source"]


@pytest.mark.slow
def test_a_drawn_split_never_divides_copies(drawn):
    found = audited(leaking(drawn), split__policy="grouped", audit__leaks="refuse")
    assert read_manifest(found.manifest).straddling == []
    rows = by_source(found)
    for twins in (("one/Test/00.png", "one/Train/twin0.png"), ("two/Test/01.png", "two/Train/twin1.png")):
        assert len({rows[source].split for source in twins}) == 1
    assert {row.leaked for row in found.rows if row.split == "test"} == {"no"}


def test_without_a_search_bytes_and_names_are_all(drawn):
    leaking(drawn)
    shutil.copy("source/one/Test/02.png", "source/one/Train/02.png")
    found = made("source")
    record = json.loads(Path("out/audit.json").read_text())
    assert [(pair["a"], pair["b"]) for pair in record["pairs"]] == [("one/Test/02.png", "one/Train/02.png")]
    assert "<img" not in Path("out/audit.html").read_text()
    assert by_source(found)["one/Test/02.png"].leaked == "yes"


@pytest.mark.slow
def test_what_is_found_does_not_depend_on_the_size_that_is_wanted(drawn):
    """Nor on whether the pictures were prepared before."""
    audited(leaking(drawn), data__prepared_px=300)
    small, again = audited("source", "small"), audited("out/pictures", "again", data__prepared_px=300)
    assert [(pair.a, pair.b) for pair in small.audit.pairs] == [
        (pair.a, pair.b) for pair in audit_of("out", small.audit.names)
    ]
    assert again.audit.figures()["same_picture_pairs"] == 3


def audit_of(folder, names):
    """The pairs that its audit.json lists, by index."""
    pairs = json.loads(Path(folder, "audit.json").read_text())["pairs"]
    place = {name: index for index, name in enumerate(names)}
    return [audit.Pair(place[pair["a"]], place[pair["b"]], pair["kind"], pair["score"]) for pair in pairs]


@pytest.mark.slow
def test_the_command_shows_the_audit(drawn):
    leaking(drawn)
    done = fx("source", "--set", "data.prepared_px=32", "--out", "out")
    figures = json.loads(Path("out/audit.json").read_text())["figures"]
    assert figures["same_picture_pairs"] == 3
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "pairs of the same picture 3" in lines
    assert "… with the same picture in train or val, as it was given 2" in lines
    assert "pairs of the same picture whose labels disagree 33.3%" in lines
    assert f"the pairs: {Path('out/audit.html')}" in done.stderr
    record = json.loads(fx("source", "--set", "audit.search=false", "--out", "json", "--json").stdout)
    assert record["audit"]["same_picture_pairs"] == 0
    assert record["audit"].keys() == figures.keys()


# --- real pictures ---


@pytest.mark.real
def test_real_bone_break(real_data):
    """As the recipe has it, with small pictures: every one is kept, in the class and part that the README says."""
    source = real_data / "bone_break"
    sets = ["--set", f"data.source='{source}'", "--set", "data.prepared_px=64"]
    record = json.loads(fx("bone_break", *sets, "--json", "--quiet").stdout)
    expected = {
        "avulsion": (109, 14),
        "comminuted": (134, 14),
        "fracture_dislocation": (137, 19),
        "curved": (143, 28),
        "linear": (174, 28),
        "internal": (191, 27),
        "hairline": (101, 10),
    }
    found = {name: (row["train"] + row["val"], row["test"]) for name, row in record["counts"].items()}
    assert found == expected
    assert record["unreadable"] == []
    with Path("prepared/bone_break/manifest.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    raw = [path for path in source.rglob("*") if path.suffix == ".jpg"]
    assert {row["source"] for row in rows} == {path.relative_to(source).as_posix() for path in raw}
    assert len(rows) == len(files("prepared/bone_break/pictures")) == 1129
    assert sum(row["split"] == "val" for row in rows) / 989 == pytest.approx(0.15, abs=0.015)
    # By eye, 50 or so of the test pictures have a twin in training.
    assert 45 <= sum(row["leaked"] == "yes" for row in rows) <= 55
    assert 45 <= len(read_manifest(Path("prepared/bone_break/manifest.csv")).straddling) <= 60
    assert 330 <= record["audit"]["same_picture_pairs"] <= 400
    assert 0.1 < record["audit"]["disagreement_rate"] < 0.25


@pytest.mark.real
@pytest.mark.slow
def test_real_bone_break_clean(real_data):
    fx("bone_break_clean", "--set", f"data.source='{real_data / 'bone_break'}'", "--set", "data.prepared_px=64")
    manifest = read_manifest(Path("prepared/bone_break_clean/manifest.csv"))
    assert len(manifest.part("test")) == 140
    assert manifest.straddling == []
    assert 45 <= sum(row.leaked == "yes" for row in manifest.rows) <= 55
    assert 50 <= 1129 - len(manifest.rows) <= 100
