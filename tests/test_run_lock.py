"""The lock of a folder: held by one process, and taken over from a dead one."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fxcli.errors import RunError
from fxcli.run import lock
from fxcli.run.lock import Lock

linux = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="Linux alone tells since when one runs")


@pytest.fixture
def other():
    """Another process, alive."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.stdin.close()


def held_by(folder, pid, host=None, **more):
    file = folder / "lock.json"
    file.write_text(json.dumps({"pid": pid, "host": host or socket.gethostname(), **more}))
    return file


def test_lock_is_there_while_it_is_held(tmp_path):
    with Lock(tmp_path):
        told = json.loads((tmp_path / "lock.json").read_text())
        assert (told["pid"], told["host"]) == (os.getpid(), socket.gethostname())
    assert not (tmp_path / "lock.json").exists()
    with pytest.raises(ValueError, match="x"), Lock(tmp_path):
        raise ValueError("x")
    assert not (tmp_path / "lock.json").exists()


def test_lock_of_a_live_process_is_refused(other, tmp_path):
    file = held_by(tmp_path, other.pid)
    with pytest.raises(RunError, match=f"process {other.pid} on .* is at work in this folder"), Lock(tmp_path):
        pytest.fail("it must not be entered")
    assert json.loads(file.read_text())["pid"] == other.pid


def test_lock_of_a_dead_process_is_taken_over(other, tmp_path):
    file = held_by(tmp_path, other.pid)
    other.stdin.close()
    other.wait()
    with Lock(tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert not file.exists()


@linux
def test_lock_of_a_dead_process_whose_number_another_has_is_taken_over(other, tmp_path):
    begun = lock._begun(other.pid)
    ticks, boot = begun.split()
    for told in (f"{int(ticks) - 1} {boot}", f"{ticks} 01234567-89ab-cdef-0123-456789abcdef"):
        held_by(tmp_path, other.pid, begun=told)
        assert not Lock(tmp_path).is_held
        with Lock(tmp_path):
            pass
    held_by(tmp_path, other.pid, begun=begun)
    with pytest.raises(RunError, match=f"process {other.pid}"), Lock(tmp_path):
        pytest.fail("it must not be entered")


@linux
def test_what_a_lock_says_of_its_process(tmp_path):
    """From outside, while it is held, and when its number has gone to another since."""
    code = (
        "import sys; from pathlib import Path; from fxcli.run.lock import Lock\nwith Lock(Path(sys.argv[1])): input()"
    )
    command = [sys.executable, "-c", code, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "lock.json").exists():
            time.sleep(0.02)
        assert Lock(tmp_path).is_held
        told = json.loads((tmp_path / "lock.json").read_text())
        assert told["begun"] == lock._begun(process.pid) != lock._begun(os.getpid())
        process.kill()
    held_by(tmp_path, os.getppid(), begun=told["begun"])
    assert not Lock(tmp_path).is_held


@pytest.mark.parametrize("begun", [None, 3, "what"])
def test_where_nothing_tells_since_when_a_process_runs_its_number_does(monkeypatch, other, begun, tmp_path):
    monkeypatch.setattr(lock, "_stat", lambda pid: (_ for _ in ()).throw(PermissionError))
    held_by(tmp_path, other.pid, begun=begun)
    assert Lock(tmp_path).is_held


def test_lock_of_another_machine_is_never_taken_over(other, tmp_path):
    """There the number may be of a live process, though here it is of none."""
    other.stdin.close()
    other.wait()
    held_by(tmp_path, other.pid, "elsewhere")
    with pytest.raises(RunError, match=f"process {other.pid} on elsewhere") as caught, Lock(tmp_path):
        pytest.fail("it must not be entered")
    assert "delete the file" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "host": ""}', '{"pid": 1e999}'])
def test_lock_that_a_dead_process_wrote_halfway(monkeypatch, text, tmp_path):
    monkeypatch.setattr(lock.time, "sleep", lambda _: None)
    (tmp_path / "lock.json").write_text(text)
    with Lock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


def test_lock_that_is_being_written(monkeypatch, other, tmp_path):
    """Another process made the file a moment ago, and has not written it yet."""
    (tmp_path / "lock.json").touch()
    monkeypatch.setattr(lock.time, "sleep", lambda _: held_by(tmp_path, other.pid))
    with pytest.raises(RunError, match=f"process {other.pid}"), Lock(tmp_path):
        pytest.fail("it must not be entered")


def test_a_lock_that_was_taken_over_a_moment_before_is_left_alone(monkeypatch, other, tmp_path):
    """Both saw the dead one; the other process was faster, and holds its own by now."""
    file = held_by(tmp_path, 0)
    real, looks = Lock._holder, []

    def slow(one):
        looks.append(real(one)[0])
        holder = real(one)
        if len(looks) == 1:
            held_by(tmp_path, other.pid)
        return holder

    monkeypatch.setattr(Lock, "_holder", slow)
    with pytest.raises(RunError, match=f"process {other.pid}"), Lock(tmp_path):
        pytest.fail("it must not be entered")
    assert looks == [0, other.pid, other.pid]
    assert json.loads(file.read_text())["pid"] == other.pid
    assert sorted(path.name for path in tmp_path.glob("lock*")) == ["lock.json"]


def test_a_lock_that_is_taken_as_the_last_one_ends_is_left_alone(monkeypatch, other, tmp_path):
    """There was none at each look, and another process made its own right after: it was taken for a dead one's."""
    file = held_by(tmp_path, other.pid)
    monkeypatch.setattr(Lock, "_holder", lambda _: None)
    with pytest.raises(RunError, match="cannot be taken"), Lock(tmp_path):
        pytest.fail("it must not be entered")
    assert json.loads(file.read_text())["pid"] == other.pid


def test_who_waits_may_lose_it_many_times(monkeypatch, tmp_path):
    real, lost = os.open, []

    def late(*arguments):
        lost.append(1)
        if len(lost) <= 50:
            raise FileExistsError
        return real(*arguments)

    monkeypatch.setattr(lock.os, "open", late)
    with Lock(tmp_path, wait_s=60):
        assert len(lost) == 51
    lost.clear()
    with pytest.raises(RunError, match="cannot be taken"), Lock(tmp_path):
        pytest.fail("it must not be entered")


ADDING = """
import sys
from pathlib import Path
from fxcli.run.lock import Lock
sys.stdin.readline()
count = Path("count")
for _ in range(100):
    with Lock(Path(), wait_s=60):
        count.write_text(str(int(count.read_text()) + 1))
"""


@pytest.mark.slow
def test_three_processes_that_take_it_at_once_are_never_two():
    Path("count").write_text("0")
    command = [sys.executable, "-c", ADDING]
    every = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(3)]
    for each in every:
        each.stdin.write("\n")
        each.stdin.flush()
    for each in every:
        each.communicate(timeout=120)
    assert [each.returncode for each in every] == [0, 0, 0]
    assert Path("count").read_text() == "300"


def test_another_process_is_waited_for_if_that_is_wanted(monkeypatch, other, tmp_path):
    file = held_by(tmp_path, other.pid)
    naps = []

    def nap(_):
        naps.append(1)
        if len(naps) == 3:
            file.unlink()

    monkeypatch.setattr(lock.time, "sleep", nap)
    with Lock(tmp_path, wait_s=60):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert len(naps) == 3
    held_by(tmp_path, other.pid)
    with pytest.raises(RunError, match=f"process {other.pid}"), Lock(tmp_path, wait_s=0.01):
        pytest.fail("it must not be entered")


def test_a_takeover_that_was_killed_stands_in_nobodys_way(monkeypatch, tmp_path):
    monkeypatch.setattr(lock.time, "sleep", lambda _: None)
    held_by(tmp_path, 0)
    taking = tmp_path / "lock.json.taking"
    taking.touch()
    with pytest.raises(RunError, match="cannot be taken"), Lock(tmp_path):
        pytest.fail("the other may be at it")
    os.utime(taking, (1, 1))
    with Lock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not taking.exists()


@pytest.mark.parametrize("pid", [0, -1, 10**30])
def test_numbers_that_are_no_process(pid, tmp_path):
    held_by(tmp_path, pid)
    with Lock(tmp_path):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
