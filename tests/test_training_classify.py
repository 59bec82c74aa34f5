import json
import re
import shutil
import time

import pytest
import torch
from beginning import assert_same, beginning, figures, tensors_of

from fxcli.data import dataset
from fxcli.data.augment import Augmenter
from fxcli.errors import DataError, RunError, UnreadableImage
from fxcli.model import hardware
from fxcli.run import checkpoint
from fxcli.training import feed, loop, validate
from fxcli.training.session import Timer


@pytest.fixture
def begin(demo_zoo):
    return beginning(demo_zoo)


@pytest.mark.slow
def test_training_learns_and_writes_everything(begin, tiny_recipe):
    training, run = begin(tiny_recipe("train.epochs=12"))
    found = loop.train(training, run, resume=False)
    assert found["accuracy"] > 0.6
    lines = figures(run)
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    best = max(line["val_macro_f1"] for line in lines)
    assert found["macro_f1"] == pytest.approx(best)
    header = checkpoint.read_header(run.model_file)
    assert header["epoch"] == next(line["epoch"] for line in lines if line["val_macro_f1"] == best)
    assert header["classes"] == ["class_0", "class_1", "class_2"]


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bits_with_any_worker_count(begin, tiny_recipe):
    recipe = tiny_recipe("augment.rotate_deg=20", "augment.erase=0.5", "augment.mixup=0.3")
    runs = []
    for workers in (0, 2):
        training, run = begin(recipe, workers=workers)
        loop.train(training, run, resume=False)
        runs.append(run)
    assert_same(*runs)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_kept_pictures_give_the_same_bits(begin, tiny_recipe, workers):
    """Through phases that see the same of the pictures, and one that crops them."""
    phases = """
phases:
  a: {augment: {rotate_deg: 20}}
  b: {augment: {hflip: 0.5}, train: {epochs: 1}}
  c: {augment: {crop_scale: [0.5, 1.0]}}
"""
    runs = []
    for cache in ("none", "memory", "disk", "auto"):
        training, run = begin(tiny_recipe(f"data.cache={cache}", phases=phases), workers=workers)
        loop.train(training, run, resume=False)
        assert (training.kept is None) == (cache == "none")
        runs.append(run)
    for run in runs[1:]:
        assert_same(runs[0], run)


def test_accumulation_equals_the_large_batch(begin, tiny_recipe):
    """Without BatchNorm statistics and dropout, two batches of 4 are one of 8."""
    both = ("model.bn=eval", "train.epochs=1", "train.monitor=none", "optim.name=sgd")
    training, large = begin(tiny_recipe(*both, "train.batch_size=8"))
    loop.train(training, large, resume=False)
    training, small = begin(tiny_recipe(*both, "train.batch_size=4", "train.accumulate=2"))
    loop.train(training, small, resume=False)
    assert training.place.step == 3
    one, two = tensors_of(large), tensors_of(small)
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-5) for name in one)


@pytest.mark.slow
def test_phases_start_from_best_or_last(begin, tiny_recipe, monkeypatch):
    seen = {}
    real = loop.set_up

    def set_up(training, tensors):
        seen[training.place.phase] = training.model.network.head.weight.detach().clone()
        return real(training, tensors)

    monkeypatch.setattr(loop, "set_up", set_up)
    for start in ("best", "last"):
        phases = f"phases: {{a: {{}}, b: {{start: {start}, train: {{epochs: 1}}}}}}"
        training, run = begin(tiny_recipe(phases=phases))
        kept = {}
        real_end = loop._end_epoch

        def end(training, *rest, kept=kept, real_end=real_end):
            kept[training.place.epoch + 1] = training.model.network.head.weight.detach().clone()
            real_end(training, *rest)
            if training.place.phase == 0:
                kept["best"] = training.place.best_epoch

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_end_epoch", end)
            # The first epoch is made the best, so that best and last differ.
            patch.setattr(loop, "_score", lambda monitor, values: -values["epoch"])
            loop.train(training, run, resume=False)
        assert kept["best"] == 1
        assert torch.equal(seen[1], kept[1 if start == "best" else 2])


def test_early_stopping_looks_at_validation(begin, tiny_recipe, monkeypatch, capsys):
    monkeypatch.setattr(loop, "_score", lambda monitor, values: -values["epoch"])
    phases = "phases: {a: {train: {epochs: 9}}, b: {train: {epochs: 2}}}"
    training, run = begin(tiny_recipe("train.patience=2", phases=phases))
    loop.train(training, run, resume=False)
    assert [line["epoch"] for line in figures(run)] == [1, 2, 3, 4, 5]
    logged = (run.path / "log.txt").read_text(encoding="utf-8")
    assert "a: no improvement for 2 epochs; the phase ends" in logged
    left = re.findall(r"^(\w+ \d/\d) .* (\d+\.\d) min left", capsys.readouterr().err, re.MULTILINE)
    assert [float(minutes) for title, minutes in left if title in ("b 2/2")] == [0.0]


def test_the_minutes_left_are_of_the_phase_at_the_pace_of_its_last_epoch(begin, tiny_recipe, monkeypatch, capsys):
    """A head on kept features is soon through; what comes after it is named, for its pace is not known."""
    monkeypatch.setattr(Timer, "epoch_s", property(lambda timer: 90.0))
    phases = "phases: {a: {train: {epochs: 3}}, b: {train: {epochs: 2}}, c: {train: {epochs: 1}}}"
    training, run = begin(tiny_recipe(phases=phases))
    loop.train(training, run, resume=False)
    left = re.findall(r"^(\w \d/\d) .*\)  (.*)$", capsys.readouterr().err, re.MULTILINE)
    assert left == [
        ("a 1/3", "3.0 min left, then b, c"),
        ("a 2/3", "1.5 min left, then b, c"),
        ("a 3/3", "0.0 min left, then b, c"),
        ("b 1/2", "1.5 min left, then c"),
        ("b 2/2", "0.0 min left, then c"),
        ("c 1/1", "0.0 min left"),
    ]


@pytest.mark.parametrize(
    ("epoch_s", "minutes", "told"),
    [(90.0, "1", "1.0 min left, then b"), (None, "null", "then b"), (90.0, "1e-9", "0.0 min left")],
)
def test_the_minutes_left_are_no_more_than_is_allowed(begin, tiny_recipe, monkeypatch, capsys, epoch_s, minutes, told):
    """And nothing follows where they are over; nothing is said of an epoch of which no step was seen."""
    monkeypatch.setattr(Timer, "epoch_s", property(lambda timer: epoch_s))
    phases = f"phases: {{a: {{train: {{epochs: 3, max_minutes: {minutes}}}}}, b: {{train: {{epochs: 1}}}}}}"
    training, run = begin(tiny_recipe(phases=phases))
    loop.train(training, run, resume=False)
    assert re.findall(r"^a 1/3 .*\)  (.*)$", capsys.readouterr().err, re.MULTILINE) == [told]


def test_memory_is_given_back_before_each_phase_forks_its_processes(begin, tiny_recipe, monkeypatch):
    seen, real = [], dataset.begun
    monkeypatch.setattr(hardware.held, "give_back", lambda at_once=False: at_once and seen.append("given back"))
    monkeypatch.setattr(dataset, "begun", lambda loader: seen.append("epoch") or real(loader))
    training, run = begin(tiny_recipe(phases="phases: {a: {train: {epochs: 2}}, b: {train: {epochs: 1}}}"))
    loop.train(training, run, resume=False)
    assert seen == ["given back", "epoch", "epoch", "given back", "epoch"]


@pytest.mark.slow
def test_waiting_and_computing_are_told_apart(begin, tiny_recipe, monkeypatch):
    """Slow pictures and a slow loss; validation and saving count as neither."""
    real, real_call, real_validate = feed._losses, Augmenter.__call__, validate.validate
    monkeypatch.setattr(feed, "_losses", lambda *all_: time.sleep(0.03) or real(*all_))
    monkeypatch.setattr(Augmenter, "__call__", lambda *all_: time.sleep(0.005) or real_call(*all_))
    monkeypatch.setattr(validate, "validate", lambda *all_: time.sleep(0.5) or real_validate(*all_))
    training, run = begin(tiny_recipe("train.save_every_min=1e-9"))
    loop.train(training, run, resume=False)
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    for line in lines:
        assert 0.12 <= line["data_wait_s"] < 0.4
        assert 0.09 <= line["compute_s"] < 0.4
    totals = run.info()["seconds"]
    for name in ("data_wait_s", "compute_s"):
        assert totals[name] == pytest.approx(sum(line[name] for line in lines), abs=0.1)
    assert totals["spent_s"] == pytest.approx(lines[-1]["seconds"], abs=0.2)


def test_monitor_none_keeps_the_last(begin, tiny_recipe):
    training, run = begin(tiny_recipe("train.monitor=none"))
    loop.train(training, run, resume=False)
    assert not run.best_file.exists()
    last = training.model.network.state_dict()
    assert all(torch.equal(value, last[name]) for name, value in tensors_of(run).items())
    assert checkpoint.read_header(run.model_file)["epoch"] == 2


def test_averaged_weights_are_evaluated_and_kept(begin, tiny_recipe):
    training, run = begin(tiny_recipe("train.ema=0.9", "train.monitor=none", "train.epochs=1"))
    loop.train(training, run, resume=False)
    raw = checkpoint.load_state(run.state_file)[0]
    kept = tensors_of(run)
    assert torch.equal(kept["head.weight"], raw["ema.head.weight"])
    assert not torch.equal(kept["head.weight"], raw["model.head.weight"])


A, B = "a: {train: {epochs: 1}}", "b: {train: {epochs: 1}}"


@pytest.mark.parametrize(
    ("sets", "phases", "told"),
    [
        (["train.epochs=50"], "", "in epoch 1 of 50 of phase main"),
        (["train.epochs=1"], "", "in epoch 1 of 1 of phase main"),
        ([], f"phases: {{{A}, {B}, c: {{}}}}", "in epoch 1 of 1 of phase a; not run: b, c"),
        (["train.batch_size=24"], f"phases: {{{A}, {B}}}", "after phase a; not run: b"),
        (["train.batch_size=24", "train.epochs=1"], "", None),
    ],
)
def test_max_minutes_ends_the_run_with_a_model_and_says_what_it_cut(begin, tiny_recipe, capsys, sets, phases, told):
    training, run = begin(tiny_recipe(*sets, "train.max_minutes=1e-6", phases=phases))
    loop.train(training, run, resume=False)
    assert len(figures(run)) == 1
    assert run.model_file.exists()
    story = told and f"train.max_minutes ended the training {told}"
    assert run.info().get("ended_by") == story
    assert (f"warning: {story}\n" in capsys.readouterr().err) == bool(told)
    assert ("max_minutes" in (run.path / "log.txt").read_text(encoding="utf-8")) == bool(told)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(begin, tiny_recipe, monkeypatch):
    training, run = begin(tiny_recipe("train.epochs=3", "train.save_every_min=1e-9"))
    real = feed._losses

    def loss(training, *rest):
        found = real(training, *rest)
        return {name: value * (float("nan") if training.place.step == 4 else 1) for name, value in found.items()}

    monkeypatch.setattr(feed, "_losses", loss)
    with pytest.raises(RunError, match="the loss is nan at step 4"):
        loop.train(training, run, resume=False)
    assert checkpoint.load_state(run.state_file)[1]["place"]["step"] == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_training_picture_is_named(begin, tiny_recipe, monkeypatch, prepared, tmp_path, workers):
    copy = tmp_path / "copy"
    shutil.copytree(prepared, copy)
    training, run = begin(tiny_recipe(f"data.manifest='{copy / 'manifest.csv'}'"), workers=workers)
    victim = validate.part(training, "train")[0][0]
    victim.write_bytes(b"not a picture")
    with pytest.raises(UnreadableImage, match="not a picture") as caught:
        loop.train(training, run, resume=False)
    assert caught.value.path == victim


def test_parts_are_checked_before_anything_is_computed(begin, tiny_recipe, prepared, tmp_path):
    text = (prepared / "manifest.csv").read_text()
    for old, new, match in (
        (",train,", ",test,", "no training picture of class_0, class_1, class_2"),
        (",val,", ",test,", "no validation part"),
        (",class_0,", ",class_1,", None),
    ):
        folder = tmp_path / (match or "one").replace(" ", "_").replace(",", "")
        shutil.copytree(prepared / "pictures", folder / "pictures")
        (folder / "manifest.csv").write_text(text.replace(old, new))
        recipe = tiny_recipe(f"data.manifest='{folder / 'manifest.csv'}'")
        if match is None:
            assert len(begin(recipe)[0].model.classes) == 2
            continue
        with pytest.raises(DataError, match=match):
            begin(recipe)


def test_a_limit_of_a_later_phase_does_not_end_the_first(begin, tiny_recipe):
    phases = "phases: {a: {}, b: {train: {epochs: 9, max_minutes: 1e-6}}, c: {}}"
    training, run = begin(tiny_recipe(phases=phases))
    loop.train(training, run, resume=False)
    assert [line["phase"] for line in figures(run)] == ["a", "a", "b"]


def test_time_that_runs_out_while_an_epoch_is_measured_ends_the_training_there(begin, tiny_recipe, monkeypatch):
    """Else it would measure once more, after a single step."""
    training, run = begin(tiny_recipe("train.epochs=9", "train.max_minutes=60"))
    real = loop._measure_epoch

    def slow(training, run, log, timer, *rest):
        real(training, run, log, timer, *rest)
        timer._start -= 3600

    monkeypatch.setattr(loop, "_measure_epoch", slow)
    loop.train(training, run, resume=False)
    assert [line["step"] for line in figures(run)] == [3]
    assert run.info()["ended_by"] == "train.max_minutes ended the training in epoch 1 of 9 of phase main"
    assert checkpoint.load_state(run.state_file)[1]["place"]["done"]


def test_a_small_last_batch_counts_by_its_pictures(begin, tiny_recipe):
    """24 pictures in groups of 20 and 4: the same as batches of 20 and 4."""
    both = ("model.bn=eval", "train.epochs=1", "train.monitor=none", "optim.name=sgd")
    training, large = begin(tiny_recipe(*both, "train.batch_size=20"))
    loop.train(training, large, resume=False)
    training, small = begin(tiny_recipe(*both, "train.batch_size=5", "train.accumulate=4"))
    loop.train(training, small, resume=False)
    assert training.place.step == 2
    one, two = tensors_of(large), tensors_of(small)
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=1e-5) for name in one)
