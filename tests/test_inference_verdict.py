import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console
from fxcli.data.manifest import read_manifest
from fxcli.evaluation.metrics import softmax
from fxcli.inference.opened import open_model
from fxcli.run import checkpoint
from fxcli.run.directory import Run


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    return done


def train(out, *sets):
    done = fx("train", "tiny.yaml", "--set", "train.epochs=1", "--folds", 2, "--out", out, "--quiet", *sets)
    assert done.exit_code == 0, done.output
    return Run(Path(out))


@pytest.fixture
def folds(tiny_recipe):
    tiny_recipe()
    return train("runs/folds")


@pytest.fixture
def gate(folds):
    return train("runs/gate", "--set", "evaluate.negative_class=class_0")


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
    groups = opened.uncertainty.n_groups
    assert f"sets hold the true class in about 90 of 100 cases (cv+, {groups} groups)" in done.stderr
    for row, answer in zip(rows_of(done), opened.pipeline.run(pictures), strict=True):
        said = opened.say(answer)
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


def test_only_a_model_with_a_negative_class_is_a_gate(folds, pictures):
    done = fx("predict", *pictures, "--model", folds.path, "--gate", folds.path)
    assert done.exit_code == 2
    assert "cannot be a gate" in done.stderr


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
    change(folds, temperature=-1)
    done = fx("predict", *pictures, "--model", folds.path)
    assert done.exit_code == 6
    assert "the header is damaged: temperature is -1" in done.stderr
