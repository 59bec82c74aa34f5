import json
import shutil

import numpy as np
import pytest

from fxcli.data.manifest import Row, read_manifest
from fxcli.errors import RunError
from fxcli.inference.measured import learnt_from, look_at, measure, metadata_of, out_of_fold
from fxcli.inference.opened import by, open_model
from fxcli.run.ledger import NAME


@pytest.fixture
def several(tiny_recipe, run_of):
    tiny_recipe()
    return run_of("runs/all", "--set", "train.epochs=1", "--folds", 2, "--seeds", 2)


def test_members_are_told_apart_by_seed_and_by_fold(several):
    opened = open_model(str(several.path))
    manifest = opened.manifest(None, "fx")
    rows = opened.part(manifest, "test")
    said, told = measure(opened, manifest, rows)
    members = np.stack([answer.members for answer in opened.pipeline.run([manifest.path_of(row) for row in rows])])
    assert said.logits == pytest.approx(np.stack([members[:, :2].mean(1), members[:, 2:].mean(1)]), abs=1e-6)
    assert said.by_fold == pytest.approx(
        np.stack([members[:, [0, 2]].mean(1), members[:, [1, 3]].mean(1)], 1), abs=1e-6
    )
    assert [row.path for row in told] == list(said.paths) == [row.path for row in rows]
    assert [told[i].label for i in range(12)] == [opened.model.classes[target] for target in said.targets]


def test_members_by():
    info = {"members": [{"seed": 1, "fold": 0}, {"seed": 1, "fold": 1}, {"seed": 2, "fold": 0}, {"seed": 2, "fold": 1}]}
    assert by("seed", info) == [[0, 1], [2, 3]]
    assert by("fold", info) == [[0, 2], [1, 3]]
    assert by("fold", {}) == [[0]]


def test_out_of_fold_answers_are_kept_by_seed(several, trained):
    said = out_of_fold(several)
    assert said.logits.shape == (2, 36, 3)
    assert not np.array_equal(said.logits[0], said.logits[1])
    shutil.copytree(several.path / "seeds" / "0", several.path / "seeds" / "0 (copy)")
    assert out_of_fold(several).logits.shape == (2, 36, 3)
    with pytest.raises(RunError, match="no out-of-fold predictions"):
        out_of_fold(trained)
    several.path.joinpath("seeds", "0", "predictions", "oof.csv").write_text("nothing", encoding="utf-8")
    with pytest.raises(RunError, match="damaged: no predictions"):
        out_of_fold(several)


def test_parts_of_a_run_in_folds_learnt_from_what_is_for_calibration(several, trained):
    def held_out(run):
        file = run.path / "manifest.csv"
        file.write_text(file.read_text(encoding="utf-8").replace(",val,", ",calibration,"), encoding="utf-8")
        rows = read_manifest(file, root=run.manifest_file.parent).part("calibration")
        assert len(rows) == 12
        return rows

    assert learnt_from(several, held_out(several)) == 12
    rows = held_out(trained)
    assert learnt_from(trained, rows) == 0
    assert learnt_from(trained, rows, fitted=True) == 12


@pytest.mark.parametrize("folds", [(), ("--folds", 2)])
def test_what_train_frac_leaves_out_was_not_learnt_from(tiny_recipe, run_of, folds):
    tiny_recipe()
    run = run_of("runs/part", "--set", "train.epochs=1", "--set", "data.train_frac=0.25", *folds)
    train = read_manifest(run.path / "manifest.csv", root=run.manifest_file.parent).part("train")
    assert len(train) / 4 <= learnt_from(run, train) < (len(train) if folds else len(train) / 2)


def test_what_is_joined_with_the_label_is_no_metadata():
    labels = ["broken", "none"] * 4
    extras = [{"leg": str(number % 3), "label+leg": "own"} for number in range(8)]
    rows = [Row(path=str(i), label=label, split="train", extra=extras[i]) for i, label in enumerate(labels)]
    positive = [label == "broken" for label in labels]

    def known(*names):
        found = metadata_of(rows, positive, {name: [row.column(name) for row in rows] for name in names})
        return found and found.columns

    assert known("leg", "label", "leg+label", "split", "source+leg") == ("leg",)
    assert known("leg+leg", "label+leg") == ("leg+leg", "label+leg")
    assert known("leg+label") is None


def test_a_look_that_cannot_be_noted_is_told(trained, prepared, monkeypatch, capsys):
    opened = open_model(str(trained.path))
    manifest = read_manifest(prepared / "manifest.csv")
    rows = manifest.part("test")
    (prepared / NAME).unlink(missing_ok=True)
    assert look_at(opened, manifest, rows).number == 1
    line = json.loads((prepared / NAME).read_text())
    assert (line["model"], line["manifest_sha256"]) == (opened.digest, manifest.digest)
    (prepared / NAME).unlink()
    (prepared / NAME).mkdir()
    try:
        assert look_at(opened, manifest, rows) is None
    finally:
        (prepared / NAME).rmdir()
    assert "cannot be noted" in capsys.readouterr().err
