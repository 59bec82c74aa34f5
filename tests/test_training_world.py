"""Several processes make one training: the same results as one, what differs is said, and what cannot be is refused."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from fxcli.data.dataset import Batches
from fxcli.errors import UsageError
from fxcli.recipe.load import load
from fxcli.run import checkpoint
from fxcli.run.directory import Run
from fxcli.run.launch import processes
from fxcli.training.world import ALONE, World, check, joined

HERE = Path(__file__).parent / "third_party" / "fx_demo"
RECIPE = """
data: {{manifest: '{manifest}', workers: 0, image_size_px: 32}}
model: {{backbone: demo_tiny, init: random, bn: eval}}
augment: {{hflip: 0.5, rotate_deg: 10}}
optim: {{name: sgd, lr: 0.02, clip_norm: 1.0}}
train: {{batch_size: 8, ema: 0.9}}
phases:
  first: {{train: {{epochs: 2}}}}
  second: {{start: best, train: {{epochs: 1, accumulate: 2}}}}
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder on the path in which the demo plugin is installed."""
    folder = tmp_path_factory.mktemp("demo")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", str(folder), str(HERE)], check=True)
    return folder


@pytest.fixture
def fx(demo):
    """Starts fx train in so many processes, in a group of their own."""

    def start(processes, *arguments):
        run = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
        env = {**os.environ, "PYTHONPATH": str(demo), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *run, "-m", "fxcli", "train", *map(str, arguments)]
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    return start


@pytest.fixture
def recipe(prepared):
    Path("shared.yaml").write_text(RECIPE.format(manifest=prepared / "manifest.csv"), encoding="utf-8")
    return Path("shared.yaml")


def done(process, code=0):
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, err
    return out, err


def weights(folder):
    return checkpoint.load_model_file(Run(Path(folder)).model_file)[0]


def lines(folder):
    text = Run(Path(folder)).metrics_file.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def assert_close(one, two, atol):
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        # What features are measured by holds numbers of any size.
        limit = atol * float(value.abs().max().clamp(min=1))
        assert torch.allclose(value.float(), theirs[name].float(), atol=limit), name
    for mine, other in zip(lines(one), lines(two), strict=True):
        assert mine["step"] == other["step"]
        assert mine["train_loss"] == pytest.approx(other["train_loss"], abs=1e-4)
        assert mine["val_accuracy"] == pytest.approx(other["val_accuracy"], abs=1e-4)


@pytest.mark.slow
def test_two_processes_end_as_one_does(fx, recipe):
    """Without BatchNorm's statistics and dropout; batches of odd sizes, accumulation, averages, two phases."""
    sets = ("--set", "phases.second.train.batch_size=5")
    out, _ = done(fx(1, recipe, "--out", "one", "--quiet", *sets))
    shared, err = done(fx(2, recipe, "--out", "two", "--quiet", *sets))
    assert_close("one", "two", atol=1e-4)
    assert shared.replace("evaluate two", "evaluate one") == out, "one process tells the result"
    assert "not the same" not in err
    info = Run(Path("two")).info()
    assert (info["status"], info["compute"]["processes"]) == ("finished", 2)
    assert sorted(path.name for path in Path("two").rglob("*")) == sorted(path.name for path in Path("one").rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("first_bn", ["eval", "train"])
def test_it_stops_and_goes_on_and_with_another_number_it_does_not(fx, recipe, first_bn):
    """Also where each process has made BatchNorm statistics of its own, which the second phase then uses."""
    sets = ["--set", f"phases.first.model.bn={first_bn}", "--set", "phases.second.start=last"]
    sets += ["--set", "phases.second.train.epochs=40"]
    done(fx(2, recipe, "--out", "whole", "--quiet", *sets))
    sets += ["--set", "phases.second.train.save_every_min=1e-9"]
    process = fx(2, recipe, "--out", "run", "--quiet", *sets)
    until = time.monotonic() + 120
    while not (Path("run/metrics.jsonl").exists() and len(lines("run")) > 4):
        assert time.monotonic() < until
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert Run(Path("run")).info()["status"] == "interrupted"
    _, err = done(fx(1, "--resume", "run", "--quiet"), code=6)
    assert "this run is made by 2 processes, and here are 1" in err
    done(fx(2, "--resume", "run", "--quiet"))
    ours, theirs = weights("run"), weights("whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_what_ends_one_process_ends_all(fx, recipe):
    Path("run").mkdir()
    Path("run", "something").touch()
    process = fx(2, recipe, "--out", "run")
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "run: " in err
    assert "internal error" not in err


def test_temporary_files_of_processes_go_with_the_session():
    """torchrun leaves a folder of logs, and a process that is killed its own."""
    code = "import tempfile; print(tempfile.gettempdir())"
    theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert theirs == tempfile.gettempdir()
    assert Path(theirs).name.startswith("fx-")


def test_shares_of_a_batch_are_all_of_it(recipe):
    batches = Batches(11, 4, seed=0)
    whole = list(batches)
    for size in (1, 2, 3):
        parts = [list(Batches(11, 4, seed=0, share=World(rank, size).share)) for rank in range(size)]
        for number, batch in enumerate(whole):
            shared = [draw for rank in range(size) for draw in parts[rank][number]]
            assert {draw.index for draw in shared} == {draw.index for draw in batch}
            assert sum(World(rank, size).part(len(batch)) for rank in range(size)) == len(batch)
    few = World(2, 3)
    assert few.share(["a", "b"]) == ["a"]
    assert few.part(2) == 0


def test_alone_nothing_happens():
    with joined() as world:
        assert world == ALONE
    layer = torch.nn.Linear(2, 1)
    assert ALONE.add_up(layer, {"loss": 3.0}) == {"loss": 3.0}
    assert layer.weight.grad is None
    assert ALONE.any(True, False) == (True, False)
    assert ALONE.heard("x") == "x"


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ((), ""),
        (("phases.first.model.bn=train",), "BatchNorm takes its statistics from each process's share"),
        (("phases.first.model.bn=train", "phases.first.model.freeze=all"), ""),
        (("phases.first.model.bn=train", "phases.first.model.freeze=until:body"), ""),
        (("phases.first.model.dropout=0.1",), "dropout draws anew in each process"),
        (("phases.first.augment.mixup=0.2",), "pictures are mixed within each process's share"),
        (("phases.first.train.class_weights=balanced",), "class weights are averaged within"),
    ],
)
def test_what_differs_is_said(recipe, demo_zoo, capsys, sets, told):
    check(load(recipe, sets).recipe, World(0, 2))
    err = capsys.readouterr().err
    assert told in err
    assert bool(told) == ("not the same as in one process" in err)
    check(load(recipe, sets).recipe, ALONE)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("ensemble.folds=3",), "not folds or seeds"),
        (("ensemble.seeds=2",), "not folds or seeds"),
        (("phases.second.train.batch_size=1",), "train.batch_size is smaller"),
    ],
)
def test_what_cannot_be_shared_is_refused(recipe, demo_zoo, sets, told):
    with pytest.raises(UsageError, match=told):
        check(load(recipe, sets).recipe, World(0, 2))


def test_a_study_takes_one_process(recipe, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from fxcli.cli import app

    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("MASTER_PORT", "1")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="MASTER_ADDR is not set"):
        processes()
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    for arguments in (("experiments",), ("final", "--dry-run"), (str(tmp_path),)):
        found = CliRunner().invoke(app, ["train", *arguments])
        assert found.exit_code == 2
        assert "torchrun is for" in found.stderr


@pytest.mark.parametrize(("text", "count"), [(None, 1), ("", 1), ("1", 1)])
def test_one_process_is_no_world(monkeypatch, text, count):
    if text is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", text)
    assert processes() == count


def test_a_number_of_processes_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UsageError, match="no number of processes"):
        processes()
