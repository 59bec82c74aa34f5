import json
from pathlib import Path

import pytest
import torch
from torch import nn

from fxcli.data.manifest import read_manifest
from fxcli.errors import RecipeError
from fxcli.model.hardware import Compute
from fxcli.run.directory import Run
from fxcli.training import job, session
from fxcli.training.session import Average, Log, Timer
from fxcli.zoo.plugins import load_zoo


def test_average_is_the_recurrence_and_copies_counters():
    module = nn.BatchNorm1d(2)
    average = Average(module, 0.5)
    expected = average.values["weight"].clone()
    for step in range(1, 30):
        with torch.no_grad():
            module.weight += 1
            module.num_batches_tracked += 1
        average.update(module, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = expected * decay + module.weight.detach() * (1 - decay)
    assert torch.allclose(average.values["weight"], expected)
    assert average.values["num_batches_tracked"].item() == 29
    assert module.weight[0].item() == 30


def test_log_appends_and_calls_trackers(demo_zoo, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(demo_zoo, "log_metrics", lambda *arguments: seen.append(arguments), raising=False)
    log = Log(Run(tmp_path), demo_zoo)
    log.write(3, {"phase": "main", "loss": 0.5})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 3, "phase": "main", "loss": 0.5}
    ]
    assert seen == [(tmp_path, 3, {"loss": 0.5})]


def test_log_refuses_nan(demo_zoo, tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Log(Run(tmp_path), demo_zoo).write(1, {"loss": float("nan")})


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_tracker_that_raises_is_muted_and_told_once(capsys, tmp_path, kind):
    from fxcli.zoo.hookspecs import hookimpl
    from fxcli.zoo.plugins import Zoo

    class Tracker:
        def __init__(self, broken):
            self.broken, self.seen = broken, []

        @hookimpl
        def fx_log_metrics(self, run, step, metrics):
            self.seen.append(step)
            if self.broken:
                raise kind("no server")

    zoo, good, bad = Zoo(), Tracker(False), Tracker(True)
    zoo.pm.register(good, "good")
    zoo.pm.register(bad, "bad")
    log = Log(Run(tmp_path), zoo)
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    assert good.seen == [1, 2, 3]
    assert bad.seen == [1]
    assert capsys.readouterr().err.count(f"plugin bad stopped logging: {kind.__name__}: no server") == 1


def test_a_tracker_is_told_of_the_start_after_the_metrics_are_cut_and_may_refuse_it(tmp_path, capsys):
    from fxcli.errors import FxError, MissingDependency
    from fxcli.zoo.hookspecs import hookimpl
    from fxcli.zoo.plugins import Zoo

    class Tracker:
        error = None

        @hookimpl
        def fx_start_run(self, run):
            seen.append((run / "metrics.jsonl").read_text(encoding="utf-8"))
            if self.error:
                raise self.error

    zoo, tracker, seen = Zoo(), Tracker(), []
    zoo.pm.register(tracker, "tracker")
    line = json.dumps({"step": 3, "epoch": 1}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(line + json.dumps({"step": 6, "epoch": 2}) + "\n", encoding="utf-8")
    Log(Run(tmp_path), zoo, keep_epochs=1)
    assert seen == [line]
    tracker.error = MissingDependency("tensorboard", extra="track", purpose="tracking")
    with pytest.raises(FxError, match="tracking needs the package tensorboard"):
        Log(Run(tmp_path), zoo)
    tracker.error = OSError("no server")
    Log(Run(tmp_path), zoo)
    Log(Run(tmp_path), zoo)
    assert len(seen) == 3
    assert capsys.readouterr().err.count("plugin tracker stopped logging: OSError: no server") == 1


def test_timer_counts_earlier_sessions():
    timer = Timer(spent_s=100.0)
    assert 100 <= timer.spent_s < 101
    assert not timer.is_due(1.0)
    assert timer.is_due(0.0)


# At 32 px a last stage of stride 32 has one cell; 24 pictures learn.
ALONE = ("model.backbone=resnet18", "data.image_size_px=32", "train.batch_size=23")
STAGES = "phases: {a: {model: {freeze: 'until:layer3'}}, b: {model: {freeze: all}}}"


@pytest.mark.parametrize(
    ("sets", "phases", "told"),
    [
        ([], "", "phases.main.train.batch_size: 24 pictures in batches of 23 leave a last one of a single picture"),
        (["train.batch_size=1"], "", "24 pictures in batches of 1"),
        ([], STAGES, "phases.a.train.batch_size: 24 pictures"),
        (["data.train_frac=0.5", "train.batch_size=11"], "", "12 pictures in batches of 11"),
        (["ensemble.folds=5", "train.batch_size=27", "train.monitor=none"], "", "28 pictures in batches of 27"),
        (["train.batch_size=22"], "", None),
        (["model.bn=eval"], "", None),
        (["model.freeze=all"], "", None),
        (["data.image_size_px=64"], "", None),
        (["model.backbone=demo_tiny"], "", None),
    ],
)
def test_a_last_batch_of_one_that_a_backbone_cannot_learn_from_is_told_at_once(tiny_recipe, sets, phases, told):
    recipe = tiny_recipe(*ALONE, *sets, phases=phases)
    manifest = read_manifest(Path(recipe.data.manifest))
    if told is None:
        job.check(recipe, manifest)
        return
    with pytest.raises(RecipeError, match="another train") as error:
        job.check(recipe, manifest)
    assert told in error.value.problems[0]
    assert error.value.hint == "another train.batch_size, or model.bn=eval"
    with pytest.raises(RecipeError):
        job.create(recipe, manifest, None)
    assert not Path("runs").exists()


def test_it_would_fail_after_an_epoch(tiny_recipe, monkeypatch):
    """Were it not told: what is tried is what happens."""
    recipe = tiny_recipe(*ALONE, "train.epochs=1")
    manifest = read_manifest(Path(recipe.data.manifest))
    monkeypatch.setattr(job, "check_last_batch", lambda *_: None)
    run = job.create(recipe, manifest, None)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        job.execute(run, recipe, manifest, resume=False)


def test_so_it_is_of_a_detector(tiny_detect, monkeypatch):
    """12 pictures with a box and as many without, over a backbone that averages before a norm."""

    def build(spec, *_):
        layers = [nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)]
        module = nn.ModuleDict({name: nn.Identity() for stage in spec.stages for name in stage.modules})
        module.forward = nn.Sequential(*layers).forward
        return module

    monkeypatch.setattr(session.models, "build_backbone", build)
    recipe = tiny_detect("train.batch_size=23")
    with pytest.raises(RecipeError, match="24 pictures in batches of 23"):
        job.build(recipe, read_manifest(Path(recipe.data.manifest)), Compute(torch.device("cpu")), load_zoo(), {})
