import json

import pytest
import torch
from torch import nn

from fxcli.run.directory import Run
from fxcli.training.session import Average, Log, Timer


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


def test_what_a_tracker_does_to_its_figures_reaches_no_other(tmp_path):
    from fxcli.zoo.hookspecs import hookimpl
    from fxcli.zoo.plugins import Zoo

    seen = []

    class Tracker:
        @hookimpl
        def fx_log_metrics(self, run, step, metrics):
            seen.append(dict(metrics))
            metrics.clear()

    zoo = Zoo()
    for name in "ab":
        zoo.pm.register(Tracker(), name)
    Log(Run(tmp_path), zoo).write(1, {"loss": 1.0})
    assert seen == [{"loss": 1.0}] * 2


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


def test_timer_takes_the_share_of_an_epoch_for_a_whole_one(monkeypatch):
    now = [50.0]
    monkeypatch.setattr("fxcli.training.session.time.monotonic", lambda: now[0])
    timer = Timer(spent_s=100.0)
    now[0] += 3.0
    timer.begin_epoch(0.25)
    now[0] += 2.0
    assert (timer.epoch_s, timer.spent_s) == (8.0, 105.0)
    timer.end_steps()
    now[0] += 1.5
    assert timer.epoch_s == 9.5, "all of it is validated"
    timer.begin_epoch(0.0)
    now[0] += 2.0
    assert timer.epoch_s is None, "resumed after its last step"
    timer.begin_epoch()
    now[0] += 2.0
    timer.end_steps()
    now[0] += 2.0
    assert timer.epoch_s == 4.0
