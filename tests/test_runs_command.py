"""fx runs: what was trained here."""

import json
from pathlib import Path

from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.run.directory import RUNS, create


def fx(*arguments):
    done = CliRunner().invoke(app, ["runs", *arguments])
    assert done.exit_code == 0, done.output
    return done


def make(name, created, **info):
    run = create(name, {"recipe": name, "task": "classify", "created": created}, out=RUNS / name)
    run.update(**info)
    return run


def test_nothing():
    done = fx()
    assert done.stdout == ""
    assert "no runs here; fx train RECIPE makes one" in done.stderr
    assert fx("--json").stdout == ""


def test_json():
    make("later", "2026-01-02T00:00:00Z", status="failed", figures=None)
    run = make("first", "2026-01-01T00:00:00Z", status="finished", figures={"accuracy": 0.123456}, demo=True)
    run.update(epoch=7, monitor="val_macro_f1", best=0.98765)
    run.model_file.write_bytes(bytes(2_500_000))
    (run.path / "checkpoints" / "last" / "state.safetensors").write_bytes(bytes(500_000))
    rows = [json.loads(line) for line in fx("--json").stdout.splitlines()]
    assert rows == [
        {
            "name": "first",
            "status": "finished",
            "task": "classify",
            "started": "2026-01-01T00:00:00Z",
            "epoch": 7,
            "monitor": "val_macro_f1",
            "best": 0.9877,
            "accuracy": 0.1235,
            "size_mb": 3.0,
            "demo": "DEMO",
        },
        {
            "name": "later",
            "status": "failed",
            "task": "classify",
            "started": "2026-01-02T00:00:00Z",
            "epoch": None,
            "monitor": None,
            "best": None,
            "accuracy": None,
            "size_mb": 0.0,
            "demo": "",
        },
    ]


def test_table():
    make("first", "2026-01-01T00:00:00Z", status="interrupted")
    Path("runs/notes").mkdir()
    lines = [line.split() for line in fx().stdout.splitlines() if line.strip()]
    assert lines[0][:4] == ["name", "status", "task", "started"]
    assert lines[-1][:4] == ["first", "interrupted", "classify", "2026-01-01T00:00:00Z"]
    assert len(lines) == 3


def test_a_run_whose_process_is_gone_died():
    make("killed", "2026-01-01T00:00:00Z")
    assert json.loads(fx("--json").stdout)["status"] == "died"
    lock = {"pid": 1, "host": "another machine"}
    (RUNS / "killed" / "lock.json").write_text(json.dumps(lock))
    assert json.loads(fx("--json").stdout)["status"] == "running"


def test_files_that_vanish_while_they_are_counted(monkeypatch):
    from fxcli.commands import runs

    make("first", "2026-01-01T00:00:00Z")

    def gone(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(runs.os.path, "getsize", gone)
    assert json.loads(fx("--json").stdout)["size_mb"] == 0.0
