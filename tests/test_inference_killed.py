"""A prediction that is stopped for real: killed at every write, on a full disk, two at once."""

import errno
import json
import os
import signal
from pathlib import Path

import pytest
from rowfiles import FILE, OUT, PART, going, names, predict, shown, stopped, twelve

from fxcli.errors import DataError, FxError, RunError
from fxcli.inference import rows as output
from fxcli.run.lock import Lock

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.fixture
def files():
    return twelve()


def in_a_child(function):
    """The signal or exit code that ended a process with a copy of all this in it."""
    child = os.fork()
    if not child:
        try:
            function()
        except FxError as error:
            os.write(2, str(error).encode())
            os._exit(error.exit_code)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_every_write(files):
    predict(files)
    whole = FILE.read_bytes()
    os.remove(FILE)
    append = output.Growing._append
    for row in range(13):
        for share in (0.0, 0.5, 1.0):
            written = [0]

            def killed(self, text, row=row, share=share, written=written):
                if written[0] == row:
                    self.handle.write(text.encode()[: int(len(text) * share)])
                    os.kill(os.getpid(), signal.SIGKILL)
                written[0] += 1
                append(self, text)

            def child(killed=killed):
                output.Growing._append = killed
                predict(files)

            assert in_a_child(child) == -signal.SIGKILL
            done = max(0, row - 1) + (row > 0 and share == 1)
            assert predict(files, resume=True)[0] == list(range(done, 12)), "what was done is not done again"
            assert FILE.read_bytes() == whole
            assert names() == ["predictions.csv", "predictions.csv.json"]
            os.remove(FILE)


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("are_reordered", [False, True])
@pytest.mark.parametrize("number", range(12))
def test_killed_while_it_gets_its_name(files, number, are_reordered):
    """At each step that changes what is on the disk."""
    predict(files)
    whole = FILE.read_bytes()
    os.remove(FILE)
    if are_reordered:
        stopped([path for path in files if path.name not in ("a.png", "d.png")], 4)
    steps = [(os, "fsync"), (os, "replace"), (Path, "unlink"), (output, "sync_folder")]
    taken = [0]

    def killing(real):
        def step(*arguments, **options):
            if taken[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            taken[0] += 1
            return real(*arguments, **options)

        return step

    def at_last():
        for where, name in steps:
            setattr(where, name, killing(getattr(where, name)))

    ended = in_a_child(lambda: predict(files, resume=are_reordered, at_last=at_last))
    assert ended in (-signal.SIGKILL, 0)
    assert ended == 0 or number < 11, "the last step is among them"
    assert predict(files, resume=True)[0] == []
    assert FILE.read_bytes() == whole
    assert names() == ["predictions.csv", "predictions.csv.json"]


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_full_disk(files, capfd):
    predict(files)
    whole = FILE.read_bytes()
    os.remove(FILE)

    def child():
        import resource

        # Real bytes that the system refuses to take: a file may grow to two thirds.
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) * 2 // 3,) * 2)
        predict(files)

    assert in_a_child(child) == 4
    told = capfd.readouterr().err
    assert f"{PART}: cannot be written: {os.strerror(errno.EFBIG)}" in told
    assert "make space" in told
    kept = len(PART.read_bytes().splitlines()) - 2
    assert kept >= 6
    assert predict(files, resume=True)[0] == list(range(kept, 12))
    assert FILE.read_bytes() == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk at hand")
def test_a_disk_without_any_space(files):
    OUT.mkdir()
    PART.symlink_to("/dev/full")
    with pytest.raises(DataError, match=os.strerror(errno.ENOSPC)) as caught:
        predict(files)
    assert caught.value.where == PART


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_at_once(files):
    ready, go_on = os.pipe(), os.pipe()

    def first():
        with going() as rows:
            os.write(ready[1], b"x")
            os.read(go_on[0], 1)
            for path in files:
                rows.write({"path": str(path), "status": "error"})
            rows.finish()

    child = os.fork()
    if not child:
        try:
            first()
        finally:
            os._exit(0)
    os.read(ready[0], 1)
    for options in ({}, {"resume": True}, {"overwrite": True}, {"json": True}):
        with pytest.raises(RunError, match=f"process {child} on .* is at work in this folder"):
            predict(files, **options)
    os.write(go_on[1], b"x")
    os.waitpid(child, 0)
    assert shown() == list(map(str, files))
    for end in (*ready, *go_on):
        os.close(end)


def test_a_lock_that_a_killed_one_left(files):
    OUT.mkdir()
    with Lock(OUT):
        left = Path("out/lock.json").read_text()
    Path("out/lock.json").write_text(json.dumps(json.loads(left) | {"pid": 2**22 + 1}))
    assert predict(files)[0] == list(range(12))
    assert names() == ["predictions.csv", "predictions.csv.json"]


def test_a_file_where_the_folder_should_be(files):
    Path("out").touch()
    with pytest.raises(DataError, match="out: cannot be written: File exists"):
        predict(files)
