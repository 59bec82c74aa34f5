"""fx predict as a program, killed from outside, or left by who reads it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from resumed import PART, assert_same, pictures, table

from fxcli.testing import tiny_dataset


@pytest.fixture
def raw(trained):
    """48 pictures, older than any prediction of them."""
    folder = tiny_dataset(Path("raw"), per_class=16)
    time.sleep(0.02)
    return folder


def program(*arguments, **options):
    path = os.pathsep.join([str(Path(__file__).parent / "third_party" / "fx_demo"), *filter(None, sys.path)])
    code = (
        "from importlib.metadata import EntryPoint\n"
        "from fxcli.cli import main\n"
        "from fxcli.zoo.plugins import Plugin, load_zoo\n"
        "plugin = Plugin(name='demo', distribution='fx-demo', version='0', module='fx_demo')\n"
        "load_zoo().load(plugin, EntryPoint('demo', 'fx_demo', 'fx.plugins'))\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, "predict", *map(str, arguments), "--model", "runs/trained", "--quiet"]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, text=True, **options)


def wait_for_rows(count):
    for _ in range(600):
        if PART.exists() and len(PART.read_bytes().splitlines()) > count:
            return
        time.sleep(0.05)
    raise TimeoutError


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_programs_that_are_killed(raw):
    """From outside, at any moment: SIGKILL, SIGTERM, SIGINT, each again and again, with heat maps."""
    files = sorted(raw.rglob("*.png"))
    for number in range(20):
        for file in files:
            os.link(file, file.with_name(f"{file.stem}-{number}.png"))
    time.sleep(0.02)
    for number, kind in enumerate([signal.SIGKILL, signal.SIGTERM, signal.SIGINT] * 2):
        process = program("raw", "--out", "out", "--cam", "maps", "--resume", stderr=subprocess.PIPE)
        wait_for_rows(20 * (number + 1))
        process.send_signal(kind)
        process.wait()
        assert process.returncode in (-kind, 130)
        assert not Path("out/predictions.csv").exists()
        process.stderr.close()
    assert program("raw", "--out", "out", "--cam", "maps", "--resume").wait() == 0
    rows = table()
    assert [row["path"] for row in rows] == sorted(map(str, raw.rglob("*.png")))
    assert pictures("maps") == sorted(f"{Path(row['path']).relative_to('raw').as_posix()}.png" for row in rows)
    assert program("raw", "--out", "once").wait() == 0
    assert_same(rows, table("once/predictions.csv"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full disk at hand")
def test_a_full_disk_behind_stdout(raw):
    with open("/dev/full", "w") as full:
        process = program("raw", stdout=full, stderr=subprocess.PIPE)
        told = process.communicate()[1]
    assert process.returncode == 4
    assert told.startswith("error: stdout: cannot be written: No space left on device")
    assert "Traceback" not in told


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_a_reader_that_leaves(raw):
    process = program("raw", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == ""
    process.stderr.close()
