import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fxcli.errors import FxError, UsageError
from fxcli.run import key
from fxcli.run.cache import cache_dir
from fxcli.run.key import hashed, key_file


@pytest.fixture(autouse=True)
def _fresh():
    key._key.cache_clear()
    yield
    key._key.cache_clear()


def test_the_same_name_is_always_the_same(tmp_path):
    first = hashed("/data/DOE_JOHN/1.dcm")
    key._key.cache_clear()
    assert hashed("/data/DOE_JOHN/1.dcm") == first != hashed("/data/DOE_JOHN/2.dcm")
    assert len(first) == 32
    assert key_file().stat().st_size == 32


def test_another_key_gives_other_names(monkeypatch, tmp_path):
    first = hashed("a")
    monkeypatch.setenv(key._VARIABLE, str(tmp_path / "elsewhere"))
    assert hashed("a") != first


def test_the_key_outlives_the_cache_and_is_told_of_when_it_is_made(monkeypatch, tmp_path, capsys):
    first = hashed("a")
    assert capsys.readouterr().err.splitlines() == [
        f"the key for hashed names is in {key_file()}: keep it, or these names are never found again"
    ]
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path / "another"))
    key._key.cache_clear()
    assert hashed("a") == first
    assert capsys.readouterr().err == ""
    assert not cache_dir().exists()


def test_a_key_from_where_it_was_before(tmp_path):
    old = cache_dir() / "names.key"
    old.parent.mkdir()
    old.write_bytes(b"k" * 32)
    first = hashed("a")
    old.unlink()
    key._key.cache_clear()
    assert hashed("a") == first
    assert key_file().read_bytes() == b"k" * 32


@pytest.mark.skipif(os.name == "nt", reason="a home is told otherwise there")
def test_a_user_without_a_home(monkeypatch):
    import pwd

    def unknown(_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for variable in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "FX_CACHE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for ask, hint in ((lambda: hashed("a"), "XDG_DATA_HOME"), (cache_dir, "FX_CACHE_DIR")):
        with pytest.raises(UsageError, match="this user has no home folder") as caught:
            ask()
        assert hint in caught.value.hint


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_nobody_else_can_read_the_key():
    hashed("a")
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600


def test_a_name_that_is_no_text():
    assert hashed(os.fsdecode(b"\xff.dcm")) != hashed("\\xff.dcm")


def test_a_damaged_key():
    hashed("a")
    key_file().write_bytes(b"short")
    key._key.cache_clear()
    with pytest.raises(FxError, match="no key for hashed names"):
        hashed("a")


def test_a_folder_that_cannot_be_written(monkeypatch):
    Path("file").touch()
    monkeypatch.setenv(key._VARIABLE, "file/below")
    with pytest.raises(FxError, match="cannot be made"):
        hashed("a")


def test_processes_that_need_the_key_at_once_get_the_same():
    code = "import sys; from fxcli.run.key import hashed; sys.stdin.readline(); print(hashed('a'))"
    asking = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for each in asking:
        each.stdin.write("\n")
        each.stdin.flush()
    told = {each.communicate()[0] for each in asking}
    assert told == {hashed("a") + "\n"}
    assert [path.name for path in key_file().parent.iterdir()] == ["names.key"]


def test_nobody_sees_half_a_key(monkeypatch):
    real = os.link

    def late(source, target):
        assert Path(source).stat().st_size == 32
        Path(target).write_bytes(b"k" * 32)  # of another process, a moment before
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", late)
        first = hashed("a")
    key._key.cache_clear()
    assert key_file().read_bytes() == b"k" * 32
    assert hashed("a") == first


def test_a_file_system_without_hard_links(monkeypatch):
    def refused(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refused)
        first = hashed("a")
    key._key.cache_clear()
    assert hashed("a") == first
    assert [path.name for path in key_file().parent.iterdir()] == ["names.key"]
