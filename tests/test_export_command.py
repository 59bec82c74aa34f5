import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from exports import fx, probabilities, zeroed
from PIL import Image

from fxcli.data.manifest import read_manifest
from fxcli.evaluation import agreement
from fxcli.evaluation.agreement import Tolerance
from fxcli.inference import export, exported, opened
from fxcli.inference.measured import out_of_fold
from fxcli.inference.opened import open_model
from fxcli.model import classifier as models
from fxcli.model import hardware
from fxcli.run.directory import Run
from fxcli.testing import tiny_dataset

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

# The exporters and runtimes warn of their own parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def raw():
    return tiny_dataset(Path("raw"), per_class=4)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_the_exported_file_alone_predicts_the_same(trained, raw, runtime):
    done = fx("export", runtime, trained.path, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    file = Path(told["file"])
    assert file == trained.path / "exports" / f"tiny.{runtime}"
    engine = {"onnx": "onnxruntime", "openvino": "openvino"}[runtime]
    assert told["agreement"][engine]["fp32"]["passes"] is True
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]
    moved = Path("elsewhere") / file.name
    moved.parent.mkdir()
    file.rename(moved)
    Path("runs").rename("gone")
    assert fx("predict", raw, "--model", moved, "--precision", "fp32", "--out", "a", "--cam", "maps-a").exit_code == 0
    Path("gone").rename("runs")
    assert (
        fx("predict", raw, "--model", trained.path, "--precision", "fp32", "--out", "b", "--cam", "maps-b").exit_code
        == 0
    )
    assert np.abs(probabilities(Path("a/predictions.csv")) - probabilities(Path("b/predictions.csv"))).max() < 1e-5
    for picture in Path("maps-b").rglob("*.png"):
        with Image.open(picture) as mine, Image.open(Path("maps-a", *picture.parts[1:])) as theirs:
            # A level of the colour scale more or less, where the last bit decides.
            assert np.abs(np.asarray(mine).astype(int) - np.asarray(theirs)).max() <= 4


@pytest.mark.slow
def test_an_exported_file_gives_no_features(trained, raw):
    file = Path(json.loads(fx("export", "onnx", trained.path, "--json").stdout)["file"])
    done = fx("predict", raw, "--model", file, "--features", "learnt")
    assert done.exit_code == 2
    assert "--features needs the model file of a run, not an exported one" in done.stderr
    assert not Path("learnt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_run_is_converted_once_for_an_engine(trained, raw, engine):
    first = fx("predict", raw, "--engine", engine, "--precision", "fp32", "--out", "a")
    assert first.exit_code == 0, first.output
    assert "converting the model" in first.stderr
    again = fx("predict", raw, "--engine", engine, "--precision", "fp32", "--out", "b")
    assert "converting" not in again.stderr
    # Nothing that a runtime would read again unchecked.
    assert [each.name for each in Path("cache").iterdir()] == ["exported"]
    assert Path("a/predictions.csv").read_bytes() == Path("b/predictions.csv").read_bytes()
    fx("predict", raw, "--precision", "fp32", "--out", "c")
    assert np.abs(probabilities(Path("a/predictions.csv")) - probabilities(Path("c/predictions.csv"))).max() < 1e-5


@pytest.mark.slow
def test_maps_are_the_same_in_every_engine(trained, raw):
    picture = sorted(raw.rglob("*.png"))[:3]
    found = {}
    for engine in ("torch", "openvino", "onnxruntime"):
        pipeline = open_model(str(trained.path), engine=engine).pipeline
        found[engine] = np.stack([answer.maps for answer in pipeline.map(lambda answer: answer, picture)])
    for engine in ("openvino", "onnxruntime"):
        assert np.corrcoef(found[engine].ravel(), found["torch"].ravel())[0, 1] > 0.9999


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_int8_is_checked_and_runs_in_int8_alone(trained, raw, runtime, monkeypatch):
    pytest.importorskip("nncf")
    monkeypatch.setattr(agreement, "INT8", Tolerance(agree_clear=0, mean_abs_dp=1, accuracy_drop=1))
    done = fx("export", runtime, trained.path, "--precision", "int8", "--out", f"small.{runtime}")
    assert done.exit_code == 0, done.output
    assert "int8 against torch fp32: same class on" in done.stderr
    done = fx("predict", raw, "--model", f"small.{runtime}")
    assert done.exit_code == 0, done.output
    assert "int8" in done.stderr
    done = fx("predict", raw, "--model", f"small.{runtime}", "--precision", "fp32")
    assert done.exit_code == 2
    monkeypatch.setattr(agreement, "INT8", Tolerance(agree_clear=1, mean_abs_dp=0))
    done = fx("export", runtime, trained.path, "--precision", "int8", "--out", f"other.{runtime}")
    assert done.exit_code == 6
    assert "nothing was written: in int8 the model gives other answers" in done.stderr
    assert not Path(f"other.{runtime}").exists()


@pytest.mark.slow
def test_no_path_of_this_machine_is_in_the_file(trained, demo_zoo):
    model = models.load(trained.model_file, demo_zoo)
    model.info["model"] = model.info["model"] | {"init": "/home/somebody/secret/run"}
    model.save(trained.model_file)
    for runtime in ("onnx", "openvino"):
        assert fx("export", runtime, trained.path, "--out", f"m.{runtime}").exit_code == 0
        content = Path(f"m.{runtime}").read_bytes()
        for path in (b"/home/somebody", str(Path(exported.__file__).parent).encode(), sys.prefix.encode()):
            assert path not in content


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "", "a b"])
def test_the_name_in_a_foreign_file_leads_nowhere(trained, prepared, demo_zoo, name):
    model = models.load(trained.model_file, demo_zoo)
    model.info["name"] = name
    model.save(Path("foreign.safetensors"))
    done = fx("export", "onnx", "foreign.safetensors", "--data", prepared / "manifest.csv", "--json")
    assert done.exit_code == 0, done.output
    file = Path(json.loads(done.stdout)["file"])
    assert file.parent == Path()
    assert file.is_file()


def test_int8_looks_at_pictures_of_every_class():
    from fxcli.commands.export import _calibration

    for count in (5, 299, 300, 301, 599, 989):
        rows = [SimpleNamespace(number=number) for number in range(count)]
        opened, manifest = SimpleNamespace(part=lambda *_, r=rows: r), SimpleNamespace(path_of=lambda row: row.number)
        found = _calibration(opened, manifest)
        assert len(found) == min(300, count)
        assert found == sorted(set(found))
        assert found[0] == 0
        assert found[-1] >= count - 1 - count / 150


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda data: data[:1000], zeroed], ids=["cut", "zeroed"])
def test_a_damaged_conversion_is_made_anew(trained, raw, change):
    fx("predict", raw, "--engine", "onnxruntime", "--out", "a")
    (file,) = Path("cache/exported").iterdir()
    file.write_bytes(change(file.read_bytes()))
    done = fx("predict", raw, "--engine", "onnxruntime", "--out", "b")
    assert done.exit_code == 0, done.output
    assert "the model is converted anew" in done.stderr
    assert Path("a/predictions.csv").read_bytes() == Path("b/predictions.csv").read_bytes()


@pytest.mark.slow
def test_a_conversion_that_gives_other_answers_is_not_kept(trained, raw, monkeypatch):
    graph_of = export.graph_of

    def wrong(model, *rest):
        made = graph_of(model, *rest)
        model.network.head.bias.data += 5
        return made

    monkeypatch.setattr(export, "graph_of", wrong)
    done = fx("predict", raw, "--engine", "onnxruntime")
    assert done.exit_code == 6, done.output
    assert "the model gives other answers" in done.stderr
    assert list(Path("cache/exported").iterdir()) == []


def test_what_is_not_its_own_is_not_replaced(trained, monkeypatch):
    Path("m.onnx").write_text("another")
    Path("tiny.onnx").write_text("another")
    own = trained.path / "exports" / "tiny.onnx"
    own.parent.mkdir()
    own.write_text("an earlier one")
    shutil.copy(trained.model_file, "alone.safetensors")
    data = ("--data", Run(trained.path).manifest_file)

    def begun(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "graph_of", begun)
    for options, code in (
        ((trained.path, "--out", "m.onnx"), 4),
        (("alone.safetensors", *data), 4),
        (("alone.safetensors", *data, "--overwrite"), 130),
        ((trained.path, "--out", "m.onnx", "--overwrite"), 130),
        ((trained.path,), 130),
    ):
        done = fx("export", "onnx", *options)
        assert done.exit_code == code, done.output
        assert ("this file exists\n  → --overwrite replaces it; --out names another" in done.stderr) == (code == 4)


def test_a_place_that_cannot_be_written_is_told_before_the_work(trained, monkeypatch):
    Path("taken").touch()
    monkeypatch.setattr(export, "graph_of", None)
    done = fx("export", "onnx", trained.path, "--out", "taken/m.onnx")
    assert done.exit_code == 4, done.output
    assert "error: taken: cannot be written" in done.stderr


@pytest.mark.parametrize(("engine", "absent"), [("openvino", "onnx"), ("onnxruntime", "onnxruntime")])
def test_an_engine_that_is_not_installed(trained, raw, monkeypatch, engine, absent):
    monkeypatch.setattr(opened, "find_spec", lambda name: None if name == absent else sys)
    done = fx("predict", raw, "--engine", engine)
    assert done.exit_code == 7, done.output
    assert f"--engine {engine} needs the package {absent}, which is not installed" in done.stderr
    assert "pip install 'fxcli[export]'" in done.stderr


@pytest.mark.slow
def test_a_runtime_of_another_distribution(trained, raw, monkeypatch):
    monkeypatch.setattr(opened, "version_of", lambda name: None if name == "onnxruntime" else "1.0")
    assert fx("predict", raw, "--engine", "onnxruntime").exit_code == 0


@pytest.mark.slow
def test_an_engine_without_bf16_gives_no_advice_on_it(trained, raw, monkeypatch):
    monkeypatch.setattr(hardware, "has_bf16", lambda _: True)
    done = fx("predict", raw, "--engine", "onnxruntime")
    assert done.exit_code == 0, done.output
    assert "bf16" not in done.stderr


@pytest.mark.slow
def test_mistakes(trained, prepared, raw):
    fx("export", "openvino", trained.path, "--out", "m.openvino")
    fx("export", "onnx", trained.path, "--out", "m.onnx")
    alone = shutil.copy(trained.model_file, "alone.safetensors")
    for arguments, code, words in (
        (("predict", raw, "--model", "m.openvino", "--engine", "onnxruntime"), 2, "cannot run an OpenVINO file"),
        (("predict", raw, "--model", "m.openvino", "--engine", "torch"), 2, "cannot run an exported file"),
        (("predict", raw, "--model", "m.onnx", "--precision", "bf16"), 2, "onnxruntime computes in fp32"),
        (("predict", raw, "--model", "m.onnx", "--device", "cuda"), 2, "runs on the CPU"),
        (("cam", raw, "--model", "m.onnx", "--layer", "stem"), 2, "needs the model file of a run"),
        (("evaluate", "m.onnx"), 2, "lies in no run"),
        (("export", "onnx", "m.onnx"), 2, "needs the model file of a run"),
        (("export", "onnx", alone), 2, "--data MANIFEST"),
        (("export", "onnx", "gone"), 6, "no run directory"),
        (("export", "onnx", trained.path, "--out", "model.bin"), 2, "must be a file that ends in .onnx"),
        (("export", "onnx", trained.path, "--out", trained.model_file), 2, "must be a file that ends in .onnx"),
    ):
        done = fx(*arguments)
        assert (done.exit_code, words in done.stderr) == (code, True), (arguments, done.output)
    assert fx("predict", raw, "--model", "m.onnx", "--engine", "openvino").exit_code == 0
    assert fx("export", "onnx", alone, "--data", prepared / "manifest.csv", "--out", "x.onnx").exit_code == 0
    done = fx("evaluate", "m.onnx", "--data", prepared / "manifest.csv", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["engine"] == "onnxruntime"


@pytest.mark.slow
def test_an_exported_file_in_its_run_is_measured_on_the_runs_data(trained):
    assert fx("export", "openvino", trained.path).exit_code == 0
    done = fx("evaluate", trained.path / "exports" / "tiny.openvino", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    fx("evaluate", trained.path, "--quiet")
    exact = json.loads((trained.path / "evaluation" / "test.json").read_text())
    assert (told["engine"], told["precision"]) == ("openvino", "fp32")
    assert told["figures"]["accuracy"] == exact["figures"]["accuracy"]
    names = sorted(path.name for path in (trained.path / "evaluation").iterdir())
    assert len(names) == 2
    assert names[0].startswith("test-openvino-fp32-model-")


@pytest.mark.slow
def test_a_checkpoint_does_not_take_the_place_of_the_model(trained):
    assert fx("export", "onnx", trained.path).exit_code == 0
    own = (trained.path / "exports" / "tiny.onnx").read_bytes()
    best = trained.path / "checkpoints" / "best" / "model.safetensors"
    best.write_bytes(best.read_bytes().replace(b'"epoch"', b'"epocx"', 1))  # as of another epoch than the model's
    done = fx("export", "onnx", best, "--json")
    assert done.exit_code == 0, done.output
    assert re.fullmatch(r"tiny-model-\w{8}\.onnx", Path(json.loads(done.stdout)["file"]).name)
    assert (trained.path / "exports" / "tiny.onnx").read_bytes() == own


@pytest.mark.slow
def test_a_model_in_folds_is_compared_on_what_each_network_had_not_seen(tiny_recipe, run_of, monkeypatch):
    tiny_recipe()
    run = run_of("runs/all", "--set", "train.epochs=1", "--folds", 2, "--seeds", 2)
    exact, real = [], agreement.compare
    monkeypatch.setattr(agreement, "compare", lambda *given: exact.append(given[0]) or real(*given))
    assert fx("export", "onnx", run.path).exit_code == 0
    held_out = out_of_fold(run)
    rows = {row.path: row for row in read_manifest(run.manifest_file).rows}
    val = [place for place, path in enumerate(held_out.paths) if rows[path].split == "val"]
    temperature = open_model(str(run.path)).uncertainty.temperature
    expected = held_out.chosen(val).mean_logits / temperature
    assert len(val) == 12
    assert np.sort(exact[0], axis=0) == pytest.approx(np.sort(expected, axis=0), abs=1e-5)


@pytest.mark.slow
def test_nobody_is_told_of_its_use(trained, monkeypatch):
    """OpenVINO and NNCF would tell Google Analytics, and keep an identifier in the home folder."""
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    export.graph_of(open_model(str(trained.path)).trained("it"), "onnx")
    assert sys.modules["openvino_telemetry"] is None
    code = (
        "import sys\nfrom fxcli.inference.runtimes import openvino_core\n"
        "openvino_core()\nimport nncf\nassert sys.modules['openvino_telemetry'] is None\n"
    )
    Path("home").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HOME": "home"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(Path("home").iterdir()) == []


def test_a_manifest_without_a_validation_part_is_refused(trained, prepared):
    text = (prepared / "manifest.csv").read_text().replace(",val,", ",test,")
    other = prepared.parent / "no_val"
    shutil.copytree(prepared, other, dirs_exist_ok=True)
    (other / "manifest.csv").write_text(text)
    done = fx("export", "onnx", trained.path, "--data", other / "manifest.csv")
    assert done.exit_code == 4
    assert "no picture in split 'val'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signal")
def test_signals_are_survived_after_openvino(trained, raw):
    assert fx("export", "openvino", trained.path, "--out", "m.openvino").exit_code == 0
    code = """
import gc, os, signal, sys
from pathlib import Path
from fxcli.inference.opened import open_model
signal.signal(signal.SIGUSR1, lambda *_: print("heard"))
opened = open_model("m.openvino", workers=2, batch_size=1)
assert all(answer.logits is not None for answer in opened.pipeline.run(sorted(Path("raw").rglob("*.png"))))
del opened
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_an_exported_file_is_told_from_a_model_file(trained):
    assert not exported.is_exported(trained.model_file)


@pytest.mark.slow
def test_an_ensemble_is_exported_with_all_that_it_knows(tiny_recipe, raw):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", "train.epochs=1", "--folds", 2, "--out", "runs/folds", "--quiet")
    assert done.exit_code == 0, done.output
    for runtime in ("onnx", "openvino"):
        done = fx("export", runtime, "runs/folds", "--out", f"folds.{runtime}", "--quiet")
        assert done.exit_code == 0, done.output
        for model, name in (("runs/folds", "torch"), (f"folds.{runtime}", runtime)):
            done = fx("predict", raw, "--model", model, "--sets", "--precision", "fp32", "--out", name, "--overwrite")
            assert done.exit_code == 0, done.output
        assert probabilities(Path("torch/predictions.csv")) == pytest.approx(
            probabilities(Path(runtime) / "predictions.csv"), abs=1e-4
        )
        torch_rows, other_rows = (
            list(csv.DictReader(Path(name, "predictions.csv").read_text().splitlines())) for name in ("torch", runtime)
        )
        for column in ("set", "unlike_training"):
            assert [row[column] for row in torch_rows] == [row[column] for row in other_rows]
