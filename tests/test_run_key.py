import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fxcli.errors import FxError
from fxcli.run import key
from fxcli.run.cache import cache_dir
from fxcli.run.key import hashed


@pytest.fixture(autouse=True)
def _fresh():
    key._key.cache_clear()
    yield
    key._key.cache_clear()


def file():
    return cache_dir() / "names.key"


def test_the_same_name_is_always_the_same(tmp_path):
    first = hashed("/data/DOE_JOHN/1.dcm")
    key._key.cache_clear()
    assert hashed("/data/DOE_JOHN/1.dcm") == first != hashed("/data/DOE_JOHN/2.dcm")
    assert len(first) == 32
    assert file().stat().st_size == 32


def test_another_key_gives_other_names(monkeypatch, tmp_path):
    first = hashed("a")
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert hashed("a") != first


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_nobody_else_can_read_the_key():
    hashed("a")
    assert stat.S_IMODE(file().stat().st_mode) == 0o600


def test_a_name_that_is_no_text():
    assert hashed(os.fsdecode(b"\xff.dcm")) != hashed("\\xff.dcm")


def test_a_damaged_key():
    hashed("a")
    file().write_bytes(b"short")
    key._key.cache_clear()
    with pytest.raises(FxError, match="no key for hashed names"):
        hashed("a")


def test_a_folder_that_cannot_be_written(monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("FX_CACHE_DIR", "file/below")
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
    assert [path.name for path in file().parent.iterdir()] == ["names.key"]


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
    assert file().read_bytes() == b"k" * 32
    assert hashed("a") == first


def test_a_file_system_without_hard_links(monkeypatch):
    def refused(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refused)
        first = hashed("a")
    key._key.cache_clear()
    assert hashed("a") == first
    assert [path.name for path in file().parent.iterdir()] == ["names.key"]
