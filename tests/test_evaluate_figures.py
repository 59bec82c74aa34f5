"""`fx evaluate`: comparisons, columns, studies, out-of-fold answers, and looks at a test part."""

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.console import console
from fxcli.data.manifest import read_manifest, write_manifest
from fxcli.run.directory import Run

SHORT = ("--set", "train.epochs=1")


def fx(*arguments):
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    console.configure()
    return done


def train(out, *more):
    done = fx("train", "tiny.yaml", *SHORT, "--out", out, "--quiet", *more)
    assert done.exit_code == 0, done.output
    return Run(Path(out))


@pytest.fixture
def two(tiny_recipe, run_of):
    tiny_recipe()
    return run_of("runs/one", *SHORT), run_of("runs/other", *SHORT, "--set", "seed=5")


@pytest.fixture
def folds(tiny_recipe, run_of):
    tiny_recipe()
    return run_of("runs/folds", *SHORT, "--folds", 2)


@pytest.fixture
def with_columns(prepared):
    """The prepared pictures with columns hospital, study and leaked."""
    shutil.copytree(prepared, "own")
    file = Path("own/manifest.csv")
    (Path("own") / "test_looks.jsonl").unlink(missing_ok=True)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    for number, row in enumerate(rows):
        row["hospital"] = "north" if number % 2 else "south"
        row["study"] = f"{row['label']}-{number // 2}"
        row["leaked"] = ("no" if number % 4 else "yes") if row["split"] == "test" else ""
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return file


def record(done):
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[0])


@pytest.mark.slow
def test_one_comparison_was_named_and_the_others_are_exploratory(two):
    named = fx("evaluate", two[0].path, two[1].path, "--named-beforehand", "--json", "--quiet")
    found = [json.loads(line)["comparison"] for line in named.stdout.splitlines()[2:]]
    assert [each["metric"] for each in found] == ["accuracy", "macro_f1", "nll", "brier"]
    assert [each["primary"] for each in found] == [True, False, False, False]
    results = [json.loads(line) for line in named.stdout.splitlines()[:2]]
    gain = results[1]["figures"]["accuracy"]["value"] - results[0]["figures"]["accuracy"]["value"]
    assert found[0]["difference"]["value"] == pytest.approx(gain)
    assert found[0]["names"] == ["one", "other"]
    for each in found:
        assert "more than noise" in each["verdict"]
    done = fx("evaluate", two[0].path, two[1].path, "--json", "--quiet")
    assert not any(json.loads(line)["comparison"]["primary"] for line in done.stdout.splitlines()[2:])
    done = fx("evaluate", two[0].path, two[1].path)
    assert found[0]["verdict"].replace("named beforehand", "exploratory") in done.stdout
    assert fx("evaluate", two[0].path, "--named-beforehand").exit_code == 2


@pytest.mark.slow
def test_models_measured_on_other_labels_are_not_compared(tiny_recipe, prepared):
    tiny_recipe()
    shutil.copytree(prepared, "own")
    file = Path("own/manifest.csv")
    lines = file.read_text().splitlines()
    swapped = [line.replace(",class_0,test,", ",class_1,test,") for line in lines]
    file.write_text("\n".join(swapped) + "\n")
    one, other = train("runs/one"), train("runs/other", "--set", f"data.manifest={file}")
    done = fx("evaluate", one.path, other.path, "--json")
    assert done.exit_code == 0, done.output
    assert "other was measured on other pictures or classes: it is not compared" in done.stderr
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("change", ["pictures", "classes"])
def test_other_pictures_of_the_same_names_are_not_compared(tiny_recipe, prepared, change):
    """As in two folders prepared from different sources whose files are called alike."""
    tiny_recipe()
    shutil.copytree(prepared, "own")
    file = Path("own/manifest.csv")
    rows = read_manifest(file).rows
    if change == "pictures":
        rows = [replace(row, sha256=hashlib.sha256(row.sha256.encode()).hexdigest()) for row in rows]
    else:
        rows = [replace(row, label=f"x{row.label}") for row in rows]
    write_manifest(file, rows)
    one, other = train("runs/one"), train("runs/other", "--set", f"data.manifest={file}")
    done = fx("evaluate", one.path, other.path, "--json")
    assert done.exit_code == 0, done.output
    assert "other was measured on other pictures or classes: it is not compared" in done.stderr


@pytest.mark.slow
def test_columns_are_taken_apart_and_leaked_ones_without_being_asked(two, with_columns):
    found = record(fx("evaluate", two[0].path, "--data", with_columns, "--by", "hospital", "--json", "--quiet"))
    assert list(found["by"]) == ["leaked", "hospital"]
    assert {value: row["n"] for value, row in found["by"]["hospital"].items()} == {"north": 6, "south": 6}
    assert sum(row["n"] for row in found["by"]["leaked"].values()) == 12
    shown = fx("evaluate", two[0].path, "--data", with_columns, "--by", "hospital").stdout
    for word in ("hospital", "north", "leaked", "calibration error"):
        assert word in shown
    refused = fx("evaluate", two[0].path, "--data", with_columns, "--by", "hospitals")
    assert refused.exit_code == 4
    assert "no column 'hospitals'" in refused.stderr
    assert "hospital, study" in refused.stderr


@pytest.mark.slow
def test_studies_are_measured_in_place_of_pictures(two, with_columns):
    found = record(fx("evaluate", two[0].path, "--data", with_columns, "--study", "study", "--json", "--quiet"))
    assert found["unit"] == "study"
    assert 6 <= found["figures"]["n"] < 12
    tests = [row for row in read_manifest(with_columns).rows if row.split == "test"]
    leaked, every = ({row.column("study") for row in rows} for rows in ([r for r in tests if r.leaked == "yes"], tests))
    assert {value: row["n"] for value, row in found["by"]["leaked"].items()} == {
        "yes": len(leaked),
        "no": len(every - leaked),
    }
    names = [file.name for file in (two[0].path / "evaluation").iterdir()]
    assert len(names) == 1
    assert names[0].startswith("test-by-study-")
    refused = fx("evaluate", two[0].path, "--data", with_columns, "--study", "hospital")
    assert refused.exit_code == 4
    assert "different labels" in refused.stderr
    assert fx("evaluate", two[0].path, "--data", with_columns, "--study", "study", "--by", "hospital").exit_code == 2


@pytest.mark.slow
def test_looks_at_a_test_part_are_counted(two, with_columns):
    done = fx("evaluate", two[0].path, "--data", with_columns)
    assert "look 1 at this test part, by 1 model so far" in done.stderr
    found = record(fx("evaluate", two[1].path, "--data", with_columns, "--json"))
    assert (found["look"], found["models_that_looked"]) == (2, 2)
    assert "look" not in record(fx("evaluate", two[1].path, "--data", with_columns, "--split", "val", "--json"))
    lines = [json.loads(line) for line in Path("own/test_looks.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["one", "other"]


@pytest.mark.slow
def test_looks_from_before_stand_in_the_sentence_of_what_was_named_beforehand(two, with_columns):
    def verdicts(*models):
        done = fx("evaluate", *models, "--data", with_columns, "--named-beforehand", "--quiet", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        return [line["comparison"]["verdict"] for line in lines if "comparison" in line]

    one, other = (run.path for run in two)
    assert "look" not in "".join(verdicts(one, other))
    fx("evaluate", other, "--data", with_columns, "--quiet")
    accuracy, *others = verdicts(one, other)
    assert "named beforehand, after 3 looks at this test part by these models" in accuracy
    assert not any("look" in verdict for verdict in others)
    # A model against itself: its own look of just now was none before.
    assert "after 2 looks at this test part" in verdicts(one, one)[0]


@pytest.mark.slow
def test_out_of_fold_answers_are_measured_and_contradicted_labels_listed(folds):
    table = folds.path / "predictions" / "oof.parquet"
    fx("evaluate", folds.path, "--split", "oof", "--parquet", "--quiet")
    found = record(fx("evaluate", folds.path, "--split", "oof", "--json", "--quiet"))
    assert table.is_file(), "the rows that training wrote are still those"
    assert found["figures"]["n"] == 36
    assert found["temperature"] == 1
    assert found["figures"]["accuracy"]["value"] == folds.info()["figures"]["accuracy"]
    wrong = round(36 * (1 - found["figures"]["accuracy"]["value"]))
    assert len(found["contradicted"]) == wrong
    page = (folds.path / "evaluation" / "oof-labels.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == wrong
    assert f"{found['contradicted'][0]['predicted']} (" in page
    assert "contradict most surely" in fx("evaluate", folds.path, "--split", "oof").stdout
    kept = (["--engine", "torch"], ["--precision", "bf16"])
    for option in (["--tta", "flips"], ["--data", folds.path / "manifest.csv"], ["--study", "group"], *kept):
        assert fx("evaluate", folds.path, "--split", "oof", *option).exit_code == 2
    alone = fx("evaluate", shutil.copy(folds.model_file, "alone.safetensors"), "--split", "oof", "--data", "x")
    assert alone.exit_code == 2


def test_sets_and_abstentions_are_measured_on_the_test_part(folds):
    done = fx("evaluate", folds.path, "--json", "--quiet")
    found = record(done)
    assert found["sets"]["method"] == "cv+"
    assert found["sets"]["n"] == 12
    assert 1 <= found["sets"]["mean_size"]["value"] <= 3
    assert "prediction sets (cv+)" in fx("evaluate", folds.path).stdout
    assert "unlike the training pictures" in fx("evaluate", folds.path).stdout


@pytest.mark.parametrize("split", ["val", "train"])
def test_what_the_parts_of_a_run_learnt_from_is_not_measured(folds, split):
    done = fx("evaluate", folds.path, "--split", split)
    assert done.exit_code == 2
    assert f"learnt from its {split} pictures" in done.stderr
    assert "--split oof" in done.stderr


def test_a_manifest_from_elsewhere_with_pictures_that_were_learnt_from_is_warned_of(two, with_columns):
    done = fx("evaluate", two[0].path, "--data", with_columns, "--split", "train")
    assert done.exit_code == 0, done.output
    assert "24 of these 24 pictures were learnt from by this model" in done.stderr
    assert "learnt from" not in fx("evaluate", two[0].path, "--data", with_columns).stderr


def test_pictures_that_sets_were_fitted_to_are_warned_of(tiny_recipe, with_columns):
    tiny_recipe()
    again = Path("own/again.csv")
    again.write_text(with_columns.read_text().replace(",val,", ",calibration,"))
    run = train("runs/fitted", "--set", f"data.manifest={again}", "--set", "train.monitor=none")
    with_columns.write_text(again.read_text().replace(",north,", ",west,"))
    done = fx("evaluate", run.path, "--data", with_columns, "--split", "calibration")
    assert done.exit_code == 0, done.output
    warned = "12 of these 12 pictures were learnt from by this model, or by what it knows of its errors"
    assert warned in done.stderr
    assert "prediction sets" in done.stdout


def test_new_pictures_are_measured_where_those_of_training_are_gone(tiny_recipe, prepared):
    shutil.copytree(prepared, "own")
    tiny_recipe()
    one = train("runs/one", "--set", "data.manifest=own/manifest.csv")
    Path("own").rename("elsewhere")
    done = fx("evaluate", one.path, "--data", "elsewhere/manifest.csv", "--json")
    assert done.exit_code == 0, done.output


def test_a_mistyped_column_costs_no_look(two, with_columns):
    for option in (
        ["--by", "hospitals"],
        ["--study", "studies"],
        ["--study", ""],
        ["--study", "study", "--by", "hospital"],
    ):
        assert fx("evaluate", two[0].path, "--data", with_columns, *option).exit_code in (2, 4)
    assert not Path("own/test_looks.jsonl").exists()


@pytest.mark.slow
def test_a_comparison_of_some_of_the_pictures_says_so(tiny_recipe, prepared):
    tiny_recipe()
    shutil.copytree(prepared, "own")
    file = Path("own/manifest.csv")
    lines = file.read_text().splitlines()
    tests = [line for line in lines if ",test," in line]
    file.write_text("\n".join(line for line in lines if line not in tests[::3]) + "\n")
    one, other = train("runs/one"), train("runs/other", "--set", f"data.manifest={file}")
    done = fx("evaluate", one.path, other.path)
    assert "other is compared on the 8 pictures alone that both were measured on" in done.stderr
    assert "8 pictures in" in done.stdout


def test_studies_are_compared_as_studies(two, with_columns):
    done = fx("evaluate", two[0].path, two[1].path, "--data", with_columns, "--study", "study", "--json", "--quiet")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert records[2]["comparison"]["n"] == records[0]["figures"]["n"] < 12
    assert f"{records[0]['figures']['n']} studies in " in records[2]["comparison"]["verdict"]


def test_studies_of_other_pictures_are_not_compared(tiny_recipe, with_columns):
    """fx prepare numbers studies: those of any two folders have the same names."""
    tiny_recipe()
    one = train("runs/one", "--set", f"data.manifest={with_columns}")
    shutil.copytree("own", "others")
    file = Path("others/manifest.csv")
    rows = read_manifest(file).rows
    for row in rows:
        Path("others", row.path).rename(Path("others", row.path).with_suffix(".PNG"))
    write_manifest(file, [replace(row, path=row.path.replace(".png", ".PNG"), sha256="") for row in rows])
    other = train("runs/other", "--set", f"data.manifest={file}")
    done = fx("evaluate", one.path, other.path, "--study", "study", "--json")
    assert done.exit_code == 0, done.output
    assert "other was measured on other pictures or classes: it is not compared" in done.stderr


def test_pictures_without_a_study_stand_alone(two, with_columns):
    rows = list(csv.DictReader(with_columns.read_text().splitlines()))
    with with_columns.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"study": ""} for row in rows)
    for study in ("study", "study+patient"):
        found = record(fx("evaluate", two[0].path, "--data", with_columns, "--study", study, "--json", "--quiet"))
        assert found["figures"]["n"] == 12


def test_out_of_fold_answers_that_a_run_lacks_are_told_before_any_work(folds, two):
    done = fx("evaluate", folds.path, two[0].path, "--split", "oof")
    assert done.exit_code == 6
    assert not (folds.path / "evaluation" / "oof.json").exists()


@pytest.mark.slow
def test_two_classes_get_sensitivity_and_specificity(tiny_recipe, prepared):
    shutil.copytree(prepared, "own")
    file = Path("own/manifest.csv")
    file.write_text(file.read_text().replace(",class_2,", ",class_1,"))
    tiny_recipe()
    sets = ["--set", f"data.manifest={file}", "--set", "evaluate.negative_class=class_0"]
    run = train("runs/binary", "--folds", 2, *sets)
    found = record(fx("evaluate", run.path, "--json", "--quiet"))["binary"]
    assert found["positive"] == "class_1"
    assert found["threshold_from"] == "oof"
    assert found["tp"] + found["fn"] == 8
    assert "sensitivity" in fx("evaluate", run.path).stdout
    lines = file.read_text().splitlines()
    site = ["site", *("north" if index % 3 else "south" for index in range(1, len(lines)))]
    Path("own/more.csv").write_text("".join(f"{a},{b}\n" for a, b in zip(lines, site, strict=True)))
    found = record(fx("evaluate", run.path, "--data", "own/more.csv", "--by", "site", "--json", "--quiet"))
    assert (found["metadata"]["columns"], found["metadata"]["n_learnt"]) == (["site"], 24)
    assert found["by"]["site"]["north"].keys() >= {"auroc", "metadata_auroc"}
    shown = fx("evaluate", run.path, "--data", "own/more.csv", "--by", "site").stdout
    assert "site alone reach an AUROC of" in " ".join(shown.split())
    assert "training pictures of this manifest" in " ".join(shown.split())
