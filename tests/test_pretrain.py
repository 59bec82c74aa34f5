"""The loop of pretraining: it learns, it resumes bit for bit, and a classifier starts from what it made."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from typer.testing import CliRunner

from fx_simclr import byol, simclr
from fxcli import BackboneArgs
from fxcli.cli import app
from fxcli.data.dataset import Draw, Views
from fxcli.data.manifest import Row, read_manifest, write_manifest
from fxcli.data.preprocess import Clean, Cleaned, Preprocessing
from fxcli.errors import DataError, Interrupted, PluginError, RecipeError, RunError, UnreadableImage
from fxcli.evaluation import representation
from fxcli.inference import measured
from fxcli.model import classifier as models
from fxcli.model.hardware import Compute
from fxcli.model.init import initialise
from fxcli.recipe.load import load, shipped
from fxcli.recipe.schema import Model, PretrainRecipe
from fxcli.run import checkpoint, directory
from fxcli.training import pretrain, watch

CPU = Compute(torch.device("cpu"))
BYOL_OPTIONS = "options: {hidden_dim: 16, momentum: 0.5}"
RECIPE = """
task: pretrain
data: {{manifest: '{manifest}', image_size_px: 32, workers: 0}}
model: {{backbone: demo_tiny, init: random}}
pretrain: {{method: {method}, {options}}}
optim: {{lr: 1e-2}}
schedule: {{name: cosine}}
train: {{epochs: 2, batch_size: 8}}
"""


CLASSIFY = """
data: {{manifest: '{manifest}', image_size_px: 32, workers: 0}}
model: {{backbone: 'simclr:demo_tiny', init: simclr}}
train: {{epochs: 1, batch_size: 8}}
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """24 drawn training pictures and 6 for validation, wider than high, in a folder with a manifest."""
    folder = tmp_path_factory.mktemp("drawn")
    rng, rows = np.random.default_rng(0), []
    for number in range(30):
        clouds = Image.fromarray(rng.integers(40, 200, (4, 6), dtype=np.uint8))
        picture = clouds.resize((64, 44), Image.Resampling.BICUBIC)
        x, y = rng.integers(10, 40, 2)
        ImageDraw.Draw(picture).line((x, y, x + 20, y - 20 * (number % 2)), fill=255, width=4)
        picture.save(folder / f"{number}.png")
        split = "train" if number < 24 else "val"
        rows.append(Row(path=f"{number}.png", label=("flat", "steep")[number % 2], split=split))
    write_manifest(folder / "manifest.csv", rows)
    text = json.dumps({"clean": asdict(Clean(prepared_px=64))})
    (folder / "fingerprint.json").write_text(text, encoding="utf-8")
    return read_manifest(folder / "manifest.csv")


@pytest.fixture
def recipe_of(demo_zoo, manifest):
    """Writes and loads a recipe on those pictures: recipe_of("simclr", "train.epochs=3")."""

    def make(method, *sets):
        options = BYOL_OPTIONS if method == "byol" else "options: {embedding_dim: 16}"
        text = RECIPE.format(manifest=manifest.file, method=method, options=options)
        Path("pre.yaml").write_text(text, encoding="utf-8")
        return load("pre.yaml", sets).recipe

    return make


@pytest.fixture
def go(demo_zoo, manifest):
    """Pretrains: a new run, or with `run` the rest of that one."""

    def train(recipe: PretrainRecipe, run=None, *, compute=CPU, manifest=manifest):
        resume, run = run is not None, run or directory.create("pre", {}, out=None)
        info = {"task": "pretrain", "backbone": recipe.model.backbone, "model": recipe.model.model_dump(mode="json")}
        return run, pretrain.train(recipe, manifest, compute, demo_zoo, info, run, resume=resume)

    return train


def stop_at(monkeypatch, method: str, step: int) -> None:
    """Ctrl-C after so many optimizer steps."""
    module = {"simclr": simclr.SimCLR, "byol": byol.BYOL}[method]
    real, done = module.after_step, []

    def after_step(self, progress):
        real(self, progress)
        done.append(progress)
        if len(done) == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "after_step", after_step)


def tensors(run):
    return checkpoint.load_model_file(run.model_file)[0]


def lines(run):
    found = [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("seconds", "data_wait_s", "compute_s")}
        for line in found
    ]


def epochs(run):
    """Lines without that of the start."""
    return [line for line in lines(run) if line["epoch"]]


def assert_same(run, other):
    one, two = tensors(run), tensors(other)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert lines(run) == lines(other)


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


# --- looks ---


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


def test_without_labels_it_looks_for_collapse_alone(recipe_of, demo_zoo, manifest):
    alone = replace(manifest, rows=tuple(replace(row, label="x") for row in manifest.rows))
    backbone = demo_zoo.backbone("demo_tiny").build(BackboneArgs(image_size_px=32))
    watching = pretrain.build(recipe_of("simclr"), alone, CPU, demo_zoo).watch
    assert set(watching.look(backbone, lambda: None)) == {"feature_spread", "effective_rank"}


@pytest.mark.slow
def test_pictures_without_labels_are_pretrained_on_and_nothing_else(recipe_of, manifest):
    """From a flat folder to a run and its report; what learns from labels, or measures by them, says what is wrong."""
    recipe_of("simclr")
    pool, here = Path("pool"), ["--set", "data.manifest=prepared/pool/manifest.csv"]
    pool.mkdir()
    for row in manifest.part("train"):
        shutil.copy(manifest.path_of(row), pool)

    def fx(*command, code=0):
        done = CliRunner().invoke(app, [*map(str, command), "--quiet"])
        assert done.exit_code == code, done.output
        return done

    fx("prepare", pool, "--set", "data.labels=none", "--set", "data.prepared_px=64", "--set", "audit.search=false")
    fx("train", "pre.yaml", *here, "--out", "runs/pre", "--set", "train.look_every=1")
    found = lines(directory.open_run(Path("runs/pre")))
    assert ["effective_rank" in line for line in found] == [True] * 3
    assert not any("knn_balanced_accuracy" in line for line in found)
    fx("report", "runs/pre")
    told = "these pictures have no labels, to learn from or to measure by"
    Path("fine.yaml").write_text(CLASSIFY.format(manifest=manifest.file), encoding="utf-8")
    for folds in ((), ("--folds", 2)):
        assert told in fx("train", "fine.yaml", *here, "--out", "runs/none", *folds, code=4).stderr
    assert told in fx("recipe", "new", "prepared/pool", code=4).stderr
    assert not Path("runs/none").exists()
    fx("train", "fine.yaml", "--out", "runs/fine")
    evaluate = ("evaluate", "runs/fine", "--data", "prepared/pool/manifest.csv", "--split", "train")
    assert told in fx(*evaluate, code=4).stderr


@pytest.mark.slow
def test_a_whole_data_set_may_be_the_pool(recipe_of, manifest):
    """Its parts are in the manifest; the run says which were learnt from, and what starts from it is told of them."""
    recipe_of("simclr")
    rows = [
        replace(row, split="test" if number < 6 else row.split, sha256=f"{number:064x}")
        for number, row in enumerate(manifest.rows)
    ]
    file = manifest.root / "parted.csv"
    write_manifest(file, rows)

    def fx(*command):
        here = ["--set", f"data.manifest='{file}'", "--quiet"]
        done = CliRunner().invoke(app, ["train", *map(str, command), *here])
        assert done.exit_code == 0, done.output
        return done.stderr

    parts = {split: [row for row in rows if row.split == split] for split in ("train", "val", "test")}
    fine = Path("fine.yaml")
    for splits, count, votes in (("[train]", 18, True), ("[train, test]", 24, True), ("[train, val, test]", 30, False)):
        name = f"runs/{count}"
        told = fx("pre.yaml", "--out", name, "--set", f"data.splits={splits}")
        assert ("the 6 test pictures are learnt from, without their labels: figures" in told) == ("test" in splits)
        run = directory.open_run(Path(name))
        assert run.info()["splits"] == splits.strip("[]").split(", ")
        assert [len(parts[split]) * (split in splits) for split in parts] == [
            measured.learnt_from(run, parts[split]) for split in parts
        ]
        assert ["knn_balanced_accuracy" in line for line in lines(run)] == [votes, False, votes]
        assert run.manifest_file.read_bytes() == file.read_bytes()
        text = CLASSIFY.format(manifest=file).replace("'simclr:demo_tiny'", "demo_tiny")
        fine.write_text(text.replace("simclr}", f"{name}}}"), encoding="utf-8")
        told = fx(fine, "--out", f"{name}-fine")
        expected = "6 of 6 test pictures were learnt from, without their labels, by what model.init starts from"
        assert (expected in told) == ("test" in splits)
        assert "validation pictures were learnt from" not in told


@pytest.mark.slow
def test_a_stopped_pool_goes_on_unless_a_picture_of_it_changed(recipe_of, monkeypatch, manifest):
    recipe_of("simclr")
    folder = Path(shutil.copytree(manifest.root, "drawn"))
    text = (folder / "manifest.csv").read_text(encoding="utf-8")
    (folder / "manifest.csv").write_text(text.replace(",val,", ",test,"), encoding="utf-8")
    sets = ["--set", f"data.manifest={folder / 'manifest.csv'}", "--set", "data.splits=[train, test]", "--quiet"]
    with monkeypatch.context() as patch:
        stop_at(patch, "simclr", 2)
        done = CliRunner().invoke(app, ["train", "pre.yaml", "--out", "runs/a", *sets])
    assert done.exit_code == 130, done.output
    kept = (folder / "29.png").read_bytes()
    shutil.copy(folder / "0.png", folder / "29.png")
    done = CliRunner().invoke(app, ["train", "--resume", "runs/a", "--quiet"])
    assert "the pictures changed since this run was started" in done.stderr
    (folder / "29.png").write_bytes(kept)
    done = CliRunner().invoke(app, ["train", "--resume", "runs/a", "--quiet"])
    assert done.exit_code == 0, done.output


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


class Aimless(nn.Module):
    """A method that lacks what makes it one."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda backbone, args: backbone.gone, "build failed: AttributeError: "),
        (lambda backbone, args: None, "build returned NoneType, not a torch module"),
        (lambda backbone, args: Aimless(nn.Identity()), "did not return a module with the backbone as its backbone"),
        (lambda backbone, args: Aimless(backbone), "what build returned has no loss and no after_step"),
    ],
)
def test_a_plugin_that_builds_no_method_is_told_as_broken(recipe_of, go, demo_zoo, monkeypatch, build, message):
    recipe, spec = recipe_of("simclr"), replace(demo_zoo.pretrainer("simclr"), build=build)
    monkeypatch.setattr(type(demo_zoo), "pretrainer", lambda zoo, name: spec)
    with pytest.raises(PluginError, match=f"pretrainer simclr: .*{message}"):
        go(recipe)


def _gone(*_):
    raise KeyError("gone")


def _small(picture):
    return torch.zeros(3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("views", "message"),
    [
        (_gone, "views failed: KeyError: 'gone'"),
        (lambda args: [_gone], "views returned no tuple of transforms"),
        (lambda args: (), "views returned no tuple of transforms"),
        (lambda args: (1, 2), "views returned no tuple of transforms"),
        (lambda args: (_small, _gone), r"view 0 is torch.uint8 \[3, 8, 8\], not torch.uint8 \[3, 32, 32\]"),
        (lambda args: (_gone,), "view 0 failed: KeyError: 'gone'"),
        (lambda args: (str,), "view 0 is str, not"),
    ],
)
def test_views_of_a_broken_plugin(recipe_of, go, demo_zoo, monkeypatch, workers, views, message):
    recipe = recipe_of("simclr", f"data.workers={workers}", "train.look_every=0")
    spec = replace(demo_zoo.pretrainer("simclr"), views=views)
    monkeypatch.setattr(type(demo_zoo), "pretrainer", lambda zoo, name: spec)
    with pytest.raises(PluginError, match=f"pretrainer simclr: {message}") as caught:
        go(recipe)
    assert "it is of the plugin simclr" in caught.value.hint


@pytest.mark.parametrize(
    ("what", "does", "message"),
    [
        ("loss", lambda self, views: self.gone, "loss failed: AttributeError"),
        ("loss", lambda self, views: 0.5, "its loss is {'loss': 'float'}, not a tensor of one number"),
        ("loss", lambda self, views: views[0], "its loss is {'loss': 'of shape [8, 3, 32, 32]'}, not"),
        ("loss", lambda self, views: torch.tensor(0.5), "its loss has no gradient"),
        ("after_step", _gone, "after_step failed: KeyError: 'gone'"),
    ],
)
def test_a_method_of_a_broken_plugin(recipe_of, go, monkeypatch, what, does, message):
    monkeypatch.setattr(simclr.SimCLR, what, does)
    with pytest.raises(PluginError) as caught:
        go(recipe_of("simclr", "train.look_every=0"))
    assert caught.value.what.startswith(f"pretrainer simclr: {message}")
    assert "it is of the plugin simclr" in caught.value.hint


def test_what_a_method_refuses_is_a_mistake_of_the_recipe(recipe_of, go, demo_zoo, monkeypatch):
    def build(backbone, args):
        raise ValueError("32 px are too few")

    recipe, spec = recipe_of("simclr"), replace(demo_zoo.pretrainer("simclr"), build=build)
    monkeypatch.setattr(type(demo_zoo), "pretrainer", lambda zoo, name: spec)
    with pytest.raises(RecipeError, match="pretrain: simclr: 32 px are too few"):
        go(recipe)
