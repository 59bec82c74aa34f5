import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console
from fxcli.data.manifest import read_manifest
from fxcli.data.preprocess import Clean
from fxcli.evaluation.metrics import softmax
from fxcli.inference.detected import BoxesBeside, Sighting
from fxcli.inference.opened import open_model
from fxcli.inference.verdict import Judge
from fxcli.run import checkpoint

FOLDS = ("--set", "train.epochs=1", "--folds", 2)


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    return done


@pytest.fixture
def folds(tiny_recipe, run_of):
    tiny_recipe()
    return run_of("runs/folds", *FOLDS)


@pytest.fixture
def gate(folds, run_of):
    return run_of("runs/gate", *FOLDS, "--set", "evaluate.negative_class=class_0")


@pytest.fixture
def pictures(prepared):
    manifest = read_manifest(prepared / "manifest.csv")
    return [manifest.path_of(row) for row in manifest.part("test")]


def change(run, **values):
    tensors, info = checkpoint.load_model_file(run.model_file)
    info["uncertainty"] |= values
    checkpoint.save_model_file(run.model_file, tensors, info)


def rows_of(done):
    return list(csv.DictReader(io.StringIO(done.stdout)))


def test_sets_are_a_column(folds, pictures):
    done = fx("predict", *pictures, "--model", folds.path, "--sets", "--precision", "fp32", "--batch-size", 1)
    assert done.exit_code == 0, done.output
    opened = open_model(str(folds.path), batch_size=1)
    groups, least = opened.uncertainty.n_groups, round(100 * opened.uncertainty.sets.proven)
    assert least < 80  # few groups
    assert (
        f"sets hold the true class in about 90 of 100 cases, and in about {least} at least (cv+, {groups} groups)"
        in done.stderr
    )
    for row, answer in zip(rows_of(done), opened.pipeline.run(pictures), strict=True):
        said = opened.say(answer, sets=True)
        assert row["set"].split("|") == [name for name, i in zip(opened.model.classes, said.classes, strict=True) if i]
        assert row["class"] in row["set"].split("|")
        assert float(row[f"p_{row['class']}"]) == pytest.approx(said.probabilities.max(), abs=1e-4)
        assert row["unlike_training"] == str(said.unlike).lower()


def test_probabilities_are_at_the_temperature_of_the_file(folds, pictures):
    change(folds, temperature=7.0)
    opened = open_model(str(folds.path))
    logits = opened.pipeline.logits(pictures)
    done = fx("predict", *pictures, "--model", folds.path, "--precision", "fp32")
    found = [[float(row[f"p_class_{i}"]) for i in range(3)] for row in rows_of(done)]
    assert np.array(found) == pytest.approx(softmax(logits / 7), abs=1e-4)


def test_what_is_too_unsure_is_not_answered(folds, pictures):
    change(folds, abstentions=[[0.2, 0.4], [0.3, 0.3]])
    done = fx("predict", *pictures, "--model", folds.path, "--abstain", 0.25, "--json")
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    for record in records:
        top = max(record["probabilities"].values())
        assert record["status"] == ("ok" if top >= 0.4 else "abstained")
        assert ("class" in record) == (top >= 0.4)
    refused = fx("predict", *pictures, "--model", folds.path, "--abstain", 0.1)
    assert refused.exit_code == 2
    assert "errors that it can keep: 0.2, 0.3" in refused.stderr


def test_a_model_without_folds_knows_nothing_of_its_errors(folds, pictures):
    for option in (["--sets"], ["--abstain", 0.3]):
        done = fx("predict", *pictures, "--model", folds.path / "folds" / "0", *option)
        assert done.exit_code == 2
        assert "fx train RECIPE --folds 5" in done.stderr
    plain = fx("predict", *pictures, "--model", folds.path / "folds" / "0")
    assert "unlike_training" not in rows_of(plain)[0]


def test_the_gate_keeps_back_what_shows_no_fracture(folds, gate, pictures):
    opened = open_model(str(gate.path))
    findings = [1 - opened.say(answer).probabilities[0] for answer in opened.pipeline.run(pictures)]
    threshold = float(np.median(findings))
    change(gate, threshold=threshold)
    done = fx("predict", *pictures, "--model", folds.path, "--gate", gate.path, "--precision", "fp32")
    assert done.exit_code == 0, done.output
    for row, finding in zip(rows_of(done), findings, strict=True):
        assert float(row["p_finding"]) == pytest.approx(finding, abs=1e-4)
        rejected = float(row["p_finding"]) < threshold
        assert row["status"] == ("no_fracture_suspected" if rejected else "ok")
        assert (row["class"], row["p_class_1"]) == ("", "") if rejected else row["class"]
    assert 0 < sum(row["status"] == "ok" for row in rows_of(done)) < len(pictures)


def test_only_a_model_with_a_negative_class_is_a_gate_and_none_of_itself(folds, gate, pictures):
    done = fx("predict", *pictures, "--model", folds.path, "--gate", folds.path)
    assert done.exit_code == 2
    assert "cannot be a gate" in done.stderr
    # The gate was trained last, so it would be the default model.
    done = fx("predict", *pictures, "--gate", gate.path)
    assert done.exit_code == 2
    assert "needs no gate" in done.stderr
    assert "--model RUN_OR_FILE" in done.stderr


@pytest.mark.parametrize("option", ["--gate", "--detector"])
def test_a_name_without_a_letter_names_no_model(folds, pictures, option):
    """As a shell makes it of a variable that is not set: a prediction without a gate would say nothing of it."""
    done = fx("predict", *pictures, "--model", folds.path, option, "")
    assert done.exit_code == 6, done.output
    assert "no run directory or model file" in done.stderr


def test_a_class_called_finding_would_share_the_column_of_the_gate(folds, gate, pictures):
    tensors, info = checkpoint.load_model_file(folds.model_file)
    info["classes"][1] = "finding"
    checkpoint.save_model_file(folds.model_file, tensors, info)
    done = fx("predict", *pictures, "--model", folds.path, "--gate", gate.path)
    assert done.exit_code == 2, done.output
    assert "has a class called finding, and its column p_finding is the gate's" in done.stderr
    done = fx("predict", *pictures, "--model", folds.path)
    assert "p_finding" in rows_of(done)[0]


def test_what_is_not_answered_is_not_drawn(folds, gate, pictures):
    change(gate, threshold=0.9999)
    done = fx("predict", *pictures, "--model", folds.path, "--gate", gate.path, "--cam", "maps")
    answered = sum(row["status"] == "ok" for row in rows_of(done))
    assert len(list(Path("maps").rglob("*.png"))) == answered < len(pictures)
    change(folds, abstentions=[[0.3, 0.9999]])
    done = fx("predict", *pictures, "--model", folds.path, "--abstain", 0.3, "--cam", "unsure")
    assert not list(Path("unsure").rglob("*.png"))
    assert "heat maps in" not in done.stderr, "there is no such folder"


def test_what_is_not_answered_has_features(folds, gate, pictures):
    change(gate, threshold=0.9999)
    change(folds, abstentions=[[0.3, 0.9999]])
    options = ["--gate", gate.path, "--abstain", 0.3, "--features", "learnt"]
    rows = rows_of(fx("predict", *pictures, "--model", folds.path, *options))
    assert "ok" not in {row["status"] for row in rows}
    found = np.load("learnt/features.npy")
    assert found.shape == (len(pictures), 64), "of both networks"
    assert np.isfinite(found).all()


def test_a_picture_that_the_gate_cannot_read_is_an_error(folds, gate, pictures):
    opened, before = open_model(str(folds.path)), open_model(str(gate.path))
    other = replace(before.pipeline.preprocessing, clean=Clean(128))
    before = replace(before, pipeline=replace(before.pipeline, preprocessing=other))
    judge = Judge(opened, before, sets=False, abstain=None)
    judge.ask_gate(pictures[:1])
    verdict = judge.verdict(next(opened.pipeline.map(lambda answer: answer, pictures[:1])))
    assert verdict["status"] == "error"
    assert verdict["reason"].startswith("the gate cannot read it: prepared ")
    assert "128" in verdict["reason"]


def test_a_picture_that_the_detector_cannot_read_is_an_error(folds, pictures):
    beside = SimpleNamespace(
        finder=SimpleNamespace(look=lambda path: Sighting(path, "prepared otherwise")),
        model=SimpleNamespace(classes=("fracture",)),
        made_with=lambda least: {},
    )
    judge = Judge(open_model(str(folds.path)), None, sets=False, abstain=None, boxes=BoxesBeside(beside, 0.5))
    verdict = judge.verdict(next(judge.opened.pipeline.run(pictures[:1])))
    assert verdict == {
        "path": pictures[0],
        "status": "error",
        "reason": "the detector cannot read it: prepared otherwise",
        "cautions": (),
    }


def test_what_the_gate_computes_in_is_part_of_what_rows_are_made_with(folds, gate):
    opened = open_model(str(folds.path))
    others = [open_model(str(gate.path), precision=precision) for precision in ("fp32", "bf16")]
    exact, rounded = (Judge(opened, other, sets=False, abstain=None).made_with() for other in others)
    assert {name for name in exact if exact[name] != rounded[name]} == {"gate_precision"}
    assert exact["gate_engine"] == "torch"


def test_a_gate_assumes_no_fracture(gate, pictures):
    done = fx("predict", *pictures, "--model", gate.path)
    assert {row["assumes_fracture"] for row in rows_of(done)} == {"false"}
    assert not any("assumes that" in row["notice"] for row in rows_of(done))


def test_an_unreadable_file_is_an_error_behind_a_gate_too(folds, gate, pictures):
    Path("broken.png").write_bytes(b"nothing")
    done = fx("predict", pictures[0], "broken.png", pictures[1], "--model", folds.path, "--gate", gate.path)
    assert done.exit_code == 9
    assert [row["status"] == "error" for row in rows_of(done)] == [False, True, False]


def test_a_negative_class_must_be_one(tiny_recipe):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", "evaluate.negative_class=healthy")
    assert done.exit_code == 4
    assert "no picture has this class" in done.stderr


def test_a_header_that_was_tampered_with_is_refused(folds, pictures):
    tensors, info = checkpoint.load_model_file(folds.model_file)
    for changed, message in (
        ({"uncertainty": info["uncertainty"] | {"temperature": -1}}, "temperature is -1"),
        ({"negative_class": "healthy"}, "negative_class is healthy, which is no class"),
        ({"members": info["members"][:1] * 2}, "sets are of 2 folds, the model of 1"),
    ):
        checkpoint.save_model_file(folds.model_file, tensors, info | changed)
        done = fx("predict", *pictures, "--model", folds.path)
        assert done.exit_code == 6
        assert f"the header is damaged: {message}" in done.stderr


def test_heat_maps_say_the_probability_of_the_table(folds, pictures):
    change(folds, temperature=7.0)
    told = fx("cam", pictures[0], "--model", folds.path, "--json")
    row = rows_of(fx("predict", pictures[0], "--model", folds.path, "--precision", "fp32"))[0]
    assert json.loads(told.stdout)["p"] == pytest.approx(float(row[f"p_{row['class']}"]), abs=1e-4)


def test_rows_come_before_the_gate_has_seen_every_picture(folds, gate, pictures, monkeypatch):
    options = ["--model", folds.path, "--gate", gate.path, "--precision", "fp32", "--batch-size", 1, "--out", "out"]
    assert fx("predict", *pictures, *options).exit_code == 0
    whole = Path("out/predictions.csv").read_text(encoding="utf-8")
    ask, asked = Judge.ask_gate, []

    def stopping(self, files):
        asked.append(len(files))
        if len(asked) == 3:
            raise KeyboardInterrupt
        ask(self, files)

    monkeypatch.setattr("fxcli.commands.answer.BLOCK", 5)
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "ask_gate", stopping)
        assert fx("predict", *pictures, *options, "--overwrite").exit_code == 130
    assert asked == [5, 5, 2]
    assert len(Path("out/predictions.csv.part").read_text(encoding="utf-8").splitlines()) == 11
    assert fx("predict", *pictures, *options, "--resume").exit_code == 0
    assert Path("out/predictions.csv").read_text(encoding="utf-8") == whole


@pytest.mark.slow
def test_no_heat_map_of_before_stays_beside_what_is_not_answered(folds, gate, pictures):
    fx("predict", *pictures, "--model", folds.path, "--cam", "maps")
    drawn = len(list(Path("maps").rglob("*.png")))
    change(gate, threshold=0.9999)
    options = ["--model", folds.path, "--gate", gate.path, "--out", "out"]
    fx("predict", *pictures, *options)
    done = fx("predict", *pictures, *options, "--cam", "maps", "--resume")
    assert "nothing is missing" in done.stderr
    assert (drawn, list(Path("maps").rglob("*.png"))) == (len(pictures), [])


@pytest.mark.slow
def test_a_gate_and_going_on(folds, gate, pictures, monkeypatch):
    from fxcli.inference.rows import Growing

    options = ["--model", folds.path, "--gate", gate.path, "--precision", "fp32", "--batch-size", 1]
    whole = rows_of(fx("predict", *pictures, *options))
    write = Growing.write

    def stopping(self, record):
        if self.count == 5:
            raise KeyboardInterrupt
        write(self, record)

    with monkeypatch.context() as patch:
        patch.setattr(Growing, "write", stopping)
        assert fx("predict", *pictures, *options, "--out", "out").exit_code == 130
    assert fx("predict", *pictures, *options, "--out", "out", "--resume").exit_code == 0
    with open("out/predictions.csv", newline="", encoding="utf-8") as handle:
        assert list(csv.DictReader(handle)) == whole, "each picture has the verdict of the gate on itself"
    assert len({row["p_finding"] for row in whole}) > 5
    other = fx("predict", *pictures, *options[:2], "--out", "out", "--overwrite", "--strict")
    assert other.exit_code == 0
