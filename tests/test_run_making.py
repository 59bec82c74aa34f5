"""A folder in the making: whatever kills its maker, what was there or what comes is there in full, and only that."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fxcli.errors import DataError, RunError
from fxcli.run.making import MARK, making, place_of

NAMES = ["a.txt", "more/b.txt"]
# Killed before its n-th change of a folder, or of a file.
CHILD = """
import os, signal, sys
from pathlib import Path
from fxcli.run.making import making

left = int(sys.argv[1])
def see(event, arguments):
    global left
    writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(see)
with making(Path("out")) as part:
    (part / "more").mkdir()
    for name in ("a.txt", "more/b.txt"):
        (part / name).write_text("new")
"""


def fill(folder, text):
    for name in NAMES:
        Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
        Path(folder, name).write_text(text)


def texts(folder):
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
    assert sorted(found) == NAMES
    return {path.read_text() for path in found.values()}


def looked_at():
    """What the next one to make the folder finds there."""
    with contextlib.suppress(KeyboardInterrupt), making(Path("out")) as part:
        assert os.listdir(part) == []
        found = texts("out") if Path("out").exists() else set()
        raise KeyboardInterrupt
    return found


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL there")
@pytest.mark.parametrize("before", [{"old"}, set()])
def test_killed_anywhere_it_is_the_old_one_or_the_new_one(before):
    ends, code, at = set(), -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        at += 1
        if before:
            fill("out", "old")
        code = subprocess.run([sys.executable, "-c", CHILD, str(at)], check=False).returncode
        found = looked_at()
        assert found in (before, {"new"}), at
        assert os.listdir() == (["out"] if found else []), at
        ends.add(frozenset(found))
        if found:
            for name in NAMES:
                Path("out", name).unlink()
            Path("out/more").rmdir()
            Path("out").rmdir()
    assert code == 0
    assert ends == {frozenset(before), frozenset({"new"})}
    assert at > 12


def test_stopped_in_between_it_puts_the_old_one_back(monkeypatch):
    fill("out", "old")
    real = os.replace

    def stopped(source, target):
        real(source, target)
        monkeypatch.setattr(os, "replace", real)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt), making(Path("out")) as part:
        fill(part, "new")
    assert os.listdir() == ["out"]
    assert texts("out") == {"old"}


@pytest.mark.parametrize("is_link", [False, pytest.param(True, marks=pytest.mark.skipif(os.name == "nt", reason=""))])
def test_what_fx_did_not_make_is_left_alone(is_link):
    place = place_of(Path("out"))
    fill("elsewhere", "precious")
    if is_link:
        Path("elsewhere", MARK).touch()
        place.symlink_to("elsewhere")
    else:
        Path("elsewhere").rename(place)
    with pytest.raises(DataError, match=r"\.out\.fx-part: fx did not make this"), making(Path("out")):
        pytest.fail("made")
    assert Path(place, "a.txt").read_text() == "precious"
    assert not Path("out").exists()


def test_one_at_a_time():
    with making(Path("out")) as part:
        child = subprocess.run([sys.executable, "-c", CHILD, "0"], capture_output=True, text=True, check=False)
        assert "is at work in this folder" in child.stderr
        assert RunError.__name__ in child.stderr
        fill(part, "mine")
    assert texts("out") == {"mine"}
    assert os.listdir() == ["out"]
