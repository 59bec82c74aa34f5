"""Atomic writes: the old file or the new one, never a part, whatever happens in between."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from fxcli.run import files
from fxcli.run.files import replace, replacing, sha256_of, write_json, write_text


def test_replacing():
    path = Path("a.bin")
    path.write_bytes(b"old")
    with replacing(path) as part:
        assert part.parent == path.parent
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir() == ["a.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_failure_keeps_the_old_file(error):
    path = Path("a.bin")
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as part:
            part.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir() == ["a.bin"]


def test_failure_to_rename_keeps_the_old_file(monkeypatch):
    path = Path("a.bin")
    path.write_bytes(b"old")

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(OSError, match="no"), replacing(path) as part:
        part.write_bytes(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir() == ["a.bin"]


def test_nothing_written_is_an_error():
    with pytest.raises(FileNotFoundError), replacing(Path("a.bin")):
        pass
    assert os.listdir() == []


def test_it_is_on_the_disk_before_it_gets_its_name(monkeypatch):
    steps, fsync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (steps.append("fsync"), fsync(handle)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (steps.append("replace"), rename(a, b)))
    write_text(Path("a.txt"), "x")
    assert steps == ["fsync", "replace"]


@pytest.mark.parametrize("failures", [0, 3, 9])
def test_a_file_that_is_held_open_for_a_moment(monkeypatch, failures):
    left, rename = [failures], os.replace

    def sometimes(source, target):
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, "in use")
        rename(source, target)

    waits = []
    monkeypatch.setattr(files.os, "replace", sometimes)
    monkeypatch.setattr(files.time, "sleep", waits.append)
    Path("a").write_text("x")
    replace(Path("a"), Path("b"))
    assert Path("b").read_text() == "x"
    assert len(waits) == failures


def test_a_file_that_stays_open(monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "in use")

    monkeypatch.setattr(files.os, "replace", refuse)
    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    with pytest.raises(PermissionError):
        replace(Path("a"), Path("b"))


def test_text():
    write_text(Path("a.txt"), "größe\r\n橈骨\n")
    assert Path("a.txt").read_bytes() == "größe\r\n橈骨\n".encode()


def test_text_with_bytes_of_an_odd_file_name():
    name = b"\xff.jpg".decode("utf-8", "surrogateescape")
    write_text(Path("a.txt"), name)
    assert Path("a.txt").read_text() == r"\udcff.jpg"
    write_json(Path("a.json"), {"name": name})
    assert json.loads(Path("a.json").read_text()) == {"name": name}


def test_json():
    write_json(Path("a.json"), {"ä": [1, 2.5, None, True]})
    text = Path("a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"ä": [1, 2.5, None, True]}
    assert text.startswith('{\n  "ä"')
    assert text.endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}])
def test_what_is_not_json_changes_nothing(value):
    write_json(Path("a.json"), 1)
    with pytest.raises((ValueError, TypeError)):
        write_json(Path("a.json"), value)
    assert Path("a.json").read_text() == "1\n"
    assert os.listdir() == ["a.json"]


def test_sha256():
    Path("a").write_bytes(b"x" * 300_000)
    assert sha256_of(Path("a")) == hashlib.sha256(b"x" * 300_000).hexdigest()
