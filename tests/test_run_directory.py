"""Runs on disk: made once, held by one process, and found again by what people call them."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fxcli.errors import RunError
from fxcli.run.directory import RUNS, Run, all_runs, create, find_model, find_run, open_run


def make(name, *, model=True, out=None, **info):
    """A finished run with an empty model file."""
    values = {"recipe": name, "task": "classify", "created": "2026-01-01T00:00:00Z", **info}
    run = create(name, values, out=Path(out) if out else None)
    run.update(status=info.get("status", "finished"))
    if model:
        run.model_file.touch()
    return run


# --- making ---


def test_create():
    run = create("final", {"seed": 3}, out=None)
    assert run.path.parent == RUNS
    assert re.fullmatch(r"final-\d{8}T\d{6}Z-[0-9a-f]{4}", run.path.name)
    assert json.loads((run.path / "run.json").read_text()) == {"status": "running", "seed": 3}
    assert run.info() == {"status": "running", "seed": 3}
    assert run.state_file.parent.is_dir()
    assert run.best_file.parent.is_dir()
    assert {path.name for path in run.path.iterdir()} == {"checkpoints", "evaluation", "predictions", "run.json"}
    assert create("final", {}, out=None).path != run.path


def test_create_in_a_named_folder():
    Path("there").mkdir()
    assert create("final", {}, out=Path("there")).path == Path("there")
    assert create("final", {}, out=Path("new/deep")).path == Path("new/deep")
    Path("my file").touch()
    for used in ("there", "my file"):
        with pytest.raises(RunError, match="this folder is in use") as caught:
            create("final", {}, out=Path(used))
        assert caught.value.exit_code == 6
        assert f"fx train --resume {shlex.quote(used)}" in caught.value.hint


def test_paths():
    run = Run(Path("r"))
    assert run.model_file == Path("r/model.safetensors")
    assert run.best_file == Path("r/checkpoints/best/model.safetensors")
    assert run.state_file == Path("r/checkpoints/last/state.safetensors")
    assert run.metrics_file == Path("r/metrics.jsonl")


def test_several_trainings_in_a_run():
    run, found = Run(Path("r")), []
    for seed, fold in [(10, 1), (2, 0), (2, 1), (0, None), (None, 3)]:
        found.append((seed, fold, run.within(seed, fold)))
        found[-1][2].path.mkdir(parents=True)
        (found[-1][2].path / "run.json").touch()
    for other in ("seeds/4", "seeds/notes", "folds/0 (copy)"):
        Path("r", other).mkdir()
    Path("r/seeds/notes/run.json").touch()
    assert run.within(2, 1).path == Path("r/seeds/2/folds/1")
    assert run.within(None).path == run.path
    assert sorted(run.parts(), key=str) == sorted(found, key=str)
    assert [(seed, fold) for seed, fold, _ in run.parts() if seed] == [(2, 0), (2, 1), (10, 1)]


def test_what_is_out_of_fold_lies_by_seed():
    run = Run(Path("r"))
    assert run.oof_files == []
    for at in (run, run.within(10), run.within(2)):
        at.oof_file.parent.mkdir(parents=True)
        at.oof_file.touch()
        if at == run:
            assert run.oof_files == [run.oof_file]
    assert run.oof_files == [run.within(2).oof_file, run.within(10).oof_file]


def test_a_part_is_at_work_while_the_whole_is():
    whole, part = (create("x", info, out=Path(path)) for path, info in (("r", {}), ("r/folds/1", {"part_of": "../.."})))
    assert [run.status(run.info()) for run in (whole, part)] == ["died", "died"]
    # Of another process, which is alive.
    lock = json.dumps({"pid": os.getppid(), "host": socket.gethostname()})
    (whole.path / "lock.json").write_text(lock, encoding="utf-8")
    assert [run.status(run.info()) for run in (whole, part)] == ["running", "running"]


def test_update_keeps_the_rest():
    run = create("final", {"seed": 3, "figures": {"accuracy": 0.5}}, out=None)
    run.update(status="finished", figures={"accuracy": 0.7})
    assert run.info() == {"status": "finished", "seed": 3, "figures": {"accuracy": 0.7}}
    assert [path.name for path in run.path.glob("run.json*")] == ["run.json"]


def test_log():
    run = create("final", {}, out=None)
    run.log("one")
    run.log("größer")
    lines = (run.path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in lines] == ["one", "größer"]


def test_open_run():
    run = create("final", {}, out=None)
    assert open_run(run.path) == run
    with pytest.raises(RunError, match="gone: no such run directory"):
        open_run(Path("gone"))
    with pytest.raises(RunError, match=r"no run directory: its run\.json cannot be read"):
        open_run(Path())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "done"}', "\xff"])
def test_damaged_run_json(text):
    run = create("final", {}, out=None)
    (run.path / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(RunError, match=r"run\.json"):
        run.info()
    assert list(all_runs()) == []


# --- finding ---


def test_all_runs_oldest_first():
    for name, created in (("b", "2026-01-02"), ("a", "2026-01-03"), ("c", "2026-01-01")):
        make(name, created=created)
    (RUNS / "notes.txt").touch()
    (RUNS / "empty").mkdir()
    assert [info["recipe"] for _, info in all_runs()] == ["c", "b", "a"]
    assert list(all_runs(Path("gone"))) == []


def test_find_by_directory():
    run = make("final", out="there")
    assert find_model("there") == (run.model_file, run)
    other = make("final")
    assert find_model(str(other.path)) == (other.model_file, other)
    assert find_model(other.path.name) == (RUNS / other.path.name / "model.safetensors", other)


@pytest.mark.parametrize("other", ["", "recipe.yaml"])
def test_another_folder_of_its_name_hides_no_run(other):
    """One of pictures, say, or of recipes."""
    run = make("wrists", out=RUNS / "wrists", status="finished")
    Path("wrists").mkdir()
    if other:
        Path("wrists", other).touch()
    assert open_run(Path("wrists")) == find_run("wrists") == find_model("wrists")[1] == run
    (run.path / "run.json").unlink()
    (run.path / "recipe.yaml").touch()
    with pytest.raises(RunError, match="stopped before it began"):
        open_run(Path("wrists"))


def test_find_in_an_unfinished_run():
    run = make("final", model=False, status="interrupted")
    with pytest.raises(RunError, match=r"this run has no model yet \(status interrupted\)"):
        find_model(str(run.path))
    run.best_file.touch()
    assert find_model(str(run.path)) == (run.best_file, run)
    run.model_file.touch()
    assert find_model(str(run.path)) == (run.model_file, run)


def test_find_by_file():
    run = make("final")
    run.best_file.touch()
    assert find_model(str(run.model_file)) == (run.model_file, run)
    assert find_model(str(run.best_file)) == (run.best_file, run)
    Path("alone.safetensors").touch()
    assert find_model("alone.safetensors") == (Path("alone.safetensors"), None)


@pytest.mark.parametrize(
    ("here", "file"),
    [
        ("runs/final", "model.safetensors"),
        ("runs/final/exports", "tiny.onnx"),
        ("runs/final/checkpoints", "best/model.safetensors"),
        ("runs/final/checkpoints/best", "model.safetensors"),
        ("runs/final/exports", "../checkpoints/best/model.safetensors"),
    ],
)
def test_a_file_is_found_in_its_run_from_within_it(monkeypatch, here, file):
    whole = make("final", out="runs/final").path.absolute()
    (whole / "exports").mkdir()
    monkeypatch.chdir(here)
    Path(file).touch()
    found, run = find_model(file)
    assert found == Path(file)
    assert (run.path.resolve(), run.name) == (whole, "final")


def test_a_file_behind_a_link_is_found_in_its_own_run():
    whole = make("final", out="store/runs/final").path
    (whole / "model.safetensors").touch()
    make("final", out="runs/final")
    Path("link").symlink_to("store/runs", target_is_directory=True)
    _, run = find_model("link/../runs/final/model.safetensors")
    assert run.path.samefile(whole)


@pytest.mark.parametrize(("here", "wanted"), [("runs/final", "."), ("runs/final/exports", "..")])
def test_a_run_has_its_name_from_within_it(monkeypatch, here, wanted):
    (make("final", out="runs/final").path / "exports").mkdir()
    monkeypatch.chdir(here)
    assert find_model(wanted)[1].name == "final"


def test_find_by_recipe_name():
    make("final", created="2026-01-01")
    newest = make("final", created="2026-01-03")
    make("other", created="2026-01-04")
    make("final", created="2026-01-05", status="failed")
    make("final", created="2026-01-06", model=False)
    assert find_model("final") == (newest.model_file, newest)


def test_a_folder_that_is_no_run_does_not_hide_a_recipe():
    run = make("bone_break")
    Path("bone_break").mkdir()
    assert find_model("bone_break") == (run.model_file, run)


@pytest.mark.parametrize("wanted", ["gone", "runs", "", "runs/gone"])
def test_find_nothing(wanted):
    make("final")
    with pytest.raises(RunError, match="no run directory or model file") as caught:
        find_model(wanted)
    assert caught.value.exit_code == 6
    assert "fx runs" in caught.value.hint


def test_the_default_is_the_last_finished_classify_run():
    with pytest.raises(RunError, match="no finished run here"):
        find_model(None)
    wanted = make("a", created="2026-01-02")
    make("b", created="2026-01-01")
    make("c", created="2026-01-03", task="pretrain")
    make("d", created="2026-01-04", status="running")
    make("e", created="2026-01-05", model=False)
    make("f", created="2026-01-06", demo=True)
    assert find_model(None) == (wanted.model_file, wanted)


def test_a_demo_is_never_the_default():
    run = make("quickstart", demo=True)
    with pytest.raises(RunError, match="were trained on phantoms") as caught:
        find_model(None)
    assert f"--model {run.path}" in caught.value.hint
    assert find_model("quickstart") == (run.model_file, run)


def test_neither_torch_nor_numpy():
    code = (
        "import sys, fxcli.run.directory, fxcli.run.provenance;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
