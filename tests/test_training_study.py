"""A study is worked off: order, resuming, results that count as done, mistakes."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from stopping import stop_after
from studied import ORDER, counted, files, fx, index, looks, studied

from fxcli.data.manifest import read_manifest
from fxcli.data.parquet import beside
from fxcli.errors import RunError
from fxcli.evaluation.predictions import read_labelled
from fxcli.evaluation.table import kind_of
from fxcli.inference.opened import open_model
from fxcli.run import ledger
from fxcli.run.directory import Run
from fxcli.training import study as training


@pytest.fixture
def study(tiny_recipe, prepared):
    return studied(tiny_recipe, prepared)


@pytest.fixture
def trainings(monkeypatch):
    return counted(monkeypatch)


@pytest.mark.slow
def test_each_is_trained_measured_once_and_kept(study, trainings):
    done = fx("train", study, "--quiet")
    assert done.exit_code == 0, done.output
    assert trainings[0] == ORDER
    assert sorted(files("results")) == sorted(
        ["index.json", "named.json", "one/test.csv", *(f"{name}-test.csv" for name in ORDER)]
    )
    named = json.loads(Path("results/named.json").read_text(encoding="utf-8"))
    assert named["comparison"] == {"a": "plain", "b": "slow", "data": "one"}
    assert named["when"] <= min(line["when"] for line in index().values())
    assert sorted(index()) == sorted(ORDER)
    manifest = read_manifest(Path("data/manifest.csv"))
    test = manifest.part("test")
    pictures = Path("results/one/test.csv").read_text(encoding="utf-8").splitlines()
    assert pictures[0] == "path,label,group,leaked"
    assert pictures[1:] == [f"{row.path},{row.label},{row.group},{row.leaked}" for row in test]
    assert {line.rpartition(",")[2] for line in pictures[1:]} == {"yes", "no"}
    for name in ORDER:
        run = Path("runs/study", name)
        header, *lines = Path(f"results/{name}-test.csv").read_text(encoding="utf-8").splitlines()
        opened = open_model(str(run))
        assert header == ",".join(f"logit_{label}" for label in opened.model.classes)
        logits = opened.pipeline.logits([manifest.path_of(row) for row in test])
        assert np.array([line.split(",") for line in lines], dtype=float) == pytest.approx(logits, rel=1e-5, abs=1e-6)
    assert {look["part"] for look in looks()} == {ledger.part_of((row.sha256, row.label) for row in test)}
    assert [look["model"] for look in looks()] == [index()[name]["model_sha256"] for name in ORDER]
    assert fx("train", study, "--quiet").exit_code == 0
    assert len(trainings[0]) == len(looks()) == 4


def test_a_study_of_parquet_manifests(study, trainings):
    beside(Path("data/manifest.csv"), kind_of)
    text = study.read_text(encoding="utf-8").replace("data/manifest.csv", "data/manifest.parquet")
    study.write_text(text.replace("seeds: [0, 1]", "seeds: [0]"), encoding="utf-8")
    for _ in range(2):
        done = fx("train", study, "--quiet")
        assert done.exit_code == 0, done.output
        assert trainings[0] == ["one/plain-s0", "one/slow-s0"]


@pytest.mark.slow
def test_the_index_tells_what_was_done_and_nothing_of_the_machine(study):
    fx("train", study, "--set", "seeds=[0]", "--quiet")
    run = Run(Path("runs/study/one/slow-s0"))
    line = index()["one/slow-s0"]
    assert (line["data"], line["run"], line["seed"], line["backbone"]) == ("one", "slow", 0, "demo_tiny")
    assert line["manifest_sha256"] == run.info()["manifest_sha256"]
    assert line["validation"]["accuracy"] == pytest.approx(run.info()["figures"]["accuracy"], abs=1e-5)
    assert (line["epochs"], line["torch"]) == (1, run.info()["versions"]["torch"])
    assert line["minutes"] >= 0
    text = Path("results/index.json").read_text(encoding="utf-8")
    assert str(Path.cwd()) not in text
    assert "/" not in text.replace('"one/', "")


@pytest.mark.slow
def test_it_says_what_is_done_and_shows_the_table(study):
    looked = fx("train", study, "--dry-run")
    assert looked.exit_code == 0, looked.output
    assert looked.stdout.count("missing") == 4
    assert "no results yet" in looked.stderr
    assert not Path("runs").exists()
    assert not Path("results").exists()
    fx("train", study, "--set", "seeds=[0]", "--quiet")
    looked = fx("train", study, "--dry-run")
    states = [line.split()[3] for line in looked.stdout.splitlines() if line.startswith(" one ")][:4]
    assert states == ["done", "done", "missing", "missing"]
    assert "2 of 4 trainings done; about 0 minutes for 2 of the others" in looked.stderr
    record = json.loads(fx("train", study, "--dry-run", "--json").stdout)
    assert [line["state"] for line in record["entries"]] == ["done", "done", "missing", "missing"]
    assert record["entries"][2]["minutes"] == record["entries"][0]["minutes"]
    assert [(row["run"], row["published"], row["seeds"]) for row in record["rows"]] == [
        ("plain", 50, 1),
        ("slow", None, 1),
    ]
    (comparison,) = record["comparisons"]
    assert comparison["names"] == ["plain", "slow"]
    assert comparison["verdict"].endswith("named beforehand; one training is no measure of others")
    shown = fx("train", study, "--quiet").stdout
    assert "published" in shown
    assert "one: slow against plain: " in shown


@pytest.mark.slow
def test_the_threads_of_one_training_are_not_those_of_the_next(study):
    threads = torch.get_num_threads()
    text = study.read_text(encoding="utf-8").replace("published: 50", f"set: {{hardware.threads: {threads + 1}}}")
    study.write_text(text, encoding="utf-8")
    fx("train", study, "--set", "seeds=[0]", "--quiet")
    told = [Run(Path("runs/study", name)).info()["compute"]["threads"] for name in ORDER[:2]]
    assert told == [threads + 1, threads]
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_stopped_within_a_training_the_same_command_goes_on(study, monkeypatch):
    assert fx("train", study, "--out", "runs/straight", "--set", "results=straight", "--quiet").exit_code == 0
    with monkeypatch.context() as patch:
        # The second of the three steps of the second training.
        stop_after(patch, 5)
        done = fx("train", study, "--quiet")
    assert done.exit_code == 130
    assert "stopped at step 2; everything is saved" in done.stderr
    assert "the same command goes on" in done.stderr
    assert list(index()) == ["one/plain-s0"]
    assert Run(Path("runs/study/one/slow-s0")).info()["status"] == "interrupted"
    record = json.loads(fx("train", study, "--dry-run", "--json").stdout)
    assert [line["state"] for line in record["entries"]] == ["done", "begun", "missing", "missing"]
    done = fx("train", study, "--quiet")
    assert done.exit_code == 0, done.output
    resumed, straight = files("results"), files("straight")
    for found in (resumed, straight):
        found.pop("index.json"), found.pop("named.json")
    assert resumed == straight


@pytest.mark.slow
def test_stopped_between_trainings_or_before_measuring_it_goes_on(study, trainings, monkeypatch):
    begun, stops = trainings
    stops[3] = KeyboardInterrupt()
    done = fx("train", study, "--quiet")
    assert done.exit_code == 130
    assert "interrupted at one/plain-s1" in done.stderr
    assert len(index()) == 2
    with monkeypatch.context() as patch:
        patch.setattr(training, "open_model", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        assert fx("train", study, "--quiet").exit_code == 130
    assert (len(begun), len(index()), len(looks())) == (4, 2, 2)
    # What was trained is measured, and not trained again.
    assert fx("train", study, "--quiet").exit_code == 0
    assert begun == [*ORDER[:3], *ORDER[2:]]
    assert len(looks()) == 4


@pytest.mark.slow
def test_a_failed_training_stops_and_leaves_the_rest(study, trainings):
    begun, stops = trainings
    stops[2] = RunError("the loss is nan at step 3")
    done = fx("train", study, "--quiet")
    assert done.exit_code == 6
    assert "the loss is nan" in done.stderr
    assert list(index()) == ["one/plain-s0"]
    assert fx("train", study, "--quiet").exit_code == 0
    assert begun == [ORDER[0], ORDER[1], *ORDER[1:]]


@pytest.mark.slow
def test_results_alone_count_as_done_on_a_fresh_machine(study, trainings):
    fx("train", study, "--set", "seeds=[0]", "--quiet")
    shutil.rmtree("runs")
    Path("elsewhere").mkdir()
    shutil.copytree("data", "elsewhere/data", symlinks=True)
    moved = ["--set", "data.one=elsewhere/data/manifest.csv", "--set", "set.hardware.threads=1"]
    done = fx("train", study, *moved, "--set", "set.data.workers=1", "--quiet")
    assert done.exit_code == 0, done.output
    assert trainings[0] == ORDER
    assert sorted(index()) == sorted(ORDER)
    # The table needs no pictures.
    shutil.rmtree("data"), shutil.rmtree("elsewhere")
    expected = fx("train", study, "--json", "--quiet").stdout
    assert json.loads(expected)["rows"][0]["seeds"] == 2
    assert len(trainings[0]) == 4


@pytest.mark.slow
def test_a_missing_file_of_results_is_made_again_without_training(study, trainings):
    fx("train", study, "--set", "seeds=[0]", "--quiet")
    before = files("results")
    Path("results/one/slow-s0-test.csv").unlink()
    assert fx("train", study, "--set", "seeds=[0]", "--quiet").exit_code == 0
    assert len(trainings[0]) == 2
    after = files("results")
    # Its time differs.
    after.pop("index.json"), before.pop("index.json")
    assert after == before


@pytest.mark.slow
def test_a_damaged_test_picture_stops_and_the_training_is_kept(study, trainings):
    row = read_manifest(Path("data/manifest.csv")).part("test")[1]
    good = Path("data", row.path).read_bytes()
    Path("data", row.path).write_bytes(b"no picture")
    done = fx("train", study, "--set", "seeds=[0]", "--quiet")
    assert done.exit_code == 4
    assert "1 of 12 test pictures cannot be read" in done.stderr
    assert row.path in done.stderr
    assert not Path("results").exists()
    Path("data", row.path).write_bytes(good)
    assert fx("train", study, "--set", "seeds=[0]", "--quiet").exit_code == 0
    assert trainings[0] == ORDER[:2]


@pytest.mark.slow
def test_folds_bring_out_of_fold_answers(study):
    sets = ["--set", "seeds=[0]", "--set", "runs.plain.set.ensemble.folds=2"]
    done = fx("train", study, *sets, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    said, _ = read_labelled(Run(Path("runs/study/one/plain-s0")).oof_file.read_text(encoding="utf-8"))
    pictures = Path("results/one/oof.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(",")[0] for line in pictures] == list(said.paths)
    rows = {(row["run"], row["part"]): row for row in json.loads(done.stdout)["rows"]}
    assert set(rows) == {("plain", "test"), ("plain", "oof"), ("slow", "test")}
    oof = rows["plain", "oof"]
    assert oof["accuracy"]["value"] == (said.mean_logits.argmax(axis=1) == said.targets).mean()
    assert (oof["n"], oof["published"], oof["leaked"]) == (36, None, None)
    assert index()["one/plain-s0"]["epochs"] == 2
    assert "oof" in index()["one/plain-s0"]
    assert "out-of-fold predictions" in fx("train", study, *sets, "--quiet").stdout


@pytest.mark.slow
def test_a_study_that_asks_for_out_of_fold_answers_alone_never_looks_at_the_test_part(study):
    text = study.read_text(encoding="utf-8").replace(", published: 50", "")
    text = text.replace("data.workers: 0", "data.workers: 0, ensemble.folds: 2").replace("[0, 1]", "[0]")
    study.write_text(text.replace("data: one}", "data: one, part: oof}"), encoding="utf-8")
    done = fx("train", study, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert not Path("data", ledger.NAME).exists()
    names = ["index.json", "named.json", "one/oof.csv", "one/plain-s0-oof.csv", "one/slow-s0-oof.csv"]
    assert sorted(files("results")) == names
    assert {row["part"] for row in json.loads(done.stdout)["rows"]} == {"oof"}
    # Asked for later, it is measured by what was trained.
    before = files("results")
    study.write_text(study.read_text(encoding="utf-8").replace(", part: oof}", "}"), encoding="utf-8")
    done = fx("train", study, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert [look["model"] for look in looks()] == [line["model_sha256"] for line in index().values()]
    assert {row["part"] for row in json.loads(done.stdout)["rows"]} == {"test", "oof"}
    assert files("results")["one/oof.csv"] == before["one/oof.csv"]
    # And it is not what was named beforehand.
    assert not json.loads(done.stdout)["comparisons"][0]["primary"]


@pytest.mark.slow
def test_a_ledger_that_cannot_be_written_is_a_warning(study):
    Path("data", ledger.NAME).mkdir()
    done = fx("train", study, "--set", "seeds=[0]", "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("this look at the test part cannot be noted") == 2


@pytest.mark.slow
def test_a_result_that_comes_while_it_works_is_not_made_again(study, trainings, monkeypatch):
    fx("train", study, "--quiet")
    shutil.copytree("results", "theirs")
    shutil.rmtree("results"), shutil.rmtree("runs")
    begun, real = trainings[0], training._measure

    def pulled(*arguments):
        real(*arguments)
        shutil.copytree("theirs", "results", dirs_exist_ok=True)

    monkeypatch.setattr(training, "_measure", pulled)
    assert fx("train", study, "--quiet").exit_code == 0
    assert begun == [*ORDER, ORDER[0]]
