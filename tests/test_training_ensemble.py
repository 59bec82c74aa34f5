import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console
from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.data.split import folds
from fxcli.errors import DataError, RunError
from fxcli.evaluation import novelty
from fxcli.evaluation.metrics import classification
from fxcli.evaluation.predictions import read_labelled
from fxcli.inference.opened import open_model
from fxcli.run.directory import Run
from fxcli.training import ensemble, loop


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    return done


@pytest.fixture
def several(tiny_recipe, run_of):
    """A run of two folds and two seeds, one epoch each."""
    tiny_recipe()
    return run_of("runs/all", "--set", "train.epochs=1", "--folds", 2, "--seeds", 2)


def parts_of(run):
    return [Run(run.path / "seeds" / str(seed) / "folds" / str(fold)) for seed in (0, 1) for fold in (0, 1)]


def read(file):
    return read_labelled(file.read_bytes().decode())


def test_parts_hold_other_pictures_out_and_never_see_the_test_part(several, prepared):
    whole = read_manifest(prepared / "manifest.csv")
    training = {row.path for row in whole.rows if row.split != "test"}
    for seed in (0, 1):
        held_out = []
        for part in parts_of(several)[2 * seed : 2 * seed + 2]:
            manifest = read_manifest(part.path / "manifest.csv", root=whole.root)
            assert [row.path for row in manifest.part("test")] == [row.path for row in whole.part("test")]
            own = {split: {row.path for row in manifest.part(split)} for split in ("train", "val", "calibration")}
            assert sum(map(len, own.values())) == len(set().union(*own.values())) == len(training)
            assert own["val"]
            held_out += own["calibration"]
        assert sorted(held_out) == sorted(training)


def test_oof_is_what_each_part_says_of_what_it_held_out(several):
    said, classes = read(several.oof_file)
    by_seed = []
    for seed in (0, 1):
        logits = {}
        for part in parts_of(several)[2 * seed : 2 * seed + 2]:
            opened = open_model(str(part.path))
            rows = opened.part(opened.manifest(None, "fx"), "calibration")
            found = opened.pipeline.logits([opened.manifest(None, "fx").path_of(row) for row in rows])
            logits |= {row.path: values for row, values in zip(rows, found, strict=True)}
        by_seed.append(np.array([logits[path] for path in said.paths]))
        own, _ = read(several.path / "seeds" / str(seed) / "predictions" / "oof.csv")
        assert own.paths == said.paths
        assert np.array_equal(own.logits[0], by_seed[-1])
    assert said.logits[0] == pytest.approx(np.mean(by_seed, axis=0), abs=1e-6)
    figures = classification(said.mean_logits, said.targets, classes)
    assert several.info()["figures"]["confusion"] == figures["confusion"]
    assert several.info()["figures"]["nll"] == pytest.approx(figures["nll"], abs=1e-6)


def test_the_model_is_the_mean_of_all_parts(several, prepared):
    manifest = read_manifest(prepared / "manifest.csv")
    files = [manifest.path_of(row) for row in manifest.part("test")]
    each = [open_model(str(part.path)).pipeline.logits(files) for part in parts_of(several)]
    opened = open_model(str(several.path))
    assert opened.pipeline.logits(files) == pytest.approx(np.mean(each, axis=0), abs=1e-5)
    assert [(member["seed"], member["fold"]) for member in opened.model.info["members"]] == [
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    answers = list(opened.pipeline.run(files))
    assert all(answer.distance > 0 for answer in answers)


def test_every_command_takes_the_ensemble(several, prepared):
    test = prepared / "pictures" / "test"
    for arguments in (
        ["evaluate", several.path],
        ["predict", test, "--model", several.path, "--cam", "out"],
        ["cam", test, "--model", several.path, "--layer", "body", "--out", "why"],
    ):
        done = fx(*arguments, "--quiet")
        assert done.exit_code == 0, done.output
    assert len(list(Path("out").rglob("*.png"))) == 12
    assert len(list(Path("why").rglob("*.npy"))) == 12


@pytest.mark.slow
def test_stopped_in_a_part_it_goes_on_to_the_same_model(several, tiny_recipe, monkeypatch):
    expected = several.model_file.read_bytes()
    tiny_recipe()
    train, calls = loop.train, []

    def stops(training, run, *, resume):
        calls.append(run.path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(training, run, resume=resume)

    monkeypatch.setattr(loop, "train", stops)
    again = Run(Path("runs/again"))
    sets = ["--set", "train.epochs=1", "--folds", 2, "--seeds", 2, "--out", again.path, "--quiet"]
    assert fx("train", "tiny.yaml", *sets).exit_code != 0
    assert again.info()["status"] == "interrupted"
    refused = fx("train", "--resume", again.path / "seeds" / "0" / "folds" / "1")
    assert refused.exit_code == RunError.exit_code
    assert f"fx train --resume {shlex.quote(str(again.path))}" in refused.stderr
    done = fx("train", "--resume", again.path, "--quiet")
    assert done.exit_code == 0, done.output
    assert len(calls) == 5
    assert oof_of(again) == oof_of(several)
    # Headers differ in their dates; weights and what follows from them do not.
    assert again.model_file.read_bytes()[-10_000:] == expected[-10_000:]


@pytest.mark.slow
def test_parts_are_computed_as_those_before_them_wherever_the_whole_goes_on(tiny_recipe, monkeypatch):
    """Begun on a GPU in fp32, say, and gone on with on a CPU that would have chosen otherwise."""
    tiny_recipe()
    run, real, calls = Run(Path("runs/a")), loop.train, []
    first, second = (Run(run.path / "folds" / number) for number in "01")

    def stops(training, which, *, resume):
        calls.append(which)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(training, which, resume=resume)

    monkeypatch.setattr(loop, "train", stops)
    sets = ["--set", "train.epochs=1", "--set", "hardware.precision=fp32", "--set", "hardware.channels_last=true"]
    fx("train", "tiny.yaml", *sets, "--folds", 3, "--out", run.path, "--quiet")
    assert first.info()["status"] == "finished"
    before = first.info()["compute"] | {"device": "cuda:0", "channels_last": False}
    first.update(compute=before), second.update(compute=before)
    done = fx("train", "--resume", run.path, "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("this run was computed on cuda:0 and goes on on cpu") == 2
    third = Run(run.path / "folds" / "2").info()
    for info in (second.info(), third):
        assert info["compute"] == before | {"device": "cpu", "device_name": "cpu"}
    assert second.info()["computed_before"] == [before]
    assert "computed_before" not in third
    assert run.info()["compute"] == before


def oof_of(run):
    return run.oof_file.read_text(encoding="utf-8")


@pytest.mark.slow
def test_seeds_alone_train_on_the_manifest_as_it_is(tiny_recipe, prepared):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", "train.epochs=1", "--seeds", 2, "--out", "runs/seeds", "--json")
    assert done.exit_code == 0, done.output
    run = Run(Path("runs/seeds"))
    found = json.loads(done.stdout)["validation"]
    measured = json.loads(fx("evaluate", run.path, "--split", "val", "--json").stdout)
    assert found["accuracy"] == pytest.approx(measured["figures"]["accuracy"]["value"])
    assert run.info()["figures"] == found
    copies = [(run.path / "seeds" / seed / "manifest.csv").read_bytes() for seed in ("0", "1")]
    assert copies == [(prepared / "manifest.csv").read_bytes()] * 2
    assert not run.oof_file.exists()
    assert len(open_model(str(run.path)).model.members) == 2


@pytest.mark.slow
def test_a_whole_tells_of_parts_that_time_cut_short(tiny_recipe):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--set", "train.max_minutes=1e-6", "--folds", 2, "--out", "runs/cut", "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("train.max_minutes ended the training in epoch 1 of 2 of phase main") == 2
    assert Run(Path("runs/cut")).info()["ended_by"] == "train.max_minutes ended 2 of 2 trainings"


def test_without_a_monitor_nothing_is_set_aside_for_validation(tiny_recipe, prepared):
    recipe = tiny_recipe("ensemble.folds=3", "train.monitor=none")
    manifest = read_manifest(prepared / "manifest.csv")
    for part in ensemble.parts(recipe, manifest, Run(Path("x"))):
        assert not part.manifest.part("val")
        assert len(part.manifest.part("train")) + len(part.manifest.part("calibration")) == 36


def test_the_division_is_of_the_fold_seed_alone(tiny_recipe, prepared):
    manifest = read_manifest(prepared / "manifest.csv")

    def held_out(*sets):
        parts = ensemble.parts(tiny_recipe("ensemble.folds=3", *sets), manifest, Run(Path("x")))
        return [[row.path for row in part.manifest.part("calibration")] for part in parts]

    assert held_out("seed=5") == held_out()
    assert held_out("ensemble.fold_seed=1") != held_out()


def test_groups_stay_together_and_classes_apart():
    labels = ["a", "b"] * 30
    groups = [f"g{index // 4}" for index in range(60)]
    found = folds(labels, groups, 3, seed=1)
    assert all(len({found[i] for i in range(60) if groups[i] == group}) == 1 for group in groups)
    assert sorted(np.bincount(found)) == [20, 20, 20]
    with pytest.raises(DataError, match=r"15 groups[\s\S]*at most --folds 15"):
        folds(labels, groups, 16, seed=1)
    with pytest.raises(DataError, match="3 pictures of the largest class"):
        folds(["a", "b"] * 3, [str(index) for index in range(6)], 4, seed=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,status\n", "damaged: no predictions"),
        ("status,logit_a\nok,1\n", "lack .distance"),
        (None, "damaged"),
    ],
)
def test_predictions_of_a_part_that_are_gone_are_told(several, prepared, tiny_recipe, text, message):
    recipe = tiny_recipe("train.epochs=1", "ensemble.folds=2", "ensemble.seeds=2")
    manifest = read_manifest(prepared / "manifest.csv")
    parts = ensemble.parts(recipe, manifest, several)
    file = parts[1].run.held_out_file
    if text is None:
        file.unlink()
    else:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=message):
        ensemble.oof(several, manifest, parts, {})


@pytest.mark.slow
def test_seeds_of_a_calibration_part_learn_their_errors_together(tiny_recipe, prepared):
    tiny_recipe()
    own = with_splits(prepared, lambda row: "calibration" if row.split == "val" else row.split)
    sets = ["--set", f"data.manifest={own}", "--set", "train.monitor=none", "--set", "train.epochs=1"]
    done = fx("train", "tiny.yaml", *sets, "--seeds", 2, "--out", "runs/seeds", "--quiet")
    assert done.exit_code == 0, done.output
    known = open_model("runs/seeds").uncertainty
    assert (known.source, known.n, known.sets.method) == ("calibration", 12, "split")
    assert open_model("runs/seeds/seeds/0").uncertainty.source == ""


def with_splits(prepared, split_of, **changes):
    """A copy of the prepared folder whose rows have other splits."""
    shutil.copytree(prepared, "own")
    rows = [replace(row, split=split_of(row), **changes) for row in read_manifest(prepared / "manifest.csv").rows]
    write_manifest(Path("own/manifest.csv"), rows)
    return Path("own/manifest.csv")


def test_a_fold_that_holds_a_whole_class_out_is_told_before_any_is_trained(tiny_recipe, prepared):
    tiny_recipe()
    shutil.copytree(prepared, "own")
    rows = read_manifest(prepared / "manifest.csv").rows
    same = [replace(row, group="one") if row.label == "class_2" and row.split != "test" else row for row in rows]
    write_manifest(Path("own/manifest.csv"), same)
    done = fx("train", "tiny.yaml", "--set", "data.manifest=own/manifest.csv", "--folds", 2, "--out", "runs/x")
    assert done.exit_code == 4
    assert "cannot be trained: no training picture of class_2" in done.stderr
    assert not Path("runs/x").exists()


def test_patients_stay_together_where_there_are_no_groups(tiny_recipe, prepared):
    shutil.copytree(prepared, "own")
    rows = read_manifest(prepared / "manifest.csv").rows
    patients = [replace(row, group="", patient=f"p{number % 6}") for number, row in enumerate(rows)]
    write_manifest(Path("own/manifest.csv"), patients)
    manifest = read_manifest(Path("own/manifest.csv"))
    held_out = [
        {row.patient for row in part.manifest.part("calibration")}
        for part in ensemble.parts(tiny_recipe("ensemble.folds=2"), manifest, Run(Path("x")))
    ]
    assert not held_out[0] & held_out[1]


@pytest.mark.slow
def test_what_was_left_of_making_a_part_is_made_anew(several, tiny_recipe, monkeypatch):
    tiny_recipe()
    again = Run(Path("runs/again"))
    part = again.path / "folds" / "0"

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train", stop)
        fx("train", "tiny.yaml", "--set", "train.epochs=1", "--folds", 2, "--out", again.path, "--quiet")
    (part / "run.json").unlink()
    (part / "notes.txt").write_text("mine", encoding="utf-8")
    refused = fx("train", "--resume", again.path, "--quiet")
    assert refused.exit_code == 6
    assert "in use" in refused.stderr
    (part / "notes.txt").unlink()
    done = fx("train", "--resume", again.path, "--quiet")
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_a_backbone_without_statistics_is_trained_in_folds_all_the_same(tiny_recipe, monkeypatch):
    def fit(_):
        raise ValueError("the features of all pictures are equal")

    monkeypatch.setattr(novelty, "fit", fit)
    tiny_recipe()
    sets = ["--set", "train.epochs=1", "--folds", 2, "--out", "runs/plain"]
    done = fx("train", "tiny.yaml", *sets)
    assert done.exit_code == 0, done.output
    assert "unlike the training pictures: the features of all pictures are equal" in done.stderr
    known = open_model("runs/plain").uncertainty
    assert known.unlike is None
    assert known.sets is not None


@pytest.mark.slow
def test_names_that_spreadsheets_mistake_survive_the_folds(tiny_recipe, prepared):
    tiny_recipe()
    shutil.copytree(prepared, "own")
    rows = list(read_manifest(prepared / "manifest.csv").rows)
    names = ("=cmd.png", "-a.png", "tab\there.png", "line\nbreak.png", "re\rturn.png", "@b.png")
    places = [index for index, row in enumerate(rows) if row.split == "train"]
    for place, name in zip(places, names, strict=False):
        shutil.copy(Path("own") / rows[place].path, Path("own") / name)
        rows[place] = replace(rows[place], path=name)
    write_manifest(Path("own/manifest.csv"), rows)
    sets = ["--set", "data.manifest=own/manifest.csv", "--set", "train.epochs=1", "--folds", 2, "--out", "runs/odd"]
    done = fx("train", "tiny.yaml", *sets, "--quiet")
    assert done.exit_code == 0, done.output
    assert {"=cmd.png", "re\rturn.png"} < set(read(Run(Path("runs/odd")).oof_file)[0].paths)


def test_a_dry_run_counts_all_trainings(tiny_recipe):
    tiny_recipe()
    done = fx("train", "tiny.yaml", "--folds", 3, "--seeds", 2, "--dry-run")
    assert done.exit_code == 0, done.output
    assert "6 trainings of" in done.stderr


@pytest.mark.parametrize(("recipe", "task"), [("experiments", "study"), ("pretrain_simclr", "pretrain")])
def test_folds_are_for_classifiers(recipe, task):
    done = fx("train", recipe, "--folds", 2)
    assert done.exit_code == 2
    assert f"--folds is for task: classify, and {recipe} is a {task}" in done.stderr
