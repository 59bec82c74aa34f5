"""Faults that end a training, each provoked for real: what is told, with which code, and that the run goes on."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from harmful import fx
from stopping import stop_after

from fxcli.run import checkpoint
from fxcli.run.directory import Run
from fxcli.run.lock import Lock
from fxcli.training import loop

NOBODY = 65534


@pytest.fixture
def stopped(tiny_recipe, monkeypatch):
    """A run that was stopped after its first epoch, of two, and the unbroken one."""
    tiny_recipe("train.epochs=2")
    whole = fx("train", "tiny.yaml", "--out", "runs/whole", "--quiet")
    assert whole.exit_code == 0, whole.output
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert fx("train", "tiny.yaml", "--out", "runs/stopped", "--quiet").exit_code == 130
    return Run(Path("runs/stopped"))


@pytest.mark.parametrize(("recorded", "status"), [("interrupted", "interrupted"), ("running", "died")])
def test_a_prediction_by_an_unfinished_training_says_so(stopped, prepared, monkeypatch, recorded, status):
    picture = next((prepared / "pictures" / "test").rglob("*.png"))
    stopped.update(status=recorded)
    told = f"{stopped.path}, status {status}: this is the best epoch so far of an unfinished training"
    for command in ("predict", "cam"):
        for model in (stopped.path, stopped.best_file):
            done = fx(command, picture, "--model", model, "--quiet")
            assert (done.exit_code, done.stderr.count(told)) == (0, 1), done.output
    shutil.copytree("runs/whole", "runs/finished")
    best = Run(Path("runs/finished")).best_file
    assert "unfinished" not in fx("predict", picture, "--model", best).stderr
    picture = picture.absolute()
    with monkeypatch.context() as patch:
        patch.chdir(stopped.path / "checkpoints")
        assert "of an unfinished training" in fx("predict", picture, "--model", "best/model.safetensors").stderr
    (stopped.path / "run.json").write_text("{")
    assert fx("predict", picture, "--model", stopped.best_file).exit_code == 0


def goes_on(run):
    """The run ends as the unbroken one."""
    done = fx("train", "--resume", run.path, "--quiet")
    assert done.exit_code == 0, done.output
    one, two = (checkpoint.load_model_file(each.model_file)[0] for each in (run, Run(Path("runs/whole"))))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert run.info()["status"] == "finished"
    assert run.info()["error"] is None


def intact(run):
    """The resume state that a fault must not touch."""
    return run.state_file.read_bytes()


@pytest.fixture
def small_files():
    """From here on no file may grow beyond so many bytes: a write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 20_000])
def test_no_space_for_a_checkpoint(stopped, small_files, limit):
    """Neither for run.json, or for that but not for weights."""
    before = intact(stopped)
    small_files(limit)
    done = fx("train", "--resume", stopped.path, "--quiet")
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert done.exit_code == 6
    assert "cannot be written to: File too large" in done.stderr
    assert "fx train --resume runs/stopped" in done.stderr
    assert intact(stopped) == before
    assert not list(stopped.path.rglob("*.part"))
    goes_on(stopped)


@pytest.mark.slow
def test_no_space_in_a_fold_is_told_with_the_command_that_goes_on(tiny_recipe, small_files):
    tiny_recipe()
    small_files(20_000)
    done = fx("train", "tiny.yaml", "--folds", "2", "--out", "runs/full", "--quiet")
    small_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert done.exit_code == 6
    assert "fx train --resume runs/full\n" in done.stderr
    assert fx("train", "--resume", "runs/full", "--quiet").exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs a disk of its own")
def test_a_full_disk(stopped):
    # Not below pytest's own folder: a disk that a killed test left mounted would fail every later session's tidying up.
    disk = Path(tempfile.mkdtemp(prefix="fx-disk-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=False).returncode:
        disk.rmdir()
        pytest.skip("may not mount")
    try:
        run = Run(disk / "stopped")
        shutil.copytree(stopped.path, run.path)
        before = intact(run)
        (disk / "filler").write_bytes(bytes((shutil.disk_usage(disk).free >> 12 << 12) - 8192))
        done = fx("train", "--resume", run.path, "--quiet")
        assert done.exit_code == 6
        assert "No space left on device" in done.stderr
        assert intact(run) == before
        (disk / "filler").unlink()
        goes_on(run)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
        disk.rmdir()


@pytest.fixture
def unprivileged(prepared):
    """Runs a function in a fork that may not write where its permissions say so; its exit code, and what it said."""

    def run(call):
        log = Path("child.log")
        log.touch()
        child = os.fork()
        if child == 0:
            code = 70
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(NOBODY)
                    os.setuid(NOBODY)
                done = call()
                code = done.exit_code
                os.write(target, done.output.encode())
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), log.read_text()

    target = os.open("child.log", os.O_WRONLY | os.O_CREAT)
    # Folders of root that nobody may enter are pytest's own.
    above = [*Path.cwd().parents, *prepared.parents, prepared, *(path for path in prepared.rglob("*") if path.is_dir())]
    closed = {folder for folder in above if not folder.stat().st_mode & stat.S_IXOTH}
    modes = {folder: folder.stat().st_mode for folder in [*closed, Path.cwd()]}
    for folder, mode in modes.items():
        folder.chmod(mode | 0o055)
    yield run
    os.close(target)
    for folder, mode in modes.items():
        folder.chmod(mode)


def test_a_read_only_run_directory(stopped, unprivileged):
    before = intact(stopped)
    folders = [stopped.path, *(path for path in stopped.path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    code, said = unprivileged(lambda: fx("train", "--resume", stopped.path, "--quiet"))
    for folder in folders:
        folder.chmod(0o755)
    assert code == 6, said
    assert "runs/stopped/lock.json: cannot be written to: Permission denied" in said
    assert intact(stopped) == before
    goes_on(stopped)


def test_a_run_that_cannot_be_made(tiny_recipe, unprivileged):
    tiny_recipe()
    Path("shut").mkdir(mode=0o555)
    code, said = unprivileged(lambda: fx("train", "tiny.yaml", "--out", "shut/run", "--quiet"))
    assert code == 6, said
    assert "shut/run: cannot be written to: Permission denied" in said


def test_two_runs_on_one_directory(stopped):
    """A live process at work there, and one that begins at the same moment."""
    before = intact(stopped)
    code = (
        "import sys; from pathlib import Path; from fxcli.run.lock import Lock\n"
        "with Lock(Path(sys.argv[1])): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(stopped.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"in\n"
        done = fx("train", "--resume", stopped.path)
        assert done.exit_code == 6
        assert f"process {other.pid}" in done.stderr
        assert "wait for it" in done.stderr
        assert intact(stopped) == before
        assert (stopped.path / "lock.json").exists()
        other.stdin.close()
        other.wait()
    goes_on(stopped)


@pytest.mark.slow
def test_two_that_begin_at_once_make_one_run(tiny_recipe):
    tiny_recipe()
    arguments = ["train", "tiny.yaml", "--set", "model.backbone=resnet18", "--set", "model.init=random"]
    command = [sys.executable, "-m", "fxcli", *arguments, "--set", "train.epochs=1", "--out", "runs/one"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 6], said
    assert any("in use" in text or "at work in this folder" in text for text in said)
    assert Run(Path("runs/one")).info()["status"] == "finished"


def test_a_loss_that_is_not_finite(tiny_recipe):
    """A rate that is far too high, for real; the checkpoint before it is whole."""
    tiny_recipe()
    sets = ["--set", "optim.lr=1e38", "--set", "train.save_every_min=1e-9", "--set", "train.epochs=3"]
    done = fx("train", "tiny.yaml", *sets, "--out", "runs/wild", "--quiet")
    assert done.exit_code == 6
    assert "not finite" in done.stderr or "no longer finite" in done.stderr or "the loss is" in done.stderr
    assert "lower optim.lr" in done.stderr
    run = Run(Path("runs/wild"))
    assert run.info()["status"] == "failed"
    if run.state_file.exists():
        tensors, _ = checkpoint.load_state(run.state_file)
        assert all(value.isfinite().all() for name, value in tensors.items() if name.startswith("model."))


@pytest.mark.parametrize("steps", [2, 3])
def test_weights_that_a_step_spoils_are_not_saved(stopped, monkeypatch, steps):
    """The loss of the step was finite: within an epoch, and with its last step."""
    before = intact(stopped)
    real, done = loop._step, []

    def step(training, *rest):
        real(training, *rest)
        done.append(1)
        if len(done) == steps - 1:
            with torch.no_grad():
                training.model.network.head.bias[0] = float("nan")
            patch.setattr(loop.Timer, "is_due", lambda *_: True)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", step)
        told = fx("train", "--resume", stopped.path, "--quiet")
    assert told.exit_code == 6
    assert "the weights are no longer finite after step" in told.stderr
    assert intact(stopped) == before
    goes_on(stopped)


def relabelled(prepared, folder, change):
    """A copy of a prepared folder with another manifest."""
    shutil.copytree(prepared, folder)
    file = folder / "manifest.csv"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(filter(None, map(change, lines))) + "\n", encoding="utf-8")
    return f"data.manifest={file}"


@pytest.mark.parametrize(
    ("lost", "sets", "said"),
    [
        ((",class_2,train,",), (), "no training picture of class_2"),
        ((",class_1,val,",), (), "no validation picture of class_1: val_macro_f1"),
        ((",class_1,val,",), ("train.monitor=val_balanced_accuracy",), "val_balanced_accuracy, a mean over classes"),
        ((",class_0,val,", ",class_1,val,", ",class_2,val,"), (), "there is no validation part"),
        ((",class_0,", ",class_1,"), (), "there is only one class"),
    ],
)
def test_parts_without_a_class(tiny_recipe, prepared, lost, sets, said):
    tiny_recipe()
    manifest = relabelled(prepared, Path("own"), lambda line: None if any(part in line for part in lost) else line)
    done = fx("train", "tiny.yaml", *(part for one in (manifest, *sets) for part in ("--set", one)), "--out", "runs/x")
    assert done.exit_code == 4
    assert said in done.stderr
    assert not Path("runs/x").exists()


def test_a_class_that_only_the_monitored_mean_needs(tiny_recipe, prepared):
    tiny_recipe()
    manifest = relabelled(prepared, Path("own"), lambda line: None if ",class_1,val," in line else line)
    sets = ("--set", manifest, "--set", "train.monitor=val_loss", "--set", "train.epochs=1")
    assert fx("train", "tiny.yaml", *sets, "--quiet").exit_code == 0


@pytest.fixture
def own(prepared, tiny_recipe, monkeypatch):
    """A run that was stopped, on pictures of its own that a test may change."""
    shutil.copytree(prepared, "own")
    tiny_recipe()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        sets = ("--set", "data.manifest=own/manifest.csv")
        assert fx("train", "tiny.yaml", *sets, "--out", "runs/own", "--quiet").exit_code == 130
    return Run(Path("runs/own"))


def picture(split):
    return sorted(Path("own/pictures", split).rglob("*.png"))[0]


def add(file, text):
    file.write_text(file.read_text(encoding="utf-8") + text, encoding="utf-8")


def swap(split):
    one, two = sorted(Path("own/pictures", split).rglob("*.png"))[:2]
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda: swap("train"), 6, "the pictures changed since this run was started"),
        (lambda: swap("val"), 6, "the pictures changed since this run was started"),
        (lambda: swap("test"), 0, ""),
        (lambda: os.utime(picture("train"), (1, 1)), 0, ""),
        (lambda: picture("train").unlink(), 4, "1 of 48 pictures are not there"),
        (lambda: add(Path("own/manifest.csv"), "\n"), 6, "the manifest changed since"),
        (lambda: add(Path("runs/own/recipe.yaml"), "seed: 1\n"), 3, "the key 'seed' stands here twice"),
    ],
)
def test_what_changed_since_is_refused(own, change, code, said):
    change()
    done = fx("train", "--resume", own.path, "--quiet")
    assert done.exit_code == code, done.output
    assert said in done.stderr
    assert own.info()["status"] == ("finished" if code == 0 else "interrupted")


@pytest.mark.slow
def test_a_state_of_another_run_is_refused(own, tiny_recipe):
    """Of the same network, so that its tensors fit."""
    before = own.state_file.read_bytes()
    other = fx("train", "tiny.yaml", "--set", "seed=7", "--out", "runs/other", "--quiet")
    assert other.exit_code == 0, other.output
    shutil.copy(Run(Path("runs/other")).state_file, own.state_file)
    done = fx("train", "--resume", own.path)
    assert done.exit_code == 6
    assert "of another recipe" in done.stderr
    own.state_file.write_bytes(before)
    assert fx("train", "--resume", own.path).exit_code == 0


@pytest.mark.parametrize("change", ["head", "optim", "place", "sums", "cut"])
def test_a_damaged_state_is_refused(own, change):
    tensors, header = checkpoint.load_state(own.state_file)
    header = {key: header[key] for key in ("place", "recipe_sha256")}
    if change == "head":
        tensors["model.head.weight"] = torch.zeros(5, 5)
    if change == "optim":
        tensors["optim.0.exp_avg"] = torch.zeros(3)
    if change == "place":
        header["place"]["phase"] = "evil"
    if change == "sums":
        header["place"]["loss_sums"] = {"loss": "evil"}
    checkpoint.save_state(own.state_file, tensors, header)
    if change == "cut":
        own.state_file.write_bytes(own.state_file.read_bytes()[:-100])
    done = fx("train", "--resume", own.path)
    assert done.exit_code == 6
    assert any(word in done.stderr for word in ("does not fit", "damaged"))


@pytest.mark.slow
def test_a_run_that_was_stopped_before_it_began(tiny_recipe):
    """What is left of making it, by a process that was killed: the same command makes it."""
    tiny_recipe()
    run = Path("runs/early")
    (run / "checkpoints" / "last").mkdir(parents=True)
    (run / "recipe.yaml").write_text("seed: 1\n")
    (run / "manifest.csv.part").write_text("pa")
    (run / "lock.json").write_text("")
    done = fx("train", "--resume", run)
    assert done.exit_code == 6
    assert "stopped before it began" in done.stderr
    assert "start it again" in done.stderr
    assert fx("train", "tiny.yaml", "--set", "train.epochs=1", "--out", run, "--quiet").exit_code == 0
    assert not list(run.rglob("*.part"))


def test_somebodys_folder_is_never_taken_for_what_was_left(tiny_recipe):
    tiny_recipe()
    Path("mine").mkdir()
    Path("mine/recipe.yaml").write_text("mine")
    Path("mine/notes.txt").write_text("mine")
    done = fx("train", "tiny.yaml", "--out", "mine")
    assert done.exit_code == 6
    assert "in use" in done.stderr
    assert Path("mine/recipe.yaml").read_text() == "mine"


def test_run_json_is_written_last(trained, monkeypatch, tiny_recipe):
    """So that a directory with it is whole."""
    tiny_recipe()
    seen = []
    real = Lock.__exit__

    def leave(lock, *rest):
        seen.append(sorted(path.name for path in lock.file.parent.iterdir() if path.is_file()))
        real(lock, *rest)

    monkeypatch.setattr(Lock, "__exit__", leave)
    fx("train", "tiny.yaml", "--set", "train.epochs=1", "--out", "runs/again", "--quiet")
    assert seen[0] == ["fingerprint.json", "lock.json", "manifest.csv", "recipe.yaml", "run.json"]
    names = ("recipe.yaml", "manifest.csv", "fingerprint.json", "run.json")
    times = [(Path("runs/again") / name).stat().st_mtime_ns for name in names]
    assert times[:3] == sorted(times[:3])
    assert json.loads(Path("runs/again/run.json").read_text())["pictures_sha256"]
    assert time.time_ns() > times[-1] >= times[2]
