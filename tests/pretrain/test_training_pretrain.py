"""The loop of pretraining: it learns, it resumes bit for bit, and a classifier starts from what it made."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretraining import CLASSIFY, CPU, assert_same, epochs, lines, stop_at, tensors
from typer.testing import CliRunner

from fx_simclr import simclr
from fxcli.cli import app
from fxcli.data.dataset import Draw, Views
from fxcli.data.preprocess import Clean, Cleaned, Preprocessing
from fxcli.errors import DataError, Interrupted, RunError, UnreadableImage
from fxcli.model import classifier as models
from fxcli.model.hardware import Compute
from fxcli.model.init import initialise
from fxcli.recipe.load import load, shipped
from fxcli.recipe.schema import Model
from fxcli.run import checkpoint, directory
from fxcli.training import pretrain
from fxcli.training.session import Timer


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "byol"])
def test_the_loss_falls_and_the_file_says_what_it_is(recipe_of, go, method):
    run, figures = go(recipe_of(method, "train.epochs=8"))
    losses = [line["train_loss"] for line in epochs(run)]
    assert [line["step"] for line in epochs(run)] == list(range(3, 27, 3))
    assert losses[-1] < losses[0]
    assert figures == {"loss": losses[-1]}
    found, header = checkpoint.load_model_file(run.model_file)
    assert all(name.startswith("backbone.") for name in found)
    assert (header["task"], header["method"], header["epoch"]) == ("pretrain", method, 8)
    assert run.info()["epoch"] == 8, "as fx runs lists it"
    assert Preprocessing.from_mapping(header["preprocessing"]).image_size_px == 32


@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", "byol"])
@pytest.mark.parametrize("step", [1, 3, 5])
@pytest.mark.parametrize("more", [(), ("train.batch_size=5", "train.accumulate=2", "optim.name=lars")])
def test_resume_ends_bitwise_equal(recipe_of, go, monkeypatch, method, step, more):
    """Three steps an epoch: in the middle of the first, at its end, and in the middle of the second."""
    recipe = recipe_of(method, "optim.clip_norm=1.0", *more)
    whole, _ = go(recipe)
    run = directory.create("pre", {}, out=Path("stopped"))
    with monkeypatch.context() as patch:
        stop_at(patch, method, step)
        with pytest.raises(Interrupted, match=f"stopped at step {step}; everything is saved") as error:
            go(recipe, run)
    assert "fx train --resume stopped" in str(error.value)
    assert not run.model_file.exists()
    torch.rand(3)
    go(recipe, run)
    assert_same(whole, run)


@pytest.mark.slow
def test_bits_do_not_depend_on_workers_and_cache(recipe_of, go):
    variants = [(0, "none"), (2, "none"), (0, "memory"), (2, "disk"), (2, "auto")]
    first, *rest = [
        go(recipe_of("simclr", f"data.workers={workers}", f"data.cache={cache}", "train.epochs=1"))[0]
        for workers, cache in variants
    ]
    for run in rest:
        assert_same(first, run)


@pytest.mark.slow
def test_saves_by_the_clock_and_ends_by_it(recipe_of, go, monkeypatch):
    saved = []
    real = checkpoint.save_state
    monkeypatch.setattr(checkpoint, "save_state", lambda *all_: (saved.append(all_[2]["place"]["step"]), real(*all_)))
    recipe = recipe_of("simclr", "train.save_every_min=1e-9")
    go(recipe)
    assert saved == [1, 2, 3, 3, 4, 5, 6, 6]
    run, figures = go(recipe_of("simclr", "train.max_minutes=1e-9"))
    assert [line["step"] for line in epochs(run)] == [1]
    assert figures["loss"] == epochs(run)[0]["train_loss"]


@pytest.mark.parametrize(("sets", "cut"), [((), True), (("train.batch_size=24", "train.epochs=1"), False)])
def test_what_time_cuts_short_is_told_and_looked_at(recipe_of, go, capsys, sets, cut):
    run, _ = go(recipe_of("simclr", "train.max_minutes=1e-9", "train.look_every=5", *sets))
    assert [line["epoch"] for line in lines(run) if "effective_rank" in line] == [0, 1]
    story = "train.max_minutes ended the training in epoch 1 of 2"
    assert run.info().get("ended_by") == (story if cut else None)
    assert (f"warning: {story}" in capsys.readouterr().err) == cut
    assert (story in (run.path / "log.txt").read_text(encoding="utf-8")) == cut


def test_the_minutes_left_are_no_more_than_is_allowed(recipe_of, go, monkeypatch, capsys):
    monkeypatch.setattr(Timer, "epoch_s", property(lambda timer: 3600.0))
    go(recipe_of("simclr", "train.epochs=2", "train.max_minutes=30"))
    first, last = re.findall(r"(\d+\.\d) min left", capsys.readouterr().err)
    assert 20 < float(first) <= 30
    assert last == "0.0"


def test_time_that_runs_out_in_a_look_ends_it_there(recipe_of, go, monkeypatch):
    real, looks = pretrain._look, []

    def slow(pretraining, run, timer, stop):
        found = real(pretraining, run, timer, stop)
        looks.append(pretraining.place.step)
        timer._start -= 3600 if looks[-1] else 0
        return found

    monkeypatch.setattr(pretrain, "_look", slow)
    run, _ = go(recipe_of("simclr", "train.max_minutes=60", "train.look_every=1"))
    assert looks == [0, 3]
    assert run.info()["ended_by"] == "train.max_minutes ended the training in epoch 1 of 2"


def test_stopped_in_the_look_after_its_time_it_ends_that_epoch(recipe_of, go, monkeypatch):
    recipe = recipe_of("simclr", "train.max_minutes=1e-9", "train.look_every=5")
    real, looks = pretrain._look, []

    def stopped(*arguments):
        looks.append(arguments)
        if len(looks) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    run = directory.create("pre", {}, out=Path("stopped"))
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_look", stopped)
        with pytest.raises(Interrupted):
            go(recipe, run)
    _, figures = go(recipe, run)
    assert [line["epoch"] for line in lines(run) if "effective_rank" in line] == [0, 1]
    assert figures["loss"] == lines(run)[-1]["train_loss"]
    assert checkpoint.read_header(run.model_file)["epoch"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("batch_size", "steps"), [(23, 1), (22, 2), (12, 2), (64, 1)])
def test_a_last_batch_of_one_picture_is_left_out(recipe_of, go, batch_size, steps):
    run, _ = go(recipe_of("simclr", f"train.batch_size={batch_size}", "train.epochs=1"))
    assert lines(run)[-1]["step"] == steps


@pytest.mark.slow
def test_batches_of_a_step_add_up_to_the_gradient_of_all_its_pictures(recipe_of, go, monkeypatch, capsys):
    """By a loss that is a mean over pictures; 24 of them, so that the last step has fewer, and one is left over."""

    def loss(self, views):
        first = next(self.parameters()).flatten()
        return sum((view.mean(dim=(1, 2, 3))[:, None] * first[: len(first)]).sum(dim=1).mean() for view in views)

    monkeypatch.setattr(simclr.SimCLR, "loss", loss)
    sets = ("train.epochs=2", "optim.name=sgd")
    for whole, batch, accumulate, steps in ((10, 5, 2, 3), (18, 6, 3, 2), (23, 23, 1, 1)):
        one, _ = go(recipe_of("simclr", *sets, f"train.batch_size={whole}"))
        two, _ = go(recipe_of("simclr", *sets, f"train.batch_size={batch}", f"train.accumulate={accumulate}"))
        assert [line["step"] for line in epochs(two)] == [line["step"] for line in epochs(one)] == [steps, 2 * steps]
        ours, theirs = tensors(two), tensors(one)
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    told = capsys.readouterr().err
    assert (
        "a step learns from 10 pictures, 5 at a time: a loss that compares pictures, as SimCLR's, compares those 5"
        in told
    )


@pytest.mark.slow
def test_a_picture_left_alone_ends_the_step_before_it(recipe_of, go):
    """24 pictures in batches of 23 and 1: the first is the last of its epoch, though accumulate asks for four."""
    run, _ = go(recipe_of("simclr", "train.batch_size=23", "train.accumulate=4"))
    assert [line["step"] for line in epochs(run)] == [1, 2]


def test_bf16_and_sgd_run(recipe_of, go):
    _, figures = go(recipe_of("byol", "optim.name=sgd", "train.epochs=1"), compute=Compute(CPU.device, "bf16", True))
    assert 0 < figures["loss"] < 8


def test_rates_and_decay_by_stage(recipe_of, demo_zoo, manifest):
    recipe = recipe_of("byol", "optim.head_lr_mult=3.0", "optim.layer_decay=0.5", "optim.weight_decay=0.1")
    built = pretrain.build(recipe, manifest, CPU, demo_zoo)
    names = {parameter: name for name, parameter in built.module.named_parameters()}
    for group in built.optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(parameter)
            factor = 0.25 if "backbone.stem" in name else 0.5 if "backbone" in name else 3.0
            assert group["factor"] == factor
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)
    assert all(name.startswith("target_") for name in names.values()), "the rest follows, it does not learn"


def test_a_loss_that_is_not_finite_ends_the_run(recipe_of, go, monkeypatch):
    monkeypatch.setattr(simclr.SimCLR, "loss", lambda self, views: next(self.parameters()).sum() * float("nan"))
    with pytest.raises(RunError, match="the loss is nan at step 0"):
        go(recipe_of("simclr"))


def test_an_unreadable_picture_is_named(recipe_of, go, manifest, tmp_path):
    for row in manifest.rows:
        (tmp_path / row.path).touch()
    with pytest.raises(UnreadableImage, match=r"\d\.png: cannot read this picture"):
        go(recipe_of("simclr"), manifest=replace(manifest, root=tmp_path))


def test_one_picture_is_too_few(recipe_of, go, manifest):
    one = replace(manifest, rows=(manifest.part("train")[0], *manifest.part("val")))
    with pytest.raises(DataError, match="needs 2 training pictures, here are 1"):
        go(recipe_of("simclr"), manifest=one)


@pytest.mark.parametrize(("resize", "shape"), [("letterbox", (40, 64)), ("squash", (40, 64)), ("crop", (40, 40))])
def test_views_see_the_radiograph_and_no_black_around_it(resize, shape):
    pixels = np.zeros((64, 64), np.uint8)
    pixels[12:52] = 9
    seen = []
    preprocessing = Preprocessing(Clean(64), 32, resize, (0, 0, 0), (1, 1, 1))
    drawn = torch.zeros(3, 32, 32, dtype=torch.uint8)
    views = Views([Path("a.png")], preprocessing, [lambda picture: seen.append(picture) or drawn] * 2)
    object.__setattr__(preprocessing, "load", lambda path: Cleaned(pixels, (0, 12, 64, 52), 64, 40))
    views[Draw(0, 1)]
    assert [picture.shape for picture in seen] == [(1, *shape)] * 2
    assert all((picture == 9).all() for picture in seen)


def test_views_are_drawn_apart_and_leave_the_global_generator_alone(recipe_of, demo_zoo, manifest):
    views = pretrain.build(recipe_of("simclr"), manifest, CPU, demo_zoo).loader.dataset
    before = torch.get_rng_state()
    first, second = views[Draw(0, 5)]
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(first, second)
    assert all(torch.equal(*both) for both in zip((first, second), views[Draw(0, 5)], strict=True))
    assert not torch.equal(first, views[Draw(0, 6)][0])


@pytest.mark.slow
def test_from_the_command_line_to_a_classifier(recipe_of, demo_zoo, manifest):
    recipe_of("simclr")
    done = CliRunner().invoke(app, ["train", "pre.yaml", "--out", "runs/pre", "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["model"].endswith("model.safetensors")
    pretrained, _ = checkpoint.load_model_file(Path(record["model"]))
    options = ["--model", "runs/pre", "--features", "learnt"]
    done = CliRunner().invoke(app, ["predict", str(manifest.root), *options])
    assert done.exit_code == 0, done.output
    assert np.load("learnt/features.npy").shape == (30, 32)
    assert len(done.stdout.splitlines()) == 31

    settings = Model(backbone="demo_tiny", init="runs/pre")
    classifier = models.build(demo_zoo.backbone("demo_tiny"), settings, 32, 3, seed=9)
    initialise(demo_zoo.backbone("demo_tiny"), classifier.backbone, settings.init)
    state = classifier.state_dict()
    assert all(torch.equal(state[name], value) for name, value in pretrained.items())

    Path("fine.yaml").write_text(CLASSIFY.format(manifest=manifest.file), encoding="utf-8")
    runner = CliRunner()
    done = runner.invoke(app, ["train", "fine.yaml", "--out", "runs/fine"])
    assert done.exit_code == 0, done.output
    assert f"weights 'simclr' of simclr:demo_tiny: from {Path('runs', 'pre').absolute()}" in done.stderr
    Path("runs/pre").rename("elsewhere")
    trained = models.load(Path("runs/fine/model.safetensors"), demo_zoo)
    assert trained.spec.name == "simclr:demo_tiny"
    done = runner.invoke(app, ["train", "fine.yaml", "--out", "runs/none"])
    assert done.exit_code == 7, done.output
    assert "fx train pretrain_simclr --set model.backbone=demo_tiny" in done.stderr


@pytest.mark.slow
def test_a_stopped_run_goes_on_from_the_command_line(recipe_of, monkeypatch):
    recipe_of("byol")
    runner = CliRunner()
    with monkeypatch.context() as patch:
        stop_at(patch, "byol", 4)
        done = runner.invoke(app, ["train", "pre.yaml", "--out", "runs/a", "--quiet"])
    assert done.exit_code == 130, done.output
    done = runner.invoke(app, ["train", "--resume", "runs/a", "--quiet"])
    assert done.exit_code == 0, done.output
    done = runner.invoke(app, ["train", "pre.yaml", "--out", "runs/b", "--quiet"])
    assert done.exit_code == 0, done.output
    assert_same(directory.open_run(Path("runs/a")), directory.open_run(Path("runs/b")))


@pytest.mark.parametrize("name", ["pretrain_simclr", "pretrain_byol"])
def test_shipped_recipes_load_and_say_how_they_are_run(name):
    file = shipped()[name]
    first, second = file.read_text(encoding="utf-8").splitlines()[:2]
    assert first.startswith(f"# {name} — ")
    assert second == f"# fx train recipes/{name}.yaml"
    recipe = load(name).recipe
    assert recipe.pretrain.method == name.removeprefix("pretrain_")
