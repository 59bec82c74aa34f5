"""Where the cache lies, what its files are called, and that they appear whole."""

import os
from pathlib import Path

import pytest

from fxcli.run.cache import cache_dir, key_of, storing


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.delenv("FX_CACHE_DIR", raising=False)
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "fx"
    monkeypatch.setenv("FX_CACHE_DIR", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("FX_CACHE_DIR")
    monkeypatch.delenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_dir() == tmp_path / ".cache" / "fx"


def test_a_key_is_a_function_of_the_values():
    values = {"a": 1, "b": [1, 2]}
    assert key_of(values) == key_of(dict(reversed(values.items())))
    assert key_of(values) != key_of({**values, "a": 2})
    assert key_of(values).isalnum()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "file"
    with storing(file) as part, storing(file) as other:
        part.write_text("one")
        other.write_text("two")
        assert part != other
        assert not file.exists()
    assert file.read_text() == "one", "the later one replaces"
    with pytest.raises(FileNotFoundError), storing(file) as part:
        part.with_name("half").replace(part)
    assert [path.name for path in file.parent.iterdir()] == ["file"]
    assert file.read_text() == "one"
