"""Where nothing could be written is told, by every command that writes pictures."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.testing import tiny_dataset

resource = pytest.importorskip("resource")


@pytest.fixture
def raw():
    return tiny_dataset(Path("raw"), per_class=2)


@pytest.fixture
def full(raw, trained):
    """A limit for the size of files, which is told as a full disk is."""
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("command", "place"),
    [
        (("prepare", "raw", "--out", "p"), "p"),
        (("predict", "raw", "--cam", "maps"), "maps/class_0/0.png"),
        (("cam", "raw", "--out", "maps"), "maps/class_0/0"),
    ],
)
def test_a_full_disk(full, command, place):
    more = [] if command[0] == "prepare" else ["--workers", "0"]
    done = CliRunner().invoke(app, [*command, *more, "--quiet"])
    assert done.exit_code == 4, done.output
    assert f"error: {place}" in done.stderr
    assert "cannot be written: File too large" in done.stderr


@pytest.mark.parametrize("command", [("predict", "raw", "--cam", "taken"), ("cam", "raw", "--out", "taken")])
def test_a_file_where_a_folder_should_be(trained, raw, command):
    Path("taken").touch()
    done = CliRunner().invoke(app, [*command, "--quiet"])
    assert done.exit_code == 4, done.output
    assert "error: taken" in done.stderr
