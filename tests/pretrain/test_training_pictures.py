"""What a pretraining learns from: pictures without labels, and any parts of a manifest."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pretraining import CLASSIFY, CPU, lines, stop_at
from typer.testing import CliRunner

from fxcli import BackboneArgs
from fxcli.cli import app
from fxcli.data.manifest import write_manifest
from fxcli.inference import measured
from fxcli.run import directory
from fxcli.training import pictures, pretrain


def test_without_labels_it_looks_for_collapse_alone(recipe_of, demo_zoo, manifest):
    alone = replace(manifest, rows=tuple(replace(row, label="x") for row in manifest.rows))
    backbone = demo_zoo.backbone("demo_tiny").build(BackboneArgs(image_size_px=32))
    watching = pretrain.build(recipe_of("simclr"), alone, CPU, demo_zoo).watch
    assert set(watching.look(backbone, lambda: None)) == {"feature_spread", "effective_rank"}


@pytest.mark.slow
def test_pictures_without_labels_are_pretrained_on_and_nothing_else(recipe_of, manifest):
    """From a flat folder to a run and its report; what learns from labels, or measures by them, says what is wrong."""
    recipe_of("simclr")
    pool, here = Path("pool"), ["--set", "data.manifest=prepared/pool/manifest.csv"]
    pool.mkdir()
    for row in manifest.part("train"):
        shutil.copy(manifest.path_of(row), pool)

    def fx(*command, code=0):
        done = CliRunner().invoke(app, [*map(str, command), "--quiet"])
        assert done.exit_code == code, done.output
        return done

    fx("prepare", pool, "--set", "data.labels=none", "--set", "data.prepared_px=64", "--set", "audit.search=false")
    fx("train", "pre.yaml", *here, "--out", "runs/pre", "--set", "train.look_every=1")
    found = lines(directory.open_run(Path("runs/pre")))
    assert ["effective_rank" in line for line in found] == [True] * 3
    assert not any("knn_balanced_accuracy" in line for line in found)
    fx("report", "runs/pre")
    told = "these pictures have no labels, to learn from or to measure by"
    Path("fine.yaml").write_text(CLASSIFY.format(manifest=manifest.file), encoding="utf-8")
    for folds in ((), ("--folds", 2)):
        assert told in fx("train", "fine.yaml", *here, "--out", "runs/none", *folds, code=4).stderr
    assert told in fx("recipe", "new", "prepared/pool", code=4).stderr
    assert not Path("runs/none").exists()
    fx("train", "fine.yaml", "--out", "runs/fine")
    evaluate = ("evaluate", "runs/fine", "--data", "prepared/pool/manifest.csv", "--split", "train")
    assert told in fx(*evaluate, code=4).stderr


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        ((), ""),
        (("data.train_frac=0.5",), "learns from 12 of 24 pictures for training (data.train_frac)\n"),
        (("data.splits=[train,val]",), "learns from 30 of 30 pictures for training (data.splits: train, val)\n"),
        (
            ("data.splits=[train,val]", "data.train_frac=0.5"),
            "learns from 16 of 30 pictures for training (data.splits: train, val; data.train_frac)\n",
        ),
    ],
)
def test_why_other_pictures_are_learnt_from_is_told(recipe_of, manifest, capsys, sets, told):
    pictures.learnt_from(recipe_of("simclr", *sets), manifest, told=True)
    assert capsys.readouterr().err == told


@pytest.mark.slow
def test_a_whole_data_set_may_be_the_pool(recipe_of, manifest):
    """Its parts are in the manifest; the run says which were learnt from, and what starts from it is told of them."""
    recipe_of("simclr")
    rows = [
        replace(row, split="test" if number < 6 else row.split, sha256=f"{number:064x}")
        for number, row in enumerate(manifest.rows)
    ]
    file = manifest.root / "parted.csv"
    write_manifest(file, rows)

    def fx(*command):
        here = ["--set", f"data.manifest='{file}'", "--quiet"]
        done = CliRunner().invoke(app, ["train", *map(str, command), *here])
        assert done.exit_code == 0, done.output
        return done.stderr

    parts = {split: [row for row in rows if row.split == split] for split in ("train", "val", "test")}
    fine = Path("fine.yaml")
    for splits, count, votes in (("[train]", 18, True), ("[train, test]", 24, True), ("[train, val, test]", 30, False)):
        name = f"runs/{count}"
        told = fx("pre.yaml", "--out", name, "--set", f"data.splits={splits}")
        assert ("the 6 test pictures are learnt from, without their labels: figures" in told) == ("test" in splits)
        run = directory.open_run(Path(name))
        assert run.info()["splits"] == splits.strip("[]").split(", ")
        assert [len(parts[split]) * (split in splits) for split in parts] == [
            measured.learnt_from(run, parts[split]) for split in parts
        ]
        assert ["knn_balanced_accuracy" in line for line in lines(run)] == [votes, False, votes]
        assert run.manifest_file.read_bytes() == file.read_bytes()
        text = CLASSIFY.format(manifest=file).replace("'simclr:demo_tiny'", "demo_tiny")
        fine.write_text(text.replace("simclr}", f"{name}}}"), encoding="utf-8")
        told = fx(fine, "--out", f"{name}-fine")
        expected = "6 of 6 test pictures were learnt from, without their labels, by what model.init starts from"
        assert (expected in told) == ("test" in splits)
        assert "validation pictures were learnt from" not in told


@pytest.mark.slow
def test_a_stopped_pool_goes_on_unless_a_picture_of_it_changed(recipe_of, monkeypatch, manifest):
    recipe_of("simclr")
    folder = Path(shutil.copytree(manifest.root, "drawn"))
    text = (folder / "manifest.csv").read_text(encoding="utf-8")
    (folder / "manifest.csv").write_text(text.replace(",val,", ",test,"), encoding="utf-8")
    sets = ["--set", f"data.manifest={folder / 'manifest.csv'}", "--set", "data.splits=[train, test]", "--quiet"]
    with monkeypatch.context() as patch:
        stop_at(patch, "simclr", 2)
        done = CliRunner().invoke(app, ["train", "pre.yaml", "--out", "runs/a", *sets])
    assert done.exit_code == 130, done.output
    kept = (folder / "29.png").read_bytes()
    shutil.copy(folder / "0.png", folder / "29.png")
    done = CliRunner().invoke(app, ["train", "--resume", "runs/a", "--quiet"])
    assert "the pictures changed since this run was started" in done.stderr
    (folder / "29.png").write_bytes(kept)
    done = CliRunner().invoke(app, ["train", "--resume", "runs/a", "--quiet"])
    assert done.exit_code == 0, done.output
