"""What the tracker tells TensorBoard, read back from its event files; and that nobody gets it who did not ask."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.run.directory import Run

WANTED = "FX_TENSORBOARD"


@pytest.fixture
def read():
    """Reads the event files of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(run: Path):
        found = accumulator.EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
        found.Reload()
        return found

    return read


def train(*flags: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["train", "tiny.yaml", "--out", "run", "--quiet", *flags])
    assert done.exit_code == code, done.output
    return done.stderr


@pytest.mark.parametrize("value", [None, "", "0"])
def test_nothing_is_written_or_imported_unless_it_is_wanted(tiny_recipe, monkeypatch, value):
    for name in [name for name in sys.modules if name.startswith(("tensorboard", "fx_tensorboard.tracker"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delenv(WANTED, raising=False)
    if value is not None:
        monkeypatch.setenv(WANTED, value)
    tiny_recipe()
    train("--set", "train.epochs=1")
    assert not Path("run/tensorboard").exists()
    assert not {"tensorboard", "fx_tensorboard.tracker"} & set(sys.modules)


def test_a_value_that_says_nothing_is_refused(tiny_recipe, monkeypatch):
    monkeypatch.setenv(WANTED, "yes")
    tiny_recipe()
    assert "FX_TENSORBOARD is 1 (TensorBoard) or 0 (none), not 'yes'" in train(code=2)


@pytest.mark.slow
def test_wanted_but_not_installed_ends_the_training_before_it_begins(tiny_recipe, monkeypatch):
    monkeypatch.setenv(WANTED, "1")
    monkeypatch.delitem(sys.modules, "fx_tensorboard.tracker", raising=False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    tiny_recipe()
    told = train(code=7)
    assert "FX_TENSORBOARD=1 needs the package tensorboard, which is not installed" in told
    assert "fxcli[track]" in told
    assert Run(Path("run")).info()["status"] == "failed"
    monkeypatch.setenv(WANTED, "0")
    done = CliRunner().invoke(app, ["train", "--resume", "run", "--quiet"])
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_curves_settings_and_pictures(tiny_recipe, monkeypatch, read):
    monkeypatch.setenv(WANTED, "1")
    tiny_recipe()
    train()
    found = read(Path("run"))
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    numeric = {name for name, value in lines[0].items() if isinstance(value, int | float)} - {"step"}
    tags = {name: name.replace("train_", "train/").replace("val_", "val/") for name in numeric}
    assert set(found.Tags()["scalars"]) == set(tags.values())
    for name, tag in tags.items():
        points = [(event.step, event.value) for event in found.Scalars(tag)]
        assert points == [(line["step"], pytest.approx(line[name])) for line in lines], name
    assert found.Tags()["images"] == [f"train/class_{label}" for label in range(3)]
    assert (found.Images("train/class_0")[0].width, found.Images("train/class_0")[0].height) == (1024, 128)


@pytest.mark.slow
def test_settings_stand_beside_the_last_figures(tiny_recipe, monkeypatch, read):
    monkeypatch.setenv(WANTED, "1")
    tiny_recipe()
    train()
    found = read(Path("run")).PluginTagToContent("hparams")
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    def of(tag):
        return HParamsPluginData.FromString(found[f"_hparams_/{tag}"])

    told = of("session_start_info").session_start_info.hparams
    assert told["phases.main.optim.lr"].number_value == 3e-3
    assert told["model.backbone"].string_value == "demo_tiny"
    assert told["phases.main.augment.scale"].string_value == "null"
    figures = {each.name.tag for each in of("experiment").experiment.metric_infos}
    assert {"train/loss", "val/macro_f1"} <= figures
    assert all("/" in tag for tag in figures)


def written(run: Path, *steps: int) -> None:
    lines = [json.dumps({"step": step, "train_loss": 0.0}) for step in steps]
    (run / "metrics.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("kept", [(), (3,), (3, 6)])
def test_a_training_that_goes_on_tells_no_step_twice(tmp_path, read, kept):
    from fx_tensorboard.tracker import Tracker

    (tmp_path / "recipe.yaml").write_text("seed: 0\n", encoding="utf-8")
    (tmp_path / "run.json").write_text(json.dumps({"manifest": str(tmp_path / "manifest.csv")}), encoding="utf-8")
    (tmp_path / "manifest.csv").write_text("path,label,split\ngone.png,a,train\n", encoding="utf-8")
    written(tmp_path)
    first = Tracker(tmp_path)
    for step in (3, 6, 9):
        first.log(step, {"train_loss": 1.0})
    first.close()
    written(tmp_path, *kept)
    second = Tracker(tmp_path)
    for step in sorted({3, 6, 9} - set(kept)):
        second.log(step, {"train_loss": 2.0})
    second.close()
    points = [(event.step, event.value) for event in read(tmp_path).Scalars("train/loss")]
    assert points == [(step, 1.0 if step in kept else 2.0) for step in (3, 6, 9)]


def test_each_training_has_its_own_tracker(tmp_path, monkeypatch, read):
    import fx_tensorboard

    monkeypatch.setenv(WANTED, "1")
    for name in ("a", "b"):
        run = tmp_path / name
        run.mkdir()
        (run / "recipe.yaml").write_text("seed: 0\n", encoding="utf-8")
        (run / "run.json").write_text(json.dumps({"manifest": "manifest.csv"}), encoding="utf-8")
        (run / "manifest.csv").write_text("path,label,split\n", encoding="utf-8")
        fx_tensorboard.fx_start_run(run)
        assert list(fx_tensorboard._open) == [run]
        fx_tensorboard.fx_log_metrics(run, 1, {"val_loss": 1.0})
        fx_tensorboard.fx_log_metrics(tmp_path / "other", 2, {"val_loss": 1.0})
    monkeypatch.delenv(WANTED)
    fx_tensorboard.fx_start_run(tmp_path / "c")
    assert fx_tensorboard._open == {}
    for name in ("a", "b"):
        assert [event.step for event in read(tmp_path / name).Scalars("val/loss")] == [1]
