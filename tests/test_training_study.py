"""A study is worked off: order, resuming, results that count as done, mistakes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stopping import stop_after
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console
from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.data.parquet import beside
from fxcli.errors import RunError
from fxcli.evaluation.predictions import read_labelled
from fxcli.evaluation.table import kind_of
from fxcli.inference.opened import open_model
from fxcli.run import checkpoint, ledger
from fxcli.run.directory import Run
from fxcli.run.files import sha256_of
from fxcli.training import loop
from fxcli.training import study as training

ORDER = ["one/plain-s0", "one/slow-s0", "one/plain-s1", "one/slow-s1"]


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    return done


@pytest.fixture
def study(tiny_recipe, prepared):
    """study.yaml in the current folder: two recipes of one epoch, two seeds, pictures that leaked and others."""
    tiny_recipe()
    text = Path("tiny.yaml").read_text(encoding="utf-8").replace("epochs: 2", "epochs: 1")
    Path("tiny.yaml").write_text(text, encoding="utf-8")
    Path("data").mkdir()
    shutil.copytree(prepared / "pictures", "data/pictures")
    shutil.copy(prepared / "fingerprint.json", "data")
    rows = read_manifest(prepared / "manifest.csv").rows
    told = [
        replace(row, leaked="yes" if number % 2 else "no") if row.split == "test" else row
        for number, row in enumerate(rows)
    ]
    write_manifest(Path("data/manifest.csv"), told)
    Path("study.yaml").write_text(
        "task: study\n"
        "seeds: [0, 1]\n"
        "data: {one: data/manifest.csv}\n"
        "set: {data.workers: 0}\n"
        "runs:\n"
        "  plain: {recipe: tiny.yaml, published: 50}\n"
        "  slow: {recipe: tiny.yaml, set: {optim.lr: 1e-4}}\n"
        "comparisons: [{a: plain, b: slow, data: one}]\n"
        "results: results\n",
        encoding="utf-8",
    )
    return Path("study.yaml")


@pytest.fixture
def trainings(monkeypatch):
    """The trainings that begin, by name; and errors by number: that of `stops[2]` ends the second of them."""
    begun, stops = [], {}
    real = loop.train

    def train(which, run, *, resume):
        begun.append("/".join(run.path.parts[-2:]))
        if error := stops.pop(len(begun), None):
            raise error
        return real(which, run, resume=resume)

    monkeypatch.setattr(loop, "train", train)
    return begun, stops


def index():
    return json.loads(Path("results/index.json").read_text(encoding="utf-8"))


def looks():
    return [json.loads(line) for line in Path("data", ledger.NAME).read_text(encoding="utf-8").splitlines()]


def files(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in Path(folder).rglob("*.*")}


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
