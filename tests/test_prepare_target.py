"""The folder that fx prepare makes: whole or not at all, and nothing else is destroyed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sources import draw, files, made, recipe, tree

from fxcli.data import convert as converting
from fxcli.data import prepare as preparing
from fxcli.data.manifest import read_manifest
from fxcli.data.prepare import prepare
from fxcli.errors import DataError, RunError
from fxcli.run.making import MARK


def test_an_existing_folder_is_kept_unless_told():
    tree()
    made("source")
    before = Path("out/manifest.csv").read_bytes()
    with pytest.raises(DataError, match="out: this folder exists"):
        made("source", seed=5)
    assert Path("out/manifest.csv").read_bytes() == before
    Path("out/stray.txt").touch()
    prepare(recipe("source", seed=5), Path("out"), overwrite=True)
    assert Path("out/manifest.csv").read_bytes() != before
    assert not Path("out/stray.txt").exists()
    assert sorted(os.listdir()) == ["out", "source"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_of_a_link_its_folder_is_replaced():
    tree()
    made("source", "real")
    before = Path("real/manifest.csv").read_bytes()
    Path("link").symlink_to("real")
    for seed in (5, 6):
        found = prepare(recipe("source", seed=seed), Path("link"), overwrite=True)
        assert found.manifest == Path("link/manifest.csv")
        assert found.manifest.read_bytes() != before
    assert Path("link").is_symlink()
    assert sorted(os.listdir()) == ["link", "real", "source"]
    assert len(files("source")) == 16


def test_a_mount_point_is_not_replaced(monkeypatch):
    tree()
    Path("out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: os.path.basename(path) == "out")
    with pytest.raises(DataError, match="out: this folder is a mount point"):
        made("source")
    assert sorted(os.listdir()) == ["out", "source"]


def test_an_empty_folder_may_be_filled():
    tree()
    Path("out").mkdir()
    assert len(made("source").rows) == 16


@pytest.mark.parametrize("keep", ["notes.txt", "manifest.csv"])
def test_overwrite_destroys_nothing_but_a_prepared_folder(keep):
    tree()
    Path("out").mkdir()
    Path("out", keep).write_text("precious")
    with pytest.raises(DataError, match="this is no prepared folder"):
        prepare(recipe("source"), Path("out"), overwrite=True)
    assert Path("out", keep).read_text() == "precious"


@pytest.mark.parametrize("of_runs", [False, True])
def test_overwrite_destroys_no_run(of_runs):
    tree()
    run = made("source", "run").folder
    if of_runs:
        (run / "run.json").touch()
    else:
        shutil.rmtree(run / "pictures")
    before = files("run")
    with pytest.raises(DataError, match="this is no prepared folder"):
        prepare(recipe("source"), run, overwrite=True)
    assert files("run") == before


def test_a_file_is_in_the_way():
    tree()
    Path("out").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(DataError, match="out: this"):
            prepare(recipe("source"), Path("out"), overwrite=overwrite)
    assert Path("out").read_text() == "precious"


@pytest.mark.parametrize(
    ("source", "out"),
    [("source", "source/prepared"), ("out/pictures", "out"), ("out", "out"), (".", "x/y"), (".a.fx-part/old", "a")],
)
def test_source_and_target_lie_apart(source, out):
    tree()
    made("source")
    before = files(".")
    with pytest.raises(DataError, match="lie within each other"):
        prepare(recipe(source), Path(out), overwrite=True)
    assert files(".") == before


def test_what_is_interrupted_leaves_nothing(monkeypatch):
    tree()
    made("source")
    before, real, calls = files("."), converting._save, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(converting, "_save", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe("source"), Path("out"), overwrite=True)
    assert files(".") == before
    assert sorted(os.listdir()) == ["out", "source"]
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        made("source", "other")
    assert sorted(os.listdir()) == ["out", "source"]


def test_what_waits_is_not_started_after_an_interrupt(monkeypatch):
    tree(count=40)
    done, real = [], converting._save

    def slow(*arguments):
        time.sleep(0.005)
        done.append(1)
        real(*arguments)

    def stopped(items, **_):
        yield next(items)
        raise KeyboardInterrupt

    monkeypatch.setattr(converting, "_save", slow)
    monkeypatch.setattr(converting.console, "progress", stopped)
    with pytest.raises(KeyboardInterrupt):
        made("source")
    assert len(done) < 40
    assert os.listdir() == ["source"]


@pytest.mark.slow
def test_leftovers_of_a_killed_process_are_cleared():
    tree()
    Path(".out.fx-part/new/pictures/train/old").mkdir(parents=True)
    for stale in (MARK, "new/pictures/train/old/stale.png", "new/boxes.coco.json", "new/train.yaml"):
        Path(".out.fx-part", stale).touch()
    Path(".out.fx-part.lock").write_text("")
    found = made("source")
    assert files("out") == sorted(
        ["audit.html", "audit.json", "manifest.csv", "fingerprint.json", *(row.path for row in found.rows)]
    )
    assert sorted(os.listdir()) == ["out", "source"]


def test_two_processes_do_not_mix():
    tree()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        Path(".out.fx-part.lock").write_text(json.dumps({"pid": other.pid, "host": socket.gethostname()}))
        with pytest.raises(RunError, match="is at work in this folder"):
            made("source")
        assert sorted(os.listdir()) == [".out.fx-part.lock", "source"], "it is not ours to remove"
        other.stdin.close()


@pytest.mark.parametrize("overwrite", [False, True])
def test_names_that_end_like_a_folder_in_the_making_are_users_own(overwrite):
    tree("out.old")
    draw("out.part/mine.png")
    if overwrite:
        made("out.old")
    found = prepare(recipe("out.old"), Path("out"), overwrite=overwrite)
    assert len(found.rows) == len(files("out.old")) == 16
    assert sorted(os.listdir()) == ["out", "out.old", "out.part"]
    assert files("out.part") == ["mine.png"]


def test_what_another_process_made_meanwhile_is_kept(monkeypatch):
    tree()
    made("source")
    Path("out").rename("other")
    real = preparing._files

    def while_another_ends(*arguments):
        Path("other").rename("out")
        return real(*arguments)

    monkeypatch.setattr(preparing, "_files", while_another_ends)
    with pytest.raises(DataError, match="this folder exists"):
        made("source")
    assert len(read_manifest(Path("out/manifest.csv")).rows) == 16
    assert sorted(os.listdir()) == ["out", "source"]
