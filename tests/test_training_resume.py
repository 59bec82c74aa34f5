"""A training that was stopped goes on as if it had not been."""

import json
import signal

import pytest
import torch
from beginning import CPU, PHASES, assert_same, beginning, figures
from stopping import stop_after

from fxcli.errors import Interrupted
from fxcli.model.hardware import Compute
from fxcli.run import checkpoint
from fxcli.training import loop, validate
from fxcli.training.session import Log, Stop


@pytest.fixture
def begin(demo_zoo):
    return beginning(demo_zoo)


def die(monkeypatch, training, run, is_there):
    """Trains until a save is due at such a place, as a process that is killed before it."""
    real = loop._save

    def save(training, *rest):
        if is_there(training.place):
            raise MemoryError("the process dies here")
        real(training, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save", save)
        with pytest.raises(MemoryError):
            loop.train(training, run, resume=False)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 3, 4, 6, 8, 11])
def test_resume_ends_bitwise_equal(begin, tiny_recipe, monkeypatch, steps):
    """Three steps an epoch, two epochs a phase: mid-epoch, at the end of an epoch, and of a phase."""
    recipe = tiny_recipe(phases=PHASES)
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match=f"stopped at step {steps}"):
            loop.train(training, run, resume=False)
    training, _ = begin(recipe, run)
    torch.rand(7)  # what happened to the global generator in between must not matter
    loop.train(training, run, resume=True)
    assert_same(whole, run)


def test_resume_before_the_first_save_starts_again(begin, tiny_recipe):
    recipe = tiny_recipe()
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe)
    loop.train(training, run, resume=True)
    assert_same(whole, run)


@pytest.mark.slow
def test_resume_cuts_metrics_that_came_after_the_checkpoint(begin, tiny_recipe, monkeypatch):
    recipe = tiny_recipe()
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            loop.train(training, run, resume=False)
    with run.metrics_file.open("a") as handle:
        handle.write('{"step": 5, "epoch": 9}\n{"step": 6, "ep')
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert figures(run) == figures(whole)


def test_a_resumed_run_adds_its_seconds(begin, tiny_recipe, monkeypatch):
    recipe = tiny_recipe()
    training, run = begin(recipe)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Interrupted):
            loop.train(training, run, resume=False)
    tensors, header = checkpoint.load_state(run.state_file)
    header["place"] |= {"spent_s": 1000.0, "data_wait_s": 300.0, "compute_s": 500.0}
    checkpoint.save_state(run.state_file, tensors, {"place": header["place"]})
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert [int(value) // 100 for value in run.info()["seconds"].values()] == [10, 3, 5]
    assert json.loads(run.metrics_file.read_text().splitlines()[-1])["compute_s"] < 100


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ("", "in epoch 1 of 2 of phase main"),
        ("phases: {a: {train: {epochs: 1}}, b: {train: {epochs: 1}}}", "after phase a; not run: b"),
    ],
)
def test_max_minutes_is_told_of_after_a_stop_at_the_very_end_of_a_phase(begin, tiny_recipe, monkeypatch, phases, told):
    recipe = tiny_recipe("train.batch_size=24", "train.max_minutes=1e-6", phases=phases)
    training, run = begin(recipe)
    real, saves = loop._save, []

    def save(*args):
        real(*args)
        saves.append(training.place.done)
        if training.place.batch == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_save", save)
    with pytest.raises(KeyboardInterrupt):
        loop.train(training, run, resume=False)
    assert saves[-1]
    monkeypatch.setattr(loop, "_save", real)
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert run.info().get("ended_by") == f"train.max_minutes ended the training {told}"


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_death_after_an_epoch_that_was_not_saved(begin, tiny_recipe, monkeypatch, epoch):
    """Epochs are short: the state is older than the best model and the metrics. The second phase starts from a file
    that its own first epoch overwrites.
    """
    recipe = tiny_recipe(phases=PHASES.replace("start: last", "start: best"))
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe)
    real = Log.write

    def write(log, step, values):
        real(log, step, values)
        if values["epoch"] == epoch:
            raise MemoryError("the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", write)
        with pytest.raises(MemoryError):
            loop.train(training, run, resume=False)
    assert len(figures(run)) == epoch
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert_same(whole, run)


@pytest.mark.slow
def test_short_epochs_are_saved_by_the_clock_and_at_the_end_of_a_phase(begin, tiny_recipe, monkeypatch):
    saved = []
    real = loop._save
    monkeypatch.setattr(loop, "_save", lambda *all_: (saved.append(all_[0].place.epoch), real(*all_)))
    phases = "phases: {a: {train: {epochs: 3}}, b: {train: {epochs: 2}}}"
    loop.train(*begin(tiny_recipe(phases=phases)), resume=False)
    assert saved == [3, 3, 5], "the second is the start of a phase, whose best overwrites the one that it started from"
    saved.clear()
    monkeypatch.setattr(loop, "EPOCH_SAVE_MIN", 0.0)
    loop.train(*begin(tiny_recipe(phases=phases)), resume=False)
    assert saved == [1, 2, 3, 3, 4, 5]


@pytest.mark.slow
def test_death_between_the_best_of_a_phase_and_its_first_save(begin, tiny_recipe, monkeypatch):
    """The second phase starts from a file that its own first epoch overwrites."""
    monkeypatch.setattr(loop, "EPOCH_SAVE_MIN", 0.0)
    recipe = tiny_recipe(phases=PHASES.replace("start: last", "start: best"))
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe)
    die(monkeypatch, training, run, lambda place: place.phase == 1 and place.phase_epoch == 1)
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert_same(whole, run)


def test_ctrl_c_during_the_last_validation_is_heard(begin, tiny_recipe, monkeypatch):
    recipe = tiny_recipe("train.epochs=1")
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe)
    real = validate.validate

    def interrupted(training):
        signal.raise_signal(signal.SIGINT)
        return real(training)

    with monkeypatch.context() as patch:
        patch.setattr(validate, "validate", interrupted)
        with pytest.raises(Interrupted):
            loop.train(training, run, resume=False)
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert_same(whole, run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "channels_last", "workers"), [("bf16", False, 0), ("bf16", True, 2), ("fp32", True, 0)]
)
def test_resume_is_exact_in_bf16_and_with_processes(begin, tiny_recipe, monkeypatch, precision, channels_last, workers):
    recipe = tiny_recipe(phases=PHASES)
    compute = Compute(CPU.device, precision, channels_last)
    trainings = []
    for _ in range(3):
        trainings.append(begin(recipe, workers=workers, compute=compute))
    (training, whole), (stopped, run), (again, _) = trainings
    loop.train(training, whole, resume=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            loop.train(stopped, run, resume=False)
    loop.train(again, run, resume=True)
    assert_same(whole, run)


@pytest.mark.slow
def test_no_metrics_line_is_doubled(begin, tiny_recipe, monkeypatch):
    """A timed save at the last step of an epoch, then death after the line was written."""
    recipe = tiny_recipe("train.save_every_min=1e-9")
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    training, run = begin(recipe)
    die(monkeypatch, training, run, lambda place: place.batch == 0)
    assert len(figures(run)) == 1
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert_same(whole, run)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_speed_of_an_epoch_is_that_of_what_was_left_of_it(begin, tiny_recipe, monkeypatch, capsys, steps):
    """24 pictures in batches of 10; after its last step nothing is left, and there is no speed."""
    recipe = tiny_recipe("train.batch_size=10", "train.epochs=1")
    training, run = begin(recipe)
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted):
            loop.train(training, run, resume=False)
    capsys.readouterr()
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    (line,) = [json.loads(text) for text in run.metrics_file.read_text().splitlines()]
    assert line.get("images_per_s", 0) >= 0
    assert ("images_per_s" in line) == (" img/s (" in capsys.readouterr().err) == (steps < 3)


def test_a_second_ctrl_c_stops_at_once():
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_sigterm_does_not_stop_at_once():
    """A scheduler that ends a whole job sends one to each process, and what started them passes its own on."""
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
