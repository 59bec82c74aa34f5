import csv
import errno
import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.model import classifier as models
from fxcli.run import ledger
from fxcli.run.files import sha256_of


def fx(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def sha8(file):
    return sha256_of(file)[:8]


def table(file):
    with file.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_equals_the_validation_inside_training(trained):
    done = fx("evaluate", trained.path, "--split", "val", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    figures, expected = json.loads(done.stdout)["figures"], trained.info()["figures"]
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll"):
        assert figures[name]["value"] == expected[name]
        assert figures[name]["low"] <= figures[name]["value"] <= figures[name]["high"]
    assert figures["confusion"] == expected["confusion"]
    lines = [json.loads(line) for line in trained.metrics_file.read_text().splitlines()]
    assert figures["macro_f1"]["value"] == max(line["val_macro_f1"] for line in lines)


def test_writes_logits_from_which_every_figure_follows(trained):
    done = fx("evaluate", trained.path, "--quiet")
    assert done.exit_code == 0, done.output
    result = json.loads((trained.path / "evaluation" / "test.json").read_text())
    rows = table(trained.path / "predictions" / "test.csv")
    assert len(rows) == result["figures"]["n"] == 12
    classes = sorted({row["label"] for row in rows})
    logits = np.array([[float(row[f"logit_{name}"]) for name in classes] for row in rows])
    truth, named = [row["label"] for row in rows], [classes[i] for i in logits.argmax(1)]
    assert result["figures"]["accuracy"]["value"] == pytest.approx(accuracy_score(truth, named))
    assert result["figures"]["macro_f1"]["value"] == pytest.approx(f1_score(truth, named, average="macro"))
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
    # The same model twice: both names are the run's, so both get the hash.
    assert [folder.name for folder in Path("figures").iterdir()] == [f"trained-{sha8(trained.model_file)}"]
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
    assert f"fx evaluate {alone} --data MANIFEST" in refused.stderr
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
        (["--split", "foo"], 2, "there is no split 'foo'"),
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
    shutil.copytree(prepared / "pictures", folder / "pictures")
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


def other_model(run, file, zoo, *, demo=False):
    """A model file that differs from the run's own."""
    model = models.load(run.model_file, zoo)
    model.network.head.weight.data *= -1
    model.info["demo"] = demo
    file.parent.mkdir(parents=True, exist_ok=True)
    model.save(file)
    return file


def test_a_checkpoint_never_overwrites_the_figures_of_its_run(trained, demo_zoo):
    assert fx("evaluate", trained.path, "--quiet").exit_code == 0
    before = (trained.path / "evaluation" / "test.json").read_bytes()
    other_model(trained, trained.best_file, demo_zoo)
    done = fx("evaluate", trained.best_file, "--quiet")
    assert done.exit_code == 0, done.output
    assert (trained.path / "evaluation" / "test.json").read_bytes() == before
    digest = sha8(trained.best_file)
    assert (trained.path / "evaluation" / f"test-model-{digest}.json").is_file()
    assert (trained.path / "predictions" / f"test-model-{digest}.csv").is_file()


@pytest.mark.slow
def test_files_of_one_name_keep_apart(trained, demo_zoo, prepared):
    files = [Path("a/mine.safetensors"), Path("b/mine.safetensors")]
    files[0].parent.mkdir()
    files[0].write_bytes(trained.model_file.read_bytes())
    other_model(trained, files[1], demo_zoo)
    expected = {f"mine-{sha8(file)}" for file in files}
    for arguments, folder in (([], "evaluations"), (["--out", "there"], "there")):
        done = fx("evaluate", *files, "--data", prepared / "manifest.csv", *arguments, "--quiet")
        assert done.exit_code == 0, done.output
        assert {path.name for path in Path(folder).iterdir()} == expected
    assert "./evaluations/" in fx("evaluate", "--help").stdout


def test_pictures_that_were_moved_are_named_anew(trained, prepared):
    shutil.copytree(prepared, "moved")
    trained.update(manifest=str(Path("gone/manifest.csv").absolute()))
    done = fx("evaluate", trained.path, "--quiet")
    assert done.exit_code == 4, done.output
    assert "gone: the folder of the run's pictures is not there" in done.stderr
    again = shlex.split(done.stderr.partition("→ fx ")[2].splitlines()[0].replace("MANIFEST", "moved/manifest.csv"))
    done = fx(*again, "--quiet")
    assert done.exit_code == 0, done.output
    assert len(list((trained.path / "evaluation").glob("test-*.json"))) == 1


def test_a_run_and_its_checkpoint_keep_apart(trained, demo_zoo):
    other_model(trained, trained.best_file, demo_zoo)
    done = fx("evaluate", trained.path, trained.best_file, "--out", "there", "--quiet")
    assert done.exit_code == 0, done.output
    assert len(list(Path("there").iterdir())) == 2
    # The run's folder is the name of both: a sentence that says which is better has to say which.
    names = [f"trained-{sha8(file)}" for file in (trained.model_file, trained.best_file)]
    assert all(f"{name}: per class" in done.stdout for name in names)
    json_lines = fx("evaluate", trained.path, trained.best_file, "--json", "--quiet").stdout.splitlines()
    assert [json.loads(line)["comparison"]["names"] for line in json_lines[2:]] == [names] * 4


@pytest.mark.slow
def test_models_as_options_or_not_at_all(trained):
    done = fx("evaluate", "--model", trained.path, "--model", trained.path, trained.path, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["comparison" in record for record in records] == [False] * 3 + [True] * 8
    done = fx("evaluate", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"] == "trained"


def test_a_mistyped_name_is_told_before_any_work(trained):
    assert fx("evaluate", trained.path, "nonsense").exit_code == 6
    assert not (trained.path / "evaluation" / "test.json").exists()


@pytest.fixture
def own_pictures(prepared):
    """A copy of the prepared folder that may be damaged, and its test files."""
    shutil.copytree(prepared, "own")
    return Path("own/manifest.csv"), sorted(Path("own/pictures/test").rglob("*.png"))


def test_an_unreadable_picture_is_a_row_and_the_rest_is_measured(trained, own_pictures):
    manifest, files = own_pictures
    files[0].write_bytes(b"no")
    files[1].write_bytes(b"")
    done = fx("evaluate", trained.path, "--data", manifest, "--out", "there", "--json", "--quiet")
    assert done.exit_code == 9, done.output
    result = json.loads(done.stdout)
    assert (result["figures"]["n"], result["n_failed"]) == (10, 2)
    (file,) = Path("there/predictions").iterdir()
    assert str(file) in done.stderr
    assert "2 of 12" in done.stderr
    failed = [row for row in table(file) if row["status"] == "error"]
    assert {row["reason"] for row in failed} == {"an empty file", "not a picture, or of an unknown format"}
    assert all(row["label"] and not row["class"] for row in failed)
    assert len(table(file)) == 12


def test_without_one_readable_picture_nothing_is_measured(trained, own_pictures):
    manifest, files = own_pictures
    for file in files:
        file.write_bytes(b"no")
    done = fx("evaluate", trained.path, "--data", manifest, "--out", "there")
    assert done.exit_code == 4
    assert "none of 12 pictures can be read" in done.stderr
    assert not Path("there").exists()


def test_every_demo_model_is_marked(trained, demo_zoo):
    other_model(trained, trained.best_file, demo_zoo, demo=True)
    done = fx("evaluate", trained.path, trained.best_file)
    assert done.exit_code == 0, done.output
    assert f"trained-{sha8(trained.best_file)} (DEMO)" in done.stdout
    notices = [line for line in done.stderr.splitlines() if "not a medical device" in line]
    assert [line.startswith("DEMO") for line in notices] == [False, True]


def test_what_is_odd_about_a_picture_is_a_reason_and_a_line(trained, own_pictures):
    manifest, files = own_pictures
    with Image.open(files[0]) as picture:
        text = PngImagePlugin.PngInfo()
        text.add_text("fx", picture.text["fx"])
        Image.new("L", picture.size, 9).save(files[0], pnginfo=text)
    done = fx("evaluate", trained.path, "--data", manifest, "--out", "there", "--quiet")
    assert done.exit_code == 0, done.output
    (file,) = Path("there/predictions").iterdir()
    reasons = {row["path"]: row["reason"] for row in table(file) if row["reason"]}
    assert reasons == {files[0].relative_to("own").as_posix(): "blank: next to no contrast"}
    assert {row["status"] for row in table(file)} == {"ok"}
    assert "warning: 1 picture: blank" in done.stderr


@pytest.mark.parametrize("model", ["runs/trained", "alone.safetensors"])
def test_results_that_cannot_be_written_are_told_before_a_look(trained, prepared, model):
    shutil.copytree(prepared, "data", ignore=shutil.ignore_patterns(ledger.NAME))
    shutil.copy(trained.model_file, "alone.safetensors")
    Path("evaluations").touch()
    out = [] if model.startswith("alone") else ["--out", "evaluations/of_it"]
    done = fx("evaluate", model, "--data", "data/manifest.csv", *out, "--quiet")
    assert done.exit_code == 4
    assert "cannot be written: " in done.stderr
    assert "evaluations" in done.stderr
    assert not Path("data", ledger.NAME).exists()


def test_no_space_for_figures_says_where(trained, monkeypatch):
    """A full disk's own error names no file."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    done = fx("evaluate", trained.path, "--out", "figures", "--quiet")
    assert done.exit_code == 4
    assert f"error: {Path('figures/evaluation/test.json')}: No space left on device" in done.stderr
