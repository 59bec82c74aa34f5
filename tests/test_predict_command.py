import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fxcli.cli import app
from fxcli.model import classifier as models
from fxcli.testing import tiny_dataset


def fx(*arguments, stdin=None):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


END = ["assumes_fracture", "notice"]


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def raw():
    """The raw pictures that `prepared` was made from, drawn again."""
    return tiny_dataset(Path("raw"), per_class=16)


def test_a_folder_without_a_model_named_takes_the_last_run_and_says_so(trained, raw):
    done = fx("predict", raw)
    assert done.exit_code == 0, done.output
    rows = rows_of(done.stdout)
    assert len(rows) == 48
    assert list(rows[0]) == ["path", "status", "reason", "class", *(f"p_class_{i}" for i in range(3)), *END]
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for word in ("runs/trained", "recipe tiny", "data tiny", "sha256"):
        assert word in done.stderr
    assert all("not a medical device" in row["notice"] for row in rows)


def test_a_raw_file_and_its_prepared_picture_have_identical_logits(trained, raw, prepared):
    fx("evaluate", trained.path, "--batch-size", "1", "--quiet")
    with (trained.path / "predictions" / "test.csv").open(newline="") as handle:
        evaluated = list(csv.DictReader(handle))
    with (prepared / "manifest.csv").open(newline="") as handle:
        source_of = {row["path"]: row["source"] for row in csv.DictReader(handle)}
    from fxcli.inference.opened import open_model

    pipeline = open_model(str(trained.path), batch_size=1).pipeline
    for row in evaluated:
        # In the fixture every source was moved into a split folder, its name and class are unchanged.
        parts = Path(source_of[row["path"]]).parts
        logits = pipeline.logits([raw / parts[0] / parts[-1]])[0]
        assert [str(value) for value in logits] == [row[f"logit_class_{i}"] for i in range(3)]


def test_bad_files_are_rows_and_exit_9(trained, raw):
    (raw / "broken.png").write_bytes(b"nothing")
    done = fx("predict", raw / "class_0", raw / "broken.png", "--quiet")
    assert done.exit_code == 9
    rows = rows_of(done.stdout)
    assert len(rows) == 17
    assert rows[-1]["status"] == "error"
    assert rows[-1]["reason"]
    assert rows[-1]["class"] == ""
    assert "1 of 17" in done.stderr


def test_out_writes_a_complete_file_only(trained, raw, monkeypatch):
    done = fx("predict", raw, "--out", "answers", "--quiet")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert sorted(file.name for file in Path("answers").iterdir()) == ["predictions.csv", "predictions.csv.json"]
    complete = Path("answers/predictions.csv").read_text()
    assert len(rows_of(complete)) == 48

    from fxcli.evaluation.predictions import PredictionTable

    def cells(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(PredictionTable, "cells", cells)
    assert fx("predict", raw, "--out", "answers", "--overwrite").exit_code == 130
    assert Path("answers/predictions.csv").read_text() == complete


def test_json_lines(trained, raw):
    done = fx("predict", raw / "class_1", "--json", "--quiet")
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) == 16
    assert sum(records[0]["probabilities"].values()) == pytest.approx(1)


def test_a_list_on_stdin(trained, raw):
    files = sorted(raw.rglob("*.png"))[:3]
    done = fx("predict", "-", "--quiet", stdin="".join(f"{file}\n" for file in files))
    assert [row["path"] for row in rows_of(done.stdout)] == [str(file) for file in files]
    assert fx("predict", "-", stdin="").exit_code == 2


def test_heat_maps_mirror_the_folders_and_never_collide(trained, raw):
    shutil.copy(raw / "class_0" / "0.png", raw / "class_0" / "0.bmp")
    with Image.open(raw / "class_0" / "0.png") as picture:
        picture.save(raw / "class_0" / "0.jpg")
    done = fx("predict", raw, "--cam", "out", "--quiet")
    assert done.exit_code == 0, done.output
    found = sorted(file.relative_to("out").as_posix() for file in Path("out").rglob("*.png"))
    assert len(found) == 50
    assert {"class_0/0.png.png", "class_0/0.jpg.png", "class_0/0.bmp.png"} <= set(found)
    with Image.open("out/class_0/0.png.png") as overlay:
        pixels = np.asarray(overlay).astype(int)
    assert pixels.shape == (64, 64, 3)
    again = fx("predict", "out/class_0", "--quiet")
    assert again.exit_code == 9
    assert {row["reason"] for row in rows_of(again.stdout)} == {"a heat map that fx drew"}


def test_strong_evidence_has_colour(trained, raw, demo_zoo):
    model = models.load(trained.model_file, demo_zoo)
    model.network.head.weight.data *= 50
    model.save(trained.model_file)
    assert fx("predict", raw / "class_0" / "0.png", "--cam", "out", "--quiet").exit_code == 0
    with Image.open("out/0.png.png") as overlay:
        assert np.ptp(np.asarray(overlay).astype(int), axis=2).max() > 30


@pytest.mark.parametrize("name", ["=cmd.png", "-x.png", "+1.png", "@a.png"])
def test_no_cell_is_a_formula(trained, raw, name):
    shutil.copy(raw / "class_0" / "0.png", name)
    done = fx("predict", "--quiet", "--", name)
    assert done.exit_code == 0, done.output
    assert rows_of(done.stdout)[0]["path"] == f"./{name}"


def test_an_empty_folder_is_an_error(trained):
    Path("empty").mkdir()
    done = fx("predict", "empty")
    assert done.exit_code == 4
    assert "no picture found here: there is nothing in it" in done.stderr
    assert done.stdout == ""
    Path("empty/notes.txt").touch()
    assert "no picture found here, but 1 .txt" in fx("predict", "empty").stderr


def test_no_model_here(raw):
    done = fx("predict", raw)
    assert done.exit_code == 6
    assert "no finished run" in done.stderr


def test_a_phantom_run_is_never_implicit_and_says_demo(trained, raw, demo_zoo):
    model = models.load(trained.model_file, demo_zoo)
    model.info["demo"] = True
    model.save(trained.model_file)
    trained.update(demo=True)
    done = fx("predict", raw)
    assert done.exit_code == 6
    assert "trained on phantoms" in done.stderr
    named = fx("predict", raw, "--model", "tiny", "--quiet")
    assert named.exit_code == 0, named.output
    assert all(row["notice"].startswith("DEMO") for row in rows_of(named.stdout))


def test_the_name_of_a_recipe_means_its_last_finished_run(trained, raw):
    done = fx("predict", raw / "class_0", "--model", "tiny")
    assert done.exit_code == 0, done.output
    assert "runs/trained" in done.stderr


def test_a_listed_path_that_is_gone_is_a_row_and_a_named_one_an_error(trained, raw):
    Path("empty").mkdir()
    lines = [raw / "class_0" / "0.png", "gone.png", "x" * 300, "empty", raw / "class_0" / "1.png"]
    done = fx("predict", "-", "--quiet", "--cam", "out", stdin="".join(f"{line}\n" for line in lines))
    assert done.exit_code == 9, done.output
    rows = rows_of(done.stdout)
    assert [row["path"] for row in rows] == [str(line) for line in lines]
    assert [row["status"] for row in rows] == ["ok", "error", "error", "error", "ok"]
    assert rows[1]["reason"] == "no such file"
    named = fx("predict", raw, "gone.png")
    assert named.exit_code == 4
    assert named.stdout == ""


def test_what_is_odd_about_a_picture_is_a_reason_and_a_line(trained, raw):
    with Image.open(raw / "class_0" / "0.png") as picture:
        grey = np.asarray(picture.convert("L"))
    folder = Path("odd")
    folder.mkdir()
    Image.fromarray(grey).save(folder / "plain.png")
    Image.fromarray(np.stack([grey // 2, grey // 3 + 90, grey // 4], axis=2)).save(folder / "photo.png")
    for name in ("blank", "black"):
        Image.new("L", (90, 80), 100 if name == "blank" else 0).save(folder / f"{name}.png")
    pages = [Image.fromarray(grey), Image.fromarray(grey)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    whole = folder / "whole.jpg"
    Image.fromarray(grey).save(whole, quality=95)
    (folder / "endless.jpg").write_bytes(whole.read_bytes()[:-2])
    (folder / "short.jpg").write_bytes(whole.read_bytes()[:-200])
    done = fx("predict", folder, "--quiet")
    assert done.exit_code == 9
    rows = {Path(row["path"]).name: row for row in rows_of(done.stdout)}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "black.png": "blank: next to no contrast",
        "blank.png": "blank: next to no contrast",
        "endless.jpg": "the JPEG lacks its end marker, but nothing of the picture",
        "pages.tif": "the first of several pictures in one file",
        "photo.png": "in colour: a photograph or a tinted scan",
        "plain.png": "",
        "short.jpg": "cut short: the end of the picture is missing",
        "whole.jpg": "",
    }
    assert [name for name, row in rows.items() if row["status"] != "ok"] == ["short.jpg"]
    assert all(row["class"] for row in rows.values() if row["status"] == "ok")
    assert rows["endless.jpg"]["p_class_0"] == rows["whole.jpg"]["p_class_0"]
    assert rows["pages.tif"]["p_class_0"] == rows["plain.png"]["p_class_0"]
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warnings == [
        "warning: 2 pictures: blank: next to no contrast",
        "warning: 1 picture: in colour: a photograph or a tinted scan",
        "warning: 1 picture: the JPEG lacks its end marker, but nothing of the picture",
        "warning: 1 picture: the first of several pictures in one file",
    ]
    records = [json.loads(line) for line in fx("predict", folder, "--quiet", "--json").stdout.splitlines()]
    assert {Path(record["path"]).name: record.get("reason", "") for record in records} == {
        name: row["reason"] for name, row in rows.items()
    }
    assert not any("cautions" in record for record in records)
