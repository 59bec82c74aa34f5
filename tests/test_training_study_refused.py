"""A study that cannot be worked off, or whose results would be mixed, is refused before anything is trained."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from studied import ORDER, counted, fx, index, studied

from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.run import checkpoint, ledger
from fxcli.run.directory import Run
from fxcli.run.files import sha256_of


@pytest.fixture
def study(tiny_recipe, prepared):
    return studied(tiny_recipe, prepared)


@pytest.fixture
def trainings(monkeypatch):
    return counted(monkeypatch)


@pytest.mark.slow
def test_a_changed_recipe_is_refused_before_anything_is_trained(study, trainings):
    fx("train", study, "--set", "seeds=[0]", "--quiet")
    changed = ["--set", "runs.slow.set.optim.lr=1e-5"]
    for more in ([], ["--dry-run"]):
        done = fx("train", study, *changed, *more, "--quiet")
        assert done.exit_code == 6
        assert "the recipe of one/slow-s0 changed since this result was made" in done.stderr
        assert "--set results=ANOTHER_FOLDER" in done.stderr
    # The result is given up, but not yet its run.
    lines = index()
    del lines["one/slow-s0"]
    Path("results/index.json").write_text(json.dumps(lines), encoding="utf-8")
    done = fx("train", study, *changed, "--quiet")
    assert done.exit_code == 6
    assert "the recipe (phases.main.optim.lr) changed since this training was started" in done.stderr
    assert "delete this folder" in done.stderr
    shutil.rmtree("runs/study/one/slow-s0")
    assert len(trainings[0]) == 2
    assert fx("train", study, *changed, "--quiet").exit_code == 0


@pytest.mark.slow
def test_a_changed_manifest_is_refused(study):
    fx("train", study, "--set", "seeds=[0]", "--quiet")
    file = Path("data/manifest.csv")
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    done = fx("train", study, "--quiet")
    assert done.exit_code == 6
    assert "the manifest of one/plain-s0 changed" in done.stderr
    # Also where the study no longer lists those results.
    done = fx("train", study, "--set", "seeds=[1]", "--quiet")
    assert done.exit_code == 6
    assert "the manifest of one/plain-s0 changed" in done.stderr
    done = fx("train", study, "--set", "results=others", "--quiet")
    assert done.exit_code == 6
    assert "the manifest changed since this training was started" in done.stderr
    done = fx("train", study, "--set", "results=others", "--out", "runs/others", "--quiet")
    assert done.exit_code == 0, done.output


def test_a_study_in_use_is_refused(study):
    Path("runs/study").mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        lock = {"pid": holder.pid, "host": os.uname().nodename}
        Path("runs/study/lock.json").write_text(json.dumps(lock), encoding="utf-8")
        done = fx("train", study, "--quiet")
        assert done.exit_code == 6
        assert f"process {holder.pid}" in done.stderr
    finally:
        holder.kill()
        holder.wait()


def test_a_manifest_without_a_test_part_is_refused_at_once(study, trainings):
    file = Path("data/manifest.csv")
    text = file.read_text(encoding="utf-8")
    file.write_text("\n".join(line for line in text.splitlines() if ",test," not in line) + "\n", encoding="utf-8")
    done = fx("train", study, "--quiet")
    assert done.exit_code == 4
    assert "no picture in split 'test'" in done.stderr
    assert trainings[0] == []


def test_results_that_cannot_be_written_are_told_before_anything_is_trained(study, trainings):
    """Else after hours, with a look at the test part already noted."""
    Path("results").touch()
    done = fx("train", study, "--quiet")
    assert done.exit_code == 4
    assert "error: results: cannot be written: Not a directory" in done.stderr
    assert trainings[0] == []
    assert not Path("data", ledger.NAME).exists()


@pytest.mark.parametrize(
    ("without", "sets", "told"),
    [
        (("train", "class_1"), [], "one/plain-s0: no training picture of class_1"),
        (("val", "class_1"), [], "one/plain-s0: no validation picture of class_1"),
        ((), ["runs.slow.set.ensemble.folds=99"], "one/slow-s0: 36 groups, and 12 pictures of the largest class"),
        ((), ["runs.slow.set.evaluate.negative_class=none"], "one/slow-s0: evaluate.negative_class is none"),
        (("val", ""), ["runs.plain.set.train.monitor=none"], "one/slow-s0: there is no validation part"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is(study, trainings, without, sets, told):
    """The first as well as the second training of the study."""
    file = Path("data/manifest.csv")
    rows = read_manifest(file).rows
    if without:
        split, label = without
        rows = [row for row in rows if row.split != split or (label and row.label != label)]
    write_manifest(file, rows)
    done = fx("train", study, *(part for text in sets for part in ("--set", text)), "--quiet")
    assert (done.exit_code, trainings[0]) == (4, []), done.output
    assert told in done.stderr


@pytest.mark.parametrize(
    ("comparison", "told"),
    [
        ("b: slow, metric: recall:clas_1", "comparisons.0: there is no class 'clas_1'; there are class_0"),
        ("b: slow, on: leaked", "comparisons.0: no picture is left to compare on"),
        ("b: plain, data_b: two", "comparisons.0: not the same pictures, with label, group and leaked"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_trained(study, trainings, comparison, told):
    rows = read_manifest(Path("data/manifest.csv")).rows
    write_manifest(Path("data/two.csv"), [row for row in rows if row.split != "test" or row.leaked == "no"])
    write_manifest(Path("data/manifest.csv"), [replace(row, leaked="no" if row.leaked else "") for row in rows])
    text = study.read_text(encoding="utf-8").replace("manifest.csv}", "manifest.csv, two: data/two.csv}")
    study.write_text(text.replace("{a: plain, b: slow,", f"{{a: plain, {comparison},"), encoding="utf-8")
    done = fx("train", study, "--quiet")
    assert (done.exit_code, trainings[0]) == (4, []), done.output
    assert told in done.stderr


@pytest.mark.slow
def test_resume_and_its_run_belong_together(study, trainings):
    """A training of a study that was resumed by hand is measured by the study."""
    trainings[1][1] = KeyboardInterrupt()
    assert fx("train", study, "--quiet").exit_code == 130
    assert fx("train", "--resume", "runs/study/one/plain-s0", "--quiet").exit_code == 0
    assert fx("train", study, "--set", "seeds=[0]", "--quiet").exit_code == 0
    assert trainings[0] == [ORDER[0], ORDER[0], ORDER[1]]


def test_folds_and_seeds_are_of_a_recipe_and_not_of_a_study(study):
    done = fx("train", study, "--folds", 3)
    assert done.exit_code == 2
    assert "a study has seeds of its own, and folds as ensemble.folds of a run" in done.stderr


@pytest.mark.slow
def test_a_start_that_was_made_anew_is_refused(study, trainings):
    """As a path of a run, whose hash the index keeps."""
    assert fx("train", "tiny.yaml", "--out", "runs/start", "--quiet").exit_code == 0
    text = study.read_text(encoding="utf-8").replace("{optim.lr: 1e-4}", "{optim.lr: 1e-4, model.init: runs/start}")
    study.write_text(text, encoding="utf-8")
    trainings[1][4] = KeyboardInterrupt()
    assert fx("train", study, "--quiet").exit_code == 130
    file = Run(Path("runs/start")).model_file
    assert index()["one/slow-s0"]["init_sha256"] == sha256_of(file)
    assert index()["one/plain-s0"]["init_sha256"] is None
    tensors, header = checkpoint.load_model_file(file)
    checkpoint.save_model_file(file, {name: value * 2 for name, value in tensors.items()}, header)
    done = fx("train", study, "--quiet")
    assert done.exit_code == 6
    assert "the start (model.init) of one/slow-s0 changed since this result was made" in done.stderr


@pytest.mark.slow
def test_a_start_by_the_last_pretraining_is_refused_after_another_one(study):
    """Of which `model.init` says nothing but the method."""
    recipe = "task: pretrain\ndata: {manifest: data/manifest.csv, image_size_px: 32, workers: 0}\n"
    recipe += "model: {backbone: demo_tiny, init: random}\ntrain: {epochs: 1, batch_size: 8, look_every: 0}\n"
    Path("pre.yaml").write_text(recipe, encoding="utf-8")
    assert fx("train", "pre.yaml", "--quiet").exit_code == 0
    text = study.read_text(encoding="utf-8")
    changed = text.replace("{optim.lr: 1e-4}", "{'model.backbone': 'simclr:demo_tiny', model.init: simclr}")
    study.write_text(changed, encoding="utf-8")
    done = fx("train", study, "--set", "seeds=[0]", "--quiet")
    assert done.exit_code == 0, done.output
    assert fx("train", study, "--set", "seeds=[0]", "--quiet").exit_code == 0
    # The last is the one that was begun in a later second.
    time.sleep(1)
    assert fx("train", "pre.yaml", "--set", "seed=1", "--quiet").exit_code == 0
    for more in ([], ["--dry-run"]):
        done = fx("train", study, *more, "--quiet")
        assert done.exit_code == 6
        assert "the start (model.init) of one/slow-s0 changed since this result was made" in done.stderr
    shutil.rmtree("results")
    done = fx("train", study, "--quiet")
    assert done.exit_code == 6
    assert "what model.init names changed since this training was started" in done.stderr
    # Without any pretraining it is still a result.
    for run in Path("runs").glob("pre-*"):
        shutil.rmtree(run)
    assert fx("train", study, "--set", "seeds=[0]", "--quiet").exit_code == 0


def test_a_start_that_is_not_there_is_told_before_anything_is_trained(study, trainings):
    text = study.read_text(encoding="utf-8").replace("{optim.lr: 1e-4}", "{model.init: runs/learnt}")
    study.write_text(text, encoding="utf-8")
    done = fx("train", study)
    assert done.exit_code == 3, done.output
    assert "unknown weights 'runs/learnt'" in done.stderr
    assert not trainings[0]
    assert fx("train", study, "--dry-run").exit_code == 0
