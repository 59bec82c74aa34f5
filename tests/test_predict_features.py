"""fx predict --features: what the head sees of each picture, which pictures are alike, and what is refused."""

import copy
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.data.names import path_of
from fxcli.evaluation.metrics import softmax
from fxcli.evaluation.predictions import PredictionTable
from fxcli.explain import neighbours
from fxcli.inference import rows as output
from fxcli.model import classifier as models
from fxcli.run import checkpoint
from fxcli.testing import tiny_dataset

RUN = Path("runs/trained")
WRITTEN = ["features.npy", "neighbours.png", "paths.csv"]


def fx(*arguments, code=0):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done


def predict(*options, code=0, model=RUN):
    return fx("predict", "raw", "--model", model, "--precision", "fp32", *options, code=code)


@pytest.fixture
def raw(trained):
    """12 pictures of 3 classes."""
    return tiny_dataset(Path("raw"))


def table(file):
    with Path(file).open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def written(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def by_hand(backbone, preprocessing, files):
    """Each picture alone through the backbone as it was trained, and the mean over its map."""
    found = []
    with torch.inference_mode():
        for file in files:
            image = torch.tensor(preprocessing.fit(preprocessing.load(Path(path_of(file)))))[None, None]
            found.append(backbone.eval()(preprocessing.normalise(image))[0].flatten(1).mean(dim=1).numpy())
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", "3", "--batch-size", "2"), ("--workers", "0")])
def test_features_are_what_the_head_sees(raw, demo_zoo, options):
    predict("--features", "learnt", "--out", "out", *options)
    model = models.load(RUN / "model.safetensors", demo_zoo)
    rows, found = table("out/predictions.csv"), np.load("learnt/features.npy")
    assert (found.shape, found.dtype) == ((12, 32), np.float32)
    assert table("learnt/paths.csv") == [{"path": row["path"]} for row in rows]
    expected = by_hand(model.backbone, model.preprocessing, [row["path"] for row in rows])
    assert found == pytest.approx(expected, abs=1e-5)
    logits = found @ model.network.head.weight.detach().numpy().T + model.network.head.bias.detach().numpy()
    told = [[float(row[f"p_class_{number}"]) for number in range(3)] for row in rows]
    assert softmax(logits) == pytest.approx(np.array(told), abs=1e-5)
    assert written("learnt") == WRITTEN


@pytest.mark.slow
def test_rows_and_heat_maps_are_as_without(raw):
    plain = predict("--cam", "maps")
    done = predict("--cam", "maps-too", "--features", "learnt")
    assert done.stdout == plain.stdout
    assert "12 pictures, heat maps in maps-too, features in learnt\n" in done.stderr
    for file in Path("maps").rglob("*.png"):
        assert Path("maps-too", *file.parts[1:]).read_bytes() == file.read_bytes()


def test_all_into_one_folder(raw):
    predict("--cam", "all", "--features", "all", "--out", "all", "--json")
    assert set(written("all")) == {*WRITTEN, *(f"class_{i}" for i in range(3))} | {
        "predictions.jsonl",
        "predictions.jsonl.json",
    }


def test_what_cannot_be_read_is_a_row_of_nan(raw):
    for name in ("class_0/00.png", "class_1/1.png"):
        (raw / name).write_bytes(b"nothing")
    rows = list(csv.DictReader(predict("--features", "learnt", code=9).stdout.splitlines()))
    found = np.load("learnt/features.npy")
    assert [row["path"] for row in rows] == [row["path"] for row in table("learnt/paths.csv")]
    is_error = [row["status"] == "error" for row in rows]
    assert [all(values) for values in np.isnan(found)] == is_error
    assert [any(values) for values in np.isnan(found)] == is_error
    assert sum(is_error) == 2
    done = predict("--features", "strict", "--strict", code=4)
    assert "raw/class_0/00.png: cannot read this picture" in done.stderr
    assert written("strict") == []


def test_a_picture_that_goes_before_the_sheet_is_drawn_costs_the_sheet_alone(raw, monkeypatch):
    finish = output.Printed.finish

    def going(self):
        (raw / "class_1/1.png").unlink()
        finish(self)

    monkeypatch.setattr(output.Printed, "finish", going)
    monkeypatch.setattr(neighbours, "QUERIES", 12)
    done = predict("--features", "learnt", "--report", "page.html")
    assert "warning: no sheet of neighbours: raw/class_1/1.png" in done.stderr
    assert written("learnt") == ["features.npy", "paths.csv"]
    assert Path("page.html").is_file()


@pytest.mark.slow
def test_nothing_to_compare(raw):
    for file in sorted(raw.rglob("*.png"))[1:]:
        file.write_bytes(b"nothing")
    done = predict("--features", "learnt", code=9)
    assert "no sheet of neighbours: it takes two pictures" in done.stderr
    assert written("learnt") == ["features.npy", "paths.csv"]
    predict("--features", "learnt", "--overwrite", code=9)
    (raw / "class_0/1.png").write_bytes((raw / "class_0/0.png").read_bytes())
    predict("--features", "learnt", "--overwrite", code=9)
    (raw / "class_0/1.png").unlink()
    predict("--features", "learnt", "--overwrite", code=9)
    assert written("learnt") == ["features.npy", "paths.csv"], "no sheet of other features stands beside these"


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_there_is_replaced_on_demand_alone(raw, name):
    Path("learnt").mkdir()
    Path("learnt", name).write_text("mine")
    done = predict("--features", "learnt", code=4)
    assert done.stdout == ""
    assert f"learnt/{name}: this file exists" in done.stderr
    assert "--overwrite replaces it; --features names another folder" in done.stderr
    assert Path("learnt", name).read_text() == "mine"
    assert written("learnt") == [name]
    predict("--features", "learnt", "--overwrite")
    assert written("learnt") == WRITTEN
    assert np.load("learnt/features.npy").shape == (12, 32)


def test_what_stops_it_leaves_what_was_there(raw, monkeypatch):
    predict("--features", "learnt")
    before = {name: Path("learnt", name).read_bytes() for name in WRITTEN}
    cells, calls = PredictionTable.cells, []

    def interrupted(self, record):
        calls.append(record)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return cells(self, record)

    (raw / "class_2" / "3.png").unlink()
    monkeypatch.setattr(PredictionTable, "cells", interrupted)
    predict("--features", "learnt", "--overwrite", code=130)
    assert {name: Path("learnt", name).read_bytes() for name in written("learnt")} == before


def test_a_disk_without_any_space(raw):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no full disk at hand")
    Path("learnt").mkdir()
    Path("learnt/features.npy.part").symlink_to("/dev/full")
    done = predict("--features", "learnt", code=4)
    assert "learnt/features.npy: cannot be written: No space left on device" in done.stderr
    assert written("learnt") == []


def test_two_at_once_are_refused(raw):
    Path("learnt").mkdir()
    Path("learnt/lock.json").write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    assert "is at work in this folder" in predict("--features", "learnt", code=6).stderr
    assert written("learnt") == ["lock.json"]


def test_it_cannot_go_on(raw):
    done = predict("--features", "learnt", "--out", "out", "--resume", code=2)
    assert "--resume cannot go on with them" in done.stderr
    assert not Path("learnt").exists()


@pytest.mark.slow
def test_networks_of_one_model_stand_side_by_side(raw, demo_zoo):
    model = models.load(RUN / "model.safetensors", demo_zoo)
    other = models.build(model.spec, models.Model(backbone="demo_tiny", init="random"), 64, 3, seed=5)
    torch.nn.init.normal_(other.head.weight, std=0.5)
    other.statistics = copy.deepcopy(model.network.statistics)
    info = {**model.info, "members": [{"seed": 0}, {"seed": 1}]}
    several = models.TrainedModel((model.network, other.eval()), model.spec, model.classes, model.preprocessing, info)
    several.save(Path("several.safetensors"))
    done = predict("--features", "learnt", model="several.safetensors")
    rows, found = list(csv.DictReader(done.stdout.splitlines())), np.load("learnt/features.npy")
    assert found.shape == (12, 64)
    files = [row["path"] for row in rows]
    logits = []
    for number, member in enumerate(several.members):
        part = found[:, 32 * number : 32 * (number + 1)]
        assert part == pytest.approx(by_hand(member.backbone, model.preprocessing, files), abs=1e-5)
        logits.append(part @ member.head.weight.detach().numpy().T + member.head.bias.detach().numpy())
    told = [[float(row[f"p_class_{number}"]) for number in range(3)] for row in rows]
    assert softmax(np.mean(logits, axis=0)) == pytest.approx(np.array(told), abs=1e-5)


def test_paths_are_shown_as_in_rows(raw):
    done = predict("--features", "learnt", "--paths", "hashed")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["path"] for row in table("learnt/paths.csv")] == [row["path"] for row in rows]
    assert "raw" not in Path("learnt/paths.csv").read_text()


def test_the_sheet_is_never_taken_for_a_picture(raw):
    for options in ((), ("--overwrite",)):
        done = predict("--features", "raw/learnt", *options)
        assert len(done.stdout.splitlines()) == 13
    assert "passed over: 1 pictures in raw/learnt that fx drew" in done.stderr
    shutil.copy("raw/class_0/0.png", "raw/class_1/neighbours.png")
    done = predict("--features", "raw/class_1", "--overwrite", code=2)
    assert "would replace the picture raw/class_1/neighbours.png" in done.stderr


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_other_engines_give_none(raw, engine):
    done = fx("predict", "raw", "--model", RUN, "--engine", engine, "--features", "learnt", code=2)
    assert f"--features needs torch, not {engine}" in done.stderr


def test_the_help_has_an_example():
    assert "--features learnt/" in fx("predict", "--help").stdout


# --- pretrained backbones ---


@pytest.fixture
def pretrained(raw, demo_zoo):
    """What a pretraining writes: a backbone without a head."""
    model = models.load(RUN / "model.safetensors", demo_zoo)
    info = {**model.info, "task": "pretrain", "method": "simclr", "preprocessing": model.preprocessing.to_mapping()}
    tensors = {name: value for name, value in model.network.state_dict().items() if name.startswith("backbone.")}
    checkpoint.save_model_file(Path("pre.safetensors"), tensors, info)
    return model


def test_a_pretrained_backbone_gives_features_alone(pretrained):
    (Path("raw") / "class_1" / "1.png").write_bytes(b"nothing")
    done = predict("--features", "learnt", model="pre.safetensors", code=9)
    rows, found = list(csv.DictReader(done.stdout.splitlines())), np.load("learnt/features.npy")
    assert list(rows[0]) == ["path", "status", "reason", "assumes_fracture", "notice"]
    assert {row["assumes_fracture"] for row in rows} == {"false"}
    assert not any("assumes that" in row["notice"] for row in rows)
    readable = [row["path"] for row in rows if row["status"] == "ok"]
    assert len(readable) == 11
    expected = by_hand(pretrained.backbone, pretrained.preprocessing, readable)
    assert found[[row["status"] == "ok" for row in rows]] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(found[5]).all()
    assert written("learnt") == WRITTEN
    with Image.open("learnt/neighbours.png") as sheet:
        assert sheet.width > sheet.height / 2


def test_its_rows_go_where_all_rows_go(pretrained):
    records = predict("--features", "a", "--json", model="pre.safetensors").stdout.splitlines()
    assert {tuple(json.loads(record)) for record in records} == {("path", "status", "assumes_fracture", "notice")}
    predict("--features", "b", "--out", "b", model="pre.safetensors")
    assert [row["status"] for row in table("b/predictions.csv")] == ["ok"] * 12


def test_in_bf16_features_are_rounded(pretrained):
    predict("--features", "exact", model="pre.safetensors")
    done = fx("predict", "raw", "--model", "pre.safetensors", "--precision", "bf16", "--features", "rounded")
    assert done.exit_code == 0
    exact, rounded = np.load("exact/features.npy"), np.load("rounded/features.npy")
    assert 0 < np.abs(exact - rounded).max() < 0.1


def test_without_features_it_is_of_no_use(pretrained):
    done = predict(model="pre.safetensors", code=6)
    assert "holds a pretrained backbone (demo_tiny), not a classifier" in done.stderr
    assert "fx predict FOLDER --model pre.safetensors --features DIR" in done.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--cam", "maps"),
        ("--report", "a.html"),
        ("--sets",),
        ("--abstain", "0.3"),
        ("--gate", RUN),
        ("--detector", RUN),
    ],
)
def test_it_has_no_classes(pretrained, options):
    done = predict("--features", "learnt", *options, model="pre.safetensors", code=2)
    assert "pre.safetensors holds a pretrained backbone: --cam, --report, --sets" in done.stderr
    assert not Path("learnt").exists()
