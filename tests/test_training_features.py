"""Features of a frozen backbone: when, that the head learns from them what it would learn, and that none is stale."""

import json
import shutil
import signal
import threading

import numpy as np
import pytest
import torch
from beginning import beginning

from fxcli.data.augment import Augmenter
from fxcli.data.dataset import Draw
from fxcli.errors import Interrupted, RunError, UnreadableImage
from fxcli.model.hardware import Compute
from fxcli.recipe.schema import Augment
from fxcli.run import checkpoint
from fxcli.run.cache import cache_dir
from fxcli.training import dry, features, loop, state, validate
from fxcli.training import feed as feeds

CPU = torch.device("cpu")
HEAD = ("model.freeze=all", "train.epochs=4", "optim.lr=1e-2")
FLIPS = ("augment.hflip=0.5", "augment.vflip=0.3")


@pytest.fixture
def begin(demo_zoo):
    make = beginning(demo_zoo)
    return lambda recipe, run=None, precision="fp32": make(
        recipe, run, compute=Compute(CPU, precision, channels_last=True)
    )


@pytest.fixture
def forwards(monkeypatch):
    """The sizes of the batches that go through the backbone for features."""
    found, real = [], features._Source._forward

    def forward(source, images, variant):
        found.append(len(images))
        return real(source, images, variant)

    monkeypatch.setattr(features._Source, "_forward", forward)
    return found


def built(training, check=lambda: None):
    loop.set_up(training, {})
    return features.build(training, training.phases[0][1], check)


def model_of(run):
    return checkpoint.load_model_file(run.model_file)[0]


def lines_of(run):
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ((), True),
        (FLIPS, True),
        (("augment.erase_scale=[0.1, 0.2]",), True),
        (("model.dropout=0.5", "train.ema=0.9", "model.bn=train"), True),
        (("model.freeze=none",), False),
        (("model.freeze=until:stem",), False),
        (("augment.rotate_deg=1",), False),
        (("augment.crop_scale=[0.9, 1.0]",), False),
        (("augment.mixup=0.1",), False),
        (("augment.cutmix=0.1",), False),
        (("data.cache=none",), False),
        (("data.cache=disk",), True),
        ((*FLIPS, "train.epochs=3"), False),
    ],
)
def test_where_features_are_cached(begin, tiny_recipe, sets, expected):
    training, _ = begin(tiny_recipe(*HEAD, *sets))
    assert features.may_cache(training, training.phases[0][1]) is expected


def test_not_where_they_do_not_fit(begin, tiny_recipe, monkeypatch):
    training, _ = begin(tiny_recipe(*HEAD))
    size_bytes = 4 * 24 * training.model.spec.num_features
    for limit, expected in ((size_bytes, True), (size_bytes - 1, False)):
        monkeypatch.setattr(features, "LIMIT_BYTES", limit)
        assert features.may_cache(training, training.phases[0][1]) is expected


def test_a_stage_that_is_the_last_is_all(begin, tiny_recipe):
    training, _ = begin(tiny_recipe(*HEAD))
    last = training.model.spec.stages[-1].name
    training, _ = begin(tiny_recipe(*HEAD, f"model.freeze='until:{last}'"))
    assert features.may_cache(training, training.phases[0][1])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sets", [(), (*FLIPS, "model.dropout=0.5", "train.ema=0.8", "train.sampler=balanced")])
def test_the_head_learns_what_it_learns_from_pictures(begin, tiny_recipe, precision, sets):
    """The draws of dropout, order and flips are those of the pictures."""
    runs = []
    for cache in ("none", "auto"):
        training, run = begin(tiny_recipe(*HEAD, *sets, f"data.cache={cache}"), precision=precision)
        figures = loop.train(training, run, resume=False)
        runs.append((run, figures))
    (plain, plain_figures), (cached, cached_figures) = runs
    one, two = model_of(plain), model_of(cached)
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    assert all(torch.allclose(one[name].float(), two[name].float(), atol=tolerance) for name in one)
    assert not torch.equal(one["head.weight"], begin(tiny_recipe(*HEAD))[0].model.network.head.weight)
    for before, after in zip(lines_of(plain), lines_of(cached), strict=True):
        assert before["train_loss"] == pytest.approx(after["train_loss"], abs=tolerance)
        assert before["val_loss"] == pytest.approx(after["val_loss"], abs=tolerance)
    assert plain_figures["nll"] == pytest.approx(cached_figures["nll"], abs=tolerance)


def test_each_variant_is_that_of_the_augmenter(begin, tiny_recipe):
    training, _ = begin(tiny_recipe(*HEAD, *FLIPS))
    found = built(training)
    assert found.variants == (0, 1, 2, 3)
    paths, targets = validate.part(training, "train")
    model = training.model
    augmenter = Augmenter(Augment(hflip=0.5, vflip=0.3), model.preprocessing)
    data = features.TrainingFeatures(found, targets, augmenter)
    assert len(data) == 24
    drawn = set()
    for seed in range(40):
        index = seed % len(paths)
        row, target = data[Draw(index, seed)]
        view = augmenter(augmenter.seen(model.preprocessing.load(paths[index])), seed)
        drawn.add(next(v for v in range(4) if torch.equal(row, found.train[index, v])))
        with torch.inference_mode():
            batch = model.preprocessing.normalise(view[None])
            expected = model.network.pool(model.network.backbone(batch))[0]
        assert torch.allclose(row, expected, atol=1e-5)
        assert target == targets[index]
    assert drawn == {0, 1, 2, 3}


def test_validation_from_features_is_the_pipelines(begin, tiny_recipe):
    """To the bit: the best epoch must not depend on where its figures came from."""
    training, run = begin(tiny_recipe(*HEAD, "evaluate.batch_size=5"), precision="bf16")
    found = built(training)
    with state.evaluated(training):
        assert features.validate(training, found) == validate.validate(training)
    figures = loop.train(training, run, resume=False)
    assert figures["nll"] in [line["val_loss"] for line in lines_of(run)]


def test_answers_that_are_not_finite_end_the_run(begin, tiny_recipe):
    training, _ = begin(tiny_recipe(*HEAD))
    found = built(training)
    torch.nn.init.constant_(training.model.network.head.bias, float("nan"))
    with pytest.raises(RunError, match="not finite"):
        features.validate(training, found)


def test_without_a_validation_part(begin, tiny_recipe, prepared, tmp_path):
    text = (prepared / "manifest.csv").read_text()
    shutil.copytree(prepared / "pictures", tmp_path / "pictures")
    (tmp_path / "manifest.csv").write_text(text.replace(",val,", ",test,"))
    shutil.copy(prepared / "fingerprint.json", tmp_path)
    sets = (*HEAD, f"data.manifest='{tmp_path / 'manifest.csv'}'", "train.monitor=none")
    training, run = begin(tiny_recipe(*sets))
    assert loop.train(training, run, resume=False) == {}
    assert "val_loss" not in lines_of(run)[0]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("step", [1, 3, 5, 12])
def test_resume_ends_bitwise_equal(begin, tiny_recipe, monkeypatch, step, precision):
    """Mid-epoch, at the end of an epoch, and of the run; with and without what the stopped run kept."""
    recipe = tiny_recipe(*HEAD, *FLIPS, "model.dropout=0.3", "train.ema=0.8")
    training, whole = begin(recipe, precision=precision)
    loop.train(training, whole, resume=False)
    for is_kept in (True, False):
        training, run = begin(recipe, precision=precision)
        real, steps = loop._step, []

        def stepped(*arguments, real=real, steps=steps):
            real(*arguments)
            steps.append(1)
            if len(steps) == step:
                signal.raise_signal(signal.SIGINT)

        with monkeypatch.context() as patch:
            patch.setattr(loop, "_step", stepped)
            with pytest.raises(Interrupted, match=f"stopped at step {step}"):
                loop.train(training, run, resume=False)
        if not is_kept:
            for file in (cache_dir() / "features").iterdir():
                file.unlink()
        training, _ = begin(recipe, run, precision=precision)
        loop.train(training, run, resume=True)
        one, two = model_of(whole), model_of(run)
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert [line["val_loss"] for line in lines_of(run)] == [line["val_loss"] for line in lines_of(whole)]


def test_a_phase_that_was_over_is_not_fed_again(begin, tiny_recipe, monkeypatch):
    recipe = tiny_recipe(*HEAD)
    training, run = begin(recipe)
    figures = loop.train(training, run, resume=False)
    training, _ = begin(recipe, run)
    monkeypatch.setattr(feeds, "make", None)
    assert loop.train(training, run, resume=True) == figures


@pytest.mark.slow
def test_ctrl_c_while_features_are_computed(begin, tiny_recipe, monkeypatch):
    recipe = tiny_recipe(*HEAD)
    training, whole = begin(recipe)
    loop.train(training, whole, resume=False)
    for file in (cache_dir() / "features").iterdir():
        file.unlink()
    training, run = begin(recipe)
    with monkeypatch.context() as patch:
        patch.setattr(features, "contents", lambda paths: signal.raise_signal(signal.SIGINT) or "")
        with pytest.raises(Interrupted, match="stopped at step 0"):
            loop.train(training, run, resume=False)
    assert not list((cache_dir()).rglob("*.*"))
    training, _ = begin(recipe, run)
    loop.train(training, run, resume=True)
    assert all(torch.equal(value, model_of(whole)[name]) for name, value in model_of(run).items())


def test_the_next_run_finds_them_and_looks_at_one_batch(begin, tiny_recipe, forwards, monkeypatch):
    monkeypatch.setattr(features, "BATCH_SIZE", 10)
    first = built(begin(tiny_recipe(*HEAD))[0])
    assert forwards == [10, 10, 4, 12]
    assert "its features of 24 training pictures were computed in" in first.story
    forwards.clear()
    again = built(begin(tiny_recipe(*HEAD, "optim.lr=1", "model.dropout=0.1"))[0])
    assert forwards == [10, 12]
    assert "were found" in again.story
    assert torch.equal(first.train, again.train)
    assert torch.equal(first.val, again.val)


def test_what_a_model_knows_of_feature_space_is_found_too(begin, tiny_recipe, forwards, monkeypatch):
    """In fp32, as prediction sees pictures, beside the bf16 that the head learns from."""
    monkeypatch.setattr(features, "BATCH_SIZE", 10)
    known = []
    for rate in (1e-2, 1e-3):
        forwards.clear()
        training, run = begin(tiny_recipe(*HEAD, f"optim.lr={rate}"), precision="bf16")
        loop.train(training, run, resume=False)
        known.append((list(forwards), model_of(run)["statistics.mean"]))
    assert [batches for batches, _ in known] == [[10, 10, 4, 12, 10, 10, 4], [10, 12, 10]]
    assert torch.equal(known[0][1], known[1][1])


@pytest.mark.slow
def test_whatever_they_depend_on_makes_others(begin, tiny_recipe, monkeypatch):
    def files():
        return {path.name for path in (cache_dir() / "features").iterdir()}

    built(begin(tiny_recipe(*HEAD))[0])
    known = files()
    assert len(known) == 2, "of each part"

    def changed(training):
        nonlocal known
        built(training)
        is_changed, known = bool(files() - known), files()
        return is_changed

    assert not changed(begin(tiny_recipe(*HEAD))[0])
    assert changed(begin(tiny_recipe(*HEAD), precision="bf16")[0])
    assert changed(begin(tiny_recipe(*HEAD, "augment.hflip=0.5"))[0])
    assert changed(begin(tiny_recipe(*HEAD, "data.resize=squash"))[0])
    assert changed(begin(tiny_recipe(*HEAD, "data.image_size_px=32"))[0])
    assert changed(begin(tiny_recipe(*HEAD, "evaluate.batch_size=3"))[0])
    assert changed(begin(tiny_recipe(*HEAD, "seed=5"))[0]), "other random weights"
    training, _ = begin(tiny_recipe(*HEAD))
    next(training.model.network.backbone.parameters()).data.add_(1e-3)
    assert changed(training)
    monkeypatch.setattr(torch, "__version__", "99")
    assert changed(begin(tiny_recipe(*HEAD))[0])


def test_other_code_of_the_backbone_is_noticed(begin, tiny_recipe, monkeypatch):
    """Names and weights stay; only what the module does is another thing."""
    first = built(begin(tiny_recipe(*HEAD))[0])
    training, _ = begin(tiny_recipe(*HEAD))
    backbone, real = training.model.network.backbone, training.model.network.backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda images: real(images) * 2)
    assert torch.equal(built(training).train, first.train * 2)


def test_a_picture_that_changed_in_place_is_noticed(begin, tiny_recipe, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "copy")
    recipe = tiny_recipe(*HEAD, f"data.manifest='{tmp_path / 'copy' / 'manifest.csv'}'")
    before = built(begin(recipe)[0])
    training, _ = begin(recipe)
    paths = validate.part(training, "train")[0]
    shutil.copyfile(paths[0], paths[1])
    after = built(training)
    assert torch.equal(after.train[1], after.train[0])
    assert not torch.equal(after.train[1], before.train[1])
    paths[2].write_bytes(b"no picture")
    with pytest.raises(UnreadableImage) as caught:
        built(training)
    assert caught.value.path == paths[2]
    paths[3].unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        built(training)


@pytest.mark.parametrize("damage", ["cut", "bits", "empty", "foreign"])
def test_a_damaged_file_is_made_anew(begin, tiny_recipe, damage, capsys):
    first = built(begin(tiny_recipe(*HEAD))[0])
    for file in (cache_dir() / "features").iterdir():
        data = file.read_bytes()
        middle = len(data) - 40
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes({"cut": data[:-9], "bits": flipped, "empty": b"", "foreign": b"x" * 99}[damage])
    capsys.readouterr()
    again = built(begin(tiny_recipe(*HEAD))[0])
    assert capsys.readouterr().err.count("is damaged; the features are computed anew") == 2
    assert torch.equal(first.train, again.train)
    built(begin(tiny_recipe(*HEAD))[0])
    assert "damaged" not in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_no_error(begin, tiny_recipe, capsys):
    cache_dir().write_text("a file where the folder should be")
    training, run = begin(tiny_recipe(*HEAD))
    loop.train(training, run, resume=False)
    assert capsys.readouterr().err.count("warning: the features cannot be kept in") == 3
    assert run.model_file.exists()


def test_two_runs_at_once(begin, tiny_recipe):
    trainings = [begin(tiny_recipe(*HEAD))[0] for _ in range(2)]
    found = []
    threads = [threading.Thread(target=lambda one=one: found.append(built(one))) for one in trainings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0].train, found[1].train)
    assert {path.suffix for path in (cache_dir() / "features").iterdir()} == {".safetensors"}


def test_phases_with_and_without(begin, tiny_recipe):
    """The head alone, then everything: the second is fed with pictures."""
    phases = "phases: {head: {model: {freeze: all}, train: {epochs: 3}}, all: {train: {epochs: 1}}}"
    training, run = begin(tiny_recipe(phases=phases))
    loop.train(training, run, resume=False)
    assert len(lines_of(run)) == 4
    assert (run.path / "log.txt").read_text().count("the backbone is frozen: its features") == 1
    assert feeds.make(training_at(training, 0), lambda: None).is_light
    assert not feeds.make(training_at(training, 1), lambda: None).is_light
    assert not feeds.make(training_at(training, 0), None).is_light


def training_at(training, phase):
    training.place = state.Place(phase=phase)
    loop.set_up(training, {})
    return training


def test_dry_run_computes_no_cache_and_counts_one_pass(begin, tiny_recipe):
    rows = {}
    for cache in ("auto", "none"):
        training, _ = begin(tiny_recipe(*HEAD, "train.epochs=40", f"data.cache={cache}"))
        (rows[cache],) = dry.run(training)
    assert not cache_dir().exists()
    for cache, passes in (("auto", 1), ("none", 40)):
        seconds = 24 * passes / rows[cache]["images_per_s"]
        assert rows[cache]["minutes"] == pytest.approx(seconds / 60)


def test_averages_leave_out_what_is_frozen(begin, tiny_recipe):
    training, _ = begin(tiny_recipe(*HEAD, "train.ema=0.5"))
    loop.set_up(training, {})
    before = {name: value.clone() for name, value in training.average.values.items()}
    with torch.no_grad():
        for parameter in training.model.network.parameters():
            parameter += 1
    training.average.update(training.model.network, step=10)
    moved = {name for name, value in training.average.values.items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}
    assert np.isclose(float(training.average.values["head.bias"][0]), 0.5)
