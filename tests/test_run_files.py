"""Atomic writes: the old file or the new one, never a part, whatever happens in between."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from fxcli.errors import DataError
from fxcli.run import files
from fxcli.run.files import append_line, check_writable, copy, replace, replacing, sha256_of, write_json, write_text


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


def test_a_full_disk_is_seen_before_the_work_that_ends_there():
    """A file can be made there, and nothing be written to it."""
    resource = pytest.importorskip("resource")
    check_writable(Path("new/folder"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        with pytest.raises(DataError, match="cannot be written: File too large") as told:
            check_writable(Path("new/folder"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.where == Path("new/folder")
    assert not any(Path().iterdir())


def test_nothing_written_is_an_error():
    with pytest.raises(FileNotFoundError), replacing(Path("a.bin")):
        pass
    assert os.listdir() == []


@pytest.fixture
def steps(monkeypatch):
    """What is made to outlive a power cut, in order: ("fsync", file or folder) and ("replace", new name)."""
    found, fsync, rename = [], os.fsync, os.replace

    def name_of(handle):
        return Path(os.readlink(f"/proc/self/fd/{handle}")).name

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc, to tell which file a handle is of")
    monkeypatch.setattr(files.os, "fsync", lambda handle: (found.append(("fsync", name_of(handle))), fsync(handle)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (found.append(("replace", Path(b).name)), rename(a, b)))
    return found


def test_content_is_on_the_disk_before_the_name_and_then_the_name(steps, tmp_path):
    write_text(Path("a.txt"), "x")
    assert steps == [("fsync", "a.txt.part"), ("replace", "a.txt"), ("fsync", tmp_path.name)]


def test_a_copy_is_atomic_too(steps, tmp_path):
    Path("a").write_bytes(b"\0x")
    copy(Path("a"), Path("b"))
    assert Path("b").read_bytes() == b"\0x"
    assert steps == [("fsync", "b.part"), ("replace", "b"), ("fsync", tmp_path.name)]
    with pytest.raises(FileNotFoundError):
        copy(Path("gone"), Path("b"))
    assert Path("b").read_bytes() == b"\0x"
    assert sorted(os.listdir()) == ["a", "b"]


def test_lines_are_on_the_disk_when_they_are_told(steps):
    append_line(Path("a.jsonl"), "größe")
    append_line(Path("a.jsonl"), "2")
    assert steps == [("fsync", "a.jsonl")] * 2
    assert Path("a.jsonl").read_text(encoding="utf-8") == "größe\n2\n"


def test_after_a_line_cut_short_comes_one_of_its_own():
    Path("a.jsonl").write_bytes(b'{"a": 1}\n{"b":')
    append_line(Path("a.jsonl"), "c")
    assert Path("a.jsonl").read_bytes() == b'{"a": 1}\n{"b":\nc\n'


def test_nothing_is_added_to_what_is_no_plain_file(tmp_path):
    Path("other").write_text("mine")
    Path("link").symlink_to("other")
    Path("dangling").symlink_to(tmp_path / "new")
    os.mkfifo("pipe")
    for name in ("link", "dangling", "pipe", str(tmp_path)):
        with pytest.raises(OSError, match="not a plain file"):
            append_line(Path(name), "x")
    assert Path("other").read_text() == "mine"
    assert not Path("new").exists()


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
