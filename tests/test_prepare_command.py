"""fx prepare as a command: what it shows, and what it says of mistakes."""

import json
from pathlib import Path

import pytest
from sources import draw, fx, tree

from fxcli.data.manifest import read_manifest


@pytest.mark.slow
def test_command_on_a_folder():
    tree("my pictures", parts=("Train", "Test"))
    done = fx("my pictures", "--set", "data.prepared_px=32")
    assert Path("prepared/my_pictures/manifest.csv").is_file()
    lines = [line.split() for line in done.stdout.splitlines() if line.strip()]
    assert ["class", "train", "val", "test"] in lines
    rows = read_manifest(Path("prepared/my_pictures/manifest.csv")).rows
    for name in ("one", "two", "all"):
        chosen = [row.split for row in rows if name in ("all", row.label)]
        assert [name, *(str(chosen.count(part)) for part in ("train", "val", "test"))] in lines
    assert f"fx train RECIPE --set data.manifest={Path('prepared/my_pictures/manifest.csv')}" in done.stderr


@pytest.mark.slow
def test_command_on_a_csv():
    draw(*(f"{i}.png" for i in range(12)))
    Path("a list's.CSV").write_text("path,label\n" + "".join(f"{i}.png,c{i % 2}\n" for i in range(12)))
    record = json.loads(fx("a list's.CSV", "--json").stdout)
    assert record["folder"] == str(Path("prepared/a_list_s"))
    assert {name: sum(row.values()) for name, row in record["counts"].items()} == {"c0": 6, "c1": 6}


def test_what_is_to_be_typed_next_is_quoted_for_a_shell():
    draw(*(f"{i}.png" for i in range(12)))
    rows = (f"{i}.png,c{i % 2},p{i}\n" for i in range(12))
    Path("list.csv").write_text("path,label,Patient ID\n" + "".join(rows))
    told = fx("list.csv", "--set", "audit.search=false", "--out", "my pictures").stderr
    assert "--set 'data.columns.patient=Patient ID'" in told
    assert f"--set 'data.manifest={Path('my pictures/manifest.csv')}'" in told
    Path("my recipe.yaml").write_text("name: a\n")
    assert "run it with: fx train 'my recipe.yaml'" in fx("my recipe.yaml", code=3).stderr


@pytest.mark.slow
def test_command_on_a_recipe():
    tree()
    Path("mine.yaml").write_text("task: prepare\ndata: {source: source, prepared_px: 32, classes: {one: x, two: y}}\n")
    fx("mine.yaml", "--set", "split.val_frac=0", "--out", "there", "--quiet")
    manifest = read_manifest(Path("there/manifest.csv"))
    assert manifest.classes == ("x", "y")
    assert manifest.part("val") == []
    assert manifest.fingerprint()["name"] == "mine"


@pytest.mark.slow
def test_command_says_what_is_wrong():
    tree()
    assert "no such file or folder, and no recipe of this name" in fx("gone", code=3).stderr
    assert "data.prepared_px" in fx("source", "--set", "data.prepared_px=3", code=3).stderr
    assert "run it with: fx train quickstart" in fx("quickstart", code=3).stderr
    assert "the recipe names no source" in fx("bone_break", code=4).stderr
    fx("source", "--set", "data.prepared_px=32", "--quiet")
    assert "--overwrite replaces it" in fx("source", code=4).stderr
    fx("source", "--set", "data.prepared_px=32", "--quiet", "--overwrite")


def test_pictures_are_named_within_their_source_or_hashed():
    tree()
    assert "--paths is relative or hashed here" in fx("source", "--paths", "given", code=2).stderr


@pytest.mark.slow
def test_command_on_a_name_that_means_two_things():
    tree("phantom")
    assert "phantom is a folder here, and a recipe of fx" in fx("phantom", code=2).stderr
    fx("./phantom", "--quiet", "--set", "data.prepared_px=32")
    assert read_manifest(Path("prepared/phantom/manifest.csv")).classes == ("one", "two")


@pytest.mark.slow
def test_command_on_pictures_without_labels():
    draw(*(f"pool/{number}.png" for number in range(6)))
    sets = ("--set", "data.prepared_px=32")
    assert "6 pictures lie in no class folder" in fx("pool", *sets, code=4).stderr
    done = fx("pool", *sets, "--set", "data.labels=none")
    assert f"fx train pretrain_simclr --set data.manifest={Path('prepared/pool/manifest.csv')}" in done.stderr
    assert "warning" not in done.stderr
    assert "(no label)" in done.stdout
    assert "labels" not in done.stdout


@pytest.mark.slow
def test_command_warns_of_a_single_class():
    tree("outer/inner")
    assert "there is one class, inner" in fx("outer", "--set", "data.prepared_px=32", "--quiet").stderr
    assert "warning" not in fx("outer/inner", "--set", "data.prepared_px=32", "--quiet").stderr
