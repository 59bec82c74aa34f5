"""What is looked at while a backbone is pretrained, and what ends a pretraining that collapses."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from pretraining import CPU, epochs, lines
from torch import nn

from fx_simclr import simclr
from fxcli.errors import Interrupted, PluginError, RunError
from fxcli.evaluation import representation
from fxcli.run import checkpoint, directory
from fxcli.training import pretrain, watch


@pytest.mark.slow
def test_looks_are_logged_at_intervals_and_at_the_end(recipe_of, demo_zoo, manifest):
    recipe = recipe_of("simclr", "train.epochs=5", "train.look_every=2")
    run = directory.create("x", {}, out=None)
    pretrain.train(recipe, manifest, CPU, demo_zoo, {}, run, resume=False)
    found = lines(run)
    assert [line["epoch"] for line in found if "effective_rank" in line] == [0, 2, 4, 5]
    assert "train_loss" not in found[0]
    assert (run.path / "log.txt").read_text(encoding="utf-8").count("knn_balanced_accuracy") == 4
    for line in found:
        if "effective_rank" in line:
            assert 0 <= line["knn_balanced_accuracy"] <= 1
            assert line["feature_spread"] > 0


@pytest.mark.slow
def test_looks_change_nothing(recipe_of, demo_zoo, manifest):
    states = []
    for every in (0, 1):
        recipe = recipe_of("byol", f"train.look_every={every}")
        run = directory.create("x", {}, out=None)
        pretrain.train(recipe, manifest, CPU, demo_zoo, {}, run, resume=False)
        states.append(checkpoint.load_model_file(run.model_file)[0])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_a_collapse_ends_it_with_a_reason(recipe_of, demo_zoo, manifest, monkeypatch):
    """Every feature becomes the same, as where BYOL finds the trivial answer."""

    def collapse(self, progress):
        with torch.no_grad():
            for parameter in self.backbone.parameters():
                parameter.zero_()

    monkeypatch.setattr(simclr.SimCLR, "after_step", collapse)
    run = directory.create("x", {}, out=None)
    recipe = recipe_of("simclr", "train.look_every=1")
    with pytest.raises(RunError, match="the representation has collapsed: all pictures look alike"):
        pretrain.train(recipe, manifest, CPU, demo_zoo, {}, run, resume=False)
    assert not run.model_file.exists()
    blind = recipe_of("simclr", "train.look_every=0")
    pretrain.train(blind, manifest, CPU, demo_zoo, {}, directory.create("y", {}, out=None), resume=False)


class Attracting(nn.Module):
    """Views attract, and nothing keeps those of different pictures apart: neither predictor nor stopped gradient."""

    def __init__(self, backbone, args):
        super().__init__()
        self.backbone = backbone
        self.projector = nn.Linear(args.num_features, 16)

    def loss(self, views):
        seen = [self.projector(self.backbone(images).mean(dim=(2, 3))) for images in views]
        self.embeddings = torch.cat(seen)
        return 1 - nn.functional.cosine_similarity(*seen).mean()

    def after_step(self, progress):
        """Nothing moves but what learns."""


@pytest.fixture
def attracting(demo_zoo, monkeypatch):
    """It stands in for simclr; its class is given back."""
    spec = replace(demo_zoo.pretrainer("simclr"), build=Attracting)
    monkeypatch.setattr(type(demo_zoo), "pretrainer", lambda zoo, name: spec)
    return Attracting


@pytest.mark.slow
def test_a_method_that_only_attracts_collapses_and_is_ended(recipe_of, demo_zoo, manifest, attracting):
    """By its embeddings, while its features still differ; a resume does not get past it."""
    recipe = recipe_of("simclr", "train.epochs=30", "train.look_every=10", "optim.lr=3e-3")
    run = directory.create("x", {}, out=None)
    told = r"all embeddings that the loss compares are alike \(spread 0\.0\d+, and in 2 epochs below 0\.05\)"
    for resume in (False, True):
        with pytest.raises(RunError, match=told):
            pretrain.train(recipe, manifest, CPU, demo_zoo, {}, run, resume=resume)
        found = [line["embedding_spread"] for line in epochs(run)]
        assert found[0] > 0.05
        assert len(found) < 30
        assert [spread < representation.LEAST_EMBEDDING_SPREAD for spread in found[-3:]] == [False, True, True]
        assert not run.model_file.exists()
    built = pretrain.build(recipe, manifest, CPU, demo_zoo)
    pretrain._restore(built, run)
    assert built.watch.look(built.method.backbone, lambda: None)["feature_spread"] > 10 * representation.LEAST_SPREAD
    blind = directory.create("y", {}, out=None)
    sets = (f"train.epochs={len(found)}", "train.look_every=0", "optim.lr=3e-3", "schedule.name=constant")
    pretrain.train(recipe_of("simclr", *sets), manifest, CPU, demo_zoo, {}, blind, resume=False)
    assert blind.model_file.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "least"), [("simclr", 0.25), ("byol", 0.6)])
def test_embeddings_of_what_learns_stay_apart(recipe_of, go, capsys, method, least):
    run, _ = go(recipe_of(method, "train.epochs=8", "optim.lr=1e-3"))
    found = [line["embedding_spread"] for line in epochs(run)]
    assert len(found) == 8
    assert min(found) > least
    assert max(found) <= 1.0
    assert capsys.readouterr().err.count("embedding_spread") == 8


def test_embedding_spread_is_the_mean_over_the_pictures_of_an_epoch(recipe_of, go, monkeypatch):
    """Batches of 20 and 4: alike in the second one."""

    def loss(self, views):
        size = len(views[0])
        self.embeddings = torch.eye(20) if size == 20 else torch.ones(4, 20)
        return next(self.parameters()).sum()

    monkeypatch.setattr(simclr.SimCLR, "loss", loss)
    run, _ = go(recipe_of("simclr", "train.epochs=1", "train.batch_size=20", "train.look_every=0"))
    expected = representation.spread(np.eye(20)) * 20 / 24
    assert epochs(run)[0]["embedding_spread"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("left", "error", "message"),
    [
        (None, None, ""),
        (0.5, PluginError, "what loss left as embeddings is float, not floats"),
        (torch.zeros(4), PluginError, r"what loss left as embeddings is torch.float32 \[4\], not floats \[N, E\]"),
        (torch.zeros(4, 2, dtype=torch.int64), PluginError, r"embeddings is torch.int64 \[4, 2\], not"),
        (torch.full((4, 2), torch.nan), RunError, "the embeddings are no longer finite at step 0"),
    ],
)
def test_what_a_method_leaves_as_embeddings(recipe_of, go, monkeypatch, left, error, message):
    def loss(self, views):
        self.embeddings = left
        return next(self.parameters()).sum()

    monkeypatch.setattr(simclr.SimCLR, "loss", loss)
    recipe = recipe_of("simclr", "train.epochs=1", "train.look_every=0")
    if error is None:
        assert "embedding_spread" not in epochs(go(recipe)[0])[0]
        return
    with pytest.raises(error, match=message):
        go(recipe)


@pytest.mark.parametrize("spoilt", ["weights", "features"])
def test_what_is_no_longer_finite_ends_it_with_a_reason(recipe_of, demo_zoo, manifest, monkeypatch, spoilt):
    """By the last step of an epoch, after which nothing but the look would meet it."""

    def spoil(self, progress):
        with torch.no_grad():
            for parameter in self.backbone.parameters():
                parameter.fill_(torch.nan if spoilt == "weights" else 3e38)

    monkeypatch.setattr(simclr.SimCLR, "after_step", spoil)
    run = directory.create("x", {}, out=None)
    recipe = recipe_of("simclr", "train.look_every=1", "train.batch_size=24")
    with pytest.raises(RunError, match=f"the {spoilt} are no longer finite"):
        pretrain.train(recipe, manifest, CPU, demo_zoo, {}, run, resume=False)


def test_a_handful_of_pictures_may_be_learnt_from(recipe_of, demo_zoo, manifest):
    """Two have an effective rank of 1, whatever was learnt."""
    few = replace(manifest, rows=(*manifest.part("train")[:2], *manifest.part("val")))
    run = directory.create("x", {}, out=None)
    pretrain.train(recipe_of("simclr", "train.look_every=1"), few, CPU, demo_zoo, {}, run, resume=False)
    assert [line["effective_rank"] for line in lines(run)] == pytest.approx([1.0] * 3)


def test_a_start_to_which_all_looks_alike_is_told_alone(recipe_of, demo_zoo, manifest, monkeypatch):
    monkeypatch.setattr(watch.representation, "LEAST_SPREAD", 2.0)
    run = directory.create("x", {}, out=None)
    with pytest.raises(RunError, match="has collapsed"):
        pretrain.train(recipe_of("simclr", "train.look_every=1"), manifest, CPU, demo_zoo, {}, run, resume=False)
    assert [line["epoch"] for line in lines(run)] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("done", [0, 1])
def test_a_stop_during_a_look_is_resumed_to_the_same_lines(recipe_of, demo_zoo, manifest, monkeypatch, done):
    recipe = recipe_of("simclr", "train.look_every=1")
    whole = directory.create("x", {}, out=None)
    pretrain.train(recipe, manifest, CPU, demo_zoo, {}, whole, resume=False)
    run = directory.create("y", {}, out=None)
    real = pretrain._look

    looks = []

    def stopped(*arguments):
        looks.append(arguments)
        if len(looks) > done:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_look", stopped)
        with pytest.raises(Interrupted):
            pretrain.train(recipe, manifest, CPU, demo_zoo, {}, run, resume=False)
    pretrain.train(recipe, manifest, CPU, demo_zoo, {}, run, resume=True)
    assert lines(run) == lines(whole)
    one, two = (checkpoint.load_model_file(each.model_file)[0] for each in (whole, run))
    assert all(torch.equal(one[name], two[name]) for name in one)
