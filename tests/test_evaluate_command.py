import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner

from fxcli.cli import app


def fx(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def table(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_equals_the_validation_inside_training(trained):
    done = fx("evaluate", trained.path, "--split", "val", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    figures = json.loads(done.stdout)["figures"]
    assert figures == trained.info()["figures"]
    lines = [json.loads(line) for line in trained.metrics_file.read_text().splitlines()]
    assert figures["macro_f1"] == max(line["val_macro_f1"] for line in lines)


def test_writes_logits_from_which_every_figure_follows(trained):
    done = fx("evaluate", trained.path, "--quiet")
    assert done.exit_code == 0, done.output
    result = json.loads((trained.path / "evaluation" / "test.json").read_text())
    rows = table(trained.path / "predictions" / "test.csv")
    assert len(rows) == result["figures"]["n"] == 12
    classes = sorted({row["label"] for row in rows})
    logits = np.array([[float(row[f"logit_{name}"]) for name in classes] for row in rows])
    truth, named = [row["label"] for row in rows], [classes[i] for i in logits.argmax(1)]
    assert result["figures"]["accuracy"] == pytest.approx(accuracy_score(truth, named))
    assert result["figures"]["macro_f1"] == pytest.approx(f1_score(truth, named, average="macro"))
    assert [row["class"] for row in rows] == named
    assert "not a medical device" in result["notice"]
    assert result["sha256"]
    assert result["evaluated_manifest_sha256"] == trained.info()["manifest_sha256"]


def test_table_has_every_class_and_the_confusion(trained):
    done = fx("evaluate", trained.path)
    for word in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "precision", "recall", "class_2"):
        assert word in done.stdout


def test_several_models_side_by_side(trained):
    done = fx("evaluate", trained.path, trained.model_file, "--out", "figures", "--quiet")
    assert done.exit_code == 0, done.output
    assert (Path("figures") / trained.path.name / "evaluation" / "test.json").is_file()
    assert done.stdout.count("trained") >= 4


def test_flips_are_named_and_change_the_logits(trained):
    fx("evaluate", trained.path, "--quiet")
    done = fx("evaluate", trained.path, "--tta", "flips", "--quiet")
    assert done.exit_code == 0, done.output
    plain, flipped = (table(trained.path / "predictions" / f"{name}.csv") for name in ("test", "test-flips"))
    assert [row["path"] for row in plain] == [row["path"] for row in flipped]
    assert [row["logit_class_0"] for row in plain] != [row["logit_class_0"] for row in flipped]


def test_other_data_is_kept_apart(trained, prepared):
    done = fx("evaluate", trained.path, "--data", prepared / "manifest.csv", "--quiet")
    assert done.exit_code == 0, done.output
    names = [file.name for file in (trained.path / "evaluation").iterdir()]
    assert names == [f"test-{trained.info()['manifest_sha256'][:8]}.json"]


def test_a_file_alone_needs_data_and_gives_the_same_bits(trained, prepared, tmp_path):
    alone = tmp_path / "elsewhere" / "mine.safetensors"
    alone.parent.mkdir()
    alone.write_bytes(trained.model_file.read_bytes())
    refused = fx("evaluate", alone)
    assert refused.exit_code == 2
    assert "--data MANIFEST" in refused.stderr
    done = fx("evaluate", alone, "--data", prepared / "manifest.csv", "--out", "there", "--quiet")
    assert done.exit_code == 0, done.output
    fx("evaluate", trained.path, "--quiet")
    found = table(next((Path("there") / "predictions").iterdir()))
    expected = table(trained.path / "predictions" / "test.csv")
    assert found == expected


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--split", "calibration"], 4, "no picture in split 'calibration'"),
        (["--data", "gone.csv"], 4, "no such manifest"),
        (["--device", "cuda:99"], 2, "cannot be used"),
    ],
)
def test_mistakes(trained, arguments, code, text):
    done = fx("evaluate", trained.path, *arguments)
    assert done.exit_code == code
    assert text in done.stderr


def test_a_label_the_model_does_not_know(trained, prepared):
    folder = Path("other")
    folder.mkdir()
    (folder / "pictures").symlink_to(prepared / "pictures")
    text = (prepared / "manifest.csv").read_text().replace(",class_2,", ",mystery,")
    (folder / "manifest.csv").write_text(text)
    done = fx("evaluate", trained.path, "--data", folder / "manifest.csv")
    assert done.exit_code == 4
    assert "does not know mystery" in done.stderr


def test_a_changed_manifest_is_told(trained):
    file = trained.path / "manifest.csv"
    file.write_text(file.read_text().replace(",test,", ",val,"))
    done = fx("evaluate", trained.path, "--split", "val")
    assert done.exit_code == 4
    assert "changed since training" in done.stderr


def test_a_damaged_model_file(trained):
    trained.model_file.write_bytes(trained.model_file.read_bytes()[:-100])
    done = fx("evaluate", trained.path)
    assert done.exit_code == 6
    assert "damaged" in done.stderr
    assert "Traceback" not in done.stderr
