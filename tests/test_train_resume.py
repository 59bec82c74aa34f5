"""fx train that is stopped, killed or fails, and fx train --resume."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from stopping import stop_after
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data import dataset
from fxcli.run import checkpoint
from fxcli.run.directory import Run


def fx(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_resume_of_a_finished_run_is_refused(trained):
    done = fx("train", "--resume", trained.path)
    assert done.exit_code == 6
    assert "finished" in done.stderr


@pytest.mark.parametrize("what", ["recipe", "manifest"])
def test_resume_refuses_what_changed(trained, what, prepared):
    trained.update(status="interrupted")
    if what == "recipe":
        file = trained.path / "recipe.yaml"
        values = yaml.safe_load(file.read_text())
        values["phases"]["main"]["train"]["epochs"] = 3
        file.write_text(yaml.safe_dump(values))
    else:
        folder = Path("moved")
        shutil.copytree(prepared / "pictures", folder / "pictures")
        lines = (prepared / "manifest.csv").read_text().splitlines()
        (folder / "manifest.csv").write_text("\n".join(lines[:-1]) + "\n")
        trained.update(manifest=str(folder / "manifest.csv"))
    done = fx("train", "--resume", trained.path)
    assert done.exit_code == 6
    assert f"the {what} changed" in done.stderr


@pytest.fixture
def stopped(monkeypatch):
    """A command that Ctrl-C stops after two steps of training."""

    def run(*arguments):
        with monkeypatch.context() as patch:
            stop_after(patch, 2)
            return fx(*arguments)

    return run


@pytest.mark.slow
def test_ctrl_c_exits_130_and_resume_finishes(tiny_recipe, stopped):
    tiny_recipe("train.epochs=3")
    done = stopped("train", "tiny.yaml", "--out", "runs/stopped", "--quiet")
    assert done.exit_code == 130
    assert "fx train --resume runs/stopped" in done.stderr
    run = Run(Path("runs/stopped"))
    assert run.info()["status"] == "interrupted"
    done = fx("train", "--resume", run.path, "--quiet")
    assert done.exit_code == 0, done.output
    assert run.info()["status"] == "finished"
    straight = fx("train", "tiny.yaml", "--out", "runs/straight", "--quiet")
    assert straight.exit_code == 0
    assert run.info()["figures"] == Run(Path("runs/straight")).info()["figures"]


def test_resume_computes_as_the_run_was_started(trained):
    """A run of a machine without bf16, going on where auto would be bf16."""
    compute = trained.info()["compute"] | {"precision": "fp32", "channels_last": False}
    trained.update(status="interrupted", compute=compute)
    assert fx("train", "--resume", trained.path, "--quiet").exit_code == 0
    assert trained.info()["compute"] == compute
    assert checkpoint.read_header(trained.model_file)["channels_last"] is False


def test_a_run_in_use_is_refused(trained):
    trained.update(status="interrupted")
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (trained.path / "lock.json").write_text(json.dumps({"pid": holder.pid, "host": os.uname().nodename}))
        done = fx("train", "--resume", trained.path)
        assert done.exit_code == 6
        assert f"process {holder.pid}" in done.stderr
    finally:
        holder.kill()
        holder.wait()


def test_a_resume_state_needs_no_start(trained, stopped):
    start = Run(Path("runs/start"))
    shutil.copytree(trained.path, start.path)
    sets = ("--set", f"model.init={start.path}", "--set", "train.epochs=1")
    assert stopped("train", "tiny.yaml", *sets, "--out", "runs/next", "--quiet").exit_code == 130
    shutil.rmtree(start.path)
    done = fx("train", "--resume", "runs/next", "--quiet")
    assert done.exit_code == 0, done.output


def test_a_resumed_run_forgets_its_failure(trained):
    trained.update(status="failed", error="disk full", ended="then")
    assert fx("train", "--resume", trained.path.name, "--quiet").exit_code == 0
    info = trained.info()
    assert info["status"] == "finished"
    assert info["error"] is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_real_process_survives_a_signal_to_its_group(tiny_recipe, number):
    """The whole way: `python -m fxcli` in a process of its own, a signal, exit 130."""
    tiny_recipe()
    arguments = ["train", "tiny.yaml", "--set", "model.backbone=resnet18", "--set", "train.epochs=400"]
    arguments += ["--set", "data.workers=2", "--out", "runs/real"]
    process = subprocess.Popen([sys.executable, "-m", "fxcli", *arguments], start_new_session=True)
    for _ in range(600):
        if Path("runs/real/metrics.jsonl").exists() and Path("runs/real/metrics.jsonl").read_text():
            break
        time.sleep(0.1)
    # A terminal sends it to the whole group, the decoding processes too.
    os.killpg(process.pid, number)
    assert process.wait(60) == 130
    assert Run(Path("runs/real")).info()["status"] == "interrupted"
    assert not Path("runs/real/lock.json").exists()


def killed_in(monkeypatch, epoch):
    """Once, the process that decodes is killed in an epoch, as the system does where memory runs out."""
    training, done, real = os.getpid(), Path("killed"), dataset.Batches.begin
    Path("epoch").write_text("0")

    def begin(self, number, start=0):
        Path("epoch").write_text(str(number))
        real(self, number, start)

    def see(self, draw):
        if os.getpid() != training and not done.exists() and Path("epoch").read_text() == str(epoch):
            done.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item(self, draw)

    item = dataset.TrainingPictures.__getitem__
    monkeypatch.setattr(dataset.Batches, "begin", begin)
    monkeypatch.setattr(dataset.TrainingPictures, "__getitem__", see)


ONE_WORKER = ("--set", "data.workers=1", "--set", "train.save_every_min=1e-9", "--quiet")


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_killed_decoding_process_loses_nothing(tiny_recipe, monkeypatch):
    tiny_recipe()
    assert fx("train", "tiny.yaml", *ONE_WORKER, "--out", "runs/whole").exit_code == 0
    killed_in(monkeypatch, epoch=1)
    done = fx("train", "tiny.yaml", *ONE_WORKER, "--out", "runs/hit")
    assert done.exit_code == 6, done.output
    assert "internal error" not in done.stderr
    assert "the system ended a process that decodes pictures, because memory ran out, as a rule" in done.stderr
    assert "FX_MAX_WORKERS=1" in done.stderr
    assert done.stderr.rstrip().endswith("what was saved is whole, and goes on with: fx train --resume runs/hit")
    assert Run(Path("runs/hit")).info()["status"] == "failed"
    monkeypatch.setenv("FX_MAX_WORKERS", "0")
    again = fx("train", "--resume", "runs/hit", "--quiet")
    assert again.exit_code == 0, again.output
    whole, hit = (checkpoint.load_model_file(Run(Path(f"runs/{name}")).model_file)[0] for name in ("whole", "hit"))
    assert all(torch.equal(value, hit[name]) for name, value in whole.items())


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_a_part_of_a_run_goes_on_with_the_whole(tiny_recipe, monkeypatch):
    tiny_recipe()
    killed_in(monkeypatch, epoch=0)
    done = fx("train", "tiny.yaml", *ONE_WORKER, "--set", "train.epochs=1", "--seeds", "2", "--out", "runs/two")
    assert done.exit_code == 6, done.output
    assert done.stderr.rstrip().endswith("goes on with: fx train --resume runs/two")
    assert fx("train", "--resume", "runs/two", "--quiet").exit_code == 0


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_an_estimate_has_nothing_to_go_on_with(tiny_recipe, monkeypatch):
    tiny_recipe()
    killed_in(monkeypatch, epoch=0)
    done = fx("train", "tiny.yaml", "--set", "data.workers=1", "--dry-run")
    assert done.exit_code == 6, done.output
    assert "the system ended a process that decodes pictures" in done.stderr
    assert "goes on with" not in done.stderr
